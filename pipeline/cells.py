"""What is scored: cells, and the images they are made of.

A cell is one set of answers: the clean test images, one (corruption, severity), one perturbation, another test set.
An input is a source whose images are read and decoded once for all cells made of them. Everything that is missing,
incomplete or inconsistent is refused here, before anything starts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from augmix_core import corrupt
from augmix_core.baselines import ALEXNET_FLIP_PROBABILITIES
from augmix_core.metrics import mean_top5_distance
from pipeline.config import SHIFTS, DataConfig, EvaluateConfig
from pipeline.decode import resized_side
from pipeline.order import Split
from pipeline.published import open_corruption_set, open_shift_set, open_unlabelled
from pipeline.sequences import open_sequences
from pipeline.source import Source, digest_of

FRAMES_ABOUT = 32
"""A sequence counts as so many images when a piece is cut."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One set of answers."""

    kind: Literal["clean", "corruption", "perturbation", "shift", "out_of_distribution", "held_out"]
    name: str = ""
    """Of the corruption, perturbation or test set."""
    severity: int = 0

    @property
    def base_and_difficulty(self) -> tuple[str, int]:
        """The perturbation and its difficulty: gaussian_noise_3 is the noise at difficulty 3."""
        base, _, last = self.name.rpartition("_")
        return (base, int(last)) if last in ("2", "3") else (self.name, 1)

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        if self.kind == "corruption":
            return f"{self.name}_{self.severity}"
        if self.kind == "perturbation":
            return f"perturbation_{self.name}"
        return self.name or self.kind


@dataclass(frozen=True)
class Input:
    """Images that are read once for some cells."""

    source: int
    """Its place among the sources of the plan."""
    sample_ids: NDArray[np.int64]
    cells: tuple[Cell, ...]
    generated: bool = False
    """Corruptions and perturbations are made of the images; otherwise the images are what is scored."""
    resized: bool = True
    """Raw images get the recipe's resize and crop; those of a published benchmark are taken as they are."""
    margin: int = 0
    """Pixels by which images are read larger than they are shown, for perturbations that move them."""
    classes: NDArray[np.int64] | None = None
    """The classes that answers are restricted to."""

    @property
    def rows(self) -> int:
        """Images, or sequences."""
        return len(self.sample_ids)

    @property
    def is_sequences(self) -> bool:
        """Whether the source holds sequences of frames."""
        return not self.generated and self.cells[0].kind == "perturbation"


@dataclass(frozen=True)
class Plan:
    """All inputs of an evaluation, and what to say about them."""

    inputs: tuple[Input, ...]
    sources: tuple[Any, ...]
    """Source, or SequenceSource, by place."""
    about: dict[str, Any]
    """What the score card's protocol lines are made of."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, in order."""
        return tuple(cell for given in self.inputs for cell in given.cells)

    def digest(self, given: Input) -> str:
        """SHA-256 of the images of an input."""
        return digest_of(self.sources[given.source].digest.encode(), given.sample_ids.tobytes())


def rows_of_a_piece(cell: Cell, images: int) -> int:
    """How many rows of a cell are answered, kept and resumed together."""
    return max(1, images // FRAMES_ABOUT) if cell.kind == "perturbation" else images


def plan_evaluation(
    data: DataConfig,
    config: EvaluateConfig,
    clean: Source,
    held_out: tuple[Source, Split] | None = None,
) -> Plan:
    """Open all that is to be scored.

    Args:
        clean: the test images of the data set.
        held_out: training images that no network has seen, for the temperature.
    Raises:
        ValueError: Something is missing, incomplete or inconsistent; says what was expected and what was found.
    """
    check_textures(config, data.image_size)
    if config.top5_baseline:
        read_top5_baseline(config.top5_baseline)
    sources: list[Any] = [clean]
    of_clean = [Cell("clean")]
    inputs: list[Input] = []
    protocols: dict[str, str] = {}

    def add(source: Any, cells: Sequence[Cell], rows: NDArray[np.int64], **how: Any) -> None:
        sources.append(source)
        inputs.append(Input(len(sources) - 1, rows, tuple(cells), **how))

    def limited(source: Any) -> NDArray[np.int64]:
        return np.arange(data.tested(len(source)), dtype=np.int64)

    if held_out:
        source, split = held_out
        add(source, [Cell("held_out")], np.sort(split.sample_ids(np.arange(split.size))))
    wanted = [Cell("corruption", name, severity) for name in config.corruptions for severity in config.severities]
    if config.published:
        opened = open_corruption_set(
            Path(config.published), corruptions=config.corruptions, severities=config.severities, labels_of=clean
        )
        for cell in wanted:
            add(opened[cell.name, cell.severity], [cell], limited(opened[cell.name, cell.severity]), resized=False)
    else:
        of_clean += wanted
    names = perturbation_names(config)
    frames = [Cell("perturbation", name) for name in names]
    if config.published_perturbations and names:
        sequences = open_sequences(Path(config.published_perturbations), names, clean)
        for cell in frames:
            add(sequences[cell.name], [cell], limited(sequences[cell.name]), resized=False)
    elif frames and (margin := resized_side(data) - data.image_size):
        inputs.append(Input(0, limited(clean), tuple(frames), generated=True, margin=margin))
    else:
        of_clean += frames
    inputs.append(Input(0, limited(clean), tuple(of_clean), generated=True))
    for kind in SHIFTS:
        if folder := getattr(config, kind):
            shift = open_shift_set(kind, Path(folder), clean.class_names)
            protocols[kind] = shift.protocol
            add(shift.source, [Cell("shift", kind)], limited(shift.source), classes=shift.class_mask)
    if config.out_of_distribution:
        others = open_unlabelled(Path(config.out_of_distribution))
        add(others, [Cell("out_of_distribution")], limited(others))
    about = {
        "data": data.name,
        "image_size": data.image_size,
        "classes": len(clean.class_names),
        "test_images": len(clean),
        "published": bool(config.published),
        "published_perturbations": bool(config.published_perturbations),
        "jpeg85": config.jpeg85,
        "frost_textures": bool(config.frost_textures),
        "shifts": protocols,
    }
    return Plan(tuple(inputs), tuple(sources), about)


def check_textures(config: EvaluateConfig, image_size: int) -> None:
    """Refuse a folder of frost textures that cannot be used, by using it once."""
    if config.frost_textures and "frost" in config.corruptions and not config.published:
        image = np.zeros((1, image_size, image_size, 3), np.uint8)
        corrupt(image, "frost", severity=1, sample_ids=[0], textures=config.frost_textures)


def read_top5_baseline(path: str) -> dict[str, float]:
    """Read AlexNet's top-5 distance of each of the ten perturbations.

    Raises:
        ValueError: The file is no JSON object of them.
    """
    try:
        baseline = json.loads(Path(path).read_text())
        mean_top5_distance(dict.fromkeys(ALEXNET_FLIP_PROBABILITIES, 0.0), baseline)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"evaluate.top5_baseline {path!r} cannot be used: {error}") from error
    return baseline


def perturbation_names(config: EvaluateConfig) -> tuple[str, ...]:
    """The names that are asked for, `all` spelt out."""
    return tuple(ALEXNET_FLIP_PROBABILITIES) if config.perturbations == ("all",) else config.perturbations
