"""Evaluation and report: counts equal a plain loop, broken images are left out, figures and tables are written."""

import dataclasses
import json

import numpy as np
import pytest
import ray
import torch

from augmix_core import corrupt
from augmix_core.models import build_model
from pipeline import checkpoint
from pipeline.budget import Scale
from pipeline.config import DataConfig, EvaluateConfig, RunConfig
from pipeline.evaluate import evaluate, scores
from pipeline.predict import predict
from pipeline.report import write_report
from pipeline.source import open_folder, open_source
from pipeline.train import build_optimizer
from tests.pipeline.fixtures import imagenet_tree

CONFIG = RunConfig(evaluate=EvaluateConfig(corruptions=("gaussian_noise", "contrast"), severities=(1, 5)))
ONE_ACTOR = Scale(num_workers=1, use_gpu=False, evaluation_actors=1)
METHODS = ("standard", "augmix")


def untrained(folder, method, classes=10, data=CONFIG.data):
    torch.manual_seed(len(method))
    model = build_model("convnet5", classes)
    folder = folder / method
    folder.mkdir(parents=True)
    meta = checkpoint.Meta(1, 1, "convnet5", classes, dataclasses.asdict(data))
    checkpoint.save(folder, model, build_optimizer(model, CONFIG), meta)
    return folder


@pytest.fixture(scope="module")
def scored(ray_local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = {method: untrained(folder / "checkpoints", method) for method in METHODS}
    source = open_source(CONFIG.data, train=False)
    config = dataclasses.replace(CONFIG, scale=dataclasses.replace(CONFIG.scale, evaluation_batch_size=32))
    table = evaluate(config, ONE_ACTOR, ray.put(source), 100, checkpoints, folder / "ledger")
    return folder, checkpoints, source, table


def test_scores_equal_a_plain_loop(scored):
    _, checkpoints, source, table = scored
    ids = np.arange(100)
    images, labels = source.read(ids)
    for method in METHODS:
        model, data = checkpoint.load_model(checkpoints[method], torch.device("cpu"))

        def error(shown, model=model, data=data):
            return float((predict(model, torch.from_numpy(shown), data).argmax(1).numpy() != labels).mean())

        result = scores(table, method)
        clean = np.stack(images)
        assert result["clean_error"] == error(clean)
        for name in CONFIG.evaluate.corruptions:
            expected = [error(corrupt(clean, name, severity=s, sample_ids=ids)) for s in (1, 5)]
            assert result["errors"][name] == expected
        assert result["uCE"] == pytest.approx(100 * np.mean([np.mean(e) for e in result["errors"].values()]))


def test_every_image_is_in_every_cell_exactly_once(scored):
    *_, table = scored
    rows = list(zip(*(table[c].to_pylist() for c in ("corruption", "severity", "sample_id")), strict=True))
    assert len(rows) == len(set(rows)) == 5 * 100


def test_the_ledger_answers_when_the_same_is_asked_again(scored):
    folder, checkpoints, _, table = scored
    again = evaluate(CONFIG, ONE_ACTOR, None, 100, checkpoints, folder / "ledger")  # no source: nothing is read
    assert again.equals(table)


def test_unreadable_test_images_are_left_out_and_counted(ray_local, tmp_path):
    imagenet_tree(tmp_path)
    (tmp_path / "train" / "n01" / "1.JPEG").write_bytes(b"no image")
    source = open_folder(tmp_path / "train", ("n01", "n02"))
    data = DataConfig(name="imagenet", image_size=32, crop="random_resized")
    config = dataclasses.replace(CONFIG, data=data)
    folder = untrained(tmp_path / "checkpoints", "augmix", classes=2, data=data)
    table = evaluate(config, ONE_ACTOR, ray.put(source), 6, {"augmix": folder}, tmp_path / "ledger")
    clean = table.filter(np.equal(table["severity"].to_numpy(), 0))
    assert clean["valid"].to_pylist() == [True, False, True, True, True, True]
    wrong = sum(
        p != label
        for p, label, v in zip(*(clean[c].to_pylist() for c in ("predicted_augmix", "label", "valid")), strict=True)
        if v
    )
    assert scores(table, "augmix")["clean_error"] == wrong / 5


def test_the_report_writes_tables_figures_and_one_html_file(scored):
    folder, _, source, _ = scored
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    for method in METHODS:
        (folder / "train" / method).mkdir(parents=True, exist_ok=True)
        row = {"epoch": 1, "step": 9, "train/loss": 1.0, "train/error": 0.5, "validation/error": 0.5}
        (folder / "train" / method / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    skipped = {"sample_id": 3, "file": "/data/<b>.jpg", "reason": "not a readable JPEG or PNG: truncated"}
    (folder / "train" / "augmix" / "skipped.jsonl").write_text(json.dumps(skipped) + "\n")
    table = write_report(folder, CONFIG, source, 449)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["methods"]) == set(METHODS)
    assert f"{metrics['methods']['augmix']['uCE']:.1f}" in table
    assert "NOT COMPARABLE: 100 of 449 images" in table and "2 of 15 corruptions x 2 severities" in table
    assert table in (folder / "report.md").read_text()
    assert {path.name for path in (folder / "figures").iterdir()} == {"curves.png", "corruption_error.png", "views.png"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;.jpg" in page and "<b>" not in page


def test_a_report_before_the_evaluation_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run its evaluate stage first"):
        write_report(tmp_path, CONFIG, None, 1)
