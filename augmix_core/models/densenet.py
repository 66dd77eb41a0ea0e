"""Densely connected networks for 32 px images. Source: Huang et al. (2017).

DenseNet-BC (100, 12) is what the AugMix paper names; its released code trains 40 layers of growth 12 without
bottlenecks and compression. That is a network of the DenseNet paper too, but there 16 channels enter the first dense
block, in the released code 24. All three are here.
"""

import torch
from torch import nn
from torch.nn import functional as F

from augmix_core.models.layers import conv1x1, conv3x3, initialise


class PlainLayer(nn.Module):
    """One pre-activated 3x3 convolution, whose channels are appended to its input's."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, growth)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`growth` channels more."""
        return torch.cat([features, self.conv1(F.relu(self.bn1(features)))], dim=1)


class BottleneckLayer(nn.Module):
    """The same behind a 1x1 convolution to 4 x growth channels."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, 4 * growth)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv3x3(4 * growth, growth)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`growth` channels more."""
        squeezed = self.conv1(F.relu(self.bn1(features)))
        return torch.cat([features, self.conv2(F.relu(self.bn2(squeezed)))], dim=1)


class Transition(nn.Module):
    """A 1x1 convolution between dense blocks, and half the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(features))), 2)


class DenseNet(nn.Module):
    """Three dense blocks at 32, 16 and 8 px; with `bottleneck` in the paper's BC form, which also halves channels.

    Args:
        start: channels that enter the first dense block.
    """

    def __init__(self, num_classes: int, *, depth: int, growth: int, start: int, bottleneck: bool) -> None:
        super().__init__()
        layer, convolutions = (BottleneckLayer, 2) if bottleneck else (PlainLayer, 1)
        layers = (depth - 4) // (3 * convolutions)
        if depth != 4 + 3 * convolutions * layers:
            raise ValueError(f"depth is {depth}; this DenseNet has {3 * convolutions} n + 4 layers")

        def dense(channels: int) -> nn.Sequential:
            return nn.Sequential(*(layer(channels + i * growth, growth) for i in range(layers)))

        added = layers * growth
        after1 = (start + added) // 2 if bottleneck else start + added
        after2 = (after1 + added) // 2 if bottleneck else after1 + added
        self.conv1 = conv3x3(3, start)
        self.dense1 = dense(start)
        self.trans1 = Transition(start + added, after1)
        self.dense2 = dense(after1)
        self.trans2 = Transition(after1 + added, after2)
        self.dense3 = dense(after2)
        self.bn1 = nn.BatchNorm2d(after2 + added)
        self.fc = nn.Linear(after2 + added, num_classes)
        initialise(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images -> (N, num_classes) logits."""
        features = self.trans1(self.dense1(self.conv1(images_NCHW)))
        features = self.dense3(self.trans2(self.dense2(features)))
        return self.fc(F.relu(self.bn1(features)).mean(dim=(2, 3)))
