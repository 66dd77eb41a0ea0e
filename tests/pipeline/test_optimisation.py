"""Options of the optimisation, each against its definition."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from augmix_core.models import build_model
from pipeline import checkpoint
from pipeline.budget import Scale
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.job import CLEAN, Job
from pipeline.loss import label_loss, loss_of
from pipeline.optimise import build_optimizer, clipped, learning_rate, moving_average
from pipeline.order import Split, split_train
from pipeline.source import open_source
from pipeline.train import fit

CPU = torch.device("cpu")


def job_with(folder=Path(), source=None, members=None, judged=None, workers=1, **train):
    config = RunConfig(train=TrainConfig(**{"epochs": 10, "global_batch_size": 10} | train))
    members = members or Split(100, 0, 100, 0)
    scale = Scale(num_workers=workers, use_gpu=False, evaluation_actors=1)
    return Job(config, scale, folder, source, members, source, judged or members, (CLEAN,), 10)


def rate(step, job):
    return learning_rate(step, job.config.train, job.split.size)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("convnet5_gn", 10)


def with_gradients(model):
    model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_a_warm_up_rises_linearly_and_the_cosine_runs_over_the_steps_that_are_left():
    plain, warm = job_with(), job_with(warmup_epochs=2.0)
    rates = [rate(step, warm) for step in range(100)]
    assert rates[:20] == pytest.approx([0.1 * (step + 1) / 20 for step in range(20)])
    assert rates[20] == 0.1 and rates[60] == pytest.approx((0.1 + 1e-6) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    assert rate(0, plain) == 0.1
    steps = job_with(warmup_epochs=2.0, schedule="step")
    assert [round(rate(step, steps), 9) for step in (19, 29, 30, 60, 90)] == [0.1, 0.1, 0.01, 1e-3, 1e-4]


def test_weight_decay_reaches_every_parameter_or_only_those_of_more_than_one_axis(network):
    for decay_all in (True, False):
        model = build_model("convnet5_gn", 10)
        config = RunConfig(train=TrainConfig(decay_all=decay_all, weight_decay=0.5, learning_rate=0.1, momentum=0.9))
        optimizer = build_optimizer(model, config)
        nn.init.ones_(model.classifier.bias)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, parameter in model.named_parameters():
            decayed = decay_all or parameter.ndim > 1
            assert torch.equal(parameter, before[name]) != decayed or not before[name].any(), name


@pytest.mark.parametrize("decay_all", [True, False])
def test_a_checkpoint_restores_either_grouping_and_refuses_the_other(network, tmp_path, decay_all):
    config, other = (RunConfig(train=TrainConfig(decay_all=choice)) for choice in (decay_all, not decay_all))
    optimizer = build_optimizer(network, config)
    with_gradients(network)
    optimizer.step()
    meta = checkpoint.Meta(1, 1, "convnet5_gn", 10, dataclasses.asdict(DataConfig()))
    checkpoint.save(tmp_path, network, optimizer, meta)
    again = build_model("convnet5_gn", 10)
    checkpoint.load_training(tmp_path, again, build_optimizer(again, config))
    with pytest.raises(ValueError, match="of another optimizer"):
        checkpoint.load_training(tmp_path, again, build_optimizer(again, other))


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)), torch.arange(8)
    target = 0.9 * F.one_hot(labels, 10) + 0.1 / 10
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.allclose(label_loss(logits, labels, {}, smoothing=0.1), expected)
    mixed = {"share": torch.full((8,), 0.25), "partner_label": labels.flip(0)}
    target = 0.9 * (0.25 * F.one_hot(labels, 10) + 0.75 * F.one_hot(labels.flip(0), 10)) + 0.1 / 10
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.allclose(label_loss(logits, labels, mixed, smoothing=0.1), expected)


def test_clipping_keeps_the_direction_and_bounds_the_norm(network):
    before = with_gradients(network)
    norm = before.norm()
    assert torch.allclose(clipped(network, 0.0), norm)  # left as it is
    assert torch.equal(torch.cat([p.grad.flatten() for p in network.parameters()]), before)
    assert torch.allclose(clipped(network, norm.item() / 4), norm)
    after = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert torch.allclose(after, before / 4, rtol=1e-4)
    assert torch.allclose(clipped(network, norm.item()), norm / 4, rtol=1e-4)  # shorter ones stay
    assert torch.equal(torch.cat([p.grad.flatten() for p in network.parameters()]), after)


def test_bf16_computes_in_bf16_and_keeps_losses_and_gradients_in_float32(network):
    rows = {"views": torch.randint(0, 256, (4, 3, 16, 16, 3), dtype=torch.uint8), "label": torch.arange(4)}
    seen = []
    network.features[0].register_forward_hook(lambda *_: seen.append(_[2].dtype))
    losses = {}
    for precision in ("fp32", "bf16"):
        network.zero_grad()
        losses[precision], sums = loss_of(network, rows, job_with(precision=precision).config, CPU)
        losses[precision].backward()
        assert losses[precision].dtype == torch.float32 and sums.dtype == torch.float64
        assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert seen == [torch.float32, torch.bfloat16]
    assert losses["bf16"].item() == pytest.approx(losses["fp32"].item(), rel=0.02)


def test_the_moving_average_is_that_of_its_definition_and_survives_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    model, config = build_model("convnet5", 10), RunConfig(train=TrainConfig(ema_decay=0.75, learning_rate=0.01))
    assert moving_average(model, RunConfig()) is None
    optimizer, average, expected = build_optimizer(model, config), moving_average(model, config), {}
    meta = checkpoint.Meta(1, 1, "convnet5", 10, dataclasses.asdict(DataConfig()))
    for step in range(4):
        optimizer.zero_grad()
        with_gradients(model)
        optimizer.step()
        if step == 2:  # a crash: all of it from the checkpoint
            checkpoint.save(tmp_path, model, optimizer, meta, average)
            model = build_model("convnet5", 10)
            optimizer, average = build_optimizer(model, config), moving_average(model, config)
            checkpoint.load_training(tmp_path, model, optimizer, average)
        average.update_parameters(model)
        now = {name: value.detach().clone() for name, value in model.state_dict().items() if value.is_floating_point()}
        expected = {name: 0.75 * expected[name] + 0.25 * now[name] for name in now} if expected else now
    averaged = average.module.state_dict()
    assert all(torch.allclose(averaged[name], value, atol=1e-6) for name, value in expected.items())
    scored, _ = checkpoint.load_model(tmp_path, CPU)
    assert not torch.equal(scored.classifier.weight, model.classifier.weight)
    plain = tmp_path / "plain"
    plain.mkdir()
    checkpoint.save(plain, model, optimizer, meta)
    with pytest.raises(ValueError, match=r"has no ema\.safetensors"):
        checkpoint.load_training(plain, model, optimizer, average)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("warmup_epochs", 20.0), ("warmup_epochs", -1.0), ("label_smoothing", 1.0)),
        *(("clip_norm", -1.0), ("clip_norm", math.nan), ("ema_decay", 1.0)),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"\Atrain\.{field} is {value}; "):
        TrainConfig(**{field: value})


def test_a_gradient_that_is_not_finite_stops_the_training_at_its_step_and_is_not_tried_again(ray_local, tmp_path):
    """A learning rate of 1e25: the step after the first one of the second epoch meets weights that overflow."""
    import ray

    source, tests = (open_source(DataConfig(), train=train) for train in (True, False))
    members, judged = (split_train(len(each), seed=0, limit=64)[0] for each in (source, tests))
    common = {"epochs": 2, "global_batch_size": 32}
    job = job_with(tmp_path / "job", ray.put(source), members, judged, workers=2, **common, learning_rate=1e25)
    job = dataclasses.replace(job, validation_source=ray.put(tests))
    with pytest.raises(FloatingPointError) as caught:
        fit(job)
    text = str(caught.value)
    step = int(text.split("in step ")[1].split()[0]) - 1
    _, ids = members.at(range(32 * step, 32 * (step + 1)), seed=0)
    assert f"not finite in step {step + 1} of 4, sample ids {' '.join(map(str, ids))}; " in text
    assert f"the last good checkpoint is {checkpoint.last_checkpoint(job.folder) or 'none yet'}: lower" in text
    for saved in job.folder.glob("step_*"):
        checkpoint.load_model(saved, CPU)  # refuses what is not finite
