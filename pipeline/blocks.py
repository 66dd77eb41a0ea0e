"""What all our Ray datasets share: where their tasks run, how large blocks are, and the source in each process."""

import threading
from collections.abc import Generator
from typing import Any

import ray
import ray.data

from pipeline.config import RunConfig

PREPROCESS_LABEL, TRAIN_LABEL = {"augmix.io/role": "preprocess"}, {"augmix.io/role": "train"}

OPENED: dict[str, Any] = {}
FETCHING = "iter_threaded"
"""Ray Data's name for its threads that fetch blocks ahead."""
SECONDS_TO_END = 10.0


def opened_source(source: ray.ObjectRef) -> Any:
    """The source, or whatever else is behind a reference, fetched once a process."""
    key = source.hex()
    if key not in OPENED:
        OPENED[key] = ray.get(source)
    return OPENED[key]


def placement(config: RunConfig) -> dict[str, Any]:
    """What every read and map of a dataset asks for: always the same, else Ray Data can wait forever."""
    asked: dict[str, Any] = {"num_cpus": config.scale.data_cpus}
    if config.scale.use_labels:
        asked["label_selector"] = PREPROCESS_LABEL
    return asked


def quiet(rows: ray.data.Dataset, config: RunConfig, *, target_block_bytes: int) -> None:
    """Fix the block size, keep progress bars off, and turn a hang into an error."""
    rows.context.target_max_block_size = target_block_bytes
    rows.context.enable_progress_bars = False
    rows.context.execution_no_progress_timeout_s = config.scale.progress_timeout_s


def rows_of(dataset: ray.data.Dataset) -> Generator[dict[str, Any]]:
    """The rows one by one, as soon as their block is there.

    Close it: collected open, it starts Ray again, and a thread of its that asks for a block after `ray.shutdown` ends
    the process without a word.
    """
    before = set(threading.enumerate())
    blocks: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    try:
        for block in blocks:
            yield from block.to_pylist()
    finally:
        blocks.close()
        for thread in set(threading.enumerate()) - before:
            if thread.name == FETCHING:
                thread.join(SECONDS_TO_END)
