"""PGD: within its bounds, and stronger than chance."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from augmix_core.adversary import pgd, random_starts
from augmix_core.models import build_model

BOUNDS = {"epsilon": 8.0, "step_size": 2.0, "steps": 5}


@pytest.fixture(scope="module")
def attacked():
    torch.manual_seed(0)
    network = build_model("convnet5", 10).eval()
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = torch.arange(6)
    return network, lambda pixels: network((pixels - 127.5) / 127.5), images, labels


def start_of(images, seed=0, epsilon=8.0):
    return random_starts(np.arange(len(images)), tuple(images.shape[1:]), epoch=1, seed=seed, epsilon=epsilon)


def test_an_attack_stays_within_epsilon_and_the_range_of_pixels(attacked):
    _, logits_of, images, labels = attacked
    examples = pgd(logits_of, images, labels, start_of(images), **BOUNDS)
    assert (examples - images.float()).abs().max() <= 8 and examples.min() >= 0 and examples.max() <= 255
    assert (images < 8).any() and (images > 247).any()  # the range did bind
    assert not examples.requires_grad


def test_an_attack_raises_the_loss_more_than_its_random_start(attacked):
    _, logits_of, images, labels = attacked
    start = start_of(images)
    clean = F.cross_entropy(logits_of(images.float()), labels, reduction="none")
    noisy = F.cross_entropy(logits_of(images.float() + start), labels, reduction="none")
    examples = pgd(logits_of, images, labels, start, **BOUNDS)
    after = F.cross_entropy(logits_of(examples), labels, reduction="none")
    assert (after > clean).all() and (after > noisy).all()


def test_an_attack_leaves_parameters_gradients_and_statistics_alone(attacked):
    network, logits_of, images, labels = attacked
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pgd(logits_of, images, labels, start_of(images), **BOUNDS)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_attack_on_one_image_does_not_depend_on_the_others(attacked):
    _, logits_of, images, labels = attacked
    together = pgd(logits_of, images, labels, start_of(images), **BOUNDS)
    alone = pgd(logits_of, images[2:3], labels[2:3], start_of(images)[2:3], **BOUNDS)
    assert (together[2] - alone[0]).abs().mean() < 0.1  # the sign of a gradient of 0 may fall on either side


def test_starts_are_uniform_and_a_function_of_seed_epoch_and_sample_alone():
    ids = np.array([3, 9, 2**40])
    starts = random_starts(ids, (3, 16, 16), epoch=2, seed=1, epsilon=8.0)
    assert starts.abs().max() <= 8 and starts.std() == pytest.approx(16 / 12**0.5, rel=0.05)
    again = random_starts(ids[::-1].copy(), (3, 16, 16), epoch=np.array([2, 2, 2]), seed=1, epsilon=8.0)
    assert torch.equal(again.flip(0), starts)
    assert not torch.equal(random_starts(ids, (3, 16, 16), epoch=2, seed=2, epsilon=8.0), starts)
