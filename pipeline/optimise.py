"""The optimizer, its learning rate, and what is done to gradients and weights around a step."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config import RunConfig, TrainConfig
from pipeline.order import total_steps

STEP_DROP = 0.1  # the step schedule: a tenth after every third of the epochs


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """SGD as the paper trains: momentum, and weight decay on every parameter unless train.decay_all is off.

    Biases and the parameters of normalisation are those of one axis.
    """
    train = config.train
    parameters = list(model.parameters())
    groups = [{"params": parameters, "weight_decay": train.weight_decay}]
    if not train.decay_all:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": train.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.SGD(groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.nesterov)


def moving_average(model: nn.Module, config: RunConfig) -> AveragedModel | None:
    """An exponential moving average of weights and buffers, if train.ema_decay asks for one: the first step's weights
    to begin with, then decay x average + (1 - decay) x weights after every step.
    """
    decay = config.train.ema_decay
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


def learning_rate(step: int, train: TrainConfig, samples: int) -> float:
    """The learning rate of a step (from 0): cosine over all steps, or a tenth after every third of the epochs.

    A warm-up comes before; its last step has the full rate. The cosine then runs over the steps that are left, the
    thirds stay those of all epochs.

    Args:
        step: how many have been taken.
        train: schedule, rates, epochs and batch size.
        samples: of an epoch.
    """
    steps = total_steps(samples, epochs=train.epochs, global_batch_size=train.global_batch_size)
    warmup = int(train.warmup_epochs * samples / train.global_batch_size)
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    if train.schedule == "cosine":
        rise = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        return train.min_learning_rate + (train.learning_rate - train.min_learning_rate) * rise
    third = max(1, train.epochs // 3)
    return train.learning_rate * STEP_DROP ** (step * train.global_batch_size // samples // third)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """For all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def clipped(model: nn.Module, most: float) -> torch.Tensor:
    """Scale the gradient down to the norm `most`, if that is not 0, and return the norm that it had.

    The gradient is the sum over ranks, so all ranks get the same norm.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if most:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm
