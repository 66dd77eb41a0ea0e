"""Validation beside the training: the same errors, weights and best checkpoint as between epochs."""

import dataclasses
import json

import pytest

from pipeline import checkpoint, progress
from pipeline.budget import Nodes, check_fits
from pipeline.config import DataConfig, RunConfig, ScaleConfig, TrainConfig
from pipeline.order import Split
from pipeline.progress import METRICS, VALIDATION, Follower
from pipeline.report import curve_of
from pipeline.train import fit
from tests.pipeline.fixtures import refusal
from tests.pipeline.test_train import equal, job_in, weights

WITHIN = RunConfig(data=DataConfig(train_limit=96), train=TrainConfig(epochs=3, global_batch_size=32, ema_decay=0.9))
BESIDE = dataclasses.replace(WITHIN, scale=ScaleConfig(validation_cpus=1))


def errors(folder, name):
    return {
        row["step"]: row.get("validation/error") for row in map(json.loads, (folder / name).read_text().splitlines())
    }


def test_beside_the_training_the_same_errors_weights_and_best_checkpoint(ray_local, tmp_path):
    for config, name in ((WITHIN, "within"), (BESIDE, "beside")):
        fit(job_in(tmp_path / name, config, workers=1))
    within, beside = tmp_path / "within", tmp_path / "beside"
    assert equal(weights(within), weights(beside))
    assert errors(beside, METRICS) == {3: None, 6: None, 9: None}
    assert errors(within, METRICS) == errors(beside, VALIDATION)
    best, own = (checkpoint.best_checkpoint(folder) for folder in (within, beside))
    assert best.name == own.name and checkpoint.read_meta(best) == checkpoint.read_meta(own)
    assert [row["validation/error"] for row in curve_of(beside)] == list(errors(within, METRICS).values())
    assert len(list(beside.glob("step_*"))) == 2 == len(checkpoint.committed_checkpoints(beside))
    assert checkpoint.last_checkpoint(beside).name == "step_000000009"


def test_a_validation_that_fails_leaves_a_line_and_the_training_goes_on(ray_local, tmp_path):
    config = dataclasses.replace(BESIDE, train=dataclasses.replace(BESIDE.train, epochs=1))
    job = dataclasses.replace(job_in(tmp_path / "failing", config, workers=1), validation_split=Split(10**9, 0, 64, 0))
    assert checkpoint.read_meta(fit(job)).step == 3
    (row,) = map(json.loads, (job.folder / VALIDATION).read_text().splitlines())
    assert row["step"] == 3 and "step_000000003" in row["failed"]
    assert checkpoint.best_checkpoint(job.folder) is None and "validation/error" not in curve_of(job.folder)[0]


def test_the_driver_tells_of_a_validation_when_it_comes(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    epoch = {"train/loss": 1, "train/error": 0.5, "samples_per_second": 9, "data_wait_share": 0}
    (tmp_path / METRICS).write_text("".join(json.dumps({"epoch": n, "step": n} | epoch) + "\n" for n in (1, 2, 3)))
    follower = Follower("augmix", tmp_path, 4, first_step=1)
    follower.look()
    assert len(said) == 2 and not any("test error" in line for line in said)
    rows = [{"epoch": 2, "step": 2, "validation/error": 0.25}, {"epoch": 3, "step": 3, "failed": "no such file"}]
    (tmp_path / VALIDATION).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 4, "st')
    for _ in range(2):
        follower.look()
    assert said[2:] == ["augmix: epoch 2/4  test error 25.0 %", "augmix: epoch 3/4  not validated: no such file"]


@pytest.mark.parametrize(
    ("scale", "gpus", "parts"),
    [
        ({"validation_cpus": 3.5}, 0, ("4.9 CPUs", "scale.validation_cpus 3.5")),
        (
            {"validation_cpus": 1, "validation_gpus": 1},
            2,
            ("scale.validation_gpus 1", "2 GPUs", "--scale.num-workers 1"),
        ),
    ],
)
def test_a_task_beside_the_training_that_does_not_fit_is_refused(scale, gpus, parts):
    config = dataclasses.replace(WITHIN, scale=ScaleConfig(**scale))
    nodes = Nodes(cpus=(4.0,), gpus=gpus, store_bytes=2**30, roles=frozenset(), may_grow=False)
    told = refusal(lambda: check_fits(config, 2, gpus > 0, nodes))
    assert all(part in told for part in parts)
