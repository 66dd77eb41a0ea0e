"""Networks by name and size."""

import pytest
import torch

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
