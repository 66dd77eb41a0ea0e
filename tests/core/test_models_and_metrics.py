"""Networks by name and size, and the score."""

import pytest
import torch

from augmix_core.metrics import unnormalized_corruption_error
from augmix_core.models import build_model


def parameters(name, classes):
    return sum(p.numel() for p in build_model(name, classes).parameters())


def test_wrn40_2_has_the_published_number_of_parameters():
    assert parameters("wrn40_2", 10) == 2_243_546
    assert parameters("wrn40_2", 100) == 2_255_156


@pytest.mark.parametrize(("name", "size"), [("convnet5", 32), ("wrn40_2", 32), ("resnet18", 64)])
def test_networks_map_images_to_logits(name, size):
    assert build_model(name, 7).eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        build_model("resnet5o", 10)


def test_uce_is_the_mean_over_corruptions_of_the_mean_over_severities():
    assert unnormalized_corruption_error({"a": [0.1, 0.3], "b": [0.6]}) == pytest.approx(40.0)


@pytest.mark.parametrize("wrong", [{}, {"a": []}, {"a": [12.0]}, {"a": [-0.1]}])
def test_uce_refuses_what_are_no_error_fractions(wrong):
    with pytest.raises(ValueError, match="error"):
        unnormalized_corruption_error(wrong)
