"""Forward passes: uint8 images to the network's input, and its answers."""

from typing import Protocol

import torch
from torch import nn


class Normalisation(Protocol):
    """What an input is normalised with: a DataConfig, a Network."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """By channel, in [0, 1]."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """By channel, in [0, 1]."""
        ...


def to_input(images: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """(N, H, W, 3) uint8 on any device -> (N, 3, H, W) float32 normalised, channels last in memory."""
    mean = torch.tensor(normalisation.mean, device=images.device) * 255
    std = torch.tensor(normalisation.std, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, C) float32 logits, on the model's device."""
    device = next((parameter.device for parameter in model.parameters()), images.device)
    return model(to_input(images.to(device), normalisation)).float()
