"""The laws of the stream, as a consumer sees them: whatever the workers, the layout and the kills, the same rows."""

import dataclasses
import hashlib
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import ray

from augmix_core import AugMixConfig
from pipeline import blocks
from pipeline.augment import StreamPlan, rows_of, share_of_batch, steps_of_block, training_rows
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.order import Split, windowed
from pipeline.source import FolderSource, open_folder
from tests.pipeline.fixtures import imagenet_tree
from tests.pipeline.test_train import descends

BATCH = 6
CONFIG = RunConfig(
    data=DataConfig(name="imagenet", image_size=32, crop="random_resized", flip=True),
    train=TrainConfig(global_batch_size=BATCH),
    augmix=AugMixConfig(views=2),
)
BROKEN = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> FolderSource:
    """Six images, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    imagenet_tree(folder)
    (folder / "train" / "n02" / "1.JPEG").write_bytes(b"no image")
    return open_folder(folder / "train", ("n01", "n02"))


def digest(batches: list[dict[str, np.ndarray]]) -> str:
    """SHA-256 of the ids and views of one step, rank after rank."""
    summed = hashlib.sha256()
    for column in ("requested_id", "sample_id", "epoch", "label", "views"):
        summed.update(np.concatenate([batch[column] for batch in batches]).tobytes())
    return summed.hexdigest()


def expected(source, split, steps: int) -> list[str]:
    """What one process makes of every step."""
    positions = np.arange(steps * BATCH).reshape(steps, BATCH)
    return [digest([rows_of(source, split, batch, CONFIG)]) for batch in positions]


def consumed(plan: StreamPlan, source, split, after_first_step=lambda: None) -> list[str]:
    """What training ranks receive, each through its own iterator of Ray's split, step by step."""
    rows = training_rows(plan, ray.put(source), split, CONFIG)
    rows.context.execution_options.preserve_order = True
    ranks = rows.streaming_split(plan.num_workers, equal=True)
    received: list[list[dict[str, np.ndarray]]] = [[] for _ in ranks]

    def consume(rank: int) -> None:
        rows_a_step = len(share_of_batch(BATCH, rank, plan.num_workers))
        for block in ranks[rank].iter_batches(batch_size=1, batch_format="numpy"):
            for batch in steps_of_block({name: column[0] for name, column in block.items()}, rows_a_step):
                received[rank].append({name: column.copy() for name, column in batch.items()})
                if rank == 0 and len(received[rank]) == 1:
                    after_first_step()

    threads = [threading.Thread(target=consume, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
        assert not thread.is_alive()
    return [digest(list(batches)) for batches in zip(*received, strict=True)][: plan.last_step]


def plan_of(workers: int, steps_a_block: int, steps_a_task: int, steps: int) -> StreamPlan:
    return StreamPlan(0, steps, workers, BATCH, steps_a_block, steps_a_task)


@pytest.mark.parametrize("layout", [(1, 2, 4), (2, 1, 3), (3, 2, 2), (4, 2, 2)])
def test_global_batches_are_the_same_for_every_number_of_workers_and_layout(ray_local, source, layout):
    split = Split(total=6, start=0, size=5, seed=0)  # batches straddle epochs, and one image takes no part
    assert consumed(plan_of(*layout, steps=7), source, split) == expected(source, split, 7)


def test_an_order_in_shards_gives_the_same_global_batches_to_all_workers(ray_local, source):
    split = windowed(Split(total=6, start=0, size=6, seed=0), np.array([1, 3, 0, 2]), window=2)
    assert consumed(plan_of(2, 1, 2, steps=4), source, split) == expected(source, split, 4)


def test_a_bad_sample_is_replaced_by_the_next_under_its_id_and_the_others_come_once(source):
    split = Split(total=6, start=0, size=6, seed=0)
    for epoch in range(3):
        rows = rows_of(source, split, np.arange(6 * epoch, 6 * epoch + 6), CONFIG)
        assert sorted(rows["requested_id"].tolist()) == list(range(6))
        (at,) = np.flatnonzero(rows["requested_id"] != rows["sample_id"])
        following = (at + 1) % 6
        assert rows["requested_id"][at] == BROKEN
        assert rows["sample_id"][at] == rows["sample_id"][following] == rows["requested_id"][following]
        assert (rows["views"][at] == rows["views"][following]).all()


def reading_workers() -> list[int]:
    """Process ids of Ray workers that read the stream, of this process's Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if title.startswith(b"ray::") and b"make_blocks" in title and descends(int(entry.name), os.getpid()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_preprocessing_worker_changes_nothing(ray_local, source, kills):
    """SIGKILL in the middle of a task, while the consumer is at work."""

    @dataclasses.dataclass(frozen=True)
    class Slow(FolderSource):
        """Tasks that take seconds, so that there is a middle."""

        def read(self, sample_ids):
            time.sleep(0.1)
            return FolderSource.read(self, sample_ids)

    steps = 10 * kills + 10
    slow = Slow(**{field.name: getattr(source, field.name) for field in dataclasses.fields(source)})
    split = Split(total=6, start=0, size=6, seed=0)
    killed: list[int] = []

    def kill() -> None:
        for _ in range(kills):
            while not (reading := reading_workers()):
                time.sleep(0.02)
            os.kill(reading[0], signal.SIGKILL)
            killed.append(reading[0])
            time.sleep(0.5)

    assert consumed(plan_of(2, 1, 10, steps), slow, split, after_first_step=kill) == expected(source, split, steps)
    assert len(set(killed)) == kills


def test_a_stream_that_is_closed_early_leaves_no_thread_that_asks_ray_for_more(ray_local):
    """Such a thread ends the process when it asks after `ray.shutdown`, before the error is told."""
    before = set(threading.enumerate())

    def fetching():
        return [thread for thread in set(threading.enumerate()) - before if thread.name == blocks.FETCHING]

    with closing(blocks.rows_of(ray.data.range(64, override_num_blocks=32))) as rows:
        next(rows)
        assert fetching()
    assert not fetching()
