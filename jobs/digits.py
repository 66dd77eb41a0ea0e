#!/usr/bin/env python
"""Handwritten digits: everything from data to report, offline, in a few minutes on two CPU cores.

    jobs/digits.py                          search, train standard and AugMix + JSD, score both, report
    jobs/digits.py --train.epochs 40        the same run, longer
    ray job submit jobs/digits.py           the same on a cluster

1,348 training images and 449 test images come with scikit-learn.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.cli import main
from pipeline.config import DataConfig, RunConfig, SearchConfig, TrainConfig

RECIPES = {
    "digits": RunConfig(
        data=DataConfig(name="digits"),
        train=TrainConfig(epochs=20, global_batch_size=64),
        search=SearchConfig(trials=3, epochs=5, grace_epochs=5),
    ),
}

if __name__ == "__main__":
    main(RECIPES, __doc__)
