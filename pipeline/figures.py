"""The figures of a report: training curves, error by severity, reliability, and sheets of images."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from augmix_core import augmix
from pipeline.cells import Cell
from pipeline.config import RunConfig
from pipeline.corrupt import images_of
from pipeline.decode import evaluation_images
from pipeline.source import Source

SHEET_SAMPLES = 8
SHEET_SEARCHED = 200
SHEET_SEVERITY = 3
LABELS = {"standard": "Standard", "augmix": "AugMix + JSD"}
COLOURS = {"standard": "#7a7a7a", "augmix": "#1f6fb4"}
OTHER_COLOUR = "#1f6fb4"


def label_of(method: str) -> str:
    """A method's name for people; a scored network has its own."""
    return LABELS.get(method, method)


def colour_of(method: str) -> str:
    """A method's colour in all figures."""
    return COLOURS.get(method, OTHER_COLOUR)


def new_figure(columns: int, rows: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure that needs no screen."""
    matplotlib.use("Agg")
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False)


def curves(metrics: dict[str, Any]) -> Figure:
    """Loss, training error and test error over epochs."""
    figure, axes = new_figure(3, 1, 12, 3.4)
    panels = (
        ("train/loss", "training loss"),
        ("train/error", "training error, %"),
        ("validation/error", "clean test error, %"),
    )
    for axis, (key, title) in zip(axes[0], panels, strict=True):
        for method, result in metrics["methods"].items():
            scale = 1 if key == "train/loss" else 100
            axis.plot(
                [row["epoch"] for row in result["curve"] if key in row],
                [scale * row[key] for row in result["curve"] if key in row],
                color=colour_of(method),
                label=label_of(method),
                marker="." if len(result["curve"]) < 40 else None,
            )
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    return figure


def corruption_figure(metrics: dict[str, Any]) -> Figure:
    """Error of each corruption by severity; severity 0 is the clean error."""
    names = list(next(iter(metrics["methods"].values()))["errors"])
    columns = min(5, len(names))
    lines = -(-len(names) // columns)
    figure, axes = new_figure(columns, lines, 2.6 * columns, 2.5 * lines)
    for axis, name in zip(axes.flat, names, strict=False):
        for method, result in metrics["methods"].items():
            errors = [100 * e for e in result["errors"][name]]
            shown = result["severities"][name]
            if "clean_error" in result:
                errors, shown = [100 * result["clean_error"], *errors], [0, *shown]
            axis.plot(shown, errors, color=colour_of(method), label=label_of(method), marker="o", markersize=3)
        axis.set_title(name)
        axis.set_xlabel("severity")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    axes[0][0].set_ylabel("error, %")
    axes[0][0].legend()
    figure.tight_layout()
    return figure


def reliability_figure(metrics: dict[str, Any]) -> Figure:
    """Accuracy against confidence, on clean images and over all corrupted ones."""
    panels = [
        key
        for key in ("clean", "corrupted")
        if any(result.get("reliability", {}).get(key) for result in metrics["methods"].values())
    ]
    figure, axes = new_figure(max(1, len(panels)), 1, 4.2 * max(1, len(panels)), 3.8)
    for axis, key in zip(axes[0], panels, strict=False):
        axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        for method, result in metrics["methods"].items():
            bins = result["reliability"][key]
            axis.plot(bins["confidence"], bins["accuracy"], color=colour_of(method), label=label_of(method), marker="o")
        axis.set_title(key)
        axis.set_xlabel("confidence")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy")
    axes[0][0].legend()
    figure.tight_layout()
    return figure


def view_sheet(source: Source, config: RunConfig) -> Figure:
    """Views of some training images, view 0 (clean) first."""
    images, ids, names = some_images(source, config)
    views = augmix(images, ids, seed=config.seed, config=config.augmix)
    return sheet(views, names, ["clean", *(f"view {n}" for n in range(1, views.shape[1]))])


def corruption_sheet(source: Source, config: RunConfig) -> Figure:
    """Some test images under every corruption."""
    images, ids, names = some_images(source, config)
    corruptions = config.evaluate.corruptions
    cells = [Cell("corruption", name, SHEET_SEVERITY) for name in corruptions]
    shown = [images, *(images_of(cell, images, ids, config) for cell in cells)]
    return sheet(np.stack(shown, axis=1), names, ["clean", *corruptions])


def some_images(source: Source, config: RunConfig) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """A few readable images, spread over the first ones: (images, ids, class names)."""
    ids = np.linspace(0, len(source) - 1, min(SHEET_SEARCHED, len(source))).astype(np.int64)[:: SHEET_SEARCHED // 20]
    images, labels, valid = evaluation_images(source, ids, config.data)
    chosen = np.flatnonzero(valid)[:SHEET_SAMPLES]
    return images[chosen], ids[chosen], [source.class_names[int(label)] for label in labels[chosen]]


def sheet(rows_of_images: NDArray[np.uint8], titles: list[str], row_names: list[str]) -> Figure:
    """A grid of (columns, rows, H, W, 3)."""
    columns, rows = rows_of_images.shape[:2]
    figure, axes = new_figure(max(1, columns), rows, 1.3 * max(1, columns), 1.4 * rows)
    for column in range(columns):
        for row in range(rows):
            axis = axes[row][column]
            axis.imshow(rows_of_images[column, row])
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(titles[column], fontsize=9)
            if column == 0:
                axis.set_ylabel(row_names[row], fontsize=8, rotation=0, ha="right", va="center")
    return figure
