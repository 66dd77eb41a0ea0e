"""Training: the step against a hand-written loop, the schedules, and exact resume after a kill."""

import copy
import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from augmix_core import AugMixConfig, augmix
from augmix_core.models import build_model
from pipeline import checkpoint
from pipeline.budget import Scale
from pipeline.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from pipeline.job import CLEAN, Job
from pipeline.loss import loss_of
from pipeline.optimise import build_optimizer, learning_rate, set_learning_rate
from pipeline.order import split_train
from pipeline.source import open_source
from pipeline.telemetry import metered, series
from pipeline.train import fit, seed_torch

CONFIG = RunConfig(
    data=DataConfig(train_limit=192),
    train=TrainConfig(epochs=3, global_batch_size=32),
    augmix=AugMixConfig(views=3),
)


def job_in(folder: Path, config: RunConfig = CONFIG, *, workers: int = 2, put=ray.put) -> Job:
    train, test = open_source(config.data, train=True), open_source(config.data, train=False)
    split, _ = split_train(len(train), seed=config.seed, limit=config.data.train_limit)
    tests, _ = split_train(len(test), seed=0, limit=64)
    scale = Scale(num_workers=workers, use_gpu=False, evaluation_actors=1)
    return Job(config, scale, folder, put(train), split, put(test), tests, (CLEAN,), 10)


def rate(step: int, job: Job) -> float:
    return learning_rate(step, job.config.train, job.split.size)


def step_by_hand(
    network: torch.nn.Module,
    optimizer: torch.optim.SGD,
    step: int,
    views: torch.Tensor,
    labels: torch.Tensor,
    steps: int = 18,
) -> float:
    """One of so many steps of the paper's algorithm in plain torch, on (32, 3, H, W, 3) views; returns its loss."""
    optimizer.param_groups[0]["lr"] = 1e-6 + (0.1 - 1e-6) * 0.5 * (1 + math.cos(step / steps * math.pi))
    normalised = [(view.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5 for view in views.unbind(1)]
    clean, aug1, aug2 = torch.split(network(torch.cat(normalised)), 32)
    p = [F.softmax(logits, dim=1) for logits in (clean, aug1, aug2)]
    mixture = torch.clamp(sum(p) / 3, 1e-7, 1).log()
    consistency = sum(F.kl_div(mixture, each, reduction="batchmean") for each in p) / 3
    loss = F.cross_entropy(clean, labels) + 12 * consistency
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_the_step_equals_a_hand_written_augmix_step(tmp_path):
    """Each of six steps of the paper's algorithm in plain torch, from the same weights and images, to 1e-5."""
    job = job_in(tmp_path, put=lambda source: source)
    images, labels = job.source.read(np.arange(32))
    views = torch.from_numpy(augmix(np.stack(images), np.arange(32)))
    rows = {"views": views, "label": torch.from_numpy(labels)}

    def fresh():
        seed_torch(0, 0, 0, torch.device("cpu"))
        return build_model("convnet5", 10)

    ours, theirs = fresh(), fresh()
    our_optimizer = build_optimizer(ours, CONFIG)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(6):
        theirs.load_state_dict(ours.state_dict())
        optimizer.load_state_dict(copy.deepcopy(our_optimizer.state_dict()))
        set_learning_rate(our_optimizer, rate(step, job))
        our_loss, _ = loss_of(ours, rows, job.config, torch.device("cpu"))
        our_optimizer.zero_grad()
        our_loss.backward()
        our_optimizer.step()

        loss = step_by_hand(theirs, optimizer, step, views, rows["label"])
        assert our_loss.item() == pytest.approx(loss, abs=1e-6)
        pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        # the mean, since a ReLU whose input is within rounding of 0 may fall on either side
        assert all((a.double() - b.double()).abs().mean() < 1e-5 for a, b in pairs)


def test_the_cosine_runs_over_all_steps_and_the_step_schedule_over_thirds(tmp_path):
    job = job_in(tmp_path, put=lambda source: source)
    assert job.steps == 18
    assert rate(0, job) == 0.1
    assert rate(9, job) == pytest.approx((0.1 + 1e-6) / 2)
    assert rate(17, job) < 0.001
    train = dataclasses.replace(CONFIG.train, schedule="step")
    thirds = dataclasses.replace(job, config=dataclasses.replace(CONFIG, train=train))
    assert [round(rate(step, thirds), 6) for step in (0, 5, 6, 11, 12, 17)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]


def test_epochs_end_with_the_step_that_passes_their_last_sample(tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(epochs=3, global_batch_size=50))  # 192 / 50 is not whole
    job = job_in(tmp_path, config, put=lambda source: source)
    assert job.steps == 11
    assert [job.epochs_behind(step) for step in range(12)] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]


def test_a_batch_larger_than_the_whole_training_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(epochs=1, global_batch_size=512))
    with pytest.raises(ValueError, match=r"global_batch_size 512 is above .* 192 images"):
        _ = job_in(tmp_path, config, put=lambda source: source).steps


def test_a_checkpoint_restores_model_optimizer_and_step(tmp_path):
    model = build_model("convnet5", 10)
    optimizer = build_optimizer(model, CONFIG)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    meta = checkpoint.Meta(7, 1, "convnet5", 10, dataclasses.asdict(CONFIG.data))
    checkpoint.save(tmp_path, model, optimizer, meta)
    other = build_model("convnet5", 10)
    other_optimizer = build_optimizer(other, CONFIG)
    assert checkpoint.load_training(tmp_path, other, other_optimizer).step == 7
    assert all((a == b).all() for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    restored = other_optimizer.state_dict()["state"]
    assert all(
        (optimizer.state_dict()["state"][k]["momentum_buffer"] == restored[k]["momentum_buffer"]).all()
        for k in restored
    )
    loaded, data = checkpoint.load_model(tmp_path, torch.device("cpu"))
    assert data == CONFIG.data and not loaded.training


def test_an_incomplete_or_foreign_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"damaged: it has no manifest\.json"):
        checkpoint.read_meta(tmp_path)
    meta = {"step": 1, "epoch": 1, "model": "convnet5", "num_classes": 10, "data": {}, "stream_version": 999}
    contents = {"meta.json": json.dumps(meta).encode()}
    (tmp_path / "meta.json").write_bytes(contents["meta.json"])
    (tmp_path / "manifest.json").write_text(checkpoint.manifest_of(contents))
    with pytest.raises(ValueError, match="stream version 999"):
        checkpoint.read_meta(tmp_path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = checkpoint.last_checkpoint(folder)
    assert last is not None
    return load_file(last / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def by_hand(job: Job, steps: int) -> Iterator[tuple[float, torch.nn.Module]]:
    """The loss and the network of each step of the paper's algorithm, in one process and plain torch."""
    seed_torch(job.config.seed, 0, 0, torch.device("cpu"))
    network = build_model(job.config.model.name, 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(steps):
        epochs, ids = job.split.at(np.arange(step * 32, step * 32 + 32), seed=job.config.seed)
        images, labels = job.source.read(ids)
        views = torch.from_numpy(augmix(np.stack(images), ids, epoch=epochs))
        yield step_by_hand(network, optimizer, step, views, torch.from_numpy(labels), job.steps), network


def test_two_workers_take_the_step_of_a_hand_written_loop_and_other_numbers_of_workers_go_on(ray_local, tmp_path):
    """A step by two workers to 1e-6, one by three with 10, 11 and 11 images; one worker ends with the same 4 digits."""
    data = dataclasses.replace(CONFIG.data, crop="none")
    config = dataclasses.replace(CONFIG, model=ModelConfig(name="convnet5_gn"), data=data)
    theirs = by_hand(job_in(tmp_path, config, put=lambda source: source), 18)
    one_step = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=1))
    fit(job_in(tmp_path / "ours", one_step))
    loss, network = next(theirs)
    state, ours = network.state_dict(), weights(tmp_path / "ours")
    assert ours.keys() == state.keys()
    assert all(torch.allclose(ours[name], state[name], rtol=0, atol=1e-6) for name in state)
    losses = [loss, next(theirs)[0]]
    two_steps = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=2))
    fit(job_in(tmp_path / "ours", two_steps, workers=3))
    state, ours = network.state_dict(), weights(tmp_path / "ours")
    assert all((ours[name].double() - state[name]).abs().mean() < 1e-5 for name in state)  # the mean, as above
    fit(job_in(tmp_path / "ours", config, workers=1))
    rows = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()]
    losses += [loss for loss, _ in theirs]
    assert [row["step"] for row in rows] == [1, 2, 6, 12, 18]
    assert rows[0]["train/loss"] == pytest.approx(losses[0], abs=1e-6)
    assert rows[4]["train/loss"] == pytest.approx(np.mean(losses[12:]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_a_compiled_network_takes_the_same_steps_and_its_checkpoint_goes_on_without(ray_local, tmp_path):
    def trained(name: str, steps: int, *, compiled: bool) -> dict[str, torch.Tensor]:
        train = dataclasses.replace(CONFIG.train, max_steps=steps, compile=compiled, micro_batch_size=8)
        config = dataclasses.replace(CONFIG, model=ModelConfig(name="convnet5_gn"), train=train)
        fit(job_in(tmp_path / name, config))
        return weights(tmp_path / name)

    for steps, compiled in ((2, True), (3, False)):
        ours, plain = trained("ours", steps, compiled=compiled), trained("plain", steps, compiled=False)
        assert ours.keys() == plain.keys()
        assert all(torch.allclose(ours[name], plain[name], atol=1e-5) for name in ours)
        assert not equal(ours, plain)  # it was compiled


@pytest.fixture(scope="module")
def undisturbed(ray_local, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "augmix"
    fit(job_in(folder))
    return folder


def test_a_training_leaves_a_line_an_epoch_and_its_last_checkpoint(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 6), (2, 12), (3, 18)]
    assert all(0 <= row["validation/error"] <= 1 and row["train/consistency"] > 0 for row in rows)
    last = checkpoint.last_checkpoint(undisturbed)
    assert last.name == "step_000000018"
    assert {path.name for path in last.iterdir()} == {
        *("model.safetensors", "training_state.pt", "meta.json", "manifest.json")
    }
    best = checkpoint.best_checkpoint(undisturbed)
    assert checkpoint.read_meta(best).validation_error == min(row["validation/error"] for row in rows)


def test_a_finished_training_is_not_started_again(ray_local, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    started = time.monotonic()
    fit(job_in(undisturbed))
    assert time.monotonic() - started < 5
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_a_training_resumed_from_a_checkpoint_equals_the_uninterrupted_one(ray_local, undisturbed, tmp_path):
    """Stop after 8 of 18 steps, within an epoch, go on to 12, damage that checkpoint, go on: weights bit for bit."""
    folder = tmp_path / "augmix"
    for step in (8, 12):
        stopped = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, max_steps=step))
        newest = fit(job_in(folder, stopped))
        assert newest == checkpoint.last_checkpoint(folder) and newest.name == checkpoint.name_of(step)
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    fit(job_in(folder))
    assert equal(weights(folder), weights(undisturbed))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 8, 12, 18]
    assert {path.name for path in folder.glob("step_*")} == {"step_000000012_2", "step_000000018"}


def train_workers() -> list[int]:
    """Process ids of Ray Train workers that descend from this process's Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"RayTrainWorker" in (entry / "cmdline").read_bytes() and descends(int(entry.name), os.getpid()):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_a_killed_training_worker_changes_nothing(ray_local, undisturbed, tmp_path):
    """SIGKILL one of two workers after the first epoch: the run finishes with the same weights, bit for bit."""
    folder = tmp_path / "augmix"
    killed: list[int] = []

    def kill_after_the_first_epoch():
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.05)
        assert not (folder / "step_000000018").exists()
        killed.append(train_workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_after_the_first_epoch, daemon=True)
    killer.start()
    fit(job_in(folder))
    killer.join(timeout=1)
    assert killed
    assert equal(weights(folder), weights(undisturbed))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


@pytest.fixture(scope="module")
def in_the_worker(ray_local, tmp_path_factory) -> Path:
    """The same training with AugMix in the training workers, with the object stores' figures beside it."""
    folder = tmp_path_factory.mktemp("in_the_worker") / "augmix"
    config = dataclasses.replace(CONFIG, scale=dataclasses.replace(CONFIG.scale, augment_on="train"))
    with metered(folder):
        fit(dataclasses.replace(job_in(folder, config), label="law"))
    return folder


def test_augmix_in_the_training_worker_gives_the_same_weights(undisturbed, in_the_worker):
    assert equal(weights(in_the_worker), weights(undisturbed))


def test_a_training_publishes_its_figures_on_the_metrics_port_of_its_node(in_the_worker):
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    wanted = {"samples_total": 3 * 192.0, "step": 18.0, "quarantined": 0.0}
    for name, value in wanted.items():
        for _ in range(100):
            told = dict(series(node, f"ray_augmix_{name}", "method"))
            if told.get("law") == value:
                break
            time.sleep(0.1)
        assert told["law"] == value
    assert dict(series(node, "ray_augmix_data_wait_seconds_total", "method"))["law"] > 0


def test_an_epoch_tells_throughput_data_wait_quarantine_and_the_object_stores(in_the_worker):
    rows = [json.loads(line) for line in (in_the_worker / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["samples_per_second"] > 0 and 0 <= row["data_wait_share"] <= 1
        assert row["step_seconds_p95"] > 0 and row["data/quarantined"] == 0
        assert row["object_store_peak_bytes"] > 0 and row["spilled_bytes"] == 0
    progress = json.loads((in_the_worker / "progress.json").read_text())
    assert progress.keys() == {"step", "steps", "samples_per_second", "data_wait_share", "quarantined"}
