"""Evaluation images on Ray Data: each image is read and decoded once and yields all its cells that are missing."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
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
class EvaluationRows(Datasource):
    """One read task for every `portion` rows of an input. A row of the dataset is a piece: some rows of one cell."""

    sources: ray.ObjectRef
    plan: Plan
    missing: Missing
    portion: int
    config: RunConfig

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all cells that are missing."""
        pieces = sum(len(firsts) for firsts in self.missing.values())
        return pieces * self.portion * self.config.data.image_size**2 * 3

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for every portion that lacks an answer, whatever parallelism Ray proposes."""
        return [
            self.read_task(given, start, wanted)
            for given in self.plan.inputs
            for start in range(0, given.rows, self.portion)
            if (wanted := self.wanted(given, start))
        ]

    def wanted(self, given: Input, start: int) -> list[tuple[Cell, int]]:
        """The (cell, first row) pairs that begin within a portion and are missing."""
        within = range(start, min(start + self.portion, given.rows))
        return [
            (cell, first)
            for cell in given.cells
            for first in within[:: rows_of_a_piece(cell, self.portion)]
            if first in self.missing[cell.key]
        ]

    def read_task(self, given: Input, start: int, wanted: list[tuple[Cell, int]]) -> ReadTask:
        """The rows start .. start + portion - 1 of an input in all missing cells."""
        sources, config, portion = self.sources, self.config, self.portion
        part = dataclasses.replace(given, sample_ids=given.sample_ids[start : start + portion])

        def read() -> Iterable[Block]:
            return blocks(opened_source(sources)[part.source], part, start, wanted, portion, config)

        size = len(wanted) * portion * config.data.image_size**2 * 3
        return ReadTask(read, BlockMetadata(num_rows=len(wanted), size_bytes=size, input_files=None, exec_stats=None))


def blocks(
    source: Any, given: Input, start: int, wanted: list[tuple[Cell, int]], portion: int, config: RunConfig
) -> Iterator[Block]:
    """The pieces of a portion, one a block.

    Args:
        given: an input of these rows alone.
        start: their first row in the whole input.
    Returns:
        Blocks of one row: cell (its key), first, and the arrays sample_id, label, valid and image.
    """
    ids = given.sample_ids
    if given.is_sequences:
        images, labels, valid = None, np.full(len(ids), -1, np.int64), np.ones(len(ids), bool)
    else:
        images, labels, valid = evaluation_images(source, ids, config.data, resized=given.resized, margin=given.margin)
    for cell, first in wanted:
        at = slice(first - start, first - start + rows_of_a_piece(cell, portion))
        if images is None:
            shown, valid[at] = published_frames(source, ids[at], config)
        else:
            shown = images_of(cell, images[at], ids[at], config) if given.generated else images[at]
        piece = {"sample_id": ids[at], "label": labels[at], "valid": valid[at], "image": shown}
        named = {"cell": np.array([cell.key]), "first": np.array([first])}
        yield BlockAccessor.batch_to_block(named | {name: column[None] for name, column in piece.items()})


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


def evaluation_rows(
    sources: ray.ObjectRef, plan: Plan, missing: Missing, portion: int, config: RunConfig
) -> ray.data.Dataset:
    """The dataset that evaluation predicts on."""
    stream = EvaluationRows(sources, plan, missing, portion, config)
    tasks = len(stream.get_read_tasks(0))
    rows = ray.data.read_datasource(stream, override_num_blocks=max(1, tasks), **placement(config))
    quiet(rows, config, target_block_bytes=1)  # so that Ray neither joins nor cuts pieces
    return rows
