"""Forward passes: uint8 images to the network's input, and counts of wrong answers."""

import torch
from torch import nn

from pipeline.config import DataConfig


def to_input(images: torch.Tensor, config: DataConfig) -> torch.Tensor:
    """(N, H, W, 3) uint8 on any device -> (N, 3, H, W) float32 normalised, channels last in memory."""
    mean = torch.tensor(config.mean, device=images.device) * 255
    std = torch.tensor(config.std, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor, config: DataConfig) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, C) float32 logits, on the model's device."""
    device = next(model.parameters()).device
    return model(to_input(images.to(device), config)).float()
