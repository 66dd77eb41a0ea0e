"""Networks by name and size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from augmix_core.models import OURS, build_model

CIFAR_NETWORKS = (
    "wrn40_2",
    "allconv",
    "densenet_bc_100_12",
    "densenet40_12",
    "densenet40_12_released",
    "resnext29_32x4",
)


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on busy cores wait for each other a hundred times a network."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(name, classes):
    return sum(p.numel() for p in build_model(name, classes).parameters())


def built(name, classes=10):
    torch.manual_seed(0)
    return build_model(name, classes)


@pytest.mark.parametrize(
    ("name", "at_10", "at_100"),
    [
        ("wrn40_2", 2_243_546, 2_255_156),
        ("densenet_bc_100_12", 769_162, 800_032),
        ("densenet40_12", 1_019_722, 1_019_722 + 90 * (448 + 1)),
        ("densenet40_12_released", 1_059_298, 1_059_298 + 90 * (456 + 1)),
        ("allconv", 1_409_674, 1_409_674 + 90 * (192 + 1)),
        ("resnext29_32x4", 6_807_882, 6_807_882 + 90 * (1024 + 1)),
    ],
)
def test_cifar_networks_have_the_published_number_of_parameters(name, at_10, at_100):
    """WRN and the first two DenseNets as published; AllConv and ResNeXt as counted from the released code's layers."""
    assert (parameters(name, 10), parameters(name, 100)) == (at_10, at_100)


def test_allconv_and_resnext_have_the_parameters_that_their_definitions_give():
    def conv(k, i, o, groups=1):
        return k * k * i // groups * o + 2 * o  # with the two vectors of its batch norm

    biases = 6 * 96 // 2 + 6 * 192  # AllConv's convolutions have biases: three of 96 channels, six of 192
    allconv = conv(3, 3, 96) + 2 * conv(3, 96, 96) + conv(3, 96, 192) + 3 * conv(3, 192, 192) + 2 * conv(1, 192, 192)
    assert parameters("allconv", 10) == allconv + biases + 193 * 10
    resnext = conv(3, 3, 64)
    for width, entering in ((64, 64), (128, 256), (256, 512)):
        for block in range(3):
            channels, inner = (entering if block == 0 else 4 * width), 2 * width
            resnext += conv(1, channels, inner) + conv(3, inner, inner, groups=4) + conv(1, inner, 4 * width)
            resnext += conv(1, channels, 4 * width) if block == 0 else 0
    assert parameters("resnext29_32x4", 10) == resnext + 1025 * 10


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [32, 40])
def test_networks_map_images_to_logits_in_either_memory_format(name, size):
    network = built(name, 7).eval()
    images = torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size)
    before = images.clone()
    with torch.no_grad():
        logits = network(images)
        last = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert logits.shape == (2, 7) and torch.equal(images, before)
    assert torch.allclose(logits, last, atol=1e-4 * logits.abs().max())


def test_a_network_of_torchvision_maps_images_to_logits():
    assert build_model("resnet18", 7).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", OURS)
def test_gradients_reach_every_parameter(name):
    network = built(name).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    F.cross_entropy(network(images), torch.arange(4)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        # batch norm takes out the mean of what comes before it, so a bias before it has a gradient of 0
        if not (name == "allconv" and parameter_name.startswith("features") and parameter_name.endswith("bias")):
            assert parameter.grad.abs().sum() > 0, parameter_name


def test_a_group_normalised_network_answers_each_image_by_itself():
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for name, alone in (("convnet5_gn", True), ("convnet5", False)):
        network = built(name).train()
        together = network(images)
        apart = torch.cat([network(part) for part in images.split([2, 4])])
        assert torch.allclose(together, apart, atol=1e-5) == alone
    assert not any(isinstance(module, nn.BatchNorm2d) for module in built("convnet5_gn").modules())


@pytest.mark.parametrize("name", CIFAR_NETWORKS)
def test_cifar_networks_keep_the_size_of_their_features_at_the_start(name):
    """He's initialisation: logits are of order 1, neither vanishing nor exploding through 29 to 100 layers."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert 0.01 < built(name).train()(images).std() < 10


def test_the_released_allconv_averages_the_first_eight_rows_and_columns_of_ten():
    network = built("allconv").eval()
    features = network.features(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert features.shape[2:] == (10, 10)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = network.classifier(F.avg_pool2d(features, 8).flatten(1))
    assert torch.allclose(network(images), expected, atol=1e-5)


@pytest.mark.parametrize(("wrong", "right"), [("resnet5o", "resnet50"), ("resnext29", "resnext29_32x4")])
def test_an_unknown_network_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(ValueError, match=f"did you mean '{right}'"):
        build_model(wrong, 10)
