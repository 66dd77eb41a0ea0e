"""The configuration: what it refuses, and which fields make another run."""

import dataclasses
import math

import pytest

from augmix_core import AugMixConfig
from pipeline.config import (
    DataConfig,
    EvaluateConfig,
    RunConfig,
    ScaleConfig,
    SearchConfig,
    TrainConfig,
    fingerprint,
    method_config,
    run_name,
)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (DataConfig, "data.image_size", 4),
        (DataConfig, "data.holdout_fraction", 1.0),
        (DataConfig, "data.train_limit", -1),
        (DataConfig, "data.std", (0.5, 0.0, 0.5)),
        (DataConfig, "data.path", "relative/folder"),
        (TrainConfig, "train.epochs", 0),
        (TrainConfig, "train.global_batch_size", 0),
        (TrainConfig, "train.learning_rate", math.nan),
        (TrainConfig, "train.learning_rate", -0.1),
        (TrainConfig, "train.min_learning_rate", 1.0),
        (TrainConfig, "train.momentum", 1.0),
        (TrainConfig, "train.weight_decay", -1.0),
        (TrainConfig, "train.jsd_weight", math.inf),
        (DataConfig, "data.shuffle_window", 0),
        (DataConfig, "data.max_pixels", 10**9),
        (DataConfig, "data.max_bad_fraction", 1.5),
        (ScaleConfig, "scale.progress_timeout_s", 0.0),
        (SearchConfig, "search.trials", -1),
        (SearchConfig, "search.grace_epochs", 99),
        (SearchConfig, "search.severities", (0,)),
        (SearchConfig, "search.max_concurrent", 0),
        (EvaluateConfig, "evaluate.corruptions", ("fogg",)),
        (EvaluateConfig, "evaluate.severities", (6,)),
        (ScaleConfig, "scale.num_workers", -1),
        (ScaleConfig, "scale.data_cpus", 0.0),
        (RunConfig, "seed", -1),
        (RunConfig, "name", "../up"),
        (RunConfig, "name", "with space"),
        (RunConfig, "storage", "runs"),
        (RunConfig, "storage", "ftp://host/runs"),
        (RunConfig, "storage", "s3://"),
        (RunConfig, "methods", ()),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_value_in_one_line(section, field, value):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")) as refusal:
        section(**{field.split(".")[-1]: value})
    message = str(refusal.value)
    assert str(value[0] if isinstance(value, tuple) and value else value).strip("()") in message
    assert "\n" not in message


def test_scale_storage_location_more_epochs_and_other_scores_keep_the_run():
    config = RunConfig()
    same = [
        dataclasses.replace(config, storage="/elsewhere"),
        dataclasses.replace(config, scale=ScaleConfig(num_workers=8)),
        dataclasses.replace(config, train=TrainConfig(epochs=99)),
        dataclasses.replace(config, data=DataConfig(path="/data/moved")),
        dataclasses.replace(config, data=DataConfig(max_bad_fraction=0.5)),
        dataclasses.replace(config, scale=ScaleConfig(augment_on="train")),
        dataclasses.replace(config, evaluate=EvaluateConfig(severities=(1,))),
    ]
    assert {fingerprint(other) for other in same} == {fingerprint(config)}


def test_what_decides_the_result_makes_another_run():
    config = RunConfig()
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, augmix=AugMixConfig(width=2)),
        dataclasses.replace(config, train=TrainConfig(learning_rate=0.2)),
        dataclasses.replace(config, train=TrainConfig(global_batch_size=32)),
        dataclasses.replace(config, data=DataConfig(train_limit=10)),
        dataclasses.replace(config, data=DataConfig(shuffle_window=4)),
        dataclasses.replace(config, search=SearchConfig(trials=5)),
    ]
    assert len({fingerprint(other) for other in [config, *others]}) == len(others) + 1


def test_a_run_is_named_after_recipe_model_and_fingerprint():
    config = RunConfig()
    assert run_name(config, "digits") == f"digits-convnet5-{fingerprint(config)}"
    assert run_name(dataclasses.replace(config, name="mine"), "digits") == "mine"


def test_the_standard_method_sees_clean_images_only():
    standard = method_config(RunConfig(), "standard")
    assert (standard.augmix.views, standard.train.jsd_weight) == (1, 0.0)
    assert method_config(RunConfig(), "augmix") == RunConfig(methods=("augmix",))
