"""Adversarial examples by projected gradient descent. Source: Madry et al. (2018)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from augmix_core.errors import missing_extra
from augmix_core.philox import Purpose, words

try:
    import torch
    from torch.nn import functional as F
except ImportError as error:
    raise missing_extra("torch", "score") from error


def random_starts(
    sample_ids: ArrayLike, shape: tuple[int, ...], *, epoch: ArrayLike, seed: int, epsilon: float
) -> torch.Tensor:
    """Return (N, *shape) float32 on the CPU, uniform in [-epsilon, epsilon), keyed by (seed, epoch, sample id)."""
    drawn = words(np.asarray(sample_ids), seed=seed, purpose=Purpose.ATTACK, epoch=epoch)
    generator = torch.Generator()
    starts = torch.empty(len(drawn), *shape)
    for start, (low, high) in zip(starts, drawn[:, :2].tolist(), strict=True):
        start.uniform_(-epsilon, epsilon, generator=generator.manual_seed(high << 32 | low))
    return starts


def pgd(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
) -> torch.Tensor:
    """Return images that raise the cross-entropy, each value at most epsilon away and within [0, 255].

    The parameters of the network get no gradients. Batch norm is the caller's affair: with running statistics, in eval
    mode, an attack on one image does not depend on the others and leaves the statistics alone.

    Args:
        logits_of: (N, ...) float32 pixels in [0, 255] -> (N, C) logits, normalisation included.
        images: (N, ...) pixels in [0, 255], any dtype.
        labels: (N,) int64.
        start: what is added to the images at first, in [-epsilon, epsilon].
        epsilon: bound of the change of a value, in grey levels of 255 (Madry et al. on CIFAR-10: 8).
        step_size: of a step along the sign of the gradient, in grey levels (2).
        steps: gradient steps (7).
    Returns:
        float32 of the shape of images, without gradients.
    """
    clean = images.float()
    low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=255)
    adversarial = torch.clamp(clean + start, low, high)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss: Any = F.cross_entropy(logits_of(adversarial).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = torch.clamp(adversarial.detach() + step_size * gradient.sign(), low, high)
    return adversarial
