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


def jensen_shannon(logits):
    """The definition, step by step."""
    p = torch.softmax(logits, dim=-1)
    return (p * (p / p.mean(dim=0)).log()).sum(dim=-1).mean()


def loss_and_gradient(loss_of, logits):
    logits = logits.detach().requires_grad_()
    loss = loss_of(logits)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


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


@pytest.mark.parametrize("views", [1, 2, 3, 5])
@pytest.mark.parametrize("weight", [1, 12])
def test_gradients_agree_with_numeric_ones(views, weight):
    logits = torch.randn(views, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: weight * consistency_loss(logits), logits)


@pytest.mark.parametrize(("distance", "bound"), [(1.0, 1e-6), (0.01, 2e-5), (0.001, 2e-4)])
def test_float32_follows_float64_as_far_as_rounded_logits_allow(distance, bound):
    """Rounding the logits alone moves the gradient by 2e-5 where views are 0.01 apart, by 2e-4 where they are 0.001."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 64, 1000) + distance * torch.randn(3, 64, 1000)
    loss, gradient = loss_and_gradient(consistency_loss, logits)
    exact_loss, exact_gradient = loss_and_gradient(jensen_shannon, logits.double())
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-6, abs=1e-8)
    assert (gradient - exact_gradient).norm() < bound * exact_gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_class_without_probability_gets_no_gradient(dtype):
    logits = torch.zeros(3, 4, 10).to(dtype)
    logits[0, :, 0], logits[:, :, 5] = 1.0, -torch.finfo(dtype).max
    _, gradient = loss_and_gradient(consistency_loss, logits)
    assert (gradient[:, :, 5] == 0).all()
    assert (gradient[:, :, 0] != 0).all()


def test_a_rare_class_has_a_gradient_as_exact_as_a_common_one():
    logits = torch.zeros(3, 4, 10)
    logits[:, :, 5] = torch.tensor([-60.0, -59.0, -20.0])[:, None]
    _, gradient = loss_and_gradient(consistency_loss, logits)
    _, exact_gradient = loss_and_gradient(jensen_shannon, logits.double())
    assert torch.allclose(gradient[:, :, 5].double(), exact_gradient[:, :, 5], rtol=1e-5, atol=0)


def test_a_logit_that_is_not_a_number_shows_in_the_loss():
    logits = torch.randn(3, 4, 10)
    logits[1, 2, 3] = math.nan
    assert consistency_loss(logits).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_float32_ones_whose_gradient_is_rounded(dtype):
    logits = torch.randn(3, 4, 10).to(dtype)
    loss, gradient = loss_and_gradient(consistency_loss, logits)
    wide_loss, wide_gradient = loss_and_gradient(consistency_loss, logits.float())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wide_loss)
    assert torch.equal(gradient, wide_gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    logits = torch.randn(3, 4, 10).to(dtype)
    expected = loss_and_gradient(consistency_loss, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradient = loss_and_gradient(consistency_loss, logits)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


def test_compiling_changes_nothing():
    logits = torch.randn(3, 4, 10)
    compiled = torch.compile(consistency_loss, backend="aot_eager", fullgraph=True)
    expected_loss, expected_gradient = loss_and_gradient(consistency_loss, logits)
    loss, gradient = loss_and_gradient(compiled, logits)
    assert torch.isclose(loss, expected_loss, rtol=1e-6)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_the_memory_layout_of_the_logits_does_not_matter():
    joint = torch.randn(10, 17).t().requires_grad_()  # other rows first, then three views of four samples
    logits = joint[5:].unflatten(0, (3, 4))
    assert not logits.is_contiguous()
    loss = consistency_loss(logits)
    (gradient,) = torch.autograd.grad(loss, joint)
    expected_loss, expected_gradient = loss_and_gradient(consistency_loss, logits.contiguous())
    assert torch.isclose(loss, expected_loss, rtol=1e-6)
    assert torch.allclose(gradient[5:].unflatten(0, (3, 4)), expected_gradient, rtol=1e-5, atol=1e-8)
    assert (gradient[:5] == 0).all()


def test_constant_logits_give_the_same_loss_and_it_leads_nowhere():
    logits = torch.randn(3, 4, 10)
    loss = consistency_loss(logits)
    assert not loss.requires_grad
    assert torch.equal(loss, consistency_loss(logits.clone().requires_grad_()))


def test_a_second_backward_pass_gives_the_same_gradient():
    logits = torch.randn(3, 4, 10, requires_grad=True)
    loss = 5 * consistency_loss(logits)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0].clone() for _ in range(2))
    assert torch.equal(first, second)


def test_a_second_derivative_is_refused_also_within_a_sum_of_losses():
    logits = torch.randn(3, 4, 10, requires_grad=True)
    for other in (0, logits.square().mean()):
        with pytest.raises(RuntimeError, match="no second derivative; call backward without create_graph"):
            torch.autograd.grad(consistency_loss(logits) + other, logits, create_graph=True)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 10), torch.zeros(3, 0, 10), torch.zeros(3, 2, 10, dtype=torch.long)])
def test_other_shapes_and_types_are_refused(wrong):
    with pytest.raises(ValueError, match="views, batch, classes"):
        consistency_loss(wrong)
