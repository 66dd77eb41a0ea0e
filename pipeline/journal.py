"""What a training leaves for people, written by its rank 0 into the training's folder.

metrics.jsonl    one line an epoch: losses, errors, throughput, data wait, object store
validation.jsonl    one line an epoch where validation runs beside the training, which writes it
progress.json    the newest step and how fast it went, at most once a second, in an object store every ten seconds
object_store.json    what the driver has measured meanwhile
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pipeline.progress import METRICS
from pipeline.storage import StoredPath, StorePath, append_line, write_atomically

SECONDS_BETWEEN_PROGRESS = 1.0
SECONDS_BETWEEN_PROGRESS_IN_A_STORE = 10.0
"""A request holds the training up for tens of milliseconds."""
STORE = "object_store.json"


class Journal:
    """The files, and the clock that tells waiting for data from computing.

    Args:
        folder: where they go.
        rank: only rank 0 writes.
        step, steps: where the training goes on from, and its last.
        global_batch_size: samples in a step.
        publish: told of every step on rank 0: step, samples, seconds waited for them, samples in quarantine.
    """

    def __init__(
        self,
        folder: StoredPath,
        rank: int,
        *,
        step: int,
        steps: int,
        global_batch_size: int,
        publish: Callable[[int, int, float, int], None],
    ) -> None:
        self.folder, self.rank = folder, rank
        self.steps, self.global_batch_size, self.publish = steps, global_batch_size, publish
        self.waits: list[float] = []
        """Seconds that each step of this epoch waited for its rows."""
        self.ends: list[float] = []
        """When each ended."""
        self.written = 0.0
        in_store = isinstance(folder, StorePath)
        self.pause = SECONDS_BETWEEN_PROGRESS_IN_A_STORE if in_store else SECONDS_BETWEEN_PROGRESS
        self.epoch_start = time.perf_counter()
        if rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            forget_after(folder, step)

    def timed(self, batches: Iterator[Mapping[str, torch.Tensor]]) -> Iterator[Mapping[str, torch.Tensor]]:
        """Pass batches on and count how long the loop waited for them."""
        while True:
            asked = time.perf_counter()
            rows = next(batches, None)
            if rows is None:
                return
            self.waits.append(time.perf_counter() - asked)
            yield rows

    def stepped(self, step: int, quarantined: int) -> None:
        """A step has ended: publish it and, at most once a second, say how far and how fast the training is."""
        self.ends.append(time.perf_counter())
        if self.rank != 0:
            return
        self.publish(step, self.global_batch_size, self.waits[-1], quarantined)
        now = time.monotonic()
        if now - self.written >= self.pause:
            self.written = now
            told = {"step": step, "steps": self.steps, "quarantined": quarantined}
            write_atomically(self.folder / "progress.json", json.dumps(told | self.last_step()))

    def last_step(self) -> dict[str, float]:
        """Throughput and data wait of the newest step."""
        seconds = self.ends[-1] - (self.ends[-2] if len(self.ends) > 1 else self.epoch_start)
        return {"samples_per_second": self.global_batch_size / seconds, "data_wait_share": self.waits[-1] / seconds}

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Add throughput, data wait and the object store's figures to the metrics and write their line."""
        seconds = time.perf_counter() - self.epoch_start
        metrics |= {
            "samples_per_second": len(self.ends) * self.global_batch_size / seconds,
            "data_wait_share": sum(self.waits) / seconds,
            "step_seconds_p95": percentile(np.diff([self.epoch_start, *self.ends])),
            "data_wait_seconds_p95": percentile(self.waits),
        }
        if self.rank == 0:
            metrics |= self.object_store()
            append_line(self.folder / METRICS, json.dumps(metrics))
        self.waits, self.ends, self.epoch_start = [], [], time.perf_counter()

    def object_store(self) -> dict[str, int]:
        """What the driver has measured; nothing where it measures nothing."""
        try:
            return json.loads((self.folder / STORE).read_text())
        except OSError:
            return {}


def forget_after(folder: StoredPath, step: int) -> None:
    """Drop the lines of steps that a crash has undone."""
    path = folder / METRICS
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        write_atomically(path, "".join(line + "\n" for line in kept))


def percentile(seconds: Any) -> float:
    """What 95 % of the steps stay below."""
    return float(np.percentile(seconds, 95))
