"""What a training leaves for people, written by its rank 0 into the training's folder.

metrics.jsonl    one line an epoch: losses, errors, throughput
progress.json    the newest step, at most once a second
skipped.jsonl    samples that could not be read, and why
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from pipeline.blocks import opened_source
from pipeline.config import DataConfig
from pipeline.decode import reason_unreadable

SECONDS_BETWEEN_PROGRESS = 1.0


class Journal:
    """The three files, and the clock that tells waiting for data from computing.

    Args:
        folder: where they go.
        rank: only rank 0 writes.
        step, steps: where the training goes on from, and its last.
        global_batch_size: samples in a step.
    """

    def __init__(self, folder: Path, rank: int, *, step: int, steps: int, global_batch_size: int) -> None:
        self.folder, self.rank = folder, rank
        self.steps, self.global_batch_size = steps, global_batch_size
        self.listed: set[int] = set()
        self.waited = self.written = 0.0
        self.epoch_step = step
        self.epoch_start = time.perf_counter()
        if rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.forget_after(step)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a crash has undone."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            write_atomically(path, "".join(line + "\n" for line in kept))

    def timed(self, batches: Iterator[Mapping[str, torch.Tensor]]) -> Iterator[Mapping[str, torch.Tensor]]:
        """Pass batches on and count how long the loop waited for them."""
        while True:
            asked = time.perf_counter()
            rows = next(batches, None)
            self.waited += time.perf_counter() - asked
            if rows is None:
                return
            yield rows

    def progress(self, step: int) -> None:
        """At most once a second, say how far the training is."""
        now = time.time()
        if self.rank == 0 and now - self.written >= SECONDS_BETWEEN_PROGRESS:
            self.written = now
            write_atomically(self.folder / "progress.json", json.dumps({"step": step, "steps": self.steps}))

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add throughput to the metrics and write their line."""
        seconds = time.perf_counter() - self.epoch_start
        samples = (metrics["step"] - self.epoch_step) * self.global_batch_size
        metrics |= {"samples_per_second": samples / seconds, "data_wait_share": self.waited / seconds}
        if self.rank == 0:
            with (self.folder / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps(metrics) + "\n")
        self.waited, self.epoch_step, self.epoch_start = 0.0, metrics["step"], time.perf_counter()

    def skipped(self, sample_ids: set[int], source: ray.ObjectRef, config: DataConfig) -> None:
        """Name each sample that had to be replaced, once, and why."""
        if self.rank != 0 or not sample_ids - self.listed:
            return
        opened = opened_source(source)
        with (self.folder / "skipped.jsonl").open("a") as lines:
            for sample_id in sorted(sample_ids - self.listed):
                reason = reason_unreadable(opened, sample_id, config)
                lines.write(
                    json.dumps({"sample_id": sample_id, "file": opened.describe(sample_id), "reason": reason}) + "\n"
                )
        self.listed |= sample_ids


def write_atomically(path: Path, content: str | bytes) -> None:
    """Readers see the old content or the new one."""
    scratch = path.with_suffix(".tmp")
    if isinstance(content, str):
        scratch.write_text(content)
    else:
        scratch.write_bytes(content)
    scratch.replace(path)
