#!/usr/bin/env python
"""Steps of the training loop beside those of a bare loop in plain torch, on the same batches in memory.

    benchmarks/bench_loop.py                                          ConvNet5, batches of 128, fp32: its overhead
    benchmarks/bench_loop.py --model wrn40_2 --half bf16 --compile    what half precision and compiling bring, on a GPU

All take turns on one device; ratios are formed inside a round. "ours" is a step with all that the loop does around it:
data wait, quarantine, metrics, the question whether a checkpoint is due. "bare" has the loss written out and no line
that it could do without.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ray
import torch
from timing import header, spread
from torch.nn import functional as F

from augmix_core.models import build_model
from pipeline.budget import Scale
from pipeline.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from pipeline.interrupt import Watch
from pipeline.job import CLEAN, Job
from pipeline.journal import Journal
from pipeline.order import Split
from pipeline.quarantine import Quarantine
from pipeline.source import open_source
from pipeline.telemetry import TrainingMetrics
from pipeline.train import Training

Rows = Mapping[str, torch.Tensor]
BATCHES, CLASSES, SIDE = 4, 10, 32
BARE = "bare loop, fp32"


def main() -> None:
    """Parse, let the loops take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnet5")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25, help="of one turn")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--half", choices=["bf16", "fp16"], help="also in this precision")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    precisions = ["fp32"] + ([arguments.half] if arguments.half else [])
    compiled = [False, True] if arguments.compile else [False]
    batches = list(itertools.islice(random_batches(arguments.batch), BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        turns = {BARE: bare(arguments.model, batches, device)}
        for number, (precision, compiles) in enumerate(itertools.product(precisions, compiled)):
            train = TrainConfig(epochs=1000, global_batch_size=arguments.batch, precision=precision, compile=compiles)
            name = f"ours, {precision}" + (", compiled" if compiles else "")
            turns[name] = ours(arguments.model, train, batches, device, Path(folder) / str(number))
        seconds, memory = measured(turns, arguments.steps, arguments.rounds, device)
    print("\n".join(header(f"The training loop: {arguments.model}, batches of {arguments.batch}, {device}")[:4]))
    print(f"\n{torch.get_num_threads()} threads; {arguments.rounds} rounds of {arguments.steps} steps.\n")
    print(f"| loop | samples / s | × {BARE} | peak memory, MB |\n|---|---:|---:|---:|")
    for name, taken in seconds.items():
        rates = [arguments.steps * arguments.batch / each for each in taken]
        ratios = [base / each for base, each in zip(seconds[BARE], taken, strict=True)]
        used = f"{memory[name] / 1e6:,.0f}" if memory[name] else "—"
        print(f"| {name} | {spread(rates)} | {spread(ratios)} | {used} |")
    ray.shutdown()


def measured(
    turns: Mapping[str, Callable[[int], None]], steps: int, rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every turn of every loop, after a warm-up, and the memory that it took on a GPU."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    memory = dict.fromkeys(turns, 0)
    for turn in turns.values():
        turn(3)
    order = list(turns)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            if device.type == "cuda":
                torch.cuda.synchronize()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            turns[name](steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() - before
            seconds[name].append(time.perf_counter() - started)
    return seconds, memory


def random_batches(size: int) -> Iterator[Rows]:
    """Rows as the stream delivers them."""
    generator = torch.Generator().manual_seed(0)
    while True:
        views = torch.randint(0, 256, (size, 3, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
        ids = torch.arange(size)
        yield {"views": views, "label": ids % CLASSES, "sample_id": ids, "requested_id": ids}


def bare(model: str, batches: list[Rows], device: torch.device) -> Callable[[int], None]:
    """The paper's algorithm in plain torch."""
    network = build_model(model, CLASSES).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    endless = itertools.cycle(batches)

    def turn(steps: int) -> None:
        for rows in itertools.islice(endless, steps):
            views, labels = rows["views"].to(device), rows["label"].to(device)
            images = torch.cat(views.unbind(1)).permute(0, 3, 1, 2)  # channels last already
            logits = network((images.float() / 255 - 0.5) / 0.5).chunk(3)
            p = [F.softmax(each, dim=1) for each in logits]
            mixture = torch.clamp(sum(p) / 3, 1e-7, 1).log()
            consistency = sum(F.kl_div(mixture, each, reduction="batchmean") for each in p) / 3
            loss = F.cross_entropy(logits[0], labels) + 12 * consistency
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return turn


def ours(
    model: str, train: TrainConfig, batches: list[Rows], device: torch.device, folder: Path
) -> Callable[[int], None]:
    """What `pipeline.train.train_loop` does in a step that ends no epoch."""
    data = replace(DataConfig(), image_size=SIDE)
    config = RunConfig(model=ModelConfig(name=model), data=data, train=train)
    split = Split(1_000_000, 0, 1_000_000, 0)
    source = ray.put(open_source(data, train=True))
    job = Job(config, Scale(1, False, 1), folder, source, split, source, split, (CLEAN,), CLASSES)
    training = Training(job, device)
    if train.compile:
        training.parallel.compile()
    journal = Journal(
        folder,
        0,
        step=0,
        steps=job.steps,
        global_batch_size=train.global_batch_size,
        publish=TrainingMetrics("bench").stepped,
    )
    quarantine = Quarantine(folder, 0, source, split.size, data)
    watch = Watch(folder, every_steps=0, every_minutes=0, step=0)
    endless = itertools.cycle(batches)

    def turn(steps: int) -> None:
        for rows in journal.timed(itertools.islice(endless, steps)):
            if not training.take_step(rows):
                raise FloatingPointError("the gradient is not finite")
            quarantine.add(rows)
            journal.stepped(training.step, len(quarantine.known))
            if job.ends_epoch(training.step):
                raise RuntimeError("an epoch has ended")
            watch.due(training.step)

    return turn


if __name__ == "__main__":
    main()
