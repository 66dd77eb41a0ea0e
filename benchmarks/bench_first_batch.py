#!/usr/bin/env python
"""How long a training waits for its first batch, by the number of images it is going to train on.

    benchmarks/bench_first_batch.py --imagenet IMAGENET_FOLDER --folder /scratch      10 thousand and 1.3 million images

Makes trees of hard links to the JPEGs of a folder, indexes them once, and then, in turns, starts a training of 90
epochs in batches of 256 and stops it with its first batch. Time runs from the call of `fit` on; the start of the
training worker, some seconds, is in it. Memory is the driver's peak.
"""

import argparse
import itertools
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import header, spread

from pipeline.config import DataConfig, RunConfig, ScaleConfig, SearchConfig, TrainConfig

CLASSES = 1000


def main() -> None:
    """Parse, make the trees, and let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--imagenet", required=True, type=Path, help="folder with JPEGs, on the file system of --folder"
    )
    parser.add_argument("--folder", required=True, type=Path, help="where the trees are made")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_300_000])
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    import ray

    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        seconds: dict[int, list[float]] = {images: [] for images in arguments.images}
        for images in arguments.images:
            make_tree(arguments.imagenet, scratch / str(images), images)
            job_of(scratch, images, "index")
        os.sync()  # else the trees are written in the time that is measured
        for number in range(arguments.rounds):
            for images in arguments.images[:: 1 if number % 2 else -1]:
                seconds[images].append(first_batch(scratch, images, f"round-{number}"))
        print("\n".join(header("From fit to the first batch")[:4]))
        print("\n| images | s |\n|---:|---:|")
        for images, waited in seconds.items():
            print(f"| {images:,} | {spread(waited)} |")
        growth = [b - a for a, b in zip(seconds[arguments.images[0]], seconds[arguments.images[-1]], strict=True)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"\ngrowth: {spread(growth)} s; the driver's peak memory: {peak:,.0f} MB")
        ray.shutdown()
    finally:
        shutil.rmtree(scratch)


def make_tree(folder: Path, root: Path, images: int) -> None:
    """train/<class>/ of hard links to some JPEGs, and a val/ of a few."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    kept = root / "jpegs"
    kept.mkdir(parents=True)
    copies = [Path(shutil.copyfile(file, kept / f"{n}.jpg")) for n, file in enumerate(files)]
    for number, file in zip(range(images), itertools.cycle(copies), strict=False):
        link = root / "train" / f"n{number % CLASSES:04d}" / f"{number:07d}.JPEG"
        if number < CLASSES:
            link.parent.mkdir(parents=True)
        os.link(file, link)


def job_of(scratch: Path, images: int, name: str) -> Any:
    """The training, its images opened by their index."""
    import ray

    from pipeline.budget import Scale
    from pipeline.job import Job
    from pipeline.order import split_train
    from pipeline.source import open_source

    data = DataConfig(name="folder", path=str(scratch / str(images)), image_size=224, crop="random_resized", flip=True)
    config = RunConfig(
        storage=str(scratch),
        data=data,
        train=TrainConfig(epochs=90, global_batch_size=256),
        search=SearchConfig(trials=0),
        scale=ScaleConfig(worker_cpus=0.5),
    )
    source = open_source(data, train=True, index_folder=scratch / "index")
    assert len(source) == images
    split, _ = split_train(images, seed=0)
    reference = ray.put(source)
    return Job(
        config, Scale(1, False, 1), scratch / f"{name}-{images}", reference, split, reference, split, (), CLASSES
    )


def first_batch(scratch: Path, images: int, name: str) -> float:
    """Seconds from the call of `fit` to the first batch in the training worker."""
    from pipeline.train import trainer_of

    job = job_of(scratch, images, name)
    begun = time.time()
    return trainer_of(job, arrival).fit().return_value - begun


def arrival(loop_config: dict[str, Any]) -> float:
    """When the first batch comes."""
    from pipeline.train import steps_of

    next(steps_of(loop_config["job"], 0))
    return time.time()


if __name__ == "__main__":
    main()
