#!/usr/bin/env python
"""Write a corrupted copy of a data set in the layout of the published benchmarks, on all CPUs of a cluster.

    jobs/corrupt.py --recipe cifar10 --data.path /data/cifar10 --output /data/cifar10-corrupted
    jobs/corrupt.py --recipe imagenet --data.path /data/imagenet --output /data/imagenet-corrupted --severities 3

The copy is generated from the published definitions; it is not CIFAR-10-C or ImageNet-C, and says so in its README.
A killed job goes on when the same command is given again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.cli import copy_corrupted
from pipeline.config import DataConfig, GenerateConfig

RECIPES = {
    "digits": GenerateConfig(data=DataConfig(name="digits")),
    "cifar10": GenerateConfig(data=DataConfig(name="cifar10")),
    "cifar100": GenerateConfig(data=DataConfig(name="cifar100")),
    "imagenet": GenerateConfig(data=DataConfig(name="imagenet", image_size=224, crop="random_resized")),
    "folder": GenerateConfig(data=DataConfig(name="folder", image_size=224, crop="random_resized")),
}

if __name__ == "__main__":
    copy_corrupted(RECIPES, __doc__)
