"""The consistency loss."""

import math

import pytest
import torch
from torch.nn import functional as F

from augmix_core import consistency_loss


def released_loss(logits):
    """The formula of the released code: clamped mean, batchmean KL from it to each view, averaged."""
    probabilities = [F.softmax(view, dim=1) for view in logits]
    log_mean = torch.clamp(sum(probabilities) / len(probabilities), 1e-7, 1).log()
    return sum(F.kl_div(log_mean, p, reduction="batchmean") for p in probabilities) / len(probabilities)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_it_equals_the_released_formula_where_that_is_well_behaved(views):
    torch.manual_seed(0)
    logits = torch.randn(views, 16, 10, dtype=torch.float64, requires_grad=True)
    ours, theirs = consistency_loss(logits), released_loss(logits)
    assert abs(ours - theirs) < 1e-6
    gradients = torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0]
    assert torch.allclose(*gradients, atol=1e-6)
    assert abs(consistency_loss(logits.float()) - released_loss(logits.float())) < 1e-6


@pytest.mark.parametrize("views", [2, 3, 8])
def test_jsd_of_disjoint_views_is_log_of_their_number(views):
    logits = torch.full((views, 4, 10), -1e4)
    for v in range(views):
        logits[v, :, v] = 1e4
    assert consistency_loss(logits).item() == pytest.approx(math.log(views), abs=1e-6)


def test_jsd_of_equal_views_is_zero_and_of_one_view_too():
    view = torch.randn(1, 8, 10)
    assert abs(consistency_loss(view.repeat(3, 1, 1)).item()) < 1e-6
    assert abs(consistency_loss(view).item()) < 1e-6


def test_it_depends_neither_on_the_order_of_views_nor_on_a_shift_of_logits():
    logits = torch.randn(3, 8, 10, dtype=torch.float64)
    loss = consistency_loss(logits)
    assert torch.isclose(consistency_loss(logits[[2, 0, 1]]), loss, rtol=1e-12)
    assert torch.isclose(consistency_loss(logits + torch.randn(3, 8, 1, dtype=torch.float64)), loss, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gap", [0.0, 1e-3, 18.0, 104.0, 1e4, "max"])
def test_value_and_gradients_are_finite_for_every_finite_logit(dtype, gap):
    top = torch.finfo(dtype).max
    gap = top if gap == "max" else gap
    logits = torch.zeros(3, 4, 10).to(dtype)
    logits[0, :, 0], logits[1, :, 1], logits[2, :, 0] = min(gap, top), min(gap, top), -min(gap, top)
    logits.requires_grad_()
    loss = consistency_loss(logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 <= loss.item() + 1e-6 <= math.log(3) + 1e-5
    assert torch.isfinite(logits.grad).all()


def test_gradients_agree_with_numeric_ones():
    logits = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(consistency_loss, logits)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 10), torch.zeros(3, 0, 10), torch.zeros(3, 2, 10, dtype=torch.long)])
def test_other_shapes_and_types_are_refused(wrong):
    with pytest.raises(ValueError, match="views, batch, classes"):
        consistency_loss(wrong)
