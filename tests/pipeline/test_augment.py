"""The training stream on Ray Data."""

import dataclasses

import numpy as np
import pytest

from augmix_core import AugMixConfig
from pipeline.augment import largest_share, plan_stream, row_bytes, rows_of, share_of_batch, slot_bytes, training_rows
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.order import Split
from pipeline.source import open_source

CONFIG = RunConfig(train=TrainConfig(global_batch_size=12), augmix=AugMixConfig(views=2))
LAYOUTS = [(1, 1, 1), (1, 4, 8), (2, 1, 2), (2, 3, 3), (3, 2, 6), (5, 2, 4)]


def plan_of(num_workers, steps_a_block, steps_a_task, first=0, last=7):
    plan = plan_stream(CONFIG, first_step=first, last_step=last, num_workers=num_workers)
    return dataclasses.replace(plan, steps_a_block=steps_a_block, steps_a_task=steps_a_task)


def steps_by_rank(plan):
    """positions[rank] in the order that the rank receives them: block b goes to rank b mod W."""
    blocks = [block for task in plan.tasks() for block in plan.blocks(task)]
    return [np.concatenate(blocks[rank :: plan.num_workers]) for rank in range(plan.num_workers)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", [0, 5])
def test_global_batch_s_is_the_same_positions_for_every_layout(layout, first):
    plan = plan_of(*layout, first=first)
    by_rank = steps_by_rank(plan)
    shares = [len(share_of_batch(12, rank, plan.num_workers)) for rank in range(plan.num_workers)]
    assert max(shares) - min(shares) <= 1
    for step in range(first, 7):
        taken = [each[(step - first) * rows :][:rows] for each, rows in zip(by_rank, shares, strict=True)]
        batch = np.concatenate(taken)
        assert batch.tolist() == list(range(12 * step, 12 * (step + 1)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_gets_as_many_blocks_of_one_length(layout):
    plan = plan_of(*layout)
    blocks = [len(block) for task in plan.tasks() for block in plan.blocks(task)]
    assert len(blocks) % plan.num_workers == 0
    assert max(blocks) - min(blocks) == (plan.steps_a_block if 12 % plan.num_workers else 0)  # a row more in each step
    assert all(len(set(blocks[rank :: plan.num_workers])) == 1 for rank in range(plan.num_workers))


def test_tasks_take_seconds_and_stay_few():
    small = plan_stream(RunConfig(), first_step=0, last_step=100, num_workers=2)
    assert 8 <= small.steps_a_task <= 128 and small.steps_a_block > 1
    large = RunConfig(data=DataConfig(image_size=224), train=TrainConfig(global_batch_size=256))
    plan = plan_stream(large, first_step=0, last_step=450_000, num_workers=8)
    assert plan.steps_a_block > 1
    assert largest_share(plan.batch, 8) * plan.steps_a_block * row_bytes(large) <= 96 << 20


def test_a_small_object_store_gets_small_blocks_and_tasks():
    large = RunConfig(data=DataConfig(image_size=224), train=TrainConfig(global_batch_size=256))
    room = slot_bytes(large, cpus=8, store_bytes=1 << 30)
    plan = plan_stream(large, first_step=0, last_step=1000, num_workers=2, slot_bytes=room)
    assert plan.steps_a_block == plan.steps_a_task == 1
    assert 20 * room == pytest.approx(256 << 20)  # 20 tasks of 0.4 CPUs


@pytest.mark.parametrize("layout", [(1, 4, 8), (2, 1, 2), (3, 2, 6)])
def test_rows_through_ray_equal_rows_made_here(ray_local, layout):
    import ray

    source = open_source(DataConfig(), train=True)
    split = Split(total=len(source), start=0, size=40, seed=0)  # 84 positions straddle two epochs
    plan = plan_of(*layout)
    made = training_rows(plan, ray.put(source), split, CONFIG)
    made.context.execution_options.preserve_order = True
    received = [
        {name: column[0] for name, column in block.items()}
        for block in made.iter_batches(batch_size=1, batch_format="numpy")
    ]
    expected = [rows_of(source, split, block, CONFIG) for task in plan.tasks() for block in plan.blocks(task)]
    assert [len(block["views"]) for block in received] == [len(block["views"]) for block in expected]
    for ours, theirs in zip(received, expected, strict=True):
        assert all((ours[column] == theirs[column]).all() for column in theirs)
        assert ours["views"].dtype == np.uint8
