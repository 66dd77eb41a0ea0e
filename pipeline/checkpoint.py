"""Checkpoints: everything a run needs to go on as if nothing had happened.

    model.safetensors     weights and buffers
    training_state.pt     optimizer state; read with weights_only=True
    meta.json             step, epoch, what the model is, stream version

The stream position follows from the step, the learning rate too, and every random number is keyed by the seed and
the step, so there is no further state. Ray Train copies the folder to `<method folder>/step_<step>/`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from augmix_core import STREAM_VERSION
from augmix_core.models import build_model
from pipeline.config import DataConfig

SNAPSHOT = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True, slots=True)
class Meta:
    """What meta.json holds."""

    step: int
    """Optimizer steps taken."""
    epoch: int
    model: str
    num_classes: int
    data: dict[str, Any]
    """The DataConfig, for normalisation."""
    held_out: dict[str, Any] | None = None
    """The arguments of `split_train` whose held-out split the training left out, if it left one out."""
    stream_version: int = STREAM_VERSION


def name_of(step: int) -> str:
    """The folder name of the checkpoint after a step."""
    return f"step_{step:09d}"


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, meta: Meta) -> None:
    """Write a checkpoint into an empty folder."""
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "training_state.pt")
    (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=1))


def read_meta(folder: Path) -> Meta:
    """Raises ValueError where the checkpoint is incomplete or of another stream."""
    try:
        meta = Meta(**json.loads((folder / "meta.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"checkpoint {str(folder)!r} cannot be read: {error}; remove it to fall back to the one before"
        ) from error
    if meta.stream_version != STREAM_VERSION:
        raise ValueError(
            f"checkpoint {str(folder)!r} belongs to stream version {meta.stream_version}, this program draws version "
            f"{STREAM_VERSION}; go on with the release that wrote it, or start anew under another --name"
        )
    return meta


def load_training(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Meta:
    """Restore model and optimizer in place."""
    meta = read_meta(folder)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    optimizer.load_state_dict(torch.load(folder / "training_state.pt", map_location="cpu", weights_only=True))
    return meta


def misfits(expected: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> list[str]:
    """Say of each name why a state dict does not fit: missing, unknown, no dense tensor, or of another shape."""
    wrong = []
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            if not name.endswith("num_batches_tracked"):  # files of old releases lack these counters
                wrong.append(f"{name} is missing")
        elif name not in expected:
            wrong.append(f"{name} is unknown")
        elif not isinstance(given[name], torch.Tensor) or given[name].layout != torch.strided:
            wrong.append(f"{name} is no dense tensor")
        elif given[name].shape != expected[name].shape:
            wrong.append(f"{name} has shape {tuple(given[name].shape)}, not {tuple(expected[name].shape)}")
    return wrong


def load_model(folder: Path, device: torch.device) -> tuple[nn.Module, DataConfig]:
    """Return a trained network in eval mode, and the data configuration it was trained with."""
    meta = read_meta(folder)
    model = build_model(meta.model, meta.num_classes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval(), trained_on(meta)


def trained_on(meta: Meta) -> DataConfig:
    """The data configuration of a checkpoint."""
    data: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.data.items()}
    return DataConfig(**data)


def last_checkpoint(method_folder: Path) -> Path | None:
    """Return the newest checkpoint that Ray Train has committed below a folder, or None."""
    if not (method_folder / SNAPSHOT).exists():
        return None
    checkpoint = ray.train.Result.from_path(str(method_folder)).checkpoint
    return Path(checkpoint.path) if checkpoint else None
