"""Wide residual networks for 32 px images. Source: Zagoruyko & Komodakis (2016), the basic, pre-activation form."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two pre-activated 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.projection = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Where the shape changes, the shortcut too starts from the activated features."""
        activated = F.relu(self.norm1(features))
        shortcut = features if self.projection is None else self.projection(activated)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(activated))))


class WideResNet(nn.Module):
    """WRN-depth-widen_factor: three groups of (depth - 4) / 6 blocks at 32, 16 and 8 px."""

    def __init__(self, num_classes: int, *, depth: int, widen_factor: int) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth is {depth}; a WRN has 6 n + 4 layers")
        blocks = (depth - 4) // 6
        channels = 16
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        groups: list[nn.Module] = []
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(blocks):
                groups.append(BasicBlock(channels, width * widen_factor, stride if i == 0 else 1))
                channels = width * widen_factor
        self.groups = nn.Sequential(*groups)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) normalised images -> (N, num_classes) logits."""
        features = F.relu(self.norm(self.groups(self.stem(images_NCHW))))
        return self.classifier(features.mean(dim=(2, 3)))
