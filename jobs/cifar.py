#!/usr/bin/env python
"""CIFAR-10: the paper's recipes, and a small one for two CPU cores.

    jobs/cifar.py --data.path /data/cifar10                     WRN-40-2, 100 epochs: for GPUs
    jobs/cifar.py --recipe allconv --data.path /data/cifar10    the paper's other networks: also densenet, resnext29
    jobs/cifar.py --recipe small --data.path /data/cifar10      ConvNet5, 8 epochs

data.path holds Hugging Face's parquet files or torchvision's cifar-10-batches-py; --data.download fetches the latter.
Source of the recipes: google-research/augmix, cifar.py; its paper's errors on CIFAR-10-C are 26.9 % for the
standard WRN-40-2 and 11.2 % for AugMix + JSD.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.cli import main
from pipeline.config import DataConfig, ModelConfig, RunConfig, SearchConfig, TrainConfig

CIFAR = DataConfig(name="cifar10", crop="pad", flip=True)
RECIPES = {
    "wrn40_2": RunConfig(
        data=CIFAR,
        model=ModelConfig(name="wrn40_2"),
        train=TrainConfig(epochs=100, global_batch_size=128),
        search=SearchConfig(trials=0),
    ),
    "allconv": RunConfig(
        data=CIFAR,
        model=ModelConfig(name="allconv"),
        train=TrainConfig(epochs=100, global_batch_size=128),
        search=SearchConfig(trials=0),
    ),
    "densenet": RunConfig(
        data=CIFAR,
        model=ModelConfig(name="densenet_bc_100_12"),
        train=TrainConfig(epochs=200, global_batch_size=128, weight_decay=1e-4),
        search=SearchConfig(trials=0),
    ),
    "resnext29": RunConfig(
        data=CIFAR,
        model=ModelConfig(name="resnext29_32x4"),
        train=TrainConfig(epochs=200, global_batch_size=128),
        search=SearchConfig(trials=0),
    ),
    "small": RunConfig(
        data=CIFAR,
        train=TrainConfig(epochs=8, global_batch_size=128),
        search=SearchConfig(trials=0),
    ),
}

if __name__ == "__main__":
    main(RECIPES, __doc__)
