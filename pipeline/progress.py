"""What a person sees of a training: a bar with ETA on a terminal, one line an epoch in a log.

The driver follows the files that the training's rank 0 writes, so it sees the same whether the workers run here or
on other nodes.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from pipeline.storage import StoredPath, StorePath

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LOOKS_INTO_A_STORE = 5.0


class StoppedError(Exception):
    """A training that was asked to stop, and has, after a checkpoint."""

    signal_number = signal.SIGTERM


class Terminal:
    """Where people read: standard output, also while `chatter_into` sends everybody else's output to a file."""

    kept: TextIO | None = None

    @classmethod
    def stream(cls) -> TextIO:
        """The output that people see at this moment."""
        return cls.kept or sys.stdout


def say(text: str) -> None:
    """Print one line at once, above a bar where there is one."""
    stream = Terminal.stream()
    tqdm.write(text, file=stream)
    stream.flush()


@contextmanager
def chatter_into(path: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2 to a file, where Ray's Python and C++ parts write; `say` keeps the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    Terminal.kept = os.fdopen(os.dup(1), "w", buffering=1)
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in enumerate(kept, start=1):
            os.dup2(original, descriptor)
            os.close(original)
        Terminal.kept.close()
        Terminal.kept = None


@contextmanager
def followed(label: str, folder: StoredPath, *, epochs: int, first_step: int) -> Iterator[None]:
    """Show a training's progress for as long as the block runs.

    Args:
        label: what is trained.
        folder: where metrics.jsonl, validation.jsonl and progress.json are written.
        first_step: the step that the training goes on from; lines up to it are old.
    """
    follower = Follower(label, folder, epochs, first_step)
    over = threading.Event()
    pause = SECONDS_BETWEEN_LOOKS_INTO_A_STORE if isinstance(folder, StorePath) else SECONDS_BETWEEN_LOOKS

    def watch() -> None:
        while not over.wait(pause):
            follower.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        follower.look()
        follower.close()


def new_bar(label: str) -> Any:
    """A progress bar over optimizer steps."""
    return tqdm(total=None, desc=label, unit="step", leave=False, file=Terminal.stream())


class Follower:
    """Reads the files of one training and prints what is new."""

    def __init__(self, label: str, folder: StoredPath, epochs: int, first_step: int) -> None:
        self.label, self.folder, self.epochs = label, folder, epochs
        self.first_step = first_step
        self.printed = {METRICS: first_step, VALIDATION: first_step}
        """The last step of each file that has been told of."""
        self.bar: Any = new_bar(label) if Terminal.stream().isatty() else None
        self.first_seen: tuple[float, int] | None = None

    def look(self) -> None:
        """One line for each new epoch; the bar to the newest step."""
        progress = self.read_progress()
        if progress and self.first_seen is None:
            self.first_seen = (time.monotonic(), progress["step"])
        for row in self.new_rows(METRICS):
            say(self.line(row, progress))
        for row in self.new_rows(VALIDATION):
            say(self.validation_line(row))
        if self.bar is not None and progress:
            self.bar.total = progress["steps"]
            self.bar.set_postfix_str(
                f"{progress['samples_per_second']:.0f} images/s, data wait {100 * progress['data_wait_share']:.0f} %"
            )
            self.bar.update(progress["step"] - self.bar.n)

    def new_rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Whole lines of a file, for later steps than any before."""
        try:
            text = (self.folder / name).read_text()
        except OSError:
            return
        for line in text[: text.rfind("\n") + 1].splitlines():
            row = json.loads(line)
            if row["step"] > self.printed[name]:
                self.printed[name] = row["step"]
                yield row

    def read_progress(self) -> dict[str, Any] | None:
        """The newest step that rank 0 has told of."""
        try:
            return json.loads((self.folder / "progress.json").read_text())
        except (OSError, ValueError):
            return None

    def line(self, row: dict[str, Any], progress: dict[str, Any] | None) -> str:
        """An epoch in one line."""
        parts = [
            f"{self.label}: epoch {row['epoch']}/{self.epochs}",
            f"loss {row['train/loss']:.3f}",
            f"train error {100 * row['train/error']:.1f} %",
            *([f"test error {100 * row['validation/error']:.1f} %"] if "validation/error" in row else []),
            f"{row['samples_per_second']:.0f} images/s",
            f"data wait {100 * row['data_wait_share']:.0f} %",
        ]
        if "object_store_peak_bytes" in row:
            parts.append(f"object store {row['object_store_peak_bytes'] / 2**20:.0f} MiB at the most")
        if row.get("spilled_bytes"):
            parts.append(f"{row['spilled_bytes'] / 2**20:.0f} MiB spilled")
        if row.get("data/quarantined"):
            parts.append(f"{row['data/quarantined']} images unreadable")
        if progress and self.first_seen and row["step"] > self.first_seen[1] and row["step"] < progress["steps"]:
            since, step = self.first_seen
            left = (time.monotonic() - since) / (row["step"] - step) * (progress["steps"] - row["step"])
            parts.append(f"{timedelta(seconds=round(left))} left")
        return "  ".join(parts)

    def validation_line(self, row: dict[str, Any]) -> str:
        """What a validation beside the training has found, in one line."""
        found = (
            f"not validated: {row['failed']}"
            if "failed" in row
            else f"test error {100 * row['validation/error']:.1f} %"
        )
        return f"{self.label}: epoch {row['epoch']}/{self.epochs}  {found}"

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def counted(
    items: Iterator[Any], label: str, total: int, *, unit: str = "piece", size: Callable[[Any], int] = lambda _: 1
) -> Iterator[Any]:
    """Pass items on, with a bar on a terminal and a line at every tenth of the total in a log.

    Args:
        total: the sum of their sizes.
        unit: what `size` counts.
    """
    bar = tqdm(
        total=total, desc=label, unit=unit, leave=False, file=Terminal.stream(), disable=not Terminal.stream().isatty()
    )
    done, begun, before_begun = 0, 0.0, 0
    with bar:
        for item in items:
            yield item
            before, done = done, done + size(item)
            bar.update(done - before)
            if not begun:  # what comes before the first one is starting up
                begun, before_begun = time.monotonic(), done
            elif bar.disable and done < total and done * 10 // total > before * 10 // total:
                rate = (done - before_begun) / (time.monotonic() - begun)
                left = timedelta(seconds=round((total - done) / rate))
                say(f"{label}: {100 * done // total} % of {total} {unit}s, {rate:.3g} {unit}s/s, {left} left")
