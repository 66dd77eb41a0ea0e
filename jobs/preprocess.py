#!/usr/bin/env python
"""Decode a data set once, or make the views of some epochs beforehand, on all CPUs of a cluster.

    jobs/preprocess.py images --recipe imagenet --data.path /data/imagenet --output /data/imagenet-256
    jobs/imagenet.py --data.path /data/imagenet-256                      # trains without decoding a JPEG

    jobs/preprocess.py views --recipe cifar10 --data.path /data/cifar10 --epochs 100 --output /data/views
    jobs/cifar.py --data.path /data/cifar10 --data.views /data/views     # trains without augmenting

    jobs/preprocess.py verify --output /data/imagenet-256                # SHA-256 of every file

ImageNet at short side 256 takes about 350 GB; an epoch of views 0.5 GB for CIFAR-10, 580 GB for ImageNet. A killed job
goes on when the same command is given again, and ends with the same bytes.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jobs.cifar import RECIPES as CIFAR
from jobs.digits import RECIPES as DIGITS
from jobs.imagenet import RECIPES as IMAGENET
from pipeline.cli import preprocess
from pipeline.config import PreprocessConfig, RunConfig


def preprocessing(recipe: RunConfig, name: str) -> PreprocessConfig:
    """What a training recipe says about its images."""
    data = dataclasses.replace(recipe.data, name=name)
    return PreprocessConfig(data=data, augmix=recipe.augmix, seed=recipe.seed)


RECIPES = {
    "imagenet": preprocessing(IMAGENET["resnet50"], "imagenet"),
    "cifar10": preprocessing(CIFAR["wrn40_2"], "cifar10"),
    "cifar100": preprocessing(CIFAR["wrn40_2"], "cifar100"),
    "digits": preprocessing(DIGITS["digits"], "digits"),
}

if __name__ == "__main__":
    preprocess(RECIPES, __doc__)
