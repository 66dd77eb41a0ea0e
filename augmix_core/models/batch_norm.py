"""Batch norm with statistics of its own for each view of a joint batch."""

import torch
from torch import nn
from torch.nn import functional as F


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises each view of a joint batch by its own statistics.

    The running statistics, which evaluation uses, are those of the first view, the clean one. Weights are shared.

    Args:
        views: how many equal parts a training batch has along its first axis.
    """

    def __init__(self, *args: object, views: int, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.views = views

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's name
        """(views x B, C, H, W) in training, any batch in evaluation."""
        if not self.training:
            return super().forward(input)
        first, *others = input.chunk(self.views)
        normalised = [F.batch_norm(each, None, None, self.weight, self.bias, True, 0.0, self.eps) for each in others]
        return torch.cat([super().forward(first), *normalised])


def split_batch_norm(module: nn.Module, views: int) -> nn.Module:
    """Return a network whose two-dimensional batch norms are split, under the same names and with the same values.

    Args:
        module: changed in place, unless it is a batch norm itself.
        views: of a sample in a training batch, which has them one after the other.
    """
    if isinstance(module, nn.BatchNorm2d):
        like = {"affine": module.affine, "track_running_stats": module.track_running_stats}
        new = SplitBatchNorm2d(module.num_features, module.eps, module.momentum, views=views, **like)
        new.load_state_dict(module.state_dict())
        reference = next(module.parameters(), torch.empty(0))
        return new.to(reference.device).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, split_batch_norm(child, views))
    return module
