"""The all-convolutional network in AugMix's form: batch norm, GELU, max pooling and dropout.

Source: Springenberg et al. (2015), "Striving for simplicity"; the form is that of the released AugMix code, with what
it does at the end: its 1x1 convolutions pad by one, so that 8x8 features come out 10x10, of which the first 8x8 are
averaged. Both are kept, or its weights would not give its answers.
"""

import torch
from torch import nn

from augmix_core.models.layers import initialise

WIDTHS = (96, 192)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation of GELU that the weights were trained with."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Element by element."""
        return features * torch.sigmoid(1.702 * features)


def convolution(in_channels: int, out_channels: int, *, kernel_size: int, padding: int) -> list[nn.Module]:
    """A convolution with bias, batch norm and GELU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
    return [conv, nn.BatchNorm2d(out_channels), QuickGELU()]


class AllConv(nn.Module):
    """Three 3x3 convolutions at 32 px, three at 16, one and two 1x1 at 8, and a linear classifier of their mean."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            for _ in range(3):
                layers += convolution(channels, width, kernel_size=3, padding=1)
                channels = width
            layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
        layers += convolution(channels, channels, kernel_size=3, padding=0)
        for _ in range(2):
            layers += convolution(channels, channels, kernel_size=1, padding=1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images, H and W at least 12 px -> (N, num_classes) logits."""
        return self.classifier(self.features(images_NCHW)[:, :, :-2, :-2].mean(dim=(2, 3)))
