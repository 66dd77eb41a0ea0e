"""The loss of a batch: the paper's, and those of the methods that it is compared with."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from augmix_core import consistency_loss
from augmix_core.adversary import pgd, random_starts
from pipeline.config import RunConfig
from pipeline.methods import METHODS
from pipeline.predict import to_input


def loss_of(
    model: nn.Module, rows: Mapping[str, torch.Tensor], config: RunConfig, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the first view + jsd_weight x consistency of all views, in one joint forward pass.

    The first view is the clean one where there are several; of methods that train on one view it is that one.

    Returns:
        (scalar loss, float64 (4,) sums over the batch: cross-entropy, consistency, wrong answers, samples).
    """
    views_BVHWC = rows["views"].to(device, non_blocking=True)
    labels = rows["label"].to(device)
    batch, views = views_BVHWC.shape[:2]
    images = views_BVHWC.transpose(0, 1).reshape(views * batch, *views_BVHWC.shape[2:])
    if METHODS[config.method].adversarial:
        images = attacked(model, images, labels, rows, config)
    half = torch.float16 if config.train.precision == "fp16" else torch.bfloat16
    with torch.autocast(device.type, half, enabled=config.train.precision != "fp32"):
        logits = model(to_input(images, config.data))
    logits_VBC = logits.float().view(views, batch, -1)
    cross_entropy = label_loss(logits_VBC[0], labels, rows, smoothing=config.train.label_smoothing)
    loss, consistency = cross_entropy, torch.zeros((), device=device)
    if views > 1:
        consistency = consistency_loss(logits_VBC)
        loss = cross_entropy + config.train.jsd_weight * consistency
    wrong = (logits_VBC[0].argmax(dim=1) != labels).sum()
    means = torch.stack([cross_entropy.detach(), consistency.detach(), torch.ones_like(cross_entropy)]).double()
    cross_entropy_sum, consistency_sum, samples = means * batch
    return loss, torch.stack([cross_entropy_sum, consistency_sum, wrong.double(), samples])


def label_loss(
    logits_BC: torch.Tensor, labels: torch.Tensor, rows: Mapping[str, torch.Tensor], *, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy, mean over the batch; where two samples are mixed, of both labels by their shares."""
    if "share" not in rows:
        return F.cross_entropy(logits_BC, labels, label_smoothing=smoothing)
    share, partners = rows["share"].to(logits_BC.device), rows["partner_label"].to(logits_BC.device)
    own, other = (
        F.cross_entropy(logits_BC, each, reduction="none", label_smoothing=smoothing) for each in (labels, partners)
    )
    return (share * own + (1 - share) * other).mean()


def attacked(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, rows: Mapping[str, torch.Tensor], config: RunConfig
) -> torch.Tensor:
    """Adversarial examples of (B, H, W, 3) images, against the network with the running statistics of batch norm.

    Batch statistics would make an attack on one image depend on its batch, and the attack's passes would enter the
    running statistics. The step that follows trains on the adversarial examples with batch statistics, as ever.
    """
    network, baseline = getattr(model, "module", model), config.baseline  # DDP's hooks are for the step alone
    start = random_starts(
        rows["sample_id"].clamp(min=0).numpy(),  # NO_SAMPLE is seen before its step counts
        tuple(images.shape[1:]),
        epoch=rows["epoch"].numpy(),
        seed=config.seed,
        epsilon=baseline.pgd_epsilon,
    )
    network.eval()
    examples = pgd(
        lambda pixels: network(to_input(pixels, config.data)),
        images,
        labels,
        start.to(images.device),
        epsilon=baseline.pgd_epsilon,
        step_size=baseline.pgd_step_size,
        steps=baseline.pgd_steps,
    )
    network.train()
    return examples
