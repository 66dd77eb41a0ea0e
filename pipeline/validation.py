"""Validation: the error on held-out images after every epoch, by the training workers or beside them.

The workers do it between two epochs, each its share of the images. With scale.validation_cpus a task does it
from the epoch's checkpoint while the training goes on; Ray Train starts it, one at a time, and again after a crash.

    validation.jsonl    what that task has found: a line for each checkpoint, in the training's folder
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from torch import nn

from augmix_core import corrupt
from pipeline import checkpoint
from pipeline.blocks import PREPROCESS_LABEL, TRAIN_LABEL, opened_source
from pipeline.decode import evaluation_images
from pipeline.job import CLEAN, Job
from pipeline.predict import predict
from pipeline.progress import VALIDATION
from pipeline.ranks import summed, world_size
from pipeline.storage import append_line, in_one_line

IMAGES_AT_ONCE = 500


def validation_error(model: nn.Module, job: Job, rank: int, device: torch.device) -> float:
    """Mean over the validation cells of the error: every image once, shared between ranks, integer counts summed.

    An unreadable image is left out.
    """
    model.eval()
    source, cells = opened_source(job.validation_source), job.validation_cells
    wrong, seen = torch.zeros(len(cells), dtype=torch.int64), torch.zeros(len(cells), dtype=torch.int64)
    members = np.arange(rank, job.validation_split.size, world_size())
    for start in range(0, len(members), IMAGES_AT_ONCE):
        ids = job.validation_split.sample_ids(members[start : start + IMAGES_AT_ONCE])
        images, true_labels, valid = evaluation_images(source, ids, job.config.data)
        images, ids, labels = images[valid], ids[valid], torch.from_numpy(true_labels[valid])
        for n, (name, severity) in enumerate(cells):
            shown = (
                images
                if (name, severity) == CLEAN
                else corrupt(images, name, severity=severity, sample_ids=ids, seed=job.config.seed)
            )
            answers = predict(model, torch.from_numpy(shown), job.config.data).argmax(dim=1).cpu()
            wrong[n] += torch.ne(answers, labels).sum()
            seen[n] += len(labels)
    model.train()
    totals = summed(torch.stack([wrong, seen]), device)
    return float((totals[0] / totals[1].clamp(min=1)).mean())


def beside_training(job: Job) -> ray.train.ValidationConfig | None:
    """What Ray Train does with an epoch's checkpoint while the training goes on; None: nothing."""
    scale = job.config.scale
    if not scale.validation_cpus:
        return None
    asked: dict[str, Any] = {"num_cpus": scale.validation_cpus, "num_gpus": scale.validation_gpus}
    if scale.use_labels:
        asked["label_selector"] = TRAIN_LABEL if scale.validation_gpus else PREPROCESS_LABEL
    return ray.train.ValidationConfig(functools.partial(validate, job=job), ray_remote_kwargs=asked)


def validate(stored: ray.train.Checkpoint, *, job: Job) -> dict[str, float]:
    """Validate a checkpoint of a training, leave a line about it, and keep it if it is the best so far.

    Raises:
        Exception: Whatever went wrong, after a line about it; the training goes on.
    """
    scale, folder = job.config.scale, job.folder / Path(stored.path).name
    torch.set_num_threads(max(1, round(scale.validation_cpus)))
    device = torch.device("cuda" if scale.validation_gpus else "cpu")
    meta = checkpoint.read_meta(folder)
    line: dict[str, Any] = {"epoch": meta.epoch, "step": meta.step}
    try:
        model, _ = checkpoint.load_model(folder, device)
        found = validation_error(model.to(memory_format=torch.channels_last), job, 0, device)
        line["validation/error"] = found
        checkpoint.keep_best(folder, job.folder, found)
    except Exception as error:
        line["failed"] = f"{folder}: {in_one_line(error)}"
        raise
    finally:
        append_line(job.folder / VALIDATION, json.dumps(line))
    return {"validation/error": found}
