"""The budget: what would wait forever is refused, with what would fit."""

import os

import pytest

from pipeline.budget import check_fits, check_storage, resolve_scale
from pipeline.config import RunConfig, ScaleConfig, SearchConfig, TrainConfig


def check(workers, cpus, *, gpus=0, search=None, **scale):
    config = RunConfig(scale=ScaleConfig(**scale), search=search or SearchConfig(trials=0))
    check_fits(config, workers, gpus > 0, cpus=cpus, gpus=gpus)


def test_the_default_fits_two_cores():
    check(2, cpus=2, search=SearchConfig())


def test_more_workers_than_cpus_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=r"asks for 8\.4 CPUs .* has 4; 3 workers would fit"):
        check(8, cpus=4, worker_cpus=1.0)


def test_workers_that_leave_no_room_for_preprocessing_are_refused():
    with pytest.raises(ValueError, match=r"asks for 2\.4 CPUs"):
        check(2, cpus=2, worker_cpus=1.0)


def test_more_trials_than_fit_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=r"--search\.max_concurrent 2"):
        check(1, cpus=2, search=SearchConfig(trials=9, max_concurrent=4))


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(ValueError, match=r"the cluster has 4 GPUs; set --scale\.num_workers 4"):
        check(8, cpus=64, gpus=4)


def test_a_batch_that_does_not_split_over_the_workers_is_refused(ray_local):
    config = RunConfig(train=TrainConfig(global_batch_size=128), scale=ScaleConfig(num_workers=3))
    with pytest.raises(ValueError, match=r"128 does not split over scale\.num_workers 3; choose a multiple"):
        resolve_scale(config)


def test_without_gpus_two_workers_train(ray_local):
    assert resolve_scale(RunConfig()).num_workers == 2


def test_storage_is_made_and_left_clean(ray_local, tmp_path):
    check_storage(str(tmp_path / "new" / "runs"))
    assert os.listdir(tmp_path / "new" / "runs") == []


def test_storage_that_cannot_be_written_is_refused(ray_local, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*--storage"):
        check_storage(str(tmp_path / "file" / "runs"))
