"""What is scored, made: each image is read and decoded once and yields all its cells that are missing.

Rows of an input that are decoded together are a portion; some rows of one cell, answered or written together, a piece.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from augmix_core import corrupt
from augmix_core.corruptions.digital import reencoded
from augmix_core.perturbations import perturb
from pipeline.blocks import opened_source, placement, quiet
from pipeline.cells import FRAMES_ABOUT, Cell, Input, Plan, rows_of_a_piece
from pipeline.config import RunConfig
from pipeline.decode import evaluation_images
from pipeline.sequences import SequenceSource

Missing = Mapping[str, frozenset[int]]
"""Cell -> the first rows of its pieces that have no answers yet."""


@dataclass(frozen=True)
class Portion:
    """Consecutive rows of an input, and the pieces of them that are wanted."""

    given: Input
    """The input, of these rows alone."""
    start: int
    """The first of them in the whole input."""
    size: int
    """Rows of a whole portion; pieces of images have as many."""
    wanted: tuple[tuple[Cell, int], ...]
    """(cell, first row in the whole input) of each piece."""

    def rows_of(self, cell: Cell, first: int) -> slice:
        """Where a piece lies within the portion."""
        return slice(first - self.start, first - self.start + rows_of_a_piece(cell, self.size))


@dataclass(frozen=True)
class CleanImages:
    """What the pieces of a portion are made of."""

    images: NDArray[np.uint8] | None
    """(N, H, W, 3), or None for published sequences, which are read piece by piece."""
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]


def portions_of(plan: Plan, missing: Missing, size: int) -> list[Portion]:
    """The portions of all inputs of which a piece has no answers yet."""
    found = []
    for given in plan.inputs:
        for start in range(0, given.rows, size):
            within = range(start, min(start + size, given.rows))
            wanted = tuple(
                (cell, first)
                for cell in given.cells
                for first in within[:: rows_of_a_piece(cell, size)]
                if first in missing[cell.key]
            )
            if wanted:
                part = dataclasses.replace(given, sample_ids=given.sample_ids[start : start + size])
                found.append(Portion(part, start, size, wanted))
    return found


def read_clean(portion: Portion, sources: Sequence[Any], config: RunConfig) -> CleanImages:
    """Read and decode the images of a portion."""
    given = portion.given
    if given.is_sequences:
        return CleanImages(None, np.full(given.rows, -1, np.int64), np.ones(given.rows, bool))
    source = sources[given.source]
    return CleanImages(
        *evaluation_images(source, given.sample_ids, config.data, resized=given.resized, margin=given.margin)
    )


def make_piece(
    portion: Portion, clean: CleanImages, cell: Cell, first: int, sources: Sequence[Any], config: RunConfig
) -> dict[str, NDArray]:
    """Return the arrays sample_id, label, valid and image of a piece."""
    given, at = portion.given, portion.rows_of(cell, first)
    ids, valid = given.sample_ids[at], clean.valid[at]
    if clean.images is None:
        shown, valid = published_frames(sources[given.source], ids, config)
    elif given.generated:
        shown = images_of(cell, clean.images[at], ids, config)
    else:
        shown = clean.images[at]
    return {"sample_id": ids, "label": clean.labels[at], "valid": valid, "image": shown}


@dataclass(frozen=True)
class PieceRows(Datasource):
    """One read task for every portion. A row of the dataset is a piece: some rows of one cell."""

    sources: ray.ObjectRef
    portions: Sequence[Portion]
    config: RunConfig

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all pieces."""
        return sum(map(self.size_of, self.portions))

    def size_of(self, portion: Portion) -> int:
        """Bytes of the pieces of a portion."""
        return len(portion.wanted) * portion.given.rows * self.config.data.image_size**2 * 3

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for every portion, whatever parallelism Ray proposes."""
        return [
            ReadTask(
                self.reader(portion),
                BlockMetadata(
                    num_rows=len(portion.wanted), size_bytes=self.size_of(portion), input_files=None, exec_stats=None
                ),
            )
            for portion in self.portions
        ]

    def reader(self, portion: Portion) -> Callable[[], Iterator[Block]]:
        """The function of one task: a generator of blocks of one piece each."""
        reference, config = self.sources, self.config

        def read() -> Iterator[Block]:
            sources = opened_source(reference)
            clean = read_clean(portion, sources, config)
            for cell, first in portion.wanted:
                piece = make_piece(portion, clean, cell, first, sources, config)
                named = {"cell": np.array([cell.key]), "first": np.array([first])}
                yield BlockAccessor.batch_to_block(named | {name: column[None] for name, column in piece.items()})

        return read


def images_of(cell: Cell, images: NDArray[np.uint8], ids: NDArray[np.int64], config: RunConfig) -> NDArray[np.uint8]:
    """Make what a cell shows out of clean images: (N, H, W, 3), or (N, T, H, W, 3) for a perturbation."""
    if cell.kind == "clean":
        return images
    if cell.kind == "perturbation":
        name, difficulty = cell.base_and_difficulty
        size = config.data.image_size
        return perturb(images, name, sample_ids=ids, seed=config.seed, difficulty=difficulty, crop_to=size)
    textures = config.evaluate.frost_textures if cell.name == "frost" else ""
    shown = corrupt(
        images, cell.name, severity=cell.severity, sample_ids=ids, seed=config.seed, textures=textures or None
    )
    return reencoded(shown) if config.evaluate.jpeg85 else shown


def published_frames(
    source: SequenceSource, ids: NDArray[np.int64], config: RunConfig
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read sequences as published; one that cannot be read is black and not valid."""
    frames: list[NDArray[np.uint8] | None] = []
    for sample_id in ids:
        try:
            (one,), _ = source.read([sample_id])
        except ValueError:
            one = None
        frames.append(one)
    valid = np.array([one is not None for one in frames])
    size = config.data.image_size
    like = next((one for one in frames if one is not None), np.zeros((FRAMES_ABOUT, size, size, 3), np.uint8))
    return np.stack([np.zeros_like(like) if one is None else one for one in frames]), valid


def piece_rows(sources: ray.ObjectRef, portions: Sequence[Portion], config: RunConfig) -> ray.data.Dataset:
    """A dataset of the columns cell, first, sample_id, label, valid and image; a row is a piece."""
    rows = ray.data.read_datasource(
        PieceRows(sources, portions, config), override_num_blocks=len(portions), **placement(config)
    )
    quiet(rows, config, target_block_bytes=1)  # so that Ray neither joins nor cuts pieces
    return rows
