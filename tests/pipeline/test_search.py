"""The search: what it is judged on, and that its choice is one of its trials."""

import json
import sys

import numpy as np
import pytest

from augmix_core import CORRUPTIONS, EXTRA_CORRUPTIONS
from pipeline.budget import Scale
from pipeline.cells import plan_evaluation
from pipeline.config import DataConfig, RunConfig, SearchConfig, TrainConfig
from pipeline.job import search_cells
from pipeline.search import search
from pipeline.source import open_source
from pipeline.stages import Run

CONFIG = RunConfig(
    data=DataConfig(train_limit=200, holdout_fraction=0.2),
    train=TrainConfig(epochs=5, global_batch_size=32),
    search=SearchConfig(trials=2, epochs=1, grace_epochs=1, severities=(3,)),
)


@pytest.fixture
def run(ray_local, tmp_path):
    train, test = open_source(CONFIG.data, train=True), open_source(CONFIG.data, train=False)
    return Run(tmp_path / "run", CONFIG, train, test, plan_evaluation(CONFIG.data, CONFIG.evaluate, test))


def test_a_trial_sees_neither_test_images_nor_test_corruptions(run):
    job = run.trial_job()
    trained, judged = (split.sample_ids(np.arange(split.size)) for split in (job.split, job.validation_split))
    assert (len(trained), len(judged)) == (160, 40)
    assert not set(trained) & set(judged)
    assert job.validation_source == job.source == run.train_ref
    assert {name for name, _ in job.validation_cells} == set(EXTRA_CORRUPTIONS)
    assert not {name for name, _ in job.validation_cells} & set(CORRUPTIONS)
    assert len(search_cells((1, 3, 5))) == 4 * 3


def test_training_never_imports_the_list_of_test_corruptions():
    """Only the evaluation names them; the modules that train and search do not hold them."""
    for name in ("pipeline.train", "pipeline.job", "pipeline.validation", "pipeline.search"):
        assert not hasattr(sys.modules[name], "CORRUPTIONS")


def test_the_search_tries_the_recipes_own_setting_first_and_keeps_the_best(run, tmp_path):
    said: list[str] = []
    best = search(run.trial_job(), tmp_path / "search", said.append)
    record = json.loads((tmp_path / "search" / "best.json").read_text())
    own = {"width": 3, "depth": -1, "jsd_weight": 12.0}
    assert any(own.items() <= trial.items() for trial in record["trials"])
    assert len(record["trials"]) == len(said) == 2
    winner = min(record["trials"], key=lambda trial: trial["error"])
    assert best == {
        "augmix.width": winner["width"],
        "augmix.depth": winner["depth"],
        "train.jsd_weight": winner["jsd_weight"],
    }
    assert search(run.trial_job(), tmp_path / "search", said.append) == best and len(said) == 2  # from disk


def test_a_trial_has_one_worker(run):
    assert run.trial_job().scale == Scale(num_workers=1, use_gpu=False, evaluation_actors=run.scale.evaluation_actors)
