"""Forward passes: uint8 images to the network's input, and its answers."""

import ctypes
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


MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4  # glibc's <malloc.h>
MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process use the memory of one batch for the next.

    glibc gives large blocks back to the kernel as soon as they are freed, and the kernel clears them for the next batch
    page by page: a quarter or more of the time of a small network on a CPU. Elsewhere nothing is changed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(MALLOC_MMAP_MAX, 0)
        set_option(MALLOC_TRIM_THRESHOLD, MOST_KEPT)


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
