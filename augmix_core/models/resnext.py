"""ResNeXt for 32 px images. Source: Xie et al. (2017), "Aggregated residual transformations", blocks of form C."""

import torch
from torch import nn
from torch.nn import functional as F

from augmix_core.models.layers import conv1x1, conv3x3, initialise

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution with a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, width: int, cardinality: int, base_width: int, stride: int) -> None:
        super().__init__()
        inner, out_channels = width * base_width // 64 * cardinality, EXPANSION * width
        self.conv_reduce = conv1x1(in_channels, inner)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = conv3x3(inner, inner, stride=stride, groups=cardinality)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = conv1x1(inner, out_channels)
        self.bn_expand = nn.BatchNorm2d(out_channels)
        self.downsample = (
            None
            if in_channels == out_channels
            else nn.Sequential(conv1x1(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, 4 x width, H / stride, W / stride)."""
        inner = F.relu(self.bn_reduce(self.conv_reduce(features)))
        inner = F.relu(self.bn(self.conv_conv(inner)))
        shortcut = features if self.downsample is None else self.downsample(features)
        return F.relu(shortcut + self.bn_expand(self.conv_expand(inner)))


class ResNeXt(nn.Module):
    """ResNeXt-depth (cardinality groups of base_width): three stages of (depth - 2) / 9 blocks at 32, 16 and 8 px."""

    def __init__(self, num_classes: int, *, depth: int, cardinality: int, base_width: int) -> None:
        super().__init__()
        if (depth - 2) % 9:
            raise ValueError(f"depth is {depth}; this ResNeXt has 9 n + 2 layers")
        blocks = (depth - 2) // 9

        def stage(in_channels: int, width: int, stride: int) -> nn.Sequential:
            first = Bottleneck(in_channels, width, cardinality, base_width, stride)
            rest = [Bottleneck(EXPANSION * width, width, cardinality, base_width, 1) for _ in range(blocks - 1)]
            return nn.Sequential(first, *rest)

        self.conv_1_3x3 = conv3x3(3, 64)
        self.bn_1 = nn.BatchNorm2d(64)
        self.stage_1 = stage(64, 64, 1)
        self.stage_2 = stage(EXPANSION * 64, 128, 2)
        self.stage_3 = stage(EXPANSION * 128, 256, 2)
        self.classifier = nn.Linear(EXPANSION * 256, num_classes)
        initialise(self)
        nn.init.kaiming_normal_(self.classifier.weight)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images -> (N, num_classes) logits."""
        features = F.relu(self.bn_1(self.conv_1_3x3(images_NCHW)))
        features = self.stage_3(self.stage_2(self.stage_1(features)))
        return self.classifier(features.mean(dim=(2, 3)))
