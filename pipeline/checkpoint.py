"""Checkpoints: everything a run needs to go on as if nothing had happened, and to notice that a file has changed.

    model.safetensors     weights and buffers
    ema.safetensors       their moving average, if the training keeps one; it is what is scored
    training_state.pt     optimizer state; read with weights_only=True
    meta.json             step, epoch, what the model is, stream version
    manifest.json         size and SHA-256 of the others, written last

Neither safetensors nor torch notices a flipped bit in a tensor, so files are compared with the manifest before anything
looks into them, and a folder with a file too many or too few is no checkpoint. The stream position follows from the
step, the learning rate too, and every random number is keyed by the seed and the step: there is no further state.

`store` copies the folder to `<method folder>/step_<step>/`; Ray Train keeps a list of these, and the last ones on it.
`best_step_<step>/` beside them is ours. A hash tells damage, not malice: whoever can write the files can write the
manifest. Nothing that a file could hold is executed all the same, and only dense tensors that fit are taken.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from augmix_core import STREAM_VERSION
from augmix_core.models import build_model
from pipeline.config import DataConfig
from pipeline.progress import say
from pipeline.storage import (
    StoredPath,
    flush_to_disk,
    for_ray,
    matching,
    reason,
    remove_folder,
    write_durably,
)

SNAPSHOT = "checkpoint_manager_snapshot.json"
MODEL, AVERAGE = "model.safetensors", "ema.safetensors"
TRAINING_STATE, META, MANIFEST = "training_state.pt", "meta.json", "manifest.json"
BEST = "best_"
SHOWN_MISFITS = 3


class DamagedCheckpointError(ValueError):
    """A checkpoint whose files are not those that were written."""


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
    validation_error: float | None = None
    """Of this checkpoint, if it was validated; the best one is chosen by it."""
    sums: list[float] | None = None
    """What all ranks have summed since the epoch began: cross-entropy, consistency, wrong answers, samples, norms."""
    scaler: dict[str, Any] | None = None
    """The state of fp16's factor of the loss."""
    stream_version: int = STREAM_VERSION


def name_of(step: int) -> str:
    """The folder name of the checkpoint after a step."""
    return f"step_{step:09d}"


def free_name(method_folder: StoredPath, step: int) -> str:
    """`name_of`, or the same with a number where a damaged checkpoint still has that name on Ray's list."""
    name = name_of(step)
    return next(n for n in (name, *(f"{name}_{i}" for i in range(2, 1000))) if not (method_folder / n).exists())


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    meta: Meta,
    average: AveragedModel | None = None,
) -> None:
    """Write a checkpoint into an empty folder, the manifest last.

    Raises:
        OSError: The folder cannot be written, named.
    """
    state = io.BytesIO()
    torch.save(optimizer.state_dict(), state)
    contents = {
        MODEL: weights_of(model),
        TRAINING_STATE: state.getvalue(),
        META: as_json(meta),
    }
    if average is not None:
        contents[AVERAGE] = weights_of(average.module)
    try:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_text(manifest_of(contents))
    except OSError as error:
        raise cannot_write(folder, error) from error


def as_json(meta: Meta) -> bytes:
    """The content of meta.json."""
    return json.dumps(dataclasses.asdict(meta), indent=1).encode()


def weights_of(model: nn.Module) -> bytes:
    """The content of a file of safetensors."""
    return safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})


def manifest_of(contents: Mapping[str, bytes]) -> str:
    """The JSON text of a manifest."""
    sizes_and_digests = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    return json.dumps(sizes_and_digests, indent=1)


def cannot_write(folder: StoredPath, error: OSError) -> OSError:
    """The one line of a full, read-only or vanished storage."""
    return OSError(
        f"checkpoint {str(folder)!r} cannot be written: {reason(error)}; the one before is unchanged: "
        "make room or mount the folder again, and give the same command"
    )


def store(saved: Path, target: StoredPath) -> ray.train.Checkpoint:
    """Copy a checkpoint into a new folder, its manifest last, and return it once all is on the disk.

    Raises:
        OSError: The folder cannot be written, named.
    """
    try:
        write({path.name: path.read_bytes() for path in sorted(saved.iterdir(), key=is_manifest)}, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    return ray.train.Checkpoint(*for_ray(target))


def is_manifest(path: Path) -> bool:
    """A key to sort by: the manifest comes last."""
    return path.name == MANIFEST


def write(files: Mapping[str, bytes], target: StoredPath) -> None:
    """Write a checkpoint's files, of which the manifest is the last, into a new folder, and wait for the disk."""
    target.mkdir()  # no parents: a storage that is not mounted any more must not come back as an empty folder
    for name, content in files.items():
        write_durably(target / name, content)
    flush_to_disk(target)


def keep_best(saved: StoredPath, method_folder: StoredPath, validation_error: float | None = None) -> None:
    """Copy a checkpoint to `best_step_<step>/` if its validation error is below that of the best one so far.

    The old best goes after the copy is complete, so one of them is always there.

    Args:
        validation_error: of a checkpoint that was written before it was validated.

    Raises:
        OSError: The folder cannot be written, named.
    """
    meta = read_meta(saved)
    if validation_error is not None:
        meta = dataclasses.replace(meta, validation_error=validation_error)
    if meta.validation_error is None:
        return
    best = best_checkpoint(method_folder)
    if best is not None:
        known = read_meta(best).validation_error
        if known is not None and known <= meta.validation_error:
            return
    contents = read_checked(saved) | {META: as_json(meta)}
    target = method_folder / f"{BEST}{name_of(meta.step)}"
    try:
        remove_folder(target)  # damaged, or what a kill has left of it
        write(contents | {MANIFEST: manifest_of(contents).encode()}, target)
        flush_to_disk(method_folder)
        for old in matching(method_folder, f"{BEST}*"):
            if old != target:
                remove_folder(old)
    except OSError as error:
        raise cannot_write(target, error) from error


def best_checkpoint(method_folder: StoredPath) -> StoredPath | None:
    """Return the undamaged checkpoint with the lowest validation error of a training, or None.

    In the final training the validation images are the test images, so nothing is scored with it by itself.
    """
    for folder in reversed(matching(method_folder, f"{BEST}*")):
        try:
            check(folder)
        except DamagedCheckpointError as error:
            say_once(f"{error}; the best checkpoint is chosen anew")
        else:
            return folder
    return None


def read_manifest(folder: StoredPath) -> dict[str, dict[str, Any]]:
    """Return {file: {"size": bytes, "sha256": hex}} of a checkpoint that has exactly these files.

    Raises:
        DamagedCheckpointError: It has not, or no readable manifest.
    """
    try:
        present = {path.name for path in folder.iterdir()}
        listed = json.loads((folder / MANIFEST).read_bytes())
        sound = {name: {"size": int(entry["size"]), "sha256": str(entry["sha256"])} for name, entry in listed.items()}
    except FileNotFoundError as error:
        raise damaged(folder, f"it has no {MANIFEST}, which is written last, so it is incomplete") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(folder, f"{MANIFEST}: {error}") from error
    if odd := sorted(present ^ {*sound, MANIFEST}):
        raise damaged(folder, f"{odd[0]} is {'missing' if odd[0] in sound else 'not in its manifest'}")
    return sound


def read_checked(folder: StoredPath, *names: str) -> dict[str, bytes]:
    """Return the content of files, all of them when none is named, that are as they were written.

    What is checked is what is returned.

    Raises:
        DamagedCheckpointError: One is not.
    """
    listed = read_manifest(folder)
    return {name: read_as_written(folder, name, listed) for name in names or listed}


def check(folder: StoredPath) -> None:
    """Compare every file with the manifest, looking into none.

    Raises:
        DamagedCheckpointError: One differs, is missing, or there is one more.
    """
    listed = read_manifest(folder)
    for name in listed:
        read_as_written(folder, name, listed)


def read_as_written(folder: StoredPath, name: str, listed: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The content of a file that has the size and digest that the manifest lists."""
    written = listed.get(name)
    if written is None:
        raise damaged(folder, f"{name} is missing")
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise damaged(folder, f"{name}: {reason(error)}") from error
    if len(content) != written["size"]:
        raise damaged(folder, f"{name} has {len(content)} bytes, {written['size']} were written")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != written["sha256"]:
        raise damaged(folder, f"{name} has SHA-256 {sha256[:12]}..., {written['sha256'][:12]}... was written")
    return content


def damaged(folder: StoredPath, why: str) -> DamagedCheckpointError:
    """The error, in one line."""
    return DamagedCheckpointError(f"checkpoint {str(folder)!r} is damaged: {why}")


def read_meta(folder: StoredPath) -> Meta:
    """Return what a checkpoint says of itself.

    Raises:
        DamagedCheckpointError: It is incomplete or damaged.
        ValueError: It is of another stream.
    """
    return meta_of(folder, read_checked(folder, META))


def meta_of(folder: StoredPath, contents: Mapping[str, bytes]) -> Meta:
    """Meta from the checked files of a checkpoint."""
    if META not in contents:
        raise damaged(folder, f"it has no {META}")
    try:
        meta = Meta(**json.loads(contents[META]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"checkpoint {str(folder)!r} cannot be read: {META}: {error}") from error
    if meta.stream_version != STREAM_VERSION:
        raise ValueError(
            f"checkpoint {str(folder)!r} belongs to stream version {meta.stream_version}, this program draws version "
            f"{STREAM_VERSION}; go on with the release that wrote it, or start anew under another --name"
        )
    return meta


def load_training(
    folder: StoredPath, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None = None
) -> Meta:
    """Restore model, optimizer and moving average in place; all stay as they are where something does not fit.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
        ValueError: The files are whole, but not those of this model and optimizer.
    """
    contents = read_checked(folder)
    meta = meta_of(folder, contents)
    state = model_state(folder, contents, model)
    averaged = model_state(folder, contents, average.module, AVERAGE) if average is not None else {}
    try:
        stored = io.BytesIO(contents[TRAINING_STATE])
        training_state: Any = torch.load(stored, map_location="cpu", weights_only=True)
        wrong = misfits_of_optimizer(optimizer, training_state)
    except Exception as error:  # a pickle of anything but tensors, or of another structure
        raise ValueError(f"checkpoint {str(folder)!r} cannot be read: {TRAINING_STATE}: {one_line(error)}") from error
    refuse_misfits(folder, TRAINING_STATE, wrong)
    model.load_state_dict(state)
    optimizer.load_state_dict(training_state)
    if average is not None:
        average.module.load_state_dict(averaged)
        average.n_averaged.fill_(1)  # or the first update would begin anew
    return meta


def load_model(folder: StoredPath, device: torch.device) -> tuple[nn.Module, DataConfig]:
    """Return a trained network in eval mode, and the data configuration it was trained with.

    Where the training kept a moving average of the weights, the network has that.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
        ValueError: The files are whole, but the weights are not those of the model they name.
    """
    contents = read_checked(folder)
    meta = meta_of(folder, contents)
    model = build_model(meta.model, meta.num_classes)
    name = AVERAGE if AVERAGE in contents else MODEL
    model.load_state_dict(model_state(folder, contents, model, name))
    return model.to(device).eval(), trained_on(meta)


def model_state(
    folder: StoredPath, contents: Mapping[str, bytes], model: nn.Module, name: str = MODEL
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, which fit the model name by name."""
    if name not in contents:
        raise ValueError(f"checkpoint {str(folder)!r} has no {name}")
    try:
        state = safetensors.torch.load(contents[name])
    except Exception as error:  # safetensors has an error type of its own
        raise ValueError(f"checkpoint {str(folder)!r} cannot be read: {name}: {one_line(error)}") from error
    refuse_misfits(folder, name, misfits(model.state_dict(), state, exact=True))
    return state


def misfits(expected: Mapping[str, torch.Tensor], given: Mapping[str, Any], *, exact: bool = False) -> list[str]:
    """Say of each name why a state dict does not fit: missing, unknown, no dense tensor, or of another shape.

    Args:
        exact: also of another dtype, or not finite; otherwise batch norm's counters, which old files lack, may miss.
    """
    wrong = []
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            if exact or not name.endswith("num_batches_tracked"):
                wrong.append(f"{name} is missing")
        elif name not in expected:
            wrong.append(f"{name} is unknown")
        elif reason := misfit(expected[name], given[name], exact=exact):
            wrong.append(f"{name} {reason}")
    return wrong


def misfit(expected: torch.Tensor, given: object, *, exact: bool) -> str:
    """Why a tensor cannot take the place of another, or ''."""
    if not isinstance(given, torch.Tensor) or given.layout != torch.strided:
        return "is no dense tensor"
    if given.shape != expected.shape:
        return f"has shape {tuple(given.shape)}, not {tuple(expected.shape)}"
    if exact and given.dtype != expected.dtype:
        return f"is {given.dtype}, not {expected.dtype}"
    if exact and not given.isfinite().all():
        return "holds values that are not finite"
    return ""


def misfits_of_optimizer(optimizer: torch.optim.Optimizer, given: Any) -> list[str]:
    """Say what of an optimizer's state does not fit: its groups, and every tensor it keeps of a parameter."""
    own = optimizer.state_dict()
    if given.keys() != own.keys() or [sorted(g) for g in given["param_groups"]] != [
        sorted(g) for g in own["param_groups"]
    ]:
        return ["its groups of parameters are of another optimizer"]
    if [g["params"] for g in given["param_groups"]] != [g["params"] for g in own["param_groups"]]:
        return ["its groups hold other parameters"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrong = []
    for index, kept in given["state"].items():
        if index not in range(len(parameters)):
            wrong.append(f"parameter {index} is unknown")
            continue
        for name, value in kept.items():
            one_number = isinstance(value, torch.Tensor) and value.ndim == 0
            expected = value if one_number else parameters[index]
            if reason := misfit(expected, value, exact=True):
                wrong.append(f"{name} of parameter {index} {reason}")
    return wrong


def refuse_misfits(folder: StoredPath, name: str, wrong: list[str]) -> None:
    """Raise the one-line error of a file that fits another model."""
    if wrong:
        raise ValueError(f"checkpoint {str(folder)!r} does not fit: {name}: {first_of(wrong)}")


def first_of(wrong: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f", and {len(wrong) - SHOWN_MISFITS} more" if len(wrong) > SHOWN_MISFITS else ""
    return ", ".join(wrong[:SHOWN_MISFITS]) + more


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def trained_on(meta: Meta) -> DataConfig:
    """The data configuration of a checkpoint."""
    data: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.data.items()}
    return DataConfig(**data)


def last_checkpoint(method_folder: StoredPath) -> StoredPath | None:
    """Return the newest undamaged checkpoint that Ray Train has committed below a folder, or None if it has none.

    A damaged one is passed over for the one before, which is said.

    Raises:
        ValueError: All of them are damaged.
    """
    committed = committed_checkpoints(method_folder)
    for folder in reversed(committed):
        try:
            check(folder)
        except DamagedCheckpointError as error:
            say_once(f"{error}; taking the one before")
        else:
            return folder
    if committed:
        raise ValueError(
            f"all {len(committed)} checkpoints in {str(method_folder)!r} are damaged; restore {committed[-1].name} "
            "from a copy, or remove the folder to train anew"
        )
    return None


def committed_checkpoints(method_folder: StoredPath) -> list[StoredPath]:
    """The checkpoints on Ray Train's list, oldest first."""
    if not (method_folder / SNAPSHOT).exists():
        return []
    kept = ray.train.Result.from_path(*for_ray(method_folder)).best_checkpoints or []
    return [method_folder / Path(checkpoint.path).name for checkpoint, _ in kept]


def remove_uncommitted(method_folder: StoredPath) -> None:
    """Remove what a killed copy has left: folders of checkpoints that never came onto Ray's list."""
    committed = {path.name for path in committed_checkpoints(method_folder)}
    for path in matching(method_folder, "step_*"):
        if path.name not in committed:
            remove_folder(path)


SAID: set[str] = set()


def say_once(text: str) -> None:
    """Say a line the first time that this process comes to it."""
    if text not in SAID:
        SAID.add(text)
        say(text)
