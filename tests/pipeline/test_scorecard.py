"""The score card: published formulas on counted answers, and protocols that say what a number may be compared with."""

import numpy as np
import pyarrow as pa
import pytest

from augmix_core.baselines import ALEXNET_ERRORS, ALEXNET_FLIP_PROBABILITIES
from augmix_core.metrics import mean_corruption_error, mean_flip_rate, relative_mean_corruption_error
from pipeline.config import TEST_CORRUPTIONS
from pipeline.ledger import Ledger, as_parquet
from pipeline.scorecard import scorecard

IMAGES = 20
ABOUT = {
    "classes": 1000,
    "image_size": 224,
    "test_images": IMAGES,
    "published": True,
    "published_perturbations": True,
    "jpeg85": False,
    "frost_textures": False,
    "shifts": {},
    "networks": {"ours": "resnet50"},
}


def answers(wrong, images=IMAGES):
    """The first `wrong` images answered wrongly."""
    predicted = np.where(np.arange(images) < wrong, 1, 0)
    return {
        "sample_id": np.arange(images),
        "label": np.zeros(images, np.int64),
        "valid": np.ones(images, bool),
        "predicted_ours": predicted,
        "label_rank_ours": predicted,
        "confidence_ours": np.full(images, 0.9),
        "nll_ours": np.full(images, 0.5),
        "brier_ours": np.full(images, 0.3),
    }


def sequences(changes):
    """One sequence of 31 frames whose answer changes so often."""
    predicted = np.cumsum(np.arange(31) % 2 * (np.arange(31) < 2 * changes))
    return {
        "sample_id": np.arange(1),
        "label": np.array([-1]),
        "valid": np.array([True]),
        "predicted_ours": pa.FixedSizeListArray.from_arrays(pa.array(predicted), 31),
        "changes_ours": np.array([changes]),
        "top5_distance_ours": np.array([1.5]),
    }


def ledger_of(folder, about=ABOUT, **tables):
    """A finished ledger: cell key -> (kind, name, severity, columns)."""
    ledger = Ledger(folder)
    cells = {
        key: {"kind": kind, "name": name, "severity": s, "rows": len(c["sample_id"]), "step": 1000}
        for key, (kind, name, s, c) in tables.items()
    }
    ledger.ask({}, cells, about)
    for key, (_, _, _, columns) in tables.items():
        ledger.put(key, 0, as_parquet(pa.table(columns)))
        ledger.finish(key)
    return ledger


def benchmark(wrong=lambda n, s: min(19, n + s), names=TEST_CORRUPTIONS, images=IMAGES):
    """Answers to all cells of ImageNet-C."""
    cells = {"clean": ("clean", "", 0, answers(5, images))}
    for n, name in enumerate(names):
        for s in (1, 2, 3, 4, 5):
            cells[f"{name}_{s}"] = ("corruption", name, s, answers(wrong(n, s), images))
    return cells


def test_a_whole_imagenet_c_is_scored_by_the_published_formulas(tmp_path):
    card = scorecard(ledger_of(tmp_path, **benchmark()), replicates=50, seed=0)
    ours = card["methods"]["ours"]
    errors = {name: [min(19, n + s) / IMAGES for s in (1, 2, 3, 4, 5)] for n, name in enumerate(TEST_CORRUPTIONS)}
    assert ours["errors"] == errors
    assert ours["mCE"] == mean_corruption_error(errors)
    assert ours["relative_mCE"] == relative_mean_corruption_error(errors, 5 / IMAGES)
    assert list(ours["CE"]) == list(ALEXNET_ERRORS)
    assert ours["uCE"] == pytest.approx(100 * np.mean(list(errors.values())))
    assert ours["error_by_severity"]["2"] == pytest.approx(np.mean([e[1] for e in errors.values()]))
    low, high = ours["interval"]["mCE"]
    assert low < ours["mCE"] < high
    rest = "15 x 5, 20 images, 224 px, not resized, published files"
    assert card["protocol"]["mCE"] == f"AlexNet-normalised, {rest}"
    assert card["protocol"]["uCE"] == f"unnormalised, {rest}"


def test_alexnet_scores_a_hundred(tmp_path):
    means = list(ALEXNET_ERRORS.values())
    table = benchmark(lambda n, s: round(1000 * means[n]), images=1000)
    card = scorecard(ledger_of(tmp_path, ABOUT | {"test_images": 1000}, **table), replicates=0, seed=0)
    assert card["methods"]["ours"]["mCE"] == pytest.approx(100, abs=0.1)


def test_what_is_less_than_the_benchmark_has_no_normalised_score_and_says_so(tmp_path):
    part = scorecard(ledger_of(tmp_path / "a", **benchmark(names=TEST_CORRUPTIONS[:14])), replicates=0, seed=0)
    assert "mCE" not in part["methods"]["ours"] and "mCE" not in part["protocol"]
    assert part["protocol"]["uCE"].endswith("; NOT COMPARABLE: 70 of 75 cells")
    few = scorecard(ledger_of(tmp_path / "b", ABOUT | {"test_images": 50_000}, **benchmark()), replicates=0, seed=0)
    assert few["protocol"]["mCE"].endswith("; NOT COMPARABLE: 20 of 50,000 images")


def test_generated_images_never_pass_for_the_published_files(tmp_path):
    about = ABOUT | {"published": False, "jpeg85": True}
    card = scorecard(ledger_of(tmp_path, about, **benchmark()), replicates=0, seed=0)
    assert "generated with the 224 px constants, not the published files" in card["protocol"]["mCE"]
    assert "frost texture of our own, JPEG 85" in card["protocol"]["mCE"]


def test_another_data_set_is_not_divided_by_alexnet(tmp_path):
    card = scorecard(
        ledger_of(tmp_path, ABOUT | {"classes": 10, "image_size": 32}, **benchmark()), replicates=0, seed=0
    )
    assert "uCE" in card["methods"]["ours"] and "mCE" not in card["methods"]["ours"]


def test_flip_rates_follow_the_ten_perturbations_and_leave_others_out(tmp_path):
    flips = {name: n + 1 for n, name in enumerate(ALEXNET_FLIP_PROBABILITIES)}
    cells = {f"perturbation_{name}": ("perturbation", name, 0, sequences(k)) for name, k in flips.items()}
    cells["perturbation_shear"] = ("perturbation", "shear", 0, sequences(15))
    baseline = dict.fromkeys(ALEXNET_FLIP_PROBABILITIES, 3.0)
    ours = scorecard(ledger_of(tmp_path, **cells), replicates=0, seed=0, top5_baseline=baseline)["methods"]["ours"]
    assert ours["perturbations"]["shear"]["flip_probability"] == 0.5
    assert ours["mFR"] == mean_flip_rate({name: k / 30 for name, k in flips.items()})
    assert ours["mT5D"] == 50.0


def test_without_intervals_nothing_is_drawn(tmp_path):
    card = scorecard(ledger_of(tmp_path, **benchmark()), replicates=0, seed=0)
    assert "interval" not in card["methods"]["ours"]
