"""AugMix on Ray Data: stream positions in, rows of views out.

Ray Data knows no epochs here: it is fed positions of one continuous stream and computes (epoch, sample) from them,
so there is no gap between epochs and a resume is exact to the row. Facts that shape this file: a task costs Ray
about 15 ms and a block about 10, so tasks take seconds and blocks are large; every block is one row of Ray's and
holds the same number of steps, of one training rank, so that rank r of W receives block r, r + W, r + 2 W ... in order;
a read task costs a millisecond before the first batch, so one of them counts the tasks that make the blocks.
"""

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

from augmix_core import STREAM_VERSION
from pipeline.blocks import opened_source, placement, quiet
from pipeline.config import RunConfig
from pipeline.decode import training_images
from pipeline.methods import METHODS
from pipeline.order import Split, total_steps
from pipeline.shards import StoredViews, opened_views
from pipeline.source import Source
from pipeline.training_views import has_partners, partner_positions, with_views

PREFETCHED_BLOCKS = 2
COUNTING_CPUS = 0.01
"""Of the one task that counts steps, so that Ray does not fuse it with those that make rows."""
RESERVED = 0.1
"""Share of a dataset's resources that Ray sets apart for the two in equal parts; the rest goes where it is used."""
STORE_SHARE = 0.5
"""What Ray Data takes of the object store at the most; the rest holds indices, networks and gradients on their way."""
BLOCK_BYTES = (4 << 20, 96 << 20)
"""A block's bounds. Delivering takes 10 ms a block beside the copying, 60 % more a row at 28 MB than at 110."""
MAX_STEPS_A_BLOCK = 16
LEAST_TASKS = 8  # so that a short stream comes from several processes too
TASK_SECONDS = 2.0
TASK_BYTES = 256 << 20
BLOCKS_A_TASK = 3
SECONDS_A_SAMPLE = (0.05e-3, 30e-9)  # measured with the compiled kernels: a fixed cost, and one per pixel, mostly JPEG


@dataclass(frozen=True)
class StreamPlan:
    """How the positions of steps first .. last - 1 are cut into tasks and blocks for W ranks."""

    first_step: int
    last_step: int
    num_workers: int
    batch: int
    """Rows of all ranks in one step."""
    steps_a_block: int
    steps_a_task: int

    def tasks(self) -> range:
        """The first step of every task."""
        return range(self.first_step, self.last_step, self.steps_a_task)

    def blocks(self, task_step: int) -> Iterator[NDArray[np.int64]]:
        """The positions of each block of a task: for each group of steps, one block a rank.

        All blocks hold as many steps, so the last group may run past last_step; training stops before it.
        """
        for group in range(task_step, min(task_step + self.steps_a_task, self.last_step), self.steps_a_block):
            steps = np.arange(group, group + self.steps_a_block, dtype=np.int64)
            for rank in range(self.num_workers):
                share = np.array(share_of_batch(self.batch, rank, self.num_workers))
                yield (steps[:, None] * self.batch + share).reshape(-1)


def share_of_batch(batch: int, rank: int, num_workers: int) -> range:
    """The places of a global batch that are a rank's: one more or less than another's, where it does not split."""
    return range(batch * rank // num_workers, batch * (rank + 1) // num_workers)


def largest_share(batch: int, num_workers: int) -> int:
    """How many places of a global batch a rank has at the most."""
    return -(-batch // num_workers)


def slot_bytes(config: RunConfig, *, cpus: float, store_bytes: float) -> float:
    """Bytes of a cluster's object store for what one task, of as many as there is room for, runs ahead of the others.

    Half of what Ray Data may use: the other half holds what is on its way to the training workers.
    """
    return STORE_SHARE * store_bytes / 2 / max(1, cpus / config.scale.data_cpus)


def plan_stream(
    config: RunConfig, *, first_step: int, last_step: int, num_workers: int, slot_bytes: float = TASK_BYTES
) -> StreamPlan:
    """Choose block and task sizes, as large as the object store allows: tasks of at most about two seconds and 256 MiB,
    three blocks or more a task.
    """
    batch = config.train.global_batch_size
    rank_rows = largest_share(batch, num_workers)
    pixels = config.data.image_size**2
    task_bytes = min(TASK_BYTES, slot_bytes)
    block_bytes = np.clip(task_bytes / BLOCKS_A_TASK, *BLOCK_BYTES)
    share = (last_step - first_step) / LEAST_TASKS
    most_steps = np.clip(share, 1, MAX_STEPS_A_BLOCK)
    steps_a_block = int(np.clip(block_bytes // (rank_rows * row_bytes(config)), 1, most_steps))
    seconds_a_step = batch * (SECONDS_A_SAMPLE[0] + SECONDS_A_SAMPLE[1] * pixels)
    step_bytes = batch * row_bytes(config)
    wanted = min(TASK_SECONDS / seconds_a_step, task_bytes / step_bytes, share)
    steps_a_task = steps_a_block * max(1, round(wanted / steps_a_block))
    return StreamPlan(first_step, last_step, num_workers, batch, steps_a_block, steps_a_task)


def row_bytes(config: RunConfig) -> int:
    """Bytes of one sample as it travels, uint8: its views, or its image where training makes the views."""
    images = 1 if views_in_training(config) else config.augmix.views
    return images * config.data.image_size**2 * 3


class TaskSteps(Datasource):
    """The first step of every task, a block each: one read task, whose rows come as they are asked for.

    A read task for every portion of the stream would take Ray a millisecond each before the first batch.
    """

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan

    def estimate_inmemory_data_size(self) -> int:
        """Next to nothing."""
        return len(self.plan.tasks())

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One, whatever parallelism Ray proposes."""
        plan = self.plan

        def read() -> Iterable[Block]:
            for step in plan.tasks():
                yield BlockAccessor.batch_to_block({"step": np.array([step])})

        tasks = len(plan.tasks())
        return [ReadTask(read, BlockMetadata(num_rows=tasks, size_bytes=tasks, input_files=None, exec_stats=None))]


def make_blocks(
    steps: dict[str, NDArray], *, plan: StreamPlan, source: ray.ObjectRef, split: ray.ObjectRef, config: RunConfig
) -> Iterator[dict[str, NDArray]]:
    """The blocks of a task, each as one row with the columns of `rows_of`, so that Ray neither joins nor cuts."""
    opened, order = opened_source(source), opened_source(split)
    for step in steps["step"].tolist():
        for positions in plan.blocks(step):
            yield {name: column[None] for name, column in rows_of(opened, order, positions, config).items()}


def steps_of_block(block: Mapping[str, Any], rows_a_step: int) -> Iterator[dict[str, Any]]:
    """The rows of each step in a block, as arrays or tensors; `block` is without the axis of its one row."""
    for start in range(0, len(block["label"]), rows_a_step):
        yield {name: column[start : start + rows_a_step] for name, column in block.items()}


def rows_of(source: Any, split: Split, positions: NDArray[np.int64], config: RunConfig) -> dict[str, NDArray]:
    """Columns sample_id, requested_id, epoch, label and what `with_views` makes, for stream positions.

    Where training makes the views, image (N, H, W, 3) uint8 in their place.
    """
    if config.data.views:
        return opened_views(config.data.views).rows(positions, config.augmix.views)
    rows = training_images(source, split, positions, config.data, seed=config.seed)
    if views_in_training(config):
        return rows
    partners = None
    if has_partners(config):
        at = partner_positions(split, positions, seed=config.seed)
        partners = training_images(source, split, at, config.data, seed=config.seed)
    return with_views(rows, config, partners)


def views_in_training(config: RunConfig) -> bool:
    """Whether rows travel with one image, of which the training worker makes the views.

    Methods that mix two samples have one view of the two, which is made where both images are.
    """
    return config.scale.augment_on == "train" and not config.data.views and not has_partners(config)


def training_rows(plan: StreamPlan, source: ray.ObjectRef, split: Split, config: RunConfig) -> ray.data.Dataset:
    """The dataset that Ray Train splits between ranks: a row is a block of `StreamPlan.blocks`."""
    where = placement(config)
    steps = ray.data.read_datasource(TaskSteps(plan), override_num_blocks=1, **where | {"num_cpus": COUNTING_CPUS})
    quiet(steps, config, target_block_bytes=1)
    steps.context.op_resource_reservation_ratio = RESERVED
    return steps.map_batches(
        make_blocks,
        batch_size=None,
        fn_kwargs={"plan": plan, "source": source, "split": ray.put(split), "config": config},
        **where,
    )


CROPPING = ("name", "image_size", "crop", "flip")


def fields_of_views(config: RunConfig, split: Split) -> dict[str, Any]:
    """What decides the rows of a training stream, besides its source: flat, as `section.field`."""
    data = {f"data.{name}": getattr(config.data, name) for name in CROPPING}
    augmix_fields = {f"augmix.{name}": value for name, value in dataclasses.asdict(config.augmix).items()}
    taken = {f"split.{name}": getattr(split, name) for name in ("total", "start", "size", "order")}
    return {"stream_version": STREAM_VERSION, "seed": config.seed, **data, **taken, **augmix_fields}


def check_stored_views(config: RunConfig, split: Split, source: Source) -> None:
    """Refuse stored views that are not those that this training would compute, or too few of them.

    Raises:
        ValueError: With all that differs.
    """
    where = config.data.views
    if not METHODS[config.method].from_stored_views:
        raise ValueError(
            f"data.views {where!r} holds clean images and AugMix's views of them; method {config.method!r} is trained "
            "on others: leave data.views out, or the method"
        )
    stored = StoredViews(where)
    known, wanted = stored.manifest.config, fields_of_views(config, split)
    compared = [key for key in wanted if config.augmix.views > 1 or not key.startswith("augmix.")]  # view 0 is clean
    changed = [f"{key} {known.get(key)!r} -> {wanted[key]!r}" for key in compared if known.get(key) != wanted[key]]
    if stored.manifest.source != source.digest:
        changed.append("the images")
    if changed:
        raise ValueError(
            f"data.views {where!r} was made with other values than this run's ({'; '.join(changed)}; data.train_limit "
            "and train.hold_out decide the split); make views for this run with jobs/preprocess.py, or leave them out"
        )
    train = config.train
    steps = total_steps(split.size, epochs=train.epochs, global_batch_size=train.global_batch_size)
    needed = min(steps, train.max_steps or steps) * train.global_batch_size
    if needed > stored.manifest.rows:
        raise ValueError(
            f"data.views {where!r} holds {stored.manifest.rows:,} rows, {known['epochs']} epochs; train.epochs "
            f"{train.epochs} asks for {needed:,}: make them with --epochs {train.epochs}, or lower train.epochs"
        )
    stored.check_sizes()
