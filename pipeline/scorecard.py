"""The score card: every number about a network, counted from the answers in a ledger, each with its protocol.

A pure function of the ledger, which need not be finished: cells without answers are left out, and the protocol says
how many images there were. Memory does not grow with the images: answers are read cell by cell or piece by piece.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augmix_core import calibration, metrics, ood
from augmix_core.baselines import ALEXNET_FLIP_PROBABILITIES
from augmix_core.bootstrap import ErrorSums, interval
from augmix_core.corruptions.severity import SEVERITIES, table_for
from pipeline.config import TEST_CORRUPTIONS
from pipeline.ledger import Ledger

IMAGENET_CLASSES, IMAGENET_SIZE = 1000, 224
CLEAN, OUT_OF_DISTRIBUTION = "clean", "out_of_distribution"
RELIABILITY_BINS = 15


class Cells:
    """The cells of the latest question to a ledger that have answers."""

    def __init__(self, ledger: Ledger) -> None:
        assert ledger.asked is not None
        self.ledger, self.about = ledger, ledger.asked["about"]
        self.all: dict[str, Any] = {
            key: ledger.asked["cells"][key] for key in ledger.asked["latest"] if ledger.firsts(key)
        }

    def of(self, kind: str) -> dict[str, Any]:
        """Those of one kind, by key."""
        return {key: cell for key, cell in self.all.items() if cell["kind"] == kind}

    @cached_property
    def corruptions(self) -> dict[str, dict[int, str]]:
        """Corruption -> severity -> key, in the benchmark's order."""
        found: dict[str, dict[int, str]] = {}
        for key, cell in self.of("corruption").items():
            found.setdefault(cell["name"], {})[cell["severity"]] = key
        order = {name: place for place, name in enumerate(TEST_CORRUPTIONS)}
        return {name: dict(sorted(found[name].items())) for name in sorted(found, key=lambda n: (order.get(n, 99), n))}

    def valid(self, key: str, *columns: str) -> dict[str, NDArray]:
        """Columns of the answers to images that could be read."""
        table = self.ledger.read(key, ["valid", *columns])
        kept = table["valid"].to_numpy()
        return {name: table[name].to_numpy()[kept] for name in columns}


def scorecard(
    ledger: Ledger, *, replicates: int, seed: int, top5_baseline: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return {"methods": {method: scores}, "protocol": {score: what it is}, "progress": ..., "unreadable": images}.

    Errors and probabilities are fractions; what the literature gives in percent (uCE, CE, mCE, relative mCE, mFR, mT5D)
    is in percent. `interval`s are 95 %, from a bootstrap over images that all cells and networks share.
    Args:
        replicates: of the bootstrap; 0 leaves the intervals out.
        top5_baseline: AlexNet's top-5 distance of each of the ten perturbations.
    """
    cells = Cells(ledger)
    methods = {method: scores(cells, method, top5_baseline) for method in cells.about["networks"]}
    if replicates and CLEAN in cells.all:
        add_intervals(cells, methods, replicates, seed)
    unreadable = 0
    if CLEAN in cells.all:
        unreadable = sum(len(t) - int(t["valid"].to_numpy().sum()) for t in ledger.tables(CLEAN, ["valid"]))
    return {
        "methods": methods,
        "protocol": protocol(cells, methods),
        "progress": progress(ledger),
        "unreadable": unreadable,
    }


def progress(ledger: Ledger) -> dict[str, int]:
    """How many pieces of the asked cells are answered."""
    assert ledger.asked is not None
    keys = ledger.asked["latest"]
    return {
        "answered": sum(len(ledger.firsts(key)) for key in keys),
        "pieces": sum(len(ledger.all_firsts(key)) for key in keys),
    }


def scores(cells: Cells, method: str, top5_baseline: Mapping[str, float] | None) -> dict[str, Any]:
    """All scores of one network."""
    result: dict[str, Any] = {"network": cells.about["networks"][method]}
    counts = {key: counted(cells, key, method) for key in cells.all if cells.all[key]["kind"] != "perturbation"}
    if CLEAN in cells.all:
        result["clean_error"] = error_of(counts[CLEAN])
        result["clean"] = {"images": counts[CLEAN]["images"], **calibration_of(cells, CLEAN, method)}
    if cells.corruptions:
        result |= corruption_scores(cells, method, counts, result.get("clean_error"))
    if cells.of("perturbation"):
        result |= perturbation_scores(cells, method, top5_baseline)
    result["shifts"] = {
        cell["name"]: {"images": counts[key]["images"], "error": error_of(counts[key])}
        | calibration_of(cells, key, method)
        for key, cell in cells.of("shift").items()
    }
    if OUT_OF_DISTRIBUTION in cells.all and CLEAN in cells.all:
        result["out_of_distribution"] = ood_scores(cells, method)
    temperatures = cells.ledger.folder / "temperatures.json"
    if temperatures.exists():
        result["temperature"] = json.loads(temperatures.read_text())[method]
    return result


def counted(cells: Cells, key: str, method: str) -> dict[str, int]:
    """Images of a cell and wrong answers to them, summed as integers over its pieces."""
    images = wrong = top5 = 0
    wanted = ["valid", "label", f"predicted_{method}"]
    ranked = cells.all[key]["kind"] != OUT_OF_DISTRIBUTION
    for table in cells.ledger.tables(key, [*wanted, f"label_rank_{method}"] if ranked else wanted):
        valid = table["valid"].to_numpy()
        images += int(valid.sum())
        wrong += int((valid & (table[f"predicted_{method}"].to_numpy() != table["label"].to_numpy())).sum())
        if ranked:
            top5 += int((valid & (table[f"label_rank_{method}"].to_numpy() >= 5)).sum())
    return {"images": images, "wrong": wrong, "wrong_top5": top5}


def error_of(counts: Mapping[str, int]) -> float:
    """Wrong answers by images."""
    return counts["wrong"] / max(1, counts["images"])


def calibration_of(cells: Cells, key: str, method: str) -> dict[str, Any]:
    """Calibration and proper scores on one cell, and once more at the chosen temperature."""
    names = [f"{name}_{method}" for name in ("confidence", "nll", "brier")]
    scaled = [f"{name}_scaled_{method}" for name in ("confidence", "nll", "brier")]
    known = cells.ledger.piece(key, cells.ledger.firsts(key)[0]).column_names
    columns = cells.valid(key, "label", f"predicted_{method}", *names, *(name for name in scaled if name in known))
    correct = columns[f"predicted_{method}"] == columns["label"]
    if not len(correct):
        return {}
    result = calibration_scores([columns[name] for name in names], correct)
    if scaled[0] in columns:
        result["at_temperature"] = calibration_scores([columns[name] for name in scaled], correct)
    return result


def calibration_scores(columns: list[NDArray], correct: NDArray) -> dict[str, Any]:
    """From the columns confidence, nll and brier of a cell. The official bins need a hundred images."""
    confidence, nll, brier = columns
    rms = {"fixed": calibration.rms_calibration_error(confidence, correct, binning="fixed")}
    if len(confidence) >= calibration.BIN_SIZE:
        rms["official"] = calibration.rms_calibration_error(confidence, correct, binning="official")
    return {
        "rms_calibration_error": rms,
        "expected_calibration_error": calibration.expected_calibration_error(confidence, correct),
        "brier": float(brier.mean()),
        "nll": float(nll.mean()),
    }


def reliability(cells: Cells, keys: Iterable[str], method: str) -> dict[str, list[float]]:
    """Mean confidence and accuracy by equal bins of confidence, over all images of some cells; empty bins left out."""
    sums = np.zeros((3, RELIABILITY_BINS))
    for key in keys:
        columns = cells.valid(key, "label", f"predicted_{method}", f"confidence_{method}")
        confidence = columns[f"confidence_{method}"]
        correct = columns[f"predicted_{method}"] == columns["label"]
        at = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
        for row, weights in enumerate((None, confidence, correct)):
            sums[row] += np.bincount(at, weights=weights, minlength=RELIABILITY_BINS)
    count, confidence_sum, correct_sum = sums[:, sums[0] > 0]
    return {
        "confidence": (confidence_sum / count).tolist(),
        "accuracy": (correct_sum / count).tolist(),
        "images": count.astype(int).tolist(),
    }


def corruption_scores(
    cells: Cells, method: str, counts: Mapping[str, Mapping[str, int]], clean_error: float | None
) -> dict[str, Any]:
    """Errors by corruption and severity, and what is made of them."""
    errors = {
        name: [error_of(counts[key]) for key in by_severity.values()] for name, by_severity in cells.corruptions.items()
    }
    benchmark = {name: errors[name] for name in TEST_CORRUPTIONS if name in errors}
    severities_of = {name: list(by_severity) for name, by_severity in cells.corruptions.items()}
    result: dict[str, Any] = {"errors": errors, "severities": severities_of}
    if benchmark:
        result["uCE"] = metrics.unnormalized_corruption_error(benchmark)
    asked = [cells.corruptions[name] for name in benchmark]
    severities = sorted({severity for by_severity in asked for severity in by_severity})
    result["error_by_severity"] = {
        str(severity): float(np.mean([error_of(counts[by[severity]]) for by in asked if severity in by]))
        for severity in severities
    }
    of_benchmark = [key for name in benchmark for key in cells.corruptions[name].values()]
    result["corrupted"] = averaged([calibration_of(cells, key, method) for key in of_benchmark])
    result["reliability"] = {
        "clean": reliability(cells, [key for key in (CLEAN,) if key in cells.all], method),
        "corrupted": reliability(cells, of_benchmark, method),
    }
    if is_imagenet(cells) and is_whole(cells):
        result["CE"] = metrics.corruption_errors(benchmark)
        result["mCE"] = metrics.mean_corruption_error(benchmark)
        if clean_error is not None:
            result["relative_mCE"] = metrics.relative_mean_corruption_error(benchmark, clean_error)
    return result


def is_imagenet(cells: Cells) -> bool:
    """Whether AlexNet's errors are the baseline: ImageNet's classes at 224 px."""
    return bool(cells.about["classes"] == IMAGENET_CLASSES and cells.about["image_size"] == IMAGENET_SIZE)


def is_whole(cells: Cells) -> bool:
    """Whether all 15 corruptions have answers at all five severities."""
    return all(tuple(cells.corruptions.get(name, ())) == SEVERITIES for name in TEST_CORRUPTIONS)


def averaged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over cells of every number in nested mappings of one shape."""
    filled = [part for part in parts if part]
    if not filled:
        return {}
    return {
        name: averaged([part[name] for part in filled])
        if isinstance(value, Mapping)
        else float(np.mean([part[name] for part in filled]))
        for name, value in filled[0].items()
    }


def perturbation_scores(cells: Cells, method: str, top5_baseline: Mapping[str, float] | None) -> dict[str, Any]:
    """Flip probability and top-5 distance by perturbation; mFR and mT5D where a baseline fits."""
    found: dict[str, dict[str, Any]] = {}
    for key, cell in cells.of("perturbation").items():
        flips = comparisons = sequences = 0
        distance = 0.0
        predicted, changes, moved = (f"{name}_{method}" for name in ("predicted", "changes", "top5_distance"))
        for table in cells.ledger.tables(key, ["valid", predicted, changes, moved]):
            valid = table["valid"].to_numpy()
            sequences += int(valid.sum())
            flips += int(table[changes].to_numpy()[valid].sum())
            comparisons += int(valid.sum()) * (table.schema.field(predicted).type.list_size - 1)
            distance += float(table[moved].to_numpy()[valid].sum())
        found[cell["name"]] = {
            "flip_probability": flips / max(1, comparisons),
            "top5_distance": distance / max(1, sequences),
            "sequences": sequences,
        }
    flip_probabilities = {name: scores["flip_probability"] for name, scores in found.items()}
    result: dict[str, Any] = {
        "perturbations": found,
        "mean_flip_probability": float(np.mean(list(flip_probabilities.values()))),
    }
    if is_imagenet(cells) and found.keys() >= ALEXNET_FLIP_PROBABILITIES.keys():
        result["mFR"] = metrics.mean_flip_rate({name: flip_probabilities[name] for name in ALEXNET_FLIP_PROBABILITIES})
        if top5_baseline:
            distances = {name: found[name]["top5_distance"] for name in ALEXNET_FLIP_PROBABILITIES}
            result["mT5D"] = metrics.mean_top5_distance(distances, top5_baseline)
    return result


def ood_scores(cells: Cells, method: str) -> dict[str, float]:
    """Telling clean test images from those of another data set by the confidence."""
    inside = cells.valid(CLEAN, f"confidence_{method}")[f"confidence_{method}"]
    outside = cells.valid(OUT_OF_DISTRIBUTION, f"confidence_{method}")[f"confidence_{method}"]
    if not len(inside) or not len(outside):
        return {}
    return {
        "auroc": ood.auroc(inside, outside),
        "aupr_in": ood.aupr(inside, outside, positive="in"),
        "aupr_out": ood.aupr(inside, outside, positive="out"),
        "fpr95": ood.fpr_at_tpr(inside, outside),
        "images": len(outside),
    }


def add_intervals(cells: Cells, methods: dict[str, dict[str, Any]], replicates: int, seed: int) -> None:
    """Bootstrap over images: clean error, uCE and mCE of every method, and differences to the first method."""
    keys = [CLEAN, *(key for by in cells.corruptions.values() for key in by.values())]
    keys = [key for key in keys if cells.all[key]["name"] in ("", *TEST_CORRUPTIONS)]
    sums = ErrorSums(replicates=replicates, seed=seed)
    firsts = sorted({first for key in keys for first in cells.ledger.firsts(key)})
    there = {key: set(cells.ledger.firsts(key)) for key in keys}
    for first in firsts:
        for key in keys:
            if first not in there[key]:
                continue
            columns = ["sample_id", "valid", "label", *(f"predicted_{method}" for method in methods)]
            table = cells.ledger.piece(key, first, columns)
            label, valid = table["label"].to_numpy(), table["valid"].to_numpy()
            for method in methods:
                wrong = table[f"predicted_{method}"].to_numpy() != label
                sums.add((method, key), table["sample_id"].to_numpy(), wrong, valid)
    replicated: dict[str, dict[str, NDArray]] = {
        method: {"clean_error": sums.errors((method, CLEAN))} for method in methods
    }
    benchmark = {name: by for name, by in cells.corruptions.items() if name in TEST_CORRUPTIONS}
    for method, result in methods.items():
        if not benchmark:
            continue
        errors = {name: np.stack([sums.errors((method, key)) for key in by.values()]) for name, by in benchmark.items()}
        replicated[method]["uCE"] = 100 * np.mean([by.mean(axis=0) for by in errors.values()], axis=0)
        if "mCE" in result:
            replicated[method]["mCE"] = metrics.mean_corruption_errors(errors)
    first_method = next(iter(methods))
    for method, result in methods.items():
        result["interval"] = {name: list(interval(values)) for name, values in replicated[method].items()}
        if method != first_method:
            result["interval_of_difference"] = {
                f"{name} - {first_method}'s": list(interval(values - replicated[first_method][name]))
                for name, values in replicated[method].items()
            }


def protocol(cells: Cells, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each number is, in a line that can be quoted with it."""
    about = cells.about
    size = about["image_size"]
    lines: dict[str, str] = {}
    first = next(iter(methods.values()))
    if CLEAN in cells.all:
        images, warning = images_line(cells, [CLEAN])
        lines["clean"] = f"top-1 error, {images}, {size} px{warning}"
    benchmark = {name: by for name, by in cells.corruptions.items() if name in TEST_CORRUPTIONS}
    if benchmark:
        rest = corruption_line(cells, benchmark)
        lines["uCE"] = f"unnormalised, {rest}"
        if "mCE" in first:
            lines["mCE"] = f"AlexNet-normalised, {rest}"
            lines["relative_mCE"] = f"AlexNet-normalised, both less their clean error, {rest}"
        lines["calibration under corruption"] = f"mean over cells, {rest}"
    if frames := cells.of("perturbation"):
        images, warning = images_line(cells, frames, "sequences")
        origin = "published files" if about["published_perturbations"] else "generated, not the published files"
        rest = f"{len(frames)} perturbations, {images}, {size} px, {origin}{warning}"
        lines["mean_flip_probability"] = f"unnormalised, a fraction, {rest}"
        if "mFR" in first:
            lines["mFR"] = f"AlexNet-normalised, {rest}"
        if "mT5D" in first:
            lines["mT5D"] = f"normalised by the given file of baselines, {rest}"
    for cell in cells.of("shift").values():
        lines[cell["name"]] = (
            f"top-1 error, {about['shifts'][cell['name']]}, {first['shifts'][cell['name']]['images']:,} images"
        )
    if first.get("out_of_distribution"):
        others = first["out_of_distribution"]["images"]
        lines["out_of_distribution"] = (
            f"clean test images against {others:,} others, by the largest softmax probability"
        )
    if "temperature" in first:
        lines["temperature"] = "least negative log-likelihood on held-out training images"
    return lines


def corruption_line(cells: Cells, benchmark: Mapping[str, Mapping[int, str]]) -> str:
    """How the cells of the benchmark were made, and of how many images."""
    about = cells.about
    size = about["image_size"]
    keys = [key for by_severity in benchmark.values() for key in by_severity.values()]
    severities = {len(by_severity) for by_severity in benchmark.values()}
    counted_as = f"{len(benchmark)} x {severities.pop()}" if len(severities) == 1 else f"{len(keys)} cells"
    images, warning = images_line(cells, keys)
    if about["published"]:
        origin = "not resized, published files"
    else:
        origin = f"generated with the {table_for(size, size)} px constants, not the published files"
        if "frost" in benchmark:
            origin += f", {'published frost textures' if about['frost_textures'] else 'frost texture of our own'}"
        origin += ", JPEG 85" if about["jpeg85"] else ""
    if not is_whole(cells):
        warning += f"; NOT COMPARABLE: {len(keys)} of 75 cells"
    return f"{counted_as}, {images}, {size} px, {origin}{warning}"


def images_line(cells: Cells, keys: Iterable[str], what: str = "images") -> tuple[str, str]:
    """How many images the cells have, and the warning that goes with less than all."""
    counts = [
        sum(int(np.count_nonzero(table["valid"].to_numpy())) for table in cells.ledger.tables(key, ["valid"]))
        for key in keys
    ]
    low, high, total = min(counts), max(counts), cells.about["test_images"]
    shown = f"{low:,} {what}" if low == high else f"{low:,} to {high:,} {what}"
    return shown, f"; NOT COMPARABLE: {low:,} of {total:,} {what}" if low < total else ""
