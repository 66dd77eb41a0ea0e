#!/usr/bin/env python
"""ImageNet: the released code's ResNet-50 recipe, reading an ILSVRC folder tree.

    ray job submit --working-dir . -- jobs/imagenet.py --data.path /data/imagenet

data.path holds train/<wnid>/*.JPEG and val/<wnid>/*.JPEG. Source of the recipe: google-research/augmix, imagenet.py:
severity 1, batch 256, a tenth of the learning rate after every third of 90 epochs, no Nesterov.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from augmix_core import AugMixConfig
from pipeline.cli import main
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig, ModelConfig, RunConfig, SearchConfig, TrainConfig

RECIPES = {
    "resnet50": RunConfig(
        data=DataConfig(
            name="imagenet",
            image_size=224,
            crop="random_resized",
            flip=True,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        augmix=AugMixConfig(aug_severity=1.0),
        model=ModelConfig(name="resnet50"),
        train=TrainConfig(epochs=90, global_batch_size=256, schedule="step", nesterov=False, weight_decay=1e-4),
        search=SearchConfig(trials=0),
    ),
}

if __name__ == "__main__":
    main(RECIPES, __doc__)
