"""Networks by name: ours for 32 px images, torchvision's for larger ones."""

from augmix_core.errors import did_you_mean, missing_extra

try:
    from torch import nn
except ImportError as error:
    raise missing_extra("torch", "score") from error

from augmix_core.models.allconv import AllConv
from augmix_core.models.convnet import ConvNet5, group_norm
from augmix_core.models.densenet import DenseNet
from augmix_core.models.resnext import ResNeXt
from augmix_core.models.wrn import WideResNet

OURS = {
    "convnet5": lambda num_classes: ConvNet5(num_classes),
    "convnet5_gn": lambda num_classes: ConvNet5(num_classes, norm=group_norm),
    "wrn40_2": lambda num_classes: WideResNet(num_classes, depth=40, widen_factor=2),
    "allconv": lambda num_classes: AllConv(num_classes),
    "densenet_bc_100_12": lambda num_classes: DenseNet(num_classes, depth=100, growth=12, start=24, bottleneck=True),
    "densenet40_12": lambda num_classes: DenseNet(num_classes, depth=40, growth=12, start=16, bottleneck=False),
    "densenet40_12_released": lambda num_classes: DenseNet(
        num_classes, depth=40, growth=12, start=24, bottleneck=False
    ),
    "resnext29_32x4": lambda num_classes: ResNeXt(num_classes, depth=29, cardinality=4, base_width=32),
}
"""Names of this package; any other name is looked up among torchvision's classification models."""


def build_model(name: str, num_classes: int) -> nn.Module:
    """Return a freshly initialised network; torch's global RNG decides its weights.

    Raises:
        ValueError: The name is neither ours nor torchvision's; the nearest one is named.
        ImportError: A torchvision name without torchvision.
    """
    check_model_name(name)
    if name in OURS:
        return OURS[name](num_classes)
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=num_classes)


def check_model_name(name: str) -> None:
    """Refuse a name that `build_model` does not know, without building anything."""
    if name in OURS:
        return
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_extra("torchvision", "score") from error
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model.name {name!r} is unknown; {did_you_mean(name, [*OURS, *known])}")
