"""A rank's steps: passes in parts, batch norm's statistics, fp16, and what ranks ask of each other."""

import dataclasses
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from augmix_core.models import build_model
from pipeline.budget import Scale
from pipeline.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from pipeline.interrupt import STOP, stoppable
from pipeline.job import CLEAN, Job
from pipeline.networks import with_batch_norm
from pipeline.order import Split
from pipeline.progress import StoppedError
from pipeline.ranks import missing_ranks_named
from pipeline.train import Training

CPU = torch.device("cpu")


def training_with(model="convnet5_gn", **train):
    config = RunConfig(
        model=ModelConfig(name=model),
        data=DataConfig(image_size=16),
        train=TrainConfig(**{"epochs": 10, "global_batch_size": 8} | train),
    )
    split, scale = Split(80, 0, 80, 0), Scale(num_workers=1, use_gpu=False, evaluation_actors=1)
    return Training(Job(config, scale, Path(), None, split, None, split, (CLEAN,), 10), CPU)


def rows(count=8):
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (count, 3, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return {"views": views, "label": torch.arange(count) % 10}


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_a_step_in_several_passes_is_the_step_of_the_whole_batch(size):
    whole, parts = training_with(), training_with(micro_batch_size=size)
    for _ in range(3):
        assert whole.take_step(rows()) and parts.take_step(rows())
    assert torch.allclose(whole.sums, parts.sums, rtol=1e-5) and whole.sums[3] == 24
    pairs = zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def with_mode(mode):
    return RunConfig(train=TrainConfig(batch_norm=mode))


def test_split_batch_norm_normalises_each_view_by_its_own_statistics():
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 9.0])[
        torch.arange(12) // 4
    ].view(12, 1, 1, 1)
    torch.manual_seed(0)
    split = with_batch_norm(build_model("convnet5", 10), with_mode("split"))
    torch.manual_seed(0)
    plain = build_model("convnet5", 10)
    assert split.state_dict().keys() == plain.state_dict().keys()
    together = split(images)
    clean = plain(images[:4])
    after_clean = {name: value.clone() for name, value in plain.state_dict().items()}
    apart = torch.cat([clean, *(plain(images[at : at + 4]) for at in (4, 8))])
    assert torch.allclose(together, apart, atol=1e-5)
    assert all(torch.equal(value, after_clean[name]) for name, value in split.state_dict().items())
    plain.load_state_dict(split.state_dict())
    assert torch.equal(split.eval()(images), plain.eval()(images))
    joint = build_model("convnet5", 10)
    assert with_batch_norm(joint, with_mode("joint")) is joint
    one_view = dataclasses.replace(with_mode("split"), methods=("standard",))
    assert with_batch_norm(joint, one_view) is joint


def test_sync_batch_norm_is_torchs():
    converted = with_batch_norm(build_model("convnet5", 10), with_mode("sync"))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())


def test_a_step_that_overflows_in_fp16_changes_no_weight_and_halves_the_scale():
    training = training_with(precision="fp16")
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient * torch.inf if training.step == 1 else gradient)
    assert training.take_step(rows())
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    scale = training.scaler.get_scale()
    assert training.take_step(rows()) and training.scaler.get_scale() == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
    assert training.take_step(rows())
    assert not all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())


def test_fp16_gives_up_where_the_scale_is_at_its_end():
    training = training_with(precision="fp16")
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient * torch.nan)
    steps = 0
    while training.take_step(rows()):
        steps += 1
    assert steps == 16  # halvings from 65,536 to 1


def waits_in_vain(rank: int, folder: str) -> None:
    """Rank 1 of two does not come to a collective."""
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(seconds=2), world_size=2, rank=rank)
    told = Path(folder) / "told"
    try:
        with missing_ranks_named(2.0):
            if rank == 0:
                dist.all_reduce(torch.ones(1))
            while not told.exists():
                time.sleep(0.1)
    except RuntimeError as error:
        told.write_text(str(error))


def test_a_rank_that_does_not_come_is_named(tmp_path):
    torch.multiprocessing.start_processes(waits_in_vain, (str(tmp_path),), nprocs=2, start_method="spawn")
    assert (tmp_path / "told").read_text() == "no answer within scale.collective_timeout_s 2 from rank 1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_the_training_to_stop_and_leaves_the_handlers_as_they_were(tmp_path, number):
    before = signal.getsignal(number)

    def train():
        os.kill(os.getpid(), number)
        while not (tmp_path / "run" / STOP).exists():
            time.sleep(0.01)
        raise StoppedError("after step 3 of 9")

    with pytest.raises(StoppedError, match="after step 3 of 9") as caught:
        stoppable(train, tmp_path / "run")
    assert caught.value.signal_number == number
    assert signal.getsignal(number) == before and not (tmp_path / "run" / STOP).exists()


def test_outside_the_main_thread_a_training_just_runs(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(stoppable(lambda: 7, tmp_path)))
    thread.start()
    thread.join()
    assert found == [7]
