"""What a source is: labelled images by sample id, whatever files they lie in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
"""In lower case; names are compared without regard to case."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in place of an image of which it is known already that it cannot be decoded."""

    reason: str


Encoded = bytes | NDArray[np.uint8] | Unreadable
"""An encoded image file, an (H, W, 3) uint8 RGB array that needs no decoding, or why there is neither."""


class Source(Protocol):
    """Labelled images by sample id 0 .. len - 1.

    An image that is not there or cannot be read comes as no bytes at all, which decoding reports as a bad sample. A
    data set that has gone as a whole raises OSError instead: nobody wants it skipped image by image.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the index, not of the images, so that a run notices when its data set has changed."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        ...

    @property
    def shard_rows(self) -> NDArray[np.int64] | None:
        """(S,) rows of each consecutive shard that is best read as a whole; None where any sample costs the same."""
        ...

    def __len__(self) -> int: ...

    def read(self, sample_ids: Sequence[int] | NDArray[np.int64]) -> tuple[list[Encoded], NDArray[np.int64]]:
        """Return the images, still encoded, and their labels."""
        ...

    def describe(self, sample_id: int) -> str:
        """Say where a sample comes from, for a person who has to look at it."""
        ...


def digest_of(*parts: bytes | memoryview) -> str:
    """SHA-256 of the parts, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def refuse_labels(what: str, labels: NDArray[np.int64], classes: int, rows: NDArray[np.int64] | None = None) -> None:
    """Refuse labels outside 0 .. classes - 1, naming the first and how many there are.

    Raises:
        ValueError: With `what`, the row, its label and the rule.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = wrong[0] if rows is None else rows[wrong[0]]
        raise ValueError(
            f"{what} row {row} has label {labels[wrong[0]]}; labels must be from 0 to {classes - 1}: "
            f"correct or remove the {len(wrong):,} such rows of {len(labels):,}"
        )
