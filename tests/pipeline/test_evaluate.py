"""Evaluation and report: counts equal a plain loop, nothing is answered twice, broken images are left out."""

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from augmix_core import corrupt
from augmix_core.calibration import per_image_scores
from augmix_core.models import build_model
from augmix_core.perturbations import perturb
from pipeline import checkpoint
from pipeline.budget import Scale
from pipeline.cells import plan_evaluation
from pipeline.config import DataConfig, EvaluateConfig, RunConfig, ScaleConfig, TrainConfig
from pipeline.decode import TooManyBadSamplesError
from pipeline.evaluate import evaluate
from pipeline.ledger import Ledger
from pipeline.networks import from_checkpoint
from pipeline.optimise import build_optimizer
from pipeline.order import split_train
from pipeline.predict import predict
from pipeline.quarantine import add, collected
from pipeline.report import write_report
from pipeline.scorecard import scorecard
from pipeline.source import open_folder, open_source
from tests.conftest import natural
from tests.pipeline.fixtures import imagenet_tree, write_cifar_c

CONFIG = RunConfig(
    data=DataConfig(test_limit=100),
    train=TrainConfig(hold_out=True),
    evaluate=EvaluateConfig(
        corruptions=("gaussian_noise", "contrast", "saturate"),
        severities=(1, 5),
        perturbations=("translate", "shot_noise_2"),
    ),
    scale=ScaleConfig(evaluation_batch_size=32, evaluation_piece_size=32),
)
SCALE = Scale(num_workers=1, use_gpu=False, evaluation_actors=1)
METHODS = ("standard", "augmix")


def untrained(folder, method, classes=10, data=CONFIG.data):
    torch.manual_seed(len(method))
    model = build_model("convnet5", classes)
    folder = folder / method
    folder.mkdir(parents=True)
    meta = checkpoint.Meta(1, 1, "convnet5", classes, dataclasses.asdict(data))
    checkpoint.save(folder, model, build_optimizer(model, CONFIG), meta)
    return from_checkpoint(folder)[0]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A test set in CIFAR-10.1's layout, and images of no class."""
    folder = tmp_path_factory.mktemp("others")
    np.save(folder / "cifar10.1_v6_data.npy", natural(40, 32, 32))
    np.save(folder / "cifar10.1_v6_labels.npy", np.arange(40) % 10)
    np.save(folder / "noise.npy", np.random.default_rng(0).integers(0, 256, (45, 32, 32, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def asked(others):
    chosen = dataclasses.replace(
        CONFIG.evaluate, cifar10_1=str(others), out_of_distribution=str(others / "noise.npy"), bootstrap=50
    )
    return dataclasses.replace(CONFIG, evaluate=chosen)


@pytest.fixture(scope="module")
def scored(ray_local, tmp_path_factory, asked):
    folder = tmp_path_factory.mktemp("run")
    networks = {method: untrained(folder / "checkpoints", method) for method in METHODS}
    ledger = evaluate(asked, SCALE, plan_of(asked), networks, folder / "ledger")
    return folder, networks, ledger


def plan_of(config):
    test, training = open_source(config.data, train=False), open_source(config.data, train=True)
    _, held_out = split_train(len(training), seed=config.seed, holdout_fraction=0.05)
    return plan_evaluation(config.data, config.evaluate, test, (training, held_out))


def clean_images():
    source = open_source(CONFIG.data, train=False)
    images, labels = source.read(np.arange(100))
    return np.stack(images), labels


def answers(network, images):
    """The class of each image, in the batches that evaluation makes."""
    return logits_of(network, images).argmax(axis=1)


def logits_of(network, images):
    batches = [torch.from_numpy(images[at : at + 32].copy()) for at in range(0, len(images), 32)]
    return torch.cat([predict(network.model, batch, network) for batch in batches]).numpy()


def test_scores_equal_a_plain_loop(scored):
    _, networks, ledger = scored
    images, labels = clean_images()
    card = scorecard(ledger, replicates=0, seed=0)
    for method, network in networks.items():
        result = card["methods"][method]
        assert result["clean_error"] == (answers(network, images) != labels).mean()
        for name in CONFIG.evaluate.corruptions:
            shown = [corrupt(images, name, severity=s, sample_ids=np.arange(100)) for s in (1, 5)]
            assert result["errors"][name] == [(answers(network, s) != labels).mean() for s in shown]
        benchmark = [np.mean(result["errors"][name]) for name in ("gaussian_noise", "contrast")]
        assert result["uCE"] == pytest.approx(100 * np.mean(benchmark))  # saturate is none of the 15


def test_flip_probabilities_equal_a_plain_loop(scored):
    _, networks, ledger = scored
    images, _ = clean_images()
    for method, network in networks.items():
        result = scorecard(ledger, replicates=0, seed=0)["methods"][method]
        for name, against_first in (("translate", False), ("shot_noise_2", True)):
            base, difficulty = (name, 1) if name == "translate" else ("shot_noise", 2)
            frames = perturb(images, base, difficulty=difficulty, sample_ids=np.arange(100))
            predicted = answers(network, frames.reshape(-1, 32, 32, 3)).reshape(frames.shape[:2])
            before = predicted[:, :1] if against_first else predicted[:, :-1]
            assert result["perturbations"][name]["flip_probability"] == (predicted[:, 1:] != before).mean()


def test_temperature_and_other_test_sets_are_scored(scored, others):
    _, networks, ledger = scored
    method, network = "augmix", networks["augmix"]
    result = scorecard(ledger, replicates=0, seed=0)["methods"][method]
    images, labels = np.load(others / "cifar10.1_v6_data.npy"), np.load(others / "cifar10.1_v6_labels.npy")
    assert result["shifts"]["cifar10_1"]["error"] == (answers(network, images) != labels).mean()
    assert result["out_of_distribution"]["images"] == 45 and 0 <= result["out_of_distribution"]["auroc"] <= 1
    clean, labels = clean_images()
    scaled = per_image_scores(logits_of(network, clean) / result["temperature"], labels)
    assert result["clean"]["at_temperature"]["nll"] == pytest.approx(scaled["nll"].mean())


def test_every_image_is_in_every_cell_exactly_once(scored):
    _, _, ledger = scored
    cells = ledger.asked["cells"]
    assert len(cells) == 1 + 3 * 2 + 2 + 2 + 1
    for key in cells:
        ids = ledger.read(key, ["sample_id"])["sample_id"].to_pylist()
        assert len(ids) == cells[key]["rows"] == len(set(ids))


def test_nothing_is_answered_twice_and_new_cells_join(scored, asked):
    folder, networks, ledger = scored
    journal = ledger.folder / "journal.jsonl"
    before = journal.read_text()
    evaluate(asked, SCALE, plan_of(asked), networks, folder / "ledger")
    assert journal.read_text() == before
    more = dataclasses.replace(asked, evaluate=dataclasses.replace(asked.evaluate, severities=(1, 3, 5)))
    evaluate(more, SCALE, plan_of(more), networks, folder / "ledger")
    new = [json.loads(line)["cell"] for line in journal.read_text().removeprefix(before).splitlines()]
    assert set(new) == {"gaussian_noise_3", "contrast_3", "saturate_3"} and len(new) == 3 * 4
    fewer = dataclasses.replace(
        CONFIG, evaluate=EvaluateConfig(corruptions=("contrast",), severities=(5,), bootstrap=0)
    )
    card = scorecard(evaluate(fewer, SCALE, plan_of(fewer), networks, folder / "ledger"), replicates=0, seed=0)
    assert journal.read_text().count("\n") == before.count("\n") + 3 * 4  # answers stay, and only what is asked is told
    assert len(card["methods"]["augmix"]["errors"]["contrast"]) == 1 and not card["methods"]["augmix"]["shifts"]
    evaluate(asked, SCALE, plan_of(asked), networks, folder / "ledger")


@pytest.mark.parametrize("corrupt_on", ["actors", "tasks"])
def test_neither_the_number_of_workers_nor_where_they_corrupt_changes_a_byte(scored, asked, tmp_path, corrupt_on):
    folder, networks, _ = scored
    two = dataclasses.replace(SCALE, evaluation_actors=2)
    config = dataclasses.replace(asked, scale=dataclasses.replace(CONFIG.scale, corrupt_on=corrupt_on))
    ledger = evaluate(config, two, plan_of(asked), networks, tmp_path / "ledger")
    for path in sorted((folder / "ledger" / "predictions").iterdir()):
        if not path.stem.endswith("_3"):
            assert path.read_bytes() == (ledger.folder / "predictions" / path.name).read_bytes(), path.stem


def test_a_published_set_is_read_as_it_is(scored, ray_local, tmp_path):
    _, networks, _ = scored
    images, labels = clean_images()[0], np.arange(100) % 10
    data = dataclasses.replace(CONFIG.data, test_limit=0)
    source = dataclasses.replace(open_source(data, train=False), images=images, labels=labels)
    shown = write_cifar_c(tmp_path / "C", ("contrast",), size=100)
    config = dataclasses.replace(
        CONFIG,
        data=data,
        evaluate=EvaluateConfig(corruptions=("contrast",), severities=(2, 5), published=str(tmp_path / "C")),
    )
    ledger = evaluate(config, SCALE, plan_evaluation(data, config.evaluate, source), networks, tmp_path / "ledger")
    card = scorecard(ledger, replicates=0, seed=0)
    for method, network in networks.items():
        wrong = [(answers(network, shown["contrast"][100 * (s - 1) : 100 * s]) != labels).mean() for s in (2, 5)]
        assert card["methods"][method]["errors"]["contrast"] == wrong
    assert "100 images, 32 px, not resized, published files; NOT COMPARABLE: 2 of 75 cells" in card["protocol"]["uCE"]


def test_unreadable_test_images_are_left_out_and_counted(ray_local, tmp_path):
    imagenet_tree(tmp_path)
    (tmp_path / "train" / "n01" / "1.JPEG").write_bytes(b"no image")
    source = open_folder(tmp_path / "train", ("n01", "n02"))
    data = DataConfig(name="imagenet", image_size=32, crop="random_resized")
    config = RunConfig(data=data, evaluate=EvaluateConfig(corruptions=("contrast",), severities=(5,)))
    networks = {"augmix": untrained(tmp_path / "checkpoints", "augmix", classes=2, data=data)}
    plan = plan_evaluation(data, config.evaluate, source)
    with pytest.raises(TooManyBadSamplesError, match=r"1 of 6 images \(16\.7 %\) .*n01/1\.JPEG: not a readable"):
        evaluate(config, SCALE, plan, networks, tmp_path / "ledger")
    config = dataclasses.replace(config, data=dataclasses.replace(data, max_bad_fraction=0.2))
    ledger = evaluate(config, SCALE, plan, networks, tmp_path / "ledger")
    (row,) = collected(tmp_path)
    assert (row["sample_id"], row["split"]) == (1, "test")
    clean = ledger.read("clean")
    assert clean["valid"].to_pylist() == [True, False, True, True, True, True]
    wrong = np.array(clean["predicted_augmix"]) != np.array(clean["label"])
    card = scorecard(ledger, replicates=0, seed=0)
    assert card["methods"]["augmix"]["clean_error"] == wrong[np.array(clean["valid"])].sum() / 5
    assert card["unreadable"] == 1 and "NOT COMPARABLE: 5 of 6 images" in card["protocol"]["clean"]


def test_any_score_can_be_recomputed_from_the_stored_answers(scored):
    _, _, ledger = scored
    table = pq.read_table(ledger.finished_path("contrast_5"))
    result = scorecard(ledger, replicates=0, seed=0)["methods"]["augmix"]
    wrong = np.array(table["predicted_augmix"]) != np.array(table["label"])
    assert result["errors"]["contrast"][-1] == wrong.mean()
    assert ((np.array(table["label_rank_augmix"]) > 0) == wrong).all()


def test_a_ledger_that_is_not_finished_is_scored_as_far_as_it_goes(scored, tmp_path):
    _, _, ledger = scored
    part = Ledger(tmp_path / "ledger")
    part.ask(ledger.asked["identity"], ledger.asked["cells"], ledger.asked["about"])
    for first in (0, 64):
        for cell in ("clean", "contrast_1"):
            part.put(cell, first, parquet_bytes(ledger.piece(cell, first)))
    card = scorecard(Ledger(tmp_path / "ledger"), replicates=20, seed=0)
    assert "NOT COMPARABLE: 64 of 449 images" in card["protocol"]["clean"]
    assert set(card["methods"]["augmix"]["errors"]) == {"contrast"}
    assert card["progress"]["answered"] == 4 < card["progress"]["pieces"]


def parquet_bytes(table):
    from pipeline.ledger import as_parquet

    return as_parquet(table)


def test_the_report_writes_tables_figures_and_one_html_file(scored, asked):
    folder, _, _ = scored
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(asked)))
    for method in METHODS:
        (folder / "train" / method).mkdir(parents=True, exist_ok=True)
        row = {"epoch": 1, "step": 9, "train/loss": 1.0, "train/error": 0.5, "validation/error": 0.5}
        (folder / "train" / method / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    bad = {"sample_id": 3, "path": "/data/<b>.jpg", "reason": "not readable: truncated", "split": "train"}
    add(folder / "train" / "augmix", [bad])
    source = open_source(asked.data, train=False)
    tables = write_report(folder, asked, training=source, test=source)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["methods"]) == set(METHODS)
    low, high = metrics["methods"]["augmix"]["interval"]["uCE"]
    assert f"{metrics['methods']['augmix']['uCE']:.1f} [{low:.1f}, {high:.1f}]" in tables
    assert "NOT COMPARABLE: 100 of 449 images" in tables and "of 75 cells" in tables
    assert tables in (folder / "report.md").read_text()
    drawn = {"curves", "corruption_error", "reliability", "views", "corruptions"}
    assert {path.stem for path in (folder / "figures").iterdir()} == drawn
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(drawn)
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;.jpg" in page and "<b>" not in page
    before = (folder / "metrics.json").read_bytes()
    write_report(folder, asked, training=source)
    assert (folder / "metrics.json").read_bytes() == before


def test_a_report_before_the_evaluation_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="score it first"):
        write_report(tmp_path, CONFIG)


PAGE_FAULTS = """
import resource, sys, torch
from pipeline.predict import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40_000_000, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is what gives large blocks back to the kernel")
def test_memory_of_a_batch_is_used_for_the_next():
    def faults(*arguments):
        command = [sys.executable, "-c", PAGE_FAULTS, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 100
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not (huge_pages.exists() and "[always]" in huge_pages.read_text()):
        assert faults() > 5000
