"""The report: a pure function of a run's folder, made at any time and as often as one likes.

Writes `metrics.json` (everything, with provenance), `report.md` (the tables), `report.html` (one file with figures
inside) and `figures/*.png`.
"""

import base64
import importlib.metadata
import io
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from augmix_core import STREAM_VERSION
from pipeline import figures
from pipeline.cells import read_top5_baseline
from pipeline.config import RunConfig
from pipeline.ledger import Ledger
from pipeline.progress import METRICS, VALIDATION
from pipeline.quarantine import QUARANTINE, collected
from pipeline.scorecard import scorecard
from pipeline.source import Source
from pipeline.storage import StoredPath, write_atomically

MOST_NAMED = 20
"""Unreadable images that the report names."""
FRACTIONS = ("temperature", "mean_flip_probability")
PACKAGES = ("augmix-ray", "ray", "torch", "torchvision", "numpy", "pillow", "pyarrow", "scipy", "simplejpeg")


def write_report(
    folder: StoredPath, config: RunConfig, *, training: Source | None = None, test: Source | None = None
) -> str:
    """Write all files of the report into the run's folder and return the markdown tables.

    Args:
        training: for a sheet of views.
        test: for a sheet of corruptions.
    Raises:
        ValueError: The run has not been evaluated yet.
    """
    ledger = Ledger(folder / "ledger")
    if not ledger.asked or not any(ledger.firsts(cell) for cell in ledger.asked["cells"]):
        raise ValueError(f"{str(folder)!r} has no predictions yet; score it first: a run by its evaluate stage")
    metrics = collect(folder, config, ledger)
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1))
    drawn: dict[str, Callable[[], Figure]] = {}
    first = next(iter(metrics["methods"].values()))
    if any(result["curve"] for result in metrics["methods"].values()):
        drawn["curves"] = lambda: figures.curves(metrics)
    if first.get("errors"):
        drawn["corruption_error"] = lambda: figures.corruption_figure(metrics)
    if first.get("reliability"):
        drawn["reliability"] = lambda: figures.reliability_figure(metrics)
    if training is not None:
        drawn["views"] = lambda: figures.view_sheet(training, config)
    if test is not None:
        drawn["corruptions"] = lambda: figures.corruption_sheet(test, config)
    (folder / "figures").mkdir(exist_ok=True)
    for name, draw in drawn.items():
        figure, image = draw(), io.BytesIO()
        figure.savefig(image, dpi=110, bbox_inches="tight")
        plt.close(figure)
        (folder / "figures" / f"{name}.png").write_bytes(image.getvalue())
    text = "\n\n".join([markdown_table(rows) for rows in tables_of(metrics)] + ["\n".join(protocol_lines(metrics))])
    write_atomically(folder / "report.md", markdown(folder, metrics, text, list(drawn)))
    write_atomically(folder / "report.html", html(folder, metrics, list(drawn)))
    return text


def collect(folder: StoredPath, config: RunConfig, ledger: Ledger) -> dict[str, Any]:
    """Everything the report says, as plain values."""
    evaluate = config.evaluate
    baseline = read_top5_baseline(evaluate.top5_baseline) if evaluate.top5_baseline else None
    card = scorecard(ledger, replicates=evaluate.bootstrap, seed=config.seed, top5_baseline=baseline)
    methods = card["methods"]
    for method, result in methods.items():
        result["curve"] = curve_of(folder / "train" / method)
    best = folder / "search" / "best.json"
    return {
        "run": folder.name,
        "protocol": card["protocol"],
        "methods": methods,
        "progress": card["progress"],
        "search": json.loads(best.read_text()) if best.exists() else None,
        "skipped": {
            "listed": collected(folder),
            "test": card["unreadable"],
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


def curve_of(method_folder: StoredPath) -> list[dict[str, Any]]:
    """The rows of a training's epochs, with what validation beside it has found."""
    validated = {row["step"]: row for row in read_lines(method_folder / VALIDATION) if "failed" not in row}
    return [row | validated.get(row["step"], {}) for row in read_lines(method_folder / METRICS)]


def read_lines(path: StoredPath) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


Row = tuple[str, list[str]]
Value = Callable[[dict[str, Any]], float | None]
"""A number out of the scores of a method."""
CALIBRATION: tuple[tuple[str, tuple[str, ...], float, str], ...] = (
    ("RMS calibration error, %", ("rms_calibration_error", "fixed"), 100, "{:.1f}"),
    ("RMS, official bins, %", ("rms_calibration_error", "official"), 100, "{:.1f}"),
    ("ECE, %", ("expected_calibration_error",), 100, "{:.1f}"),
    ("Brier score", ("brier",), 1, "{:.3f}"),
    ("NLL, nats", ("nll",), 1, "{:.3f}"),
)
"""Name, place in the scores, factor and form."""
SUMMARIES = {"**uCE**": "uCE", "**mCE**": "mCE", "relative mCE": "relative_mCE", "mFR": "mFR", "mT5D": "mT5D"}


def tables_of(metrics: dict[str, Any]) -> list[list[Row]]:
    """The tables as rows of a name and a cell for each method, the header first: errors, then calibration."""
    methods = metrics["methods"]
    header = [figures.label_of(method) for method in methods]

    def row(name: str, value: Value, form: str = "{:.1f}", interval: str = "") -> Row:
        cells = []
        for result in methods.values():
            found = value(result)
            cell = "" if found is None else form.format(found)
            if found is not None and interval in result.get("interval", {}):
                scale = 100 if interval == "clean_error" else 1
                low, high = (scale * bound for bound in result["interval"][interval])
                cell += f" [{low:.1f}, {high:.1f}]"
            cells.append(cell)
        return name, cells

    def number(*keys: str, scale: float = 1.0) -> Value:
        def value(result: dict[str, Any]) -> float | None:
            found = inside(result, *keys)
            return None if found is None else scale * float(np.mean(found))

        return value

    def percent(*keys: str) -> Value:
        return number(*keys, scale=100)

    first = next(iter(methods.values()))
    errors = [("error, %", header), row("clean", percent("clean_error"), interval="clean_error")]
    for name in first.get("errors", {}):
        errors.append(row(name, percent("errors", name)))
    errors += [row(name, number(key), interval=key) for name, key in SUMMARIES.items() if key in first]
    for name in first["shifts"]:
        errors.append(row(name, percent("shifts", name, "error")))
    for name in first.get("perturbations", {}):
        errors.append(row(f"flip probability: {name}", percent("perturbations", name, "flip_probability"), "{:.2f}"))
    errors.append(row("mean flip probability", percent("mean_flip_probability"), "{:.2f}"))
    trust: list[Row] = [("calibration", header)]
    for cell in ("clean", "corrupted"):
        for name, keys, scale, form in CALIBRATION:
            trust.append(row(f"{cell}: {name}", number(cell, *keys, scale=scale), form))
            if inside(first, cell, "at_temperature"):
                value = number(cell, "at_temperature", *keys, scale=scale)
                trust.append(row(f"{cell}: {name}, at temperature", value, form))
    if "temperature" in first:
        trust.append(row("temperature", number("temperature"), "{:.3f}"))
    for name, key in (("AUROC", "auroc"), ("AUPR, in", "aupr_in"), ("AUPR, out", "aupr_out"), ("FPR95", "fpr95")):
        if inside(first, "out_of_distribution", key) is not None:
            trust.append(row(f"out of distribution: {name}, %", percent("out_of_distribution", key)))
    return [[r for r in rows if any(r[1])] for rows in (errors, trust)]


def inside(result: dict[str, Any], *keys: str) -> Any:
    """A value of nested mappings, or None where a key is missing."""
    for key in keys:
        result = result.get(key, {})
    return result if result != {} else None


def markdown_table(rows: list[Row]) -> str:
    """A table in markdown."""
    texts = [[name, *cells] for name, cells in rows]
    widths = [max(len(text[column]) for text in texts) for column in range(len(texts[0]))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(texts[0]), rule, *map(line, texts[1:])])


def protocol_lines(metrics: dict[str, Any]) -> list[str]:
    """Every summary score with what it is: `mCE 65.3 (AlexNet-normalised, 15 x 5, ...)`."""
    lines = []
    if metrics["progress"]["answered"] < metrics["progress"]["pieces"]:
        lines.append("PARTIAL: {answered} of {pieces} pieces are answered.".format(**metrics["progress"]))
    for score, line in metrics["protocol"].items():
        values = []
        for method, result in metrics["methods"].items():
            value = 100 * result["clean_error"] if score == "clean" else result.get(score)
            if isinstance(value, float):
                name = f"{figures.label_of(method)} " if len(metrics["methods"]) > 1 else ""
                values.append(f"{name}{value:.{3 if score in FRACTIONS else 1}f}")
        lines.append(f"- {' '.join([score, ', '.join(values)]).strip()} ({line})")
    return lines


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a reader should know besides the numbers."""
    found: list[str] = []
    if metrics["search"]:
        best = metrics["search"]["best"]
        found.append(
            f"The search tried {len(metrics['search']['trials'])} settings on held-out images of training: {best}."
        )
    listed = metrics["skipped"]["listed"]
    for row in listed[:MOST_NAMED]:
        done = "Replaced in training" if row["split"] == "train" else f"Left out ({row['split']})"
        found.append(f"{done}: {row['path']}: {row['reason']}.")
    if len(listed) > MOST_NAMED:
        found.append(f"{len(listed) - MOST_NAMED} more such images are in {QUARANTINE}.")
    if metrics["skipped"]["test"]:
        found.append(f"{metrics['skipped']['test']} test images could not be read and are left out of every score.")
    if metrics["config"].get("augmix", {}).get("ops") == "all":
        found.append(
            "Trained with ops that overlap the test corruptions (augmix.ops all): not eligible for the benchmarks."
        )
    return found


def markdown(folder: StoredPath, metrics: dict[str, Any], tables: str, drawn: list[str]) -> str:
    """report.md"""
    lines = [f"# {folder.name}", "", tables, ""]
    lines += [f"- {note}" for note in notes(metrics)] + [""]
    if metrics["search"]:
        lines += ["| width | depth | JSD weight | epochs | held-out error, % |", "|---:|---:|---:|---:|---:|"]
        for trial in sorted(metrics["search"]["trials"], key=lambda t: t["error"]):
            lines.append(
                f"| {trial['width']} | {trial['depth']} | {trial['jsd_weight']:g} | {trial['epoch']} "
                f"| {100 * trial['error']:.1f} |"
            )
        lines.append("")
    lines += [f"![{name}](figures/{name}.png)\n" for name in drawn]
    versions = ", ".join(f"{name} {version}" for name, version in metrics["provenance"]["packages"].items())
    return "\n".join([*lines, f"Python {metrics['provenance']['python']}, {versions}.", ""])


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ metrics.run }}</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
 td + td { text-align: right } tr:first-child td, .score td { font-weight: bold }
 img { max-width: 100%; margin: 1rem 0 } .protocol { color: #555 }
 pre { background: #f5f5f5; padding: 1rem; overflow: auto }
</style>
<h1>{{ metrics.run }}</h1>
{% for rows in tables %}<table>{% for name, cells in rows %}<tr{% if "**" in name %} class="score"{% endif %}>
<td>{{ name | replace("**", "") }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}<ul class="protocol">{% for line in protocol %}<li>{{ line }}</li>{% endfor %}</ul>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% for name, encoded in figures %}<img alt="{{ name }}" src="data:image/png;base64,{{ encoded }}">{% endfor %}
<details><summary>Configuration and versions</summary>
<pre>{{ metrics.config | tojson(indent=1) }}</pre><pre>{{ metrics.provenance | tojson(indent=1) }}</pre></details>
</html>
"""


def html(folder: StoredPath, metrics: dict[str, Any], drawn: list[str]) -> str:
    """report.html: one file that opens offline."""
    encoded = [(name, base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()) for name in drawn]
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(
        metrics=metrics,
        tables=tables_of(metrics),
        protocol=[line.removeprefix("- ") for line in protocol_lines(metrics)],
        notes=notes(metrics),
        figures=encoded,
    )
