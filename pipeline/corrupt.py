"""Evaluation images on Ray Data: each image is read and decoded once and yields all its corrupted versions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from augmix_core import CORRUPTIONS, corrupt
from pipeline.blocks import opened_source, placement, quiet
from pipeline.config import RunConfig
from pipeline.decode import evaluation_images

CLEAN = -1
"""Index that stands for the images as they are, where others index CORRUPTIONS."""
Cell = tuple[int, int]
"""(index into CORRUPTIONS or CLEAN, severity or 0)"""


def cells_of(config: RunConfig) -> list[Cell]:
    """The clean images, then every test corruption at every severity that the configuration names."""
    chosen = [CORRUPTIONS.index(name) for name in config.evaluate.corruptions]
    return [(CLEAN, 0), *((index, severity) for index in chosen for severity in config.evaluate.severities)]


@dataclass(frozen=True)
class EvaluationRows(Datasource):
    """One read task for every `batch` samples; a block holds those samples in one cell."""

    source: ray.ObjectRef
    samples: int
    batch: int
    config: RunConfig

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all cells."""
        return self.samples * len(cells_of(self.config)) * self.config.data.image_size**2 * 3

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for every batch of samples, whatever parallelism Ray proposes."""
        return [self.read_task(start) for start in range(0, self.samples, self.batch)]

    def read_task(self, start: int) -> ReadTask:
        """The samples start .. start + batch - 1 in all cells."""
        ids = np.arange(start, min(start + self.batch, self.samples), dtype=np.int64)
        source, config = self.source, self.config

        def read() -> Iterable[Block]:
            opened = opened_source(source)
            images, labels, valid = evaluation_images(opened, ids, config.data)
            for cell in cells_of(config):
                yield BlockAccessor.batch_to_block(cell_rows(images, labels, valid, ids, cell, config))

        rows = len(ids) * len(cells_of(config))
        size = rows * config.data.image_size**2 * 3
        return ReadTask(read, BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None))


def cell_rows(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    valid: NDArray[np.bool_],
    ids: NDArray[np.int64],
    cell: Cell,
    config: RunConfig,
) -> dict[str, NDArray]:
    """Columns sample_id, label, valid, corruption, severity and image of one cell."""
    corruption, severity = cell
    shown = images
    if corruption != CLEAN:
        shown = corrupt(images, CORRUPTIONS[corruption], severity=severity, sample_ids=ids, seed=config.seed)
    return {
        "sample_id": ids,
        "label": labels,
        "valid": valid,
        "corruption": np.full(len(ids), corruption, np.int64),
        "severity": np.full(len(ids), severity, np.int64),
        "image": shown,
    }


def evaluation_rows(source: ray.ObjectRef, samples: int, config: RunConfig) -> ray.data.Dataset:
    """The dataset that evaluation predicts on."""
    batch = config.scale.evaluation_batch_size
    stream = EvaluationRows(source, samples, batch, config)
    rows = ray.data.read_datasource(stream, override_num_blocks=-(-samples // batch), **placement(config))
    quiet(rows, target_block_bytes=batch * config.data.image_size**2 * 3)
    return rows
