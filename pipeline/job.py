"""What a training is: its configuration, its images, and what every epoch is judged on."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from augmix_core import EXTRA_CORRUPTIONS
from pipeline.budget import Scale
from pipeline.config import RunConfig
from pipeline.order import Split, total_steps
from pipeline.storage import StoredPath

CLEAN = ("clean", 0)


@dataclass(frozen=True)
class Job:
    """One training: what, on which samples, judged on which, into which folder."""

    config: RunConfig
    scale: Scale
    folder: StoredPath
    """`<storage path>/<name>`, where Ray Train keeps the checkpoints."""
    source: ray.ObjectRef
    split: Split
    validation_source: ray.ObjectRef
    validation_split: Split
    validation_cells: tuple[tuple[str, int], ...]
    """(corruption, severity) pairs that every epoch is judged on; CLEAN for the images as they are."""
    num_classes: int
    label: str = "training"
    """What the published metrics call it: the method, or search."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        train = self.config.train
        steps = total_steps(self.split.size, epochs=train.epochs, global_batch_size=train.global_batch_size)
        if steps < 1:
            raise ValueError(
                f"train.global_batch_size {train.global_batch_size} is above train.epochs {train.epochs} x "
                f"{self.split.size} images; there is no step to take"
            )
        return min(steps, train.max_steps) if train.max_steps else steps

    def epochs_behind(self, step: int) -> int:
        """Epochs that end within the first `step` steps; the last step ends the last one, a rest of a batch early."""
        batch, last = self.config.train.global_batch_size, self.steps
        return -(-step * batch // self.split.size) if step == last else step * batch // self.split.size

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the whole training, ends with the step after which so many have been taken."""
        return step == self.steps or self.epochs_behind(step) > self.epochs_behind(step - 1)


def search_cells(severities: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """What a trial is judged on: the extra corruptions, none of which is among the test corruptions."""
    return tuple((name, severity) for name in EXTRA_CORRUPTIONS for severity in severities)
