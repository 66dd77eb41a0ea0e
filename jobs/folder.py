#!/usr/bin/env python
"""Your own images, in one folder per class: a ResNet-18 at 224 px, or a small network for CPUs.

    jobs/folder.py --data.path /data/mushrooms                      search, train standard and AugMix, score, report
    jobs/folder.py --recipe small --data.path /data/mushrooms       ConvNet5 at 64 px: for two CPU cores
    jobs/folder.py train --data.path s3://bucket/mushrooms          one stage; images from an object store

data.path holds train/<class>/... and val/ or test/; or class folders alone, of which a fixed quarter
(--data.test-fraction) is the test set. Parquet files and WebDataset shards will do as well. The number of classes is
that of the folders. The defaults are for a few thousand images, trained from scratch: severity 3 of CIFAR, a batch of
64, a cosine; no stored run stands behind them yet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from augmix_core import AugMixConfig
from pipeline.cli import main
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig, ModelConfig, RunConfig, SearchConfig, TrainConfig

RECIPES = {
    "resnet18": RunConfig(
        data=DataConfig(
            name="folder",
            image_size=224,
            crop="random_resized",
            flip=True,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        augmix=AugMixConfig(aug_severity=3.0),
        model=ModelConfig(name="resnet18"),
        train=TrainConfig(epochs=60, global_batch_size=64, learning_rate=0.05),
        search=SearchConfig(trials=4, epochs=10, grace_epochs=5),
    ),
    "small": RunConfig(
        data=DataConfig(name="folder", image_size=64, crop="random_resized", flip=True),
        train=TrainConfig(epochs=30, global_batch_size=32),
        search=SearchConfig(trials=3, epochs=5, grace_epochs=5),
    ),
}

if __name__ == "__main__":
    main(RECIPES, __doc__)
