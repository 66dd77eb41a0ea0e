"""The report: a pure function of a run's folder, made after the fact and as often as one likes.

Writes `metrics.json` (everything, with provenance), `report.md` (the tables), `report.html` (one file with figures
inside) and `figures/*.png`.
"""

import base64
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from augmix_core import STREAM_VERSION, augmix
from augmix_core.corruptions.severity import table_for
from pipeline.config import RunConfig
from pipeline.decode import evaluation_images
from pipeline.evaluate import PREDICTIONS, scores
from pipeline.journal import write_atomically
from pipeline.source import Source

SHEET_SAMPLES = 8
SHEET_SEARCHED = 200
PACKAGES = ("augmix-ray", "ray", "torch", "torchvision", "numpy", "pillow", "pyarrow", "scipy", "simplejpeg")
LABELS = {"standard": "Standard", "augmix": "AugMix + JSD"}
COLOURS = {"standard": "#7a7a7a", "augmix": "#1f6fb4"}


def write_report(folder: Path, config: RunConfig, source: Source, test_samples: int) -> str:
    """Write all files of the report into the run's folder and return the markdown table.

    Args:
        source: the training images, for the contact sheet.
        test_samples: how many test images the data set has in all.
    Raises:
        ValueError: The run has not been evaluated yet.
    """
    if not (folder / "ledger" / PREDICTIONS).exists():
        raise ValueError(f"run {str(folder)!r} has no predictions yet; run its evaluate stage first")
    metrics = collect(folder, config, test_samples)
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1))
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for name, figure in (
        ("curves", curves(metrics)),
        ("corruption_error", corruption_figure(metrics)),
        ("views", contact_sheet(source, config)),
    ):
        figure.savefig(figures / f"{name}.png", dpi=110, bbox_inches="tight")
        plt.close(figure)
    table = markdown_table(metrics)
    write_atomically(folder / "report.md", markdown(folder, metrics, table))
    write_atomically(folder / "report.html", html(folder, metrics, figures))
    return table


def collect(folder: Path, config: RunConfig, test_samples: int) -> dict[str, Any]:
    """Everything the report says, as plain values."""
    predictions = pq.read_table(folder / "ledger" / PREDICTIONS)
    methods = [name.removeprefix("predicted_") for name in predictions.column_names if name.startswith("predicted_")]
    clean_rows = predictions.filter(np.equal(predictions["severity"].to_numpy(), 0))
    valid = int(clean_rows["valid"].to_numpy().sum())
    size = config.data.image_size
    protocol = (
        f"uCE: unnormalised, {len(config.evaluate.corruptions)} of 15 corruptions x "
        f"{len(config.evaluate.severities)} severities, "
        f"{valid:,} images, {size} px, generated with the {table_for(size, size)} px constants: not the published files"
    )
    if valid < test_samples:
        protocol += f"; NOT COMPARABLE: {valid:,} of {test_samples:,} images"
    best = folder / "search" / "best.json"
    return {
        "run": folder.name,
        "protocol": protocol,
        "methods": {
            method: scores(predictions, method) | {"curve": read_lines(folder / "train" / method / "metrics.jsonl")}
            for method in methods
        },
        "search": json.loads(best.read_text()) if best.exists() else None,
        "skipped": {
            "train": [
                line | {"method": m} for m in methods for line in read_lines(folder / "train" / m / "skipped.jsonl")
            ],
            "test": int(len(clean_rows) - valid),
        },
        "config": json.loads((folder / "config.json").read_text()),
        "provenance": {
            "stream_version": STREAM_VERSION,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version for name in PACKAGES if (version := installed(name))},
        },
    }


def installed(package: str) -> str | None:
    """A package's version, if it is there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table_of(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the score table, all in percent; the lowest value of a row is marked bold in markdown."""
    methods = metrics["methods"]
    header = ["error, %", *(LABELS[m] for m in methods)]
    values: list[tuple[str, list[float]]] = [("clean", [100 * methods[m]["clean_error"] for m in methods])]
    for name in next(iter(methods.values()))["errors"]:
        values.append((name, [100 * float(np.mean(methods[m]["errors"][name])) for m in methods]))
    values.append(("**uCE**", [methods[m]["uCE"] for m in methods]))
    return header, [[name, *(f"{v:.1f}" for v in row)] for name, row in values]


def markdown_table(metrics: dict[str, Any]) -> str:
    """The score table with its protocol line."""
    header, rows = table_of(metrics)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows), "", metrics["protocol"]])


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a reader should know besides the numbers."""
    found: list[str] = []
    if metrics["search"]:
        best = metrics["search"]["best"]
        found.append(
            f"The search tried {len(metrics['search']['trials'])} settings on held-out images of training: {best}."
        )
    for line in metrics["skipped"]["train"]:
        found.append(f"Skipped in training ({line['method']}): {line['file']}: {line['reason']}.")
    if metrics["skipped"]["test"]:
        found.append(f"{metrics['skipped']['test']} test images could not be read and are left out of every score.")
    if metrics["config"]["augmix"]["ops"] == "all":
        found.append(
            "Trained with ops that overlap the test corruptions (augmix.ops all): not eligible for the benchmarks."
        )
    return found


def markdown(folder: Path, metrics: dict[str, Any], table: str) -> str:
    """report.md"""
    lines = [f"# {folder.name}", "", table, ""]
    lines += [f"- {note}" for note in notes(metrics)] + [""]
    if metrics["search"]:
        lines += ["| width | depth | JSD weight | epochs | held-out error, % |", "|---:|---:|---:|---:|---:|"]
        for trial in sorted(metrics["search"]["trials"], key=lambda t: t["error"]):
            lines.append(
                f"| {trial['width']} | {trial['depth']} | {trial['jsd_weight']:g} | {trial['epoch']} "
                f"| {100 * trial['error']:.1f} |"
            )
        lines.append("")
    lines += [f"![{name}](figures/{name}.png)\n" for name in ("curves", "corruption_error", "views")]
    versions = ", ".join(f"{name} {version}" for name, version in metrics["provenance"]["packages"].items())
    return "\n".join([*lines, f"Python {metrics['provenance']['python']}, {versions}.", ""])


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ metrics.run }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
 td + td, th + th { text-align: right } tr:last-child td { font-weight: bold; border-top: 2px solid #222 }
 img { max-width: 100%; margin: 1rem 0 } .protocol { color: #555 }
 pre { background: #f5f5f5; padding: 1rem; overflow: auto }
</style>
<h1>{{ metrics.run }}</h1>
<table><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell | replace("**", "") }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p class="protocol">{{ metrics.protocol }}</p>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% for name, encoded in figures %}<img alt="{{ name }}" src="data:image/png;base64,{{ encoded }}">{% endfor %}
<details><summary>Configuration and versions</summary>
<pre>{{ metrics.config | tojson(indent=1) }}</pre><pre>{{ metrics.provenance | tojson(indent=1) }}</pre></details>
</html>
"""


def html(folder: Path, metrics: dict[str, Any], figures: Path) -> str:
    """report.html: one file that opens offline."""
    header, rows = table_of(metrics)
    encoded = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in sorted(figures.glob("*.png"))]
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(metrics=metrics, header=header, rows=rows, notes=notes(metrics), figures=encoded)


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
                [row["epoch"] for row in result["curve"]],
                [scale * row[key] for row in result["curve"]],
                color=COLOURS[method],
                label=LABELS[method],
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
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = new_figure(columns, lines, 3.1 * columns, 2.7 * lines)
    severities = metrics["config"]["evaluate"]["severities"]
    for axis, name in zip(axes.flat, names, strict=False):
        for method, result in metrics["methods"].items():
            errors = [100 * result["clean_error"], *(100 * e for e in result["errors"][name])]
            axis.plot(
                [0, *sorted(severities)], errors, color=COLOURS[method], label=LABELS[method], marker="o", markersize=3
            )
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


def contact_sheet(source: Source, config: RunConfig) -> Figure:
    """Views of some training images, view 0 (clean) first."""
    ids = np.arange(min(SHEET_SEARCHED, len(source)))
    images, labels, valid = evaluation_images(source, ids, config.data)
    shown = np.flatnonzero(valid)[:SHEET_SAMPLES]
    views = augmix(images[shown], ids[shown], seed=config.seed, config=config.augmix)
    figure, axes = new_figure(len(shown), views.shape[1], 1.3 * len(shown), 1.4 * views.shape[1])
    for column, (sample, label) in enumerate(zip(views, labels[shown], strict=True)):
        for row, view in enumerate(sample):
            axis = axes[row][column]
            axis.imshow(view)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(source.class_names[int(label)], fontsize=9)
            if column == 0:
                axis.set_ylabel("clean" if row == 0 else f"view {row}")
    return figure
