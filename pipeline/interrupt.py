"""Stopping on purpose: Ctrl-C, SIGTERM or a node that is about to go; a checkpoint first, then the command leaves.

The driver asks by a file in the training's folder, which all nodes see; rank 0 looks for it between steps.
"""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import ray.train

from pipeline.progress import StoppedError, say
from pipeline.ranks import from_rank_0
from pipeline.storage import StoredPath

STOP = "stop"
SECONDS_BETWEEN_ASKING = 2.0
MOST_STEPS_BETWEEN_ASKING = 50

Result = TypeVar("Result")


def stoppable(act: Callable[[], Result], folder: StoredPath) -> Result:
    """Run `act`, a training in `folder`; the first SIGINT or SIGTERM asks it to stop, the second acts as ever.

    It runs in a thread of its own, because in the main one Ray Train would take over Ctrl-C and drop what has been
    trained since the last checkpoint. Python hands signals to the main thread alone, so elsewhere nothing is caught.

    Raises:
        StoppedError: `act` has raised it; with the number of the signal.
    """
    (folder / STOP).unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        return act()
    outcome: Future[Result] = Future()
    received: list[int] = []

    def work() -> None:
        try:
            outcome.set_result(act())
        except BaseException as error:  # for the main thread, whatever it is
            outcome.set_exception(error)

    def ask(number: int, _: object) -> None:
        received.append(number)
        restore()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STOP).touch()
        say(f"{signal.Signals(number).name}: stopping at the next checkpoint; once more to leave at once")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threading.Thread(target=work, daemon=True).start()
        return outcome.result()
    except StoppedError as error:
        if received:
            error.signal_number = signal.Signals(received[0])
        raise
    finally:
        restore()
        (folder / STOP).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """What all ranks are to do after a step."""

    save: bool
    stop: bool


class Watch:
    """Whether a checkpoint within an epoch is due, or a stop: rank 0 decides, about every two seconds.

    Args:
        folder: of the training, where a stop is asked for.
        every_steps, every_minutes: of checkpoints within epochs; 0 for none.
        step: where the training goes on from.
    """

    def __init__(self, folder: StoredPath, *, every_steps: int, every_minutes: float, step: int) -> None:
        self.folder, self.every_steps, self.every_minutes = folder, every_steps, every_minutes
        self.asked_at, self.saved_at = time.monotonic(), time.monotonic()
        self.asked_step, self.next_step = step, step + 1
        self.evading = False
        """Whether the coming loss of a node already has its checkpoint."""

    def due(self, step: int) -> bool:
        """Whether `ask` comes after this step; the same on all ranks."""
        return step >= self.next_step or self.saves_at(step)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint by the number of steps is due."""
        return bool(self.every_steps) and step % self.every_steps == 0

    def ask(self, step: int) -> Asked:
        """What rank 0 has decided. A collective."""
        now = time.monotonic()
        seconds_a_step = (now - self.asked_at) / max(1, step - self.asked_step)
        wait = min(MOST_STEPS_BETWEEN_ASKING, max(1, int(SECONDS_BETWEEN_ASKING / seconds_a_step)))
        leaving = ray.train.get_preemption_info() is not None
        stop = self.stop_is_asked_for()
        late = bool(self.every_minutes) and now - self.saved_at >= 60 * self.every_minutes
        save = stop or late or self.saves_at(step) or (leaving and not self.evading)
        save, stop, wait = from_rank_0([save, stop, wait])
        self.asked_at, self.asked_step, self.next_step = now, step, step + wait
        self.evading = leaving
        return Asked(save, stop)

    def stop_is_asked_for(self) -> bool:
        """Whether the driver has; a store that does not answer now is asked again."""
        try:
            return (self.folder / STOP).exists()
        except OSError:
            return False

    def saved(self) -> None:
        """A checkpoint has been written."""
        self.saved_at = time.monotonic()
