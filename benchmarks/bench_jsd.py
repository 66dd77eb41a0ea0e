#!/usr/bin/env python
"""How many samples a core takes through the consistency loss, forward and backward, in a second.

    benchmarks/bench_jsd.py                                     about 30 seconds

The released formula, log space with autograd, and ours, all on one tensor of logits.
"""

import argparse
import math
from collections.abc import Callable

import torch
from timing import Contender, header, measure, table
from torch.nn import functional as F

from augmix_core import consistency_loss

VIEWS, BATCH, CLASSES = 3, 256, 1000


def main() -> None:
    """Check that the contenders agree, measure, and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logits_VBC = torch.randn(VIEWS, BATCH, CLASSES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = {"released": released_loss, "log space, autograd": log_space_loss, "consistency_loss": consistency_loss}
    expected = gradient_of(released_loss, logits_VBC)
    for loss_of in losses.values():
        torch.testing.assert_close(gradient_of(loss_of, logits_VBC), expected, rtol=1e-3, atol=1e-9)
    contenders = [
        Contender(name, lambda loss_of=loss_of: lambda: gradient_of(loss_of, logits_VBC), BATCH)
        for name, loss_of in losses.items()
    ]
    title = f"Consistency loss, forward and backward: {VIEWS} views, batch {BATCH}, {CLASSES} classes, float32"
    rows = table(measure(contenders, rounds=arguments.rounds), items="samples", baseline="released")
    print("\n".join([*header(title), "", *rows]))


def gradient_of(loss_of: Callable[[torch.Tensor], torch.Tensor], logits_VBC: torch.Tensor) -> torch.Tensor:
    """One forward and backward pass."""
    return torch.autograd.grad(loss_of(logits_VBC), logits_VBC)[0]


def released_loss(logits_VBC: torch.Tensor) -> torch.Tensor:
    """The released code's formula: clamped mean, batchmean KL from it to each view, averaged."""
    p_VBC = [F.softmax(logits_BC, dim=1) for logits_BC in logits_VBC]
    log_mean_BC = torch.clamp(sum(p_VBC) / len(p_VBC), 1e-7, 1).log()
    return sum(F.kl_div(log_mean_BC, p_BC, reduction="batchmean") for p_BC in p_VBC) / len(p_VBC)


def log_space_loss(logits_VBC: torch.Tensor) -> torch.Tensor:
    """Stable, and differentiated step by step."""
    log_p_VBC = torch.log_softmax(logits_VBC, dim=-1).clamp(min=-1e30)
    log_mean_BC = torch.logsumexp(log_p_VBC, dim=0) - math.log(len(log_p_VBC))
    return (log_p_VBC.exp() * (log_p_VBC - log_mean_BC)).sum(dim=-1).mean()


if __name__ == "__main__":
    main()
