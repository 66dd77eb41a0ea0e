"""Every method: its rows, its loss, and a few steps on digits."""

import dataclasses
import json
import typing

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from augmix_core import augmix
from augmix_core.models import build_model
from pipeline.augment import check_stored_views, rows_of
from pipeline.budget import Scale
from pipeline.config import BaselineConfig, DataConfig, RunConfig, SearchConfig, TrainConfig, method_config
from pipeline.job import CLEAN, Job
from pipeline.loss import loss_of
from pipeline.methods import METHODS, MIXED, MethodName
from pipeline.optimise import build_optimizer
from pipeline.order import Split, split_train
from pipeline.source import open_source
from pipeline.train import fit, seed_torch
from pipeline.training_views import PARTNER_WINDOW, partner_positions, with_views

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(train_limit=96),
    train=TrainConfig(epochs=2, global_batch_size=32, learning_rate=0.05),
    baseline=BaselineConfig(pgd_steps=2),
)
VIEWS = dict.fromkeys(METHODS, 1) | {"augmix": 3, "random_autoaugment_jsd": 3}


@pytest.fixture(scope="module")
def digits():
    source = open_source(CONFIG.data, train=True)
    return source, split_train(len(source), seed=0, limit=96)[0]


def rows(method, digits, positions):
    return rows_of(*digits, np.asarray(positions), method_config(CONFIG, method))


def tensors(columns):
    return {name: torch.from_numpy(values) for name, values in columns.items()}


def job_of(method, digits, folder="", scale=None, put=lambda source: source):
    source, split = digits
    scale = scale or Scale(num_workers=1, use_gpu=False, evaluation_actors=1)
    tests = open_source(CONFIG.data, train=False)
    held = split_train(len(tests), seed=0, limit=64)[0]
    return Job(method_config(CONFIG, method), scale, folder, put(source), split, put(tests), held, (CLEAN,), 10)


def test_the_table_holds_every_name_that_a_run_may_list():
    assert tuple(METHODS) == typing.get_args(MethodName)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_a_function_of_their_positions_alone(digits, method):
    together = rows(method, digits, range(90, 106))  # over the end of an epoch of 96
    assert together["views"].shape == (16, VIEWS[method], 32, 32, 3) and together["views"].dtype == np.uint8
    some = [3, 12, 7]
    apart = rows(method, digits, np.arange(90, 106)[some])
    assert all((apart[name] == together[name][some]).all() for name in together)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_shows_the_clean_image_first_or_not_at_all(digits, method):
    clean = rows("standard", digits, range(64))["views"][:, 0]
    same = (rows(method, digits, range(64))["views"][:, 0] == clean).all(axis=(1, 2, 3))
    if METHODS[method].images == "clean" or METHODS[method].consistency:
        assert same.all()
    else:
        assert same.mean() < 0.7  # half of CutMix's have no box, and a policy may choose the identity


def test_augmix_without_jsd_trains_on_the_first_augmented_view(digits):
    shown, whole = rows("augmix_no_jsd", digits, range(8)), rows("standard", digits, range(8))
    views = augmix(whole["views"][:, 0], whole["sample_id"], epoch=whole["epoch"], config=CONFIG.augmix)
    assert (shown["views"][:, 0] == views[:, 1]).all()


def test_every_sample_is_a_partner_once_an_epoch(digits):
    _, split = digits
    for epoch in (0, 1):
        positions = np.arange(96) + 96 * epoch
        partners = partner_positions(split, positions, seed=0)
        assert sorted(partners) == positions.tolist() and (partners != positions).mean() > 0.9
    assert (partner_positions(split, np.arange(96), seed=0) + 96 != partners).any()


def test_partners_stay_in_their_window_of_the_stream():
    split = Split(2500, 0, 2500, 0)
    partners = partner_positions(split, np.arange(5000), seed=0)
    assert sorted(partners) == list(range(5000))
    assert (partners // 2500 == np.arange(5000) // 2500).all()
    assert (partners % 2500 // PARTNER_WINDOW == np.arange(5000) % 2500 // PARTNER_WINDOW).all()


@pytest.mark.parametrize("method", METHODS)
def test_views_made_in_the_training_worker_are_those_made_in_the_read_task(digits, method):
    scale = dataclasses.replace(CONFIG.scale, augment_on="train")
    config = method_config(dataclasses.replace(CONFIG, scale=scale), method)
    sent = rows_of(*digits, np.arange(8), config)
    assert ("image" in sent) == (METHODS[method].images not in MIXED)
    made = with_views(sent, config) if "image" in sent else sent
    expected = rows(method, digits, range(8))
    assert made.keys() == expected.keys() and all((made[name] == expected[name]).all() for name in expected)


def test_rows_of_mixup_are_the_mix_of_two_rows_of_the_epoch(digits):
    mixed, alone = rows("mixup", digits, range(96)), rows("standard", digits, range(96))
    at = partner_positions(digits[1], np.arange(96), seed=0)
    assert (mixed["label"] == alone["label"]).all() and (mixed["partner_label"] == alone["label"][at]).all()
    share = mixed["share"][:, None, None, None].astype(np.float64)
    expected = share * alone["views"][:, 0] + (1 - share) * alone["views"][at, 0]
    assert np.abs(mixed["views"][:, 0] - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_cross_entropy_of_labels_whose_mass_is_one_and_perhaps_consistency(digits, method):
    job, columns = job_of(method, digits), rows(method, digits, range(16))
    seed_torch(0, 0, 0, CPU)
    model = build_model("convnet5_gn", 10)
    loss, sums = loss_of(model, tensors(columns), job.config, CPU)
    assert (
        sums[3] == 16
        and loss.isfinite()
        and loss.item() == pytest.approx(((sums[0] + job.config.train.jsd_weight * sums[1]) / 16).item(), rel=1e-5)
    )
    assert (sums[1] > 0) == METHODS[method].consistency
    target = F.one_hot(torch.from_numpy(columns["label"]), 10).double()
    if METHODS[method].images in MIXED:
        share = torch.from_numpy(columns["share"]).double()[:, None]
        target = share * target + (1 - share) * F.one_hot(torch.from_numpy(columns["partner_label"]), 10)
    assert torch.allclose(target.sum(dim=1), torch.ones(16, dtype=torch.double))
    pixels = (torch.from_numpy(columns["views"][:, 0]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    expected = -(target * model(pixels).log_softmax(dim=1)).sum(dim=1).mean()
    if method == "pgd":
        assert sums[0] / 16 > expected.item()
    else:
        assert (sums[0] / 16).item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_attack_of_the_worker_leaves_training_mode_and_statistics_to_the_step(digits):
    model = build_model("convnet5", 10)
    columns = tensors(rows("pgd", digits, range(16)))
    loss_of(model, columns, job_of("pgd", digits).config, CPU)
    counters = [value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert model.training and counters and all(counter == 1 for counter in counters)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_its_rows_in_a_few_steps(digits, method):
    job, columns = job_of(method, digits), tensors(rows(method, digits, range(32)))
    seed_torch(0, 0, 0, CPU)
    model = build_model("convnet5", 10).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, job.config)
    losses = []
    for _ in range(8):
        loss, _ = loss_of(model, columns, job.config, CPU)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "method", ["cutmix", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "cutmix")]
)
def test_methods_train_end_to_end_on_two_workers(ray_local, digits, tmp_path, method):
    import ray

    scale = Scale(num_workers=2, use_gpu=False, evaluation_actors=1)
    fit(job_of(method, digits, tmp_path / method, scale, ray.put))
    lines = [json.loads(line) for line in (tmp_path / method / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert all((line["train/consistency"] > 0) == METHODS[method].consistency for line in lines)
    assert all(line["train/loss"] > 0 and line["validation/error"] <= 1 for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_stored_views_of_augmix_serve_the_methods_that_train_on_its_first_views(digits, method):
    whole = rows("augmix", digits, range(8))["views"]
    own = rows(method, digits, range(8))["views"]
    assert METHODS[method].from_stored_views == bool((own == whole[:, : own.shape[1]]).all())
    if not METHODS[method].from_stored_views:
        data = dataclasses.replace(CONFIG.data, views="/nowhere")
        config = dataclasses.replace(CONFIG, data=data, search=SearchConfig(trials=0))
        with pytest.raises(ValueError, match=rf"\Adata\.views '/nowhere' holds .*; method '{method}' is trained"):
            check_stored_views(method_config(config, method), digits[1], digits[0])


def test_a_wrong_value_of_a_baseline_is_refused_by_field_and_value():
    for field, value in (
        *(("cutout_size", 0), ("mixup_alpha", 0.0), ("cutmix_alpha", -1.0), ("cutmix_probability", 1.5)),
        *(("pgd_epsilon", 0.0), ("pgd_step_size", 300.0), ("pgd_steps", 0)),
    ):
        with pytest.raises(ValueError, match=rf"baseline\.{field} is {value}; "):
            BaselineConfig(**{field: value})


def test_a_configuration_trains_its_only_method_and_augmix_while_it_lists_several():
    assert CONFIG.method == "augmix"
    assert all(method_config(CONFIG, method).method == method for method in METHODS)
    kept = method_config(CONFIG, "augmix")
    assert kept == dataclasses.replace(CONFIG, methods=("augmix",))
