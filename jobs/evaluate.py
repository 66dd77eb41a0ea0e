#!/usr/bin/env python
r"""Score any network on corruption benchmarks, without training; a protocol line goes with every number.

    jobs/evaluate.py --model resnet50 --data.path /data/imagenet --evaluate.published /data/ImageNet-C
    jobs/evaluate.py --model resnet50 --data.path /data/imagenet       corruptions generated, not the published files
    jobs/evaluate.py --recipe cifar10 --model RUN/train/augmix --data.path /data/cifar10 \
                     --evaluate.published /data/CIFAR-10-C
    jobs/evaluate.py report ...                                        what has been scored so far

--model is a checkpoint of ours, a torchvision model, timm:<name>, or module:function. Kill it at any time: the same
command goes on with what is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.cli import score
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig, ScoreConfig

RECIPES = {
    "imagenet": ScoreConfig(
        data=DataConfig(
            name="imagenet",
            image_size=224,
            crop="random_resized",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    ),
    "tinyimagenet": ScoreConfig(
        data=DataConfig(
            name="imagenet",
            image_size=64,
            crop="none",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    ),
    "cifar10": ScoreConfig(data=DataConfig(name="cifar10")),
    "cifar100": ScoreConfig(data=DataConfig(name="cifar100")),
    "folder": ScoreConfig(
        data=DataConfig(
            name="folder",
            image_size=224,
            crop="random_resized",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    ),
    "digits": ScoreConfig(data=DataConfig(name="digits")),
}

if __name__ == "__main__":
    score(RECIPES, __doc__)
