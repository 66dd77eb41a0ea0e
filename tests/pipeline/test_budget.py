"""The budget: what would wait forever is refused, with what would fit."""

import dataclasses
import os

import pytest

from pipeline.budget import Nodes, bytes_in_flight, check_fits, check_storage, nodes_now, resolve_scale
from pipeline.config import DataConfig, RunConfig, ScaleConfig, SearchConfig, TrainConfig

LARGE_STORE = 8 * 2**30
IMAGENET = RunConfig(
    data=DataConfig(image_size=224), train=TrainConfig(global_batch_size=256), search=SearchConfig(trials=0)
)


def nodes(*cpus, gpus=0, store=LARGE_STORE, roles=(), may_grow=False):
    return Nodes(tuple(map(float, cpus)), gpus, store, frozenset(roles), may_grow)


def check(workers, cpus, *, gpus=0, search=None, **scale):
    config = RunConfig(scale=ScaleConfig(**scale), search=search or SearchConfig(trials=0))
    check_fits(config, workers, gpus > 0, nodes(cpus, gpus=gpus))


def test_the_default_fits_two_cores():
    check(2, cpus=2, search=SearchConfig())


def test_more_workers_than_cpus_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=r"asks for 8\.4 CPUs .* has 4; 3 workers would fit"):
        check(8, cpus=4, worker_cpus=1.0)


def test_workers_that_leave_no_room_for_preprocessing_are_refused():
    with pytest.raises(ValueError, match=r"asks for 2\.4 CPUs"):
        check(2, cpus=2, worker_cpus=1.0)


def test_more_trials_than_fit_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=r"--search\.max-concurrent 2"):
        check(1, cpus=2, search=SearchConfig(trials=9, max_concurrent=4))


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(ValueError, match=r"the cluster has 4 GPUs; set --scale\.num-workers 4"):
        check(8, cpus=64, gpus=4)


def test_a_task_or_worker_larger_than_any_node_is_refused():
    for name in ("data_cpus", "worker_cpus"):
        with pytest.raises(ValueError, match=rf"scale\.{name} is 3, the largest node has 2 CPUs"):
            check_fits(RunConfig(scale=ScaleConfig(**{name: 3.0}, num_workers=1)), 1, False, nodes(2, 2, 2, 2, 2, 2))


def test_more_evaluation_actors_than_fit_are_refused_before_the_training():
    with pytest.raises(ValueError, match=r"scale\.evaluation_actors 9 ask for 4\.5 CPUs"):
        check(2, cpus=2, evaluation_actors=9)


def test_pieces_of_an_evaluation_that_the_object_store_cannot_hold_are_refused_with_the_size_that_fits():
    few = TrainConfig(global_batch_size=64)
    config = dataclasses.replace(IMAGENET, train=few, scale=ScaleConfig(evaluation_actors=9))
    with pytest.raises(ValueError, match=r"evaluation keeps 10 pieces .* set --scale\.evaluation-piece-size 243"):
        check_fits(config, 2, False, nodes(8, store=350 * 2**20))
    smaller = dataclasses.replace(config.scale, evaluation_piece_size=243)
    check_fits(dataclasses.replace(config, scale=smaller), 2, False, nodes(8, store=350 * 2**20))


def test_labels_that_no_node_has_are_refused_where_none_can_come():
    config = RunConfig(scale=ScaleConfig(use_labels=True, num_workers=2))
    with pytest.raises(ValueError, match=r"has the label augmix\.io/role=train; leave it out"):
        check_fits(config, 2, False, nodes(8, roles=("preprocess",)))
    check_fits(config, 2, False, nodes(8, roles=("preprocess", "train")))
    check_fits(config, 2, False, nodes(0, may_grow=True))


def test_blocks_that_the_object_store_cannot_hold_are_refused_with_what_would_fit():
    store = 400 * 2**20
    with pytest.raises(ValueError, match=r"at least 606 MiB .* may use 200 MiB; set --train") as refusal:
        check_fits(IMAGENET, 2, False, nodes(8, store=store))
    batch = int(str(refusal.value).partition("--train.global-batch-size ")[2].split()[0])
    for size, fits in ((batch, True), (batch + 2, False)):
        config = dataclasses.replace(IMAGENET, train=TrainConfig(global_batch_size=size))
        assert (bytes_in_flight(config, 2) <= store / 2) == fits


def test_one_image_a_sample_needs_a_third_of_the_object_store():
    with pytest.raises(ValueError, match=r"set --scale\.augment-on train or set"):
        check_fits(IMAGENET, 2, False, nodes(8, store=700 * 2**20))
    in_the_worker = dataclasses.replace(IMAGENET, scale=ScaleConfig(augment_on="train"))
    check_fits(in_the_worker, 2, False, nodes(8, store=700 * 2**20))
    assert bytes_in_flight(IMAGENET, 2) == 3 * bytes_in_flight(in_the_worker, 2)


def test_the_nodes_are_those_of_the_cluster(ray_local):
    import ray

    found = nodes_now()
    assert sum(found.cpus) == ray.cluster_resources()["CPU"] and not found.may_grow
    assert found.store_bytes == ray.cluster_resources()["object_store_memory"]


def test_a_batch_that_does_not_split_over_the_workers_is_refused(ray_local):
    config = RunConfig(train=TrainConfig(global_batch_size=128), scale=ScaleConfig(num_workers=3))
    with pytest.raises(ValueError, match=r"128 does not split over scale\.num_workers 3; choose a multiple"):
        resolve_scale(config)


@pytest.mark.parametrize(
    ("scale", "why"),
    [
        (ScaleConfig(num_workers=2, min_workers=3), r"min_workers is 3, above scale\.num_workers 2"),
        (
            ScaleConfig(num_workers=3, min_workers=1),
            r"min_workers is 1, and training on CPUs .*--scale\.worker-resource",
        ),
        (ScaleConfig(num_workers=128, min_workers=1), r"128, above train\.global_batch_size 64"),
    ],
)
def test_a_number_of_workers_that_cannot_change_is_refused(ray_local, scale, why):
    with pytest.raises(ValueError, match=why):
        resolve_scale(RunConfig(train=TrainConfig(global_batch_size=64), scale=scale))


def test_an_elastic_training_may_start_with_what_there_is(ray_local):
    scale = ScaleConfig(num_workers=5, min_workers=1, worker_resource="trainer")
    assert resolve_scale(RunConfig(train=TrainConfig(global_batch_size=64), scale=scale)).num_workers == 5


def test_without_gpus_two_workers_train(ray_local):
    assert resolve_scale(RunConfig()).num_workers == 2


def test_storage_is_made_and_left_clean(ray_local, tmp_path):
    check_storage(str(tmp_path / "new" / "runs"))
    assert os.listdir(tmp_path / "new" / "runs") == []


def test_storage_that_cannot_be_written_is_refused(ray_local, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*--storage"):
        check_storage(str(tmp_path / "file" / "runs"))
