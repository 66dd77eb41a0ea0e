"""The Jensen-Shannon consistency loss with its gradient in closed form, for any number of views.

JS(p_1 .. p_V) = mean over v of KL(p_v || M), M the mean of the p_v. Source: AugMix (Hendrycks et al., 2020), eq. 3.
With r_v = log(p_v / M), the loss is L = mean over v, b of sum_c p_v r_v. The derivatives of log p_v and log M add
up to 1 - 1, which leaves dL/dp_v = r_v / (V B), and through the softmax dL/dz_v = p_v (r_v - sum_c p_v r_v) / (V B).
"""

from typing import Any

from augmix_core.errors import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "score") from error


def consistency_loss(logits_VBC: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of the views' predictions: a scalar in nats, mean over the batch.

    It lies between 0 and log V; value and gradients are finite for all finite logits. Half-precision logits are
    taken to float32 first. There is no second derivative: a backward pass with create_graph=True raises RuntimeError.

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
    return JensenShannon.apply(logits_VBC.to(wide))


class JensenShannon(torch.autograd.Function):
    """The loss, and its gradient made on the way: one buffer waits for backward, and autograd records no steps."""

    @staticmethod
    def forward(ctx: Any, logits_VBC: torch.Tensor) -> torch.Tensor:
        """(V, B, C) float32 or float64 -> scalar."""
        tiny = torch.finfo(logits_VBC.dtype).tiny
        p_VBC = torch.softmax(logits_VBC, dim=-1)
        mean_BC = p_VBC.mean(dim=0).clamp_(min=tiny)
        # Probabilities underflow to 0; the floors keep the logarithm finite, so that 0 x log 0 is 0 and not NaN.
        terms_VBC = (p_VBC / mean_BC).clamp_(min=tiny).log_().mul_(p_VBC)
        kl_VB1 = terms_VBC.sum(dim=-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(terms_VBC.addcmul_(p_VBC, kl_VB1, value=-1))
        return kl_VB1.mean()

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
        """Scalar -> (V, B, C)."""
        # once_differentiable is no help here: in a sum of losses it drops this one's second derivative silently.
        if torch.is_grad_enabled():
            raise RuntimeError("consistency_loss has no second derivative; call backward without create_graph=True")
        (gradient_VBC,) = ctx.saved_tensors
        views, batch, _ = gradient_VBC.shape
        return gradient_VBC * (grad_output / (views * batch))
