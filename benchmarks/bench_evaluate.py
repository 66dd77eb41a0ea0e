#!/usr/bin/env python
"""What an evaluation costs above its work, and how its memory goes with the data set.

    benchmarks/bench_evaluate.py cost --data /data/cifar10 --images 2000 --rounds 3
    benchmarks/bench_evaluate.py memory --data /data/cifar10

cost: an evaluation of 15 x 5 cells and the clean images of CIFAR-10 by ConvNet5 under Ray, start and end included,
bound to one core, while a plain loop corrupts and predicts the same without end on another; they change cores every
round. (A virtual machine's speed can double from one minute to the next: only what runs at the same time can be
compared.)
memory: the peak of the memory of all processes together, and of the object store, at 1x and 10x of the images; take at
least 5000 --images, so that the pipeline fills, and --corruptions 3 --severities 3 to be quick.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import spread

from pipeline.config import TEST_CORRUPTIONS, DataConfig, EvaluateConfig, RunConfig, ScaleConfig, SearchConfig

SECONDS_BETWEEN_LOOKS = 0.2
TENFOLD = 10


def main() -> None:
    """Parse, and run the parts as processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "memory", "evaluate", "plain"))
    parser.add_argument("--data", required=True, type=Path, help="folder of CIFAR-10")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=1, help="copies of the test images")
    parser.add_argument("--corruptions", type=int, default=15, help="how many of the 15")
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    {"cost": cost, "memory": memory, "evaluate": evaluated, "plain": plain}[arguments.part](arguments)


def part(arguments: argparse.Namespace, name: str, **changes: int) -> list[str]:
    """The command of a part."""
    names = ("images", "repeats", "corruptions")
    values = {name: getattr(arguments, name) for name in names} | changes
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    severities = map(str, arguments.severities)
    return [sys.executable, __file__, name, "--data", str(arguments.data), *flags, "--severities", *severities]


def cost(arguments: argparse.Namespace) -> None:
    """Evaluation on one core and the plain loop on another at the same time, and the other way round."""
    seconds: list[float] = []
    ratios = []
    cores = sorted(os.sched_getaffinity(0))[:2]
    for number in range(arguments.rounds):
        first, second = cores if number % 2 == 0 else cores[::-1]
        with tempfile.TemporaryDirectory() as scratch:
            counted = Path(scratch) / "images"
            loop = started(part(arguments, "plain"), second, stdout=counted.open("w"))
            try:
                while not counted.read_text():  # the loop is warm
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                begun, before = time.perf_counter(), len(counted.read_text())
                assert started(part(arguments, "evaluate"), first).wait() == 0
                seconds.append(time.perf_counter() - begun)
                portions = len(counted.read_text()) - before
            finally:
                loop.kill()
        rate = portions * setting_of(arguments).scale.evaluation_batch_size / seconds[-1]
        ratios.append(seconds[-1] * rate / arguments.images)
    cells = 1 + arguments.corruptions * len(arguments.severities)
    print(f"{arguments.images} images x {cells} cells on one core: evaluation {spread(seconds)} s, ", end="")
    print(f"{spread(ratios)} of what the plain loop needs at the same time")


def started(command: list[str], core: int, **streams: IO[str]) -> subprocess.Popen:
    """A process that stays on one core, as do its children."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(["taskset", "-c", str(core), *command], **(quiet | streams))


def memory(arguments: argparse.Namespace) -> None:
    """Peak memory at 1x and 10x."""
    for repeats in (1, TENFOLD):
        process = subprocess.Popen(
            part(arguments, "evaluate", repeats=repeats), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        private, shared = peaks(process)
        print(f"{repeats * arguments.images:>8,} images: processes {private:,.0f} MB, object store {shared:,.0f} MB")


def peaks(process: subprocess.Popen) -> tuple[float, float]:
    """The largest sum over the process tree of anonymous memory, and the largest shared memory of one, in MB."""
    private = shared = 0.0
    while process.poll() is None:
        status = [status_of(pid) for pid in tree(process.pid)]
        private = max(private, sum(s.get("RssAnon", 0) for s in status) / 1000)
        shared = max(shared, max((s.get("RssShmem", 0) for s in status), default=0) / 1000)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    assert process.returncode == 0
    return private, shared


def tree(root: int) -> list[int]:
    """A process and all that came from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def status_of(pid: int) -> dict[str, int]:
    """The memory lines of /proc/<pid>/status, in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}


def setting(arguments: argparse.Namespace, folder: Path) -> tuple[RunConfig, object, dict]:
    """Configuration, images in a memory-mapped file, and an untrained network."""
    import torch

    from augmix_core.models import build_model
    from pipeline.networks import Network
    from pipeline.published import ArrayFileSource, open_array
    from pipeline.source import open_source

    whole = open_source(DataConfig(name="cifar10", path=str(arguments.data)), train=False)
    from pipeline.decode import evaluation_images

    images, labels, _ = evaluation_images(whole, np.arange(arguments.images), DataConfig(name="cifar10"))
    stored = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (arguments.repeats * len(images), *images.shape[1:])
    )
    for copy in range(arguments.repeats):
        stored[copy * len(images) : (copy + 1) * len(images)] = images
    stored.flush()
    del stored
    source = ArrayFileSource(
        open_array(folder / "images.npy", (32, 32, 3)),
        0,
        np.tile(labels, arguments.repeats),
        whole.class_names,
        "bench",
    )
    torch.manual_seed(0)
    network = Network(build_model("convnet5", 10).eval(), (0.5,) * 3, (0.5,) * 3, "untrained ConvNet5")
    return setting_of(arguments), source, {"network": network}


def setting_of(arguments: argparse.Namespace) -> RunConfig:
    """The configuration of both."""
    return RunConfig(
        data=DataConfig(name="cifar10"),
        evaluate=EvaluateConfig(
            corruptions=TEST_CORRUPTIONS[: arguments.corruptions], severities=tuple(arguments.severities)
        ),
        search=SearchConfig(trials=0),
        scale=ScaleConfig(evaluation_actors=1),
    )


def evaluated(arguments: argparse.Namespace) -> None:
    """The whole evaluation, score card included."""
    import ray

    from pipeline.budget import Scale
    from pipeline.cells import plan_evaluation
    from pipeline.evaluate import evaluate
    from pipeline.scorecard import scorecard

    with tempfile.TemporaryDirectory() as scratch:
        config, source, networks = setting(arguments, Path(scratch))
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, object_store_memory=500 * 2**20)
        plan = plan_evaluation(config.data, config.evaluate, source)
        ledger = evaluate(config, Scale(1, False, 1), plan, networks, Path(scratch) / "ledger")
        json.dumps(scorecard(ledger, replicates=1000, seed=0))
        ray.shutdown()


def plain(arguments: argparse.Namespace) -> None:
    """Corrupting and predicting alone, over and over; prints a dot for every batch."""
    import torch

    from augmix_core import corrupt
    from pipeline.decode import evaluation_images
    from pipeline.predict import keep_freed_memory, predict

    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        config, source, networks = setting(arguments, Path(scratch))
        network, batch = networks["network"], config.scale.evaluation_batch_size
        for start in itertools.cycle(range(0, len(source), batch)):
            ids = np.arange(start, min(start + batch, len(source)))
            images, labels, _ = evaluation_images(source, ids, config.data)
            cells = [images]
            for name in config.evaluate.corruptions:
                cells += [corrupt(images, name, severity=severity, sample_ids=ids) for severity in arguments.severities]
            for shown in cells:
                answers = predict(network.model, torch.from_numpy(shown), network).argmax(dim=1)
                (answers != torch.from_numpy(labels)).sum()
            print(end=".", flush=True)


if __name__ == "__main__":
    main()
