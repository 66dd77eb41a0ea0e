"""Networks to be scored, wherever they come from: our checkpoints, torchvision, timm, or any nn.Module of yours.

Every one becomes a `Network`: a module in eval mode that maps (N, 3, H, W) normalised float32 to (N, C) logits, what
it is normalised by, and a digest of its weights.
"""

import hashlib
import importlib
import importlib.util
import logging
import pickle
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.cloudpickle
import torch
from safetensors.torch import load_file
from torch import nn

from augmix_core.errors import did_you_mean
from augmix_core.models import OURS, build_model
from augmix_core.models.batch_norm import split_batch_norm
from pipeline import checkpoint
from pipeline.config import DataConfig, ModelConfig, RunConfig, is_weights_file
from pipeline.storage import StoredPath, in_one_line, matching

Triple = tuple[float, float, float]
SECONDS_OF_SILENCE = 30
ERROR_LENGTH = 300


@dataclass(frozen=True)
class Network:
    """A network that answers to images.

    Args:
        model: in eval mode, on the CPU.
        mean, std: by channel, in [0, 1], that its input is normalised with.
        origin: where it comes from, for people.
    """

    model: nn.Module
    mean: Triple
    std: Triple
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, buffers, layers and normalisation."""
        layers = re.sub(r" at 0x[0-9a-f]+", "", repr(self.model))  # strides, say, are not among the weights
        digest = hashlib.sha256(repr((self.mean, self.std, layers)).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check_classes(self, classes: int, image_size: int) -> None:
        """Refuse a network that answers with another number of classes than the data set has."""
        try:
            with torch.no_grad():
                answer = self.model(torch.zeros(2, 3, image_size, image_size))
        except Exception as error:  # it may be anybody's code
            raise ValueError(
                f"{self.origin} does not take 3 x {image_size} x {image_size} images: {in_a_line(error)}"
            ) from error
        if not isinstance(answer, torch.Tensor) or answer.shape != (2, classes):
            got = f"shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
            raise ValueError(
                f"{self.origin} answers two images with {got}; the data set has {classes} classes, "
                f"so (2, {classes}) logits are needed"
            )


def from_checkpoint(folder: StoredPath) -> tuple[Network, checkpoint.Meta]:
    """A checkpoint of ours.

    Raises:
        ValueError: It is incomplete, damaged or of another release.
    """
    meta = checkpoint.read_meta(folder)
    model, data = checkpoint.load_model(folder, torch.device("cpu"))
    return Network(model, data.mean, data.std, f"checkpoint {folder}"), meta


def find_checkpoint(path: StoredPath) -> StoredPath | None:
    """The checkpoint that a folder is, or the newest one in it; None if it is neither.

    Raises:
        ValueError: The folder is a run of several methods, so that one of them must be named, or is damaged.
    """
    if (path / "meta.json").is_file():
        return path
    if last := newest_in(path):
        return last
    methods = [found.parent for found in matching(path, f"train/*/{checkpoint.SNAPSHOT}")]
    if len(methods) > 1:
        raise ValueError(
            f"model {str(path)!r} is a run with several networks; name one: {', '.join(map(str, methods))}"
        )
    return newest_in(methods[0]) if methods else None


def newest_in(method_folder: StoredPath) -> StoredPath | None:
    """`last_checkpoint` without Ray's lines about it, and with its refusal of other versions in ours."""
    logging.disable(logging.INFO)
    try:
        return checkpoint.last_checkpoint(method_folder.resolve())
    except ValueError:
        raise
    except Exception as error:  # Ray's own error is none of its public ones
        raise ValueError(
            f"model {str(method_folder)!r}: Ray cannot read its list of checkpoints: {in_a_line(error)}; "
            f"name one of them: {method_folder}/step_..."
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def open_network(model: str, weights: str, data: DataConfig, classes: int) -> Network:
    """Return the network that a user names; `find_checkpoint` comes before.

    Args:
        model: a name of ours or of torchvision, `timm:<name>`, or `<module>:<function that returns an nn.Module>`.
        weights: DEFAULT or another name of torchvision's weights, or a file with a state dict (.safetensors or .pt).
        data: normalisation of networks that bring none.
    Raises:
        ValueError: There is no such network, or its weights cannot be had or do not fit.
    """
    if model.startswith("timm:"):
        return from_timm(model.removeprefix("timm:"), weights, classes)
    if ":" in model:
        return from_import_path(model, weights, data)
    if model in OURS and not is_weights_file(weights):
        raise ValueError(f"weights is {weights!r}; give the file with the weights of {model}")
    if model in OURS or is_torchvision(model):
        if not is_weights_file(weights):
            return from_torchvision(model, weights)
        network = build_model(model, classes)
        return Network(loaded(network, weights), data.mean, data.std, f"{model}, weights {weights}")
    if importlib.util.find_spec("timm") and is_timm(model):
        return from_timm(model, weights, classes)
    raise ValueError(f"model {model!r} is unknown; {nearest(model, known_names())}")


def known_names() -> list[str]:
    """Ours and torchvision's."""
    from torchvision import models

    return [*OURS, *models.list_models(module=models)]


def nearest(model: str, known: Iterable[str]) -> str:
    """What the user may have meant; not a list of a thousand names."""
    hint = did_you_mean(model, known)
    if not hint.startswith("did you mean"):
        hint = "give a checkpoint folder, a torchvision name such as resnet50, or module:function"
    return hint if importlib.util.find_spec("timm") else f"{hint} (names of timm need: pip install timm)"


def is_torchvision(model: str) -> bool:
    """Whether torchvision has a classification model of that name."""
    from torchvision import models

    return model in models.list_models(module=models)


def is_timm(model: str) -> bool:
    """Whether timm has a model of that name, with or without a tag of weights."""
    import timm

    return timm.is_model(model.split(".")[0])


def from_torchvision(model: str, weights: str, *, flag: str = "weights") -> Network:
    """A model with the weights that torchvision publishes, downloaded once into torch's cache."""
    from torchvision import models

    known = models.get_model_weights(model)
    if weights != "DEFAULT" and weights not in known.__members__:
        raise ValueError(f"{flag} {weights!r} of {model} is unknown; {did_you_mean(weights, known.__members__)}")
    chosen = known[weights]
    try:
        with given_up_when_silent():
            network = models.get_model(model, weights=chosen, progress=sys.stderr.isatty()).eval()
    except Exception as error:  # no network, a proxy's page, a damaged file in the cache
        raise ValueError(
            f"the weights of {model} cannot be had from {chosen.url}: {in_a_line(error)}; fetch the file elsewhere "
            f"and give its path as --{flag}, or remove a damaged copy below {torch.hub.get_dir()}"
        ) from error
    transforms = chosen.transforms()
    return Network(
        network, tuple(transforms.mean), tuple(transforms.std), f"torchvision's {model}, weights {chosen.name}"
    )


def starting_network(config: ModelConfig, data: DataConfig, classes: int) -> tuple[nn.Module, str]:
    """Return the network that a training starts from, and what is to be said of its weights, if anything.

    What is not filled from `model.weights` is drawn from torch's global RNG.

    Raises:
        ValueError: The weights cannot be had, or do not fit the network, its head apart.
    """
    network = build_model(config.name, classes)
    if not config.weights:
        return network, ""
    said = f"model: {config.name} starts from {config.weights}"
    if is_weights_file(config.weights):
        state = read_state(config.weights, flag="model.weights")
    elif config.name in OURS:
        raise ValueError(f"model.weights is {config.weights!r}; give the file with the weights of {config.name}")
    else:
        published = from_torchvision(config.name, config.weights, flag="model.weights")
        state = published.model.state_dict()
        if (published.mean, published.std) != (data.mean, data.std):
            said += f", trained with data.mean {published.mean} and data.std {published.std}, not this run's"
    fresh = network.state_dict()
    head = [name for name, own in fresh.items() if has_other_classes(state.get(name), own, classes)]
    counts = {len(state[name]) for name in head}
    if len(counts) == 1:
        said += f"; its head of {counts.pop()} classes is replaced by a new one of {classes}"
        state |= {name: fresh[name] for name in head}
    fill(network, state, f"model.weights {config.weights!r}")
    return network, said


def with_batch_norm(network: nn.Module, config: RunConfig) -> nn.Module:
    """The network with batch norm's statistics taken over the images that train.batch_norm says."""
    if config.train.batch_norm == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if config.train.batch_norm == "split" and config.views_of_a_sample > 1:
        return split_batch_norm(network, config.views_of_a_sample)
    return network


def from_timm(model: str, weights: str, classes: int) -> Network:
    """A model of timm with its published weights, or with a file of weights."""
    if not importlib.util.find_spec("timm"):
        raise ValueError(f"model timm:{model} needs timm: pip install timm")
    import timm

    if not is_timm(model):
        raise ValueError(f"model timm:{model} is unknown; {nearest(model, timm.list_models(pretrained=True))}")
    own_file = is_weights_file(weights)
    if not own_file and weights != "DEFAULT":
        raise ValueError(f"weights is {weights!r}; timm's are part of the name, such as timm:resnet50.a1_in1k")
    try:
        with given_up_when_silent():
            network = timm.create_model(
                model, pretrained=not own_file, **({"num_classes": classes} if own_file else {})
            )
    except Exception as error:
        raise ValueError(
            f"timm cannot make {model} with its weights: {in_a_line(error)}; a file of them can be given as --weights"
        ) from error
    if own_file:
        loaded(network, weights)
    settings = timm.data.resolve_model_data_config(network)
    return Network(network.eval(), tuple(settings["mean"]), tuple(settings["std"]), f"timm's {model}")


def from_import_path(path: str, weights: str, data: DataConfig) -> Network:
    """A module made by the user's function, `package.module:function`, found from the current folder too."""
    module_name, _, attribute = path.partition(":")
    here, known = Path.cwd(), set(sys.modules)
    if str(here) not in sys.path:
        sys.path.append(str(here))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's file does when it is imported
        why = f"{type(error).__name__}: {in_a_line(error)}"
        raise ValueError(f"model {path!r}: {module_name!r} cannot be imported from {here}: {why}") from error
    make: Callable[[], Any] | None = getattr(module, attribute, None)
    if not callable(make):
        raise ValueError(f"model {path!r}: {module_name} has no function {attribute!r}")
    try:
        network = make()
    except Exception as error:
        why = f"{type(error).__name__}: {in_a_line(error)}"
        raise ValueError(f"model {path!r}: {attribute}() failed: {why}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"model {path!r}: {attribute}() returned {type(network).__name__}, not an nn.Module")
    if is_weights_file(weights):
        loaded(network, weights)
    elif weights != "DEFAULT":
        raise ValueError(f"weights is {weights!r}; {attribute}() loads its own, or give a file")
    for name in set(sys.modules) - known:
        carry_along(name, here)
    return Network(network.eval(), data.mean, data.std, path)


def carry_along(module_name: str, folder: Path) -> None:
    """Pickle a module of the user's by value: workers on other machines do not have the file."""
    module = sys.modules[module_name]
    file = getattr(module, "__file__", None)
    if file and Path(file).is_relative_to(folder) and "site-packages" not in Path(file).parts:
        ray.cloudpickle.register_pickle_by_value(module)


def loaded(network: nn.Module, weights: str) -> nn.Module:
    """Fill a network from a file and return it in eval mode; a pickle is read as tensors only.

    Raises:
        ValueError: The file is missing, damaged, holds something else or does not fit the network.
    """
    fill(network, read_state(weights), f"weights {weights!r}")
    return network.eval()


def read_state(weights: str, *, flag: str = "weights") -> dict[str, torch.Tensor]:
    """Return the state dict of a file; one that training scripts wrapped is unwrapped.

    Raises:
        ValueError: The file is missing, damaged, or holds something else.
    """
    try:
        if weights.endswith(".safetensors"):
            state: Any = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)  # where training scripts put it, beside the epoch
        state = {name.removeprefix("module."): value for name, value in state.items()}  # DataParallel's prefix
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{flag} {weights!r} cannot be used: not a file of tensors alone, which are all that is read; "
            "write it with torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # every format has its own errors for a damaged file
        raise ValueError(f"{flag} {weights!r} cannot be used: {in_a_line(error)}") from error
    return state


def fill(network: nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """Load a state dict that fits the network name by name and shape by shape.

    Raises:
        ValueError: It does not; the first names are given.
    """
    wrong = checkpoint.misfits(network.state_dict(), state)
    if wrong:
        raise ValueError(
            f"{origin} does not fit {type(network).__name__}: {checkpoint.first_of(wrong)}; "
            "give the weights of this network"
        )
    network.load_state_dict(state)


def has_other_classes(given: object, own: torch.Tensor, classes: int) -> bool:
    """Whether a tensor is that of a head: it differs from ours in its first axis alone, which counts our classes."""
    return (
        isinstance(given, torch.Tensor)
        and given.ndim == own.ndim > 0
        and given.shape[1:] == own.shape[1:]
        and len(given) != len(own) == classes
    )


@contextmanager
def given_up_when_silent() -> Iterator[None]:
    """Turn a network that neither answers nor refuses into an error; torch's download would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_OF_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def in_a_line(error: BaseException) -> str:
    """What an error says, without the pages that some add."""
    said = in_one_line(error) or type(error).__name__
    return said if len(said) <= ERROR_LENGTH else f"{said[:ERROR_LENGTH]} ..."
