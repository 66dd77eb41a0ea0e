"""The Jensen-Shannon consistency loss, in log space, for any number of views.

JS(p_1 .. p_V) = mean over v of KL(p_v || M), M the mean of the p_v. Source: AugMix (Hendrycks et al., 2020), eq. 3.
"""

import math

from augmix_core.errors import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "score") from error

LOWEST_LOG_P = -1e30
"""Stands for log 0: a logit gap may exceed what float32 holds, and 0 x (-inf) would be NaN."""


def consistency_loss(logits_VBC: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of the views' predictions: a scalar in nats, mean over the batch.

    It lies between 0 and log V; value and gradients are finite for all finite logits. Half-precision logits are
    taken to float32 first.

    Args:
        logits_VBC: (V, B, C) logits of V >= 1 views of B samples over C classes; floating point.
    Raises:
        ValueError: Another number of axes, an empty axis, or not floating point.
    """
    if logits_VBC.ndim != 3 or 0 in logits_VBC.shape or not logits_VBC.is_floating_point():
        raise ValueError(
            f"logits must be floating point of shape (views, batch, classes), none of them 0; "
            f"got {logits_VBC.dtype} {tuple(logits_VBC.shape)}"
        )
    wide = torch.promote_types(logits_VBC.dtype, torch.float32)
    log_p = torch.log_softmax(logits_VBC.to(wide), dim=-1).clamp(min=LOWEST_LOG_P)
    log_mean = torch.logsumexp(log_p, dim=0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_mean)).sum(dim=-1).mean()
