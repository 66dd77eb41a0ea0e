#!/usr/bin/env python
"""Images a second that reach a training loop, views and all: this project's stream, its kernels alone, and DataLoader.

    benchmarks/bench_ingest.py --imagenet IMAGENET_FOLDER --cifar CIFAR_FOLDER     all; about 30 minutes
    benchmarks/bench_ingest.py --imagenet IMAGENET_FOLDER --parts jpeg shards      224 px alone

Contenders take turns on the same two cores, and ratios are formed inside a round. What is delivered is timed between
two steps of a running stream; batches are of 64 images at 224 px and of 128 at 32.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import header, spread

from augmix_core import AugMixConfig
from pipeline.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataConfig,
    PreprocessConfig,
    RunConfig,
    ScaleConfig,
    SearchConfig,
    TrainConfig,
)

PROCESSES = 2
STREAM_STEPS = 2**16
WARM_BURSTS, LEAST_BURSTS = 3, 4
"""Of tasks side by side: before what is timed, as Ray starts a process for each of them meanwhile, and within it."""
BASELINE = "kernels in two plain processes"
FROM_JPEG = "ours, 1 worker, from the JPEG files"
ROLES = {
    "make_blocks": "kernels and blocks",
    "IDLE": "kernels and blocks",  # a worker between two tasks
    "SplitCoordinator": "Ray Data",
    "TrainWorker": "training worker",
    "": "the rest of Ray",
}
"""Of processes, by what their titles hold."""
WARM_BATCHES = 8
"""Of DataLoader, before what is timed: what its processes have ready when they have all started."""
NOTES = f"""\
- {BASELINE}: what a read task of ours does, and nobody takes what they make.
- ours, W workers: the same in Ray Data's tasks, delivered to W training workers of Ray Train.
- which augments: images travel, and the training worker makes the views in its prefetching threads.
- DataLoader, our transform: the same functions on a batch at a time, in two worker processes.
- CPU time of an image, ms: medians over the rounds; idle is what the two cores had left.
- DataLoader, released procedure: two worker processes; Pillow, torchvision's crop and flip, the released code's views;
  a quarter of the images.
"""


@dataclass
class Contender:
    """`turn()` returns images a second, and where their CPU time went, in ms an image, as far as that is known."""

    name: str
    turn: Callable[[], tuple[float, dict[str, float]]]
    rates: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A source, and how many images of it make a turn."""

    title: str
    config: RunConfig
    images: int
    pillow: bool = True
    """Whether the released procedure can read it."""
    beside: RunConfig | None = None
    """The same images from another source."""

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.config.train.global_batch_size


def main() -> None:
    """Parse, and let the contenders of each part take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, help="folder with class folders of JPEGs")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--parts", nargs="+", default=["jpeg", "shards", "cifar"], choices=["jpeg", "shards", "cifar"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2048, help="images of a turn at 224 px; sixteen times that at 32")
    parser.add_argument("--severity", type=float, default=1.0, help="AugMix severity at 224 px; it is 3 at 32 px")
    arguments = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        ray.init(num_cpus=PROCESSES, log_to_driver=False, include_dashboard=False)
        print("\n".join([*header("Three views of an image, delivered to a training loop"), NOTES]), flush=True)
        for name, part in parts(arguments, Path(scratch)):
            with contenders(part, Path(scratch) / name) as rows:
                for first in range(arguments.rounds):
                    for i in range(len(rows)):
                        row = rows[(first + i) % len(rows)]
                        rate, cpu = row.turn()
                        row.rates.append(rate)
                        row.cpu.append(cpu)
            print("\n".join(table(part, rows)), flush=True)
        ray.shutdown()


def parts(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Part]]:
    """The sources, each prepared when it is needed."""
    data = DataConfig(
        name="imagenet",
        path=str(scratch / "imagenet"),
        image_size=224,
        crop="random_resized",
        flip=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    large = RunConfig(
        storage=str(scratch),
        data=data,
        augmix=AugMixConfig(aug_severity=arguments.severity),
        train=TrainConfig(global_batch_size=64),
        search=SearchConfig(trials=0),
        scale=ScaleConfig(worker_cpus=0.4),
    )
    if {"jpeg", "shards"} & set(arguments.parts):
        link_tree(arguments.imagenet, scratch / "imagenet", arguments.images)
    if "jpeg" in arguments.parts:
        yield "jpeg", Part("JPEG files, 224 px", large, arguments.images)
    if "shards" in arguments.parts:
        from pipeline.preprocess import begin, plan_works, write

        for work in plan_works(
            "images", PreprocessConfig(output=str(scratch / "shards"), splits=("train",), data=data)
        ):
            begin(work)
            write(work)
        of_shards = replace(large, data=replace(data, path=str(scratch / "shards")))
        title = "pre-decoded shards, short side 256, 224 px"
        yield "shards", Part(title, of_shards, arguments.images, pillow=False, beside=large)
    if "cifar" in arguments.parts:
        cifar = DataConfig(name="cifar10", path=str(arguments.cifar), flip=True)
        small = replace(large, data=cifar, augmix=AugMixConfig(), train=TrainConfig(global_batch_size=128))
        yield "cifar", Part("CIFAR-10 parquet, 32 px", small, 16 * arguments.images)


def link_tree(folder: Path, into: Path, images: int) -> None:
    """A train/ folder of so many images at least, links to those of a folder, under new names."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"--imagenet {folder} has no JPEG files")
    for number, file in enumerate(itertools.islice(itertools.cycle(files), max(images, len(files)))):
        link = into / "train" / file.parent.name / f"{number:07d}.JPEG"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
        (into / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)


@contextmanager
def contenders(part: Part, folder: Path) -> Iterator[list[Contender]]:
    """All of them, ready."""
    with plain_processes(part) as plain:
        rows = [
            Contender(BASELINE, plain),
            Contender("ours, 1 worker", partial(ours, part, folder, 1)),
            Contender("ours, 2 workers", partial(ours, part, folder, 2)),
            Contender("ours, 1 worker, which augments", partial(ours, in_the_worker(part), folder, 1)),
            Contender("DataLoader, our transform", partial(loaded, part, Positions(part))),
        ]
        if part.beside:
            rows.append(Contender(FROM_JPEG, partial(ours, replace(part, config=part.beside), folder, 1)))
        if part.pillow:
            fewer = replace(part, images=part.images // 4)
            rows.append(Contender("DataLoader, released procedure", partial(loaded, fewer, Released(part))))
        yield rows


def in_the_worker(part: Part) -> Part:
    """The same with AugMix in the training worker."""
    return replace(part, config=replace(part.config, scale=replace(part.config.scale, augment_on="train")))


def between(batches: Iterable[Any], warm: int, steps: int) -> tuple[float, dict[str, float]]:
    """Seconds from the end of `warm` batches to the end of `steps` more, and the CPU seconds of Ray's processes."""
    following = iter(batches)
    for _ in range(warm):
        next(following)
    before, begun = cpu_seconds(), time.perf_counter()
    for _ in range(steps):
        next(following)
    seconds = time.perf_counter() - begun
    used = dict.fromkeys(ROLES.values(), 0.0)
    for pid, (role, total) in cpu_seconds().items():
        used[role] += total - before.get(pid, (role, 0.0))[1]
    return seconds, used | {"idle": PROCESSES * seconds - sum(used.values())}


def cpu_seconds() -> dict[int, tuple[str, float]]:
    """What every process of Ray's does, and what CPU time it has taken."""
    found = {}
    for folder in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            title = (folder / "cmdline").read_bytes().partition(b"\0")[0].decode()
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        if "ray" in title:
            role = next(role for sign, role in ROLES.items() if sign in title)
            found[int(folder.name)] = role, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


def opened(part: Part) -> tuple[Any, Any]:
    """(source, split) of all training images."""
    from pipeline.order import split_train
    from pipeline.source import open_source

    source = open_source(part.config.data, train=True)
    return source, split_train(len(source), seed=part.config.seed)[0]


@contextmanager
def plain_processes(part: Part) -> Iterator[Callable[[], tuple[float, dict[str, float]]]]:
    """Two processes that make a turn's images between them."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(PROCESSES)]
    processes = [
        context.Process(target=plain_process, args=(end, part, number), daemon=True)
        for number, (_, end) in enumerate(pipes)
    ]
    for process in processes:
        process.start()

    def turn() -> tuple[float, dict[str, float]]:
        begun = time.perf_counter()
        for pipe, _ in pipes:
            pipe.send(part.images // PROCESSES)
        used = sum(pipe.recv() for pipe, _ in pipes)
        return part.images / (time.perf_counter() - begun), {"kernels": 1000 * used / part.images}

    for pipe, _ in pipes:
        pipe.send(part.batch)
        pipe.recv()
    yield turn
    for process in processes:
        process.kill()


def plain_process(pipe: Any, part: Part, number: int) -> None:
    """Makes as many images as it is told to, block by block, and says what CPU time it took."""
    from pipeline.augment import plan_stream, rows_of

    source, split = opened(part)
    plan = plan_stream(part.config, first_step=0, last_step=2**20, num_workers=1)
    blocks = itertools.chain.from_iterable(
        plan.blocks(step) for step in range(number * 2**19, 2**20, plan.steps_a_task)
    )
    while True:
        left, begun = pipe.recv(), time.process_time()
        while left > 0:
            positions = next(blocks)
            rows_of(source, split, positions, part.config)
            left -= len(positions)
        pipe.send(time.process_time() - begun)


class Positions:
    """A map-style dataset of stream positions, which fetches a batch at a time, as the stream makes it."""

    def __init__(self, part: Part) -> None:
        self.part, self.source, self.split = part, *opened(part)

    def __len__(self) -> int:
        return 2**20

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        import torch

        from pipeline.augment import rows_of

        rows = rows_of(self.source, self.split, np.asarray(positions, np.int64), self.part.config)
        return {name: torch.from_numpy(column) for name, column in rows.items()}


class Released:
    """A map-style dataset of triples of normalised float32 tensors, as the released code makes them."""

    def __init__(self, part: Part) -> None:
        from torchvision import transforms

        self.part, self.source, self.split = part, *opened(part)
        data = part.config.data
        crop = transforms.RandomCrop(32, padding=4) if data.crop == "pad" else transforms.RandomResizedCrop(224)
        self.crop = transforms.Compose([crop, transforms.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return 2**20

    def __getitem__(self, position: int) -> tuple[Any, int]:
        import io

        from bench_augmix import released_triple
        from PIL import Image

        _, sample_ids = self.split.at(np.array([position]), seed=0)
        (encoded,), (label,) = self.source.read(sample_ids)
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        return released_triple(self.part.config.augmix.aug_severity)(self.crop(image)), int(label)


def loaded(part: Part, dataset: Any) -> tuple[float, dict[str, float]]:
    """Through DataLoader with two worker processes, whose start is not timed."""
    from torch.utils.data import DataLoader

    steps = part.images // part.batch
    batched = hasattr(dataset, "__getitems__")
    loader = DataLoader(
        dataset,
        batch_size=part.batch,
        num_workers=PROCESSES,
        collate_fn=(lambda batch: batch) if batched else None,
        multiprocessing_context="fork",
    )
    return part.batch * steps / between(loader, WARM_BATCHES, steps)[0], {}


def ours(part: Part, folder: Path, workers: int) -> tuple[float, dict[str, float]]:
    """Through Ray Data and Ray Train, by the functions of a real training.

    Tasks that run side by side end together, and their batches come in order, in bursts: so what is timed begins and
    ends with a burst. The stream is much longer, as a training's is: near its end Ray runs more tasks at a time.
    """
    import ray

    from pipeline.budget import Scale
    from pipeline.job import Job
    from pipeline.train import trainer_of

    source, split = opened(part)
    burst = tasks_at_once(part.config, workers) * plan_of(part, workers).steps_a_task
    bursts = max(LEAST_BURSTS, round(part.images / part.batch / burst))
    train = replace(part.config.train, epochs=-(-STREAM_STEPS * part.batch // split.size))
    name = f"{workers}-{time.monotonic_ns()}"
    reference = ray.put(source)
    config = replace(part.config, train=train)
    job = Job(config, Scale(workers, False, 1), folder / name, reference, split, reference, split, (), 1)
    result = trainer_of(job, partial(consume, warm=WARM_BURSTS * burst, steps=bursts * burst)).fit()
    (seconds, used), images = result.return_value, part.batch * bursts * burst
    return images / seconds, {role: 1000 * each / images for role, each in used.items()}


def tasks_at_once(config: RunConfig, workers: int) -> int:
    """How many read tasks run beside the training workers."""
    return int((PROCESSES - workers * config.scale.worker_cpus) / config.scale.data_cpus)


def plan_of(part: Part, workers: int) -> Any:
    """The layout of a long stream on this machine."""
    import ray

    from pipeline.augment import plan_stream, slot_bytes

    store = ray.cluster_resources()["object_store_memory"]
    room = slot_bytes(part.config, cpus=PROCESSES, store_bytes=store)
    return plan_stream(part.config, first_step=0, last_step=STREAM_STEPS, num_workers=workers, slot_bytes=room)


def consume(loop_config: dict[str, Any], *, warm: int, steps: int) -> tuple[float, dict[str, float]]:
    """A training loop that trains nothing."""
    from pipeline.train import steps_of

    return between(steps_of(loop_config["job"], 0), warm, steps)


def table(part: Part, rows: list[Contender]) -> list[str]:
    """Markdown."""
    baseline = rows[0].rates
    lines = [
        f"## {part.title}, {part.images:,} images a turn",
        "",
        f"| contender | images / s | of {BASELINE} | of DataLoader, our transform |",
        "|---|---:|---:|---:|",
    ]
    loader = next(row.rates for row in rows if row.name == "DataLoader, our transform")
    for row in rows:
        ratios = [spread([a / b for a, b in zip(row.rates, other, strict=True)]) for other in (baseline, loader)]
        lines.append(f"| {row.name} | {spread(row.rates)} | {ratios[0]} | {ratios[1]} |")
    for other in rows:
        if other.name in (FROM_JPEG, "DataLoader, released procedure"):
            ratio = spread([a / b for a, b in zip(rows[1].rates, other.rates, strict=True)])
            lines.append(f"\nours, 1 worker, over {other.name}: {ratio}")
    roles = list(dict.fromkeys(role for row in rows for each in row.cpu for role in each))
    lines += ["", f"| CPU time of an image, ms | {' | '.join(roles)} |", f"|---|{'---:|' * len(roles)}"]
    for row in rows:
        if row.cpu[0]:
            cells = [
                f"{statistics.median(each[role] for each in row.cpu):.3f}" if role in row.cpu[0] else "—"
                for role in roles
            ]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
