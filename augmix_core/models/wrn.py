"""Wide residual networks for 32 px images. Source: Zagoruyko & Komodakis (2016), the basic, pre-activation form."""

import torch
from torch import nn
from torch.nn import functional as F

from augmix_core.models.layers import conv1x1, conv3x3, initialise


class BasicBlock(nn.Module):
    """Two pre-activated 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.convShortcut = None if in_channels == out_channels else conv1x1(in_channels, out_channels, stride=stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Where the shape changes, the shortcut too starts from the activated features."""
        activated = F.relu(self.bn1(features))
        shortcut = features if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(activated))))


class Group(nn.Module):
    """The blocks of one resolution; the first one changes it."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """All blocks."""
        return self.layer(features)


class WideResNet(nn.Module):
    """WRN-depth-widen_factor: three groups of (depth - 4) / 6 blocks at 32, 16 and 8 px."""

    def __init__(self, num_classes: int, *, depth: int, widen_factor: int) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth is {depth}; a WRN has 6 n + 4 layers")
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = conv3x3(3, 16)
        self.block1 = Group(blocks, 16, widths[0], 1)
        self.block2 = Group(blocks, widths[0], widths[1], 2)
        self.block3 = Group(blocks, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images -> (N, num_classes) logits."""
        features = self.block3(self.block2(self.block1(self.conv1(images_NCHW))))
        return self.fc(F.relu(self.bn1(features)).mean(dim=(2, 3)))
