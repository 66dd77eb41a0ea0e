"""The jobs that train nothing, as a user starts them: scoring a network, copying a data set, and what they refuse."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli import ScoreStage, parse
from pipeline.config import score_name
from pipeline.score import Score
from tests.pipeline.fixtures import write_cifar_c, write_cifar_parquet
from tests.pipeline.test_networks import network, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--recipe", "digits", "--data.test-limit", "60", "--evaluate.corruptions", "gaussian_noise", "contrast"]
TINY += ["--evaluate.bootstrap", "50", "--evaluate.severities"]


def finished(job, *arguments, storage, **environment):
    """Exit code, output and errors of a job."""
    environment = os.environ | {"AUGMIX_STORAGE": str(storage)} | environment
    if "RAY_ADDRESS" not in environment:
        environment["RAY_ADDRESS"] = "local"
    command = [str(ROOT / "jobs" / job), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180, check=False)
    return done.returncode, done.stdout, done.stderr


def journal(folder):
    """The cells that were answered, in order."""
    lines = (folder / "ledger" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["cell"] for line in lines]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """An untrained network on a few digits."""
    folder = tmp_path_factory.mktemp("scored")
    model = write_checkpoint(folder / "checkpoint", network())
    storage = folder / "storage"
    return model, storage, *finished("evaluate.py", "--model", model, *TINY, "1", "5", storage=storage)


def test_one_command_scores_a_network_and_says_what_each_number_is(scored):
    model, storage, code, out, err = scored
    assert (code, err) == (0, "")
    (folder,) = storage.iterdir()
    assert folder.name.startswith("score-digits-checkpoint-")
    lines = out.splitlines()
    assert lines[0] == f"checkpoint {model}: 300 images or sequences in 5 cells"
    assert any(line.startswith("| **uCE**") for line in lines)
    (protocol,) = (line for line in lines if line.startswith("- uCE"))
    assert "generated with the 32 px constants, not the published files" in protocol
    assert "NOT COMPARABLE: 60 of 449 images" in protocol and "NOT COMPARABLE: 4 of 75 cells" in protocol
    assert lines[-1] == f"report: {folder / 'report.html'}"
    metrics = json.loads((folder / "metrics.json").read_text())
    result = metrics["methods"]["network"]
    assert f"{result['uCE']:.1f}" in protocol and set(result["errors"]) == {"gaussian_noise", "contrast"}
    low, high = result["interval"]["uCE"]
    assert low <= result["uCE"] <= high
    assert "NOT COMPARABLE" in (folder / "report.html").read_text()
    keys = [f"{name}_{severity}" for name in ("gaussian_noise", "contrast") for severity in (1, 5)]
    assert sorted(journal(folder)) == sorted(["clean", *keys])


def test_a_report_alone_needs_no_cluster(scored):
    model, storage, *_ = scored
    (folder,) = storage.iterdir()
    before = journal(folder)
    (folder / "report.html").unlink()
    nowhere = {"storage": storage, "RAY_ADDRESS": "127.0.0.1:1"}  # a cluster that no command could reach
    code, out, err = finished("evaluate.py", "report", "--model", model, *TINY, "1", "5", **nowhere)
    assert (code, err) == (0, "") and "| **uCE**" in out
    assert (folder / "report.html").exists() and journal(folder) == before


def scored_here(storage, *arguments):
    """The same command in this process, on the Ray that the other tests use."""
    recipes = runpy.run_path(str(ROOT / "jobs" / "evaluate.py"))["RECIPES"]
    _, recipe, config = parse([*map(str, arguments), "--storage", str(storage)], recipes, "", ScoreStage, "")
    folder = storage / score_name(config, recipe)
    Score(folder, config).run()
    return folder


def test_the_same_again_asks_the_network_nothing_and_another_severity_only_what_is_new(scored, ray_local, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    model, storage, *_ = scored
    (folder,) = storage.iterdir()
    before = (folder / "ledger" / "journal.jsonl").read_bytes()
    metrics = json.loads((folder / "metrics.json").read_text())["methods"]
    assert scored_here(storage, "--model", model, *TINY, "1", "5") == folder
    assert (folder / "ledger" / "journal.jsonl").read_bytes() == before
    assert json.loads((folder / "metrics.json").read_text())["methods"] == metrics
    assert scored_here(storage, "--model", model, *TINY, "1", "5", "3") == folder
    new = (folder / "ledger" / "journal.jsonl").read_bytes().removeprefix(before)
    assert sorted(json.loads(line)["cell"] for line in new.splitlines()) == ["contrast_3", "gaussian_noise_3"]
    assert "NOT COMPARABLE: 6 of 75 cells" in (folder / "report.md").read_text()
    assert [path.name for path in storage.iterdir()] == [folder.name]


def test_one_command_copies_a_data_set(tmp_path):
    flags = [
        "--recipe",
        "digits",
        "--data.test-limit",
        "20",
        "--corruptions",
        "contrast",
        "--output",
        tmp_path / "copy",
    ]
    code, out, err = finished("corrupt.py", *flags, storage=tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"corrupt: 20 images in 5 cells into {tmp_path / 'copy'}, 5 pieces to do"
    assert lines[-1].endswith("is complete; it is generated, not the published files")
    assert np.load(tmp_path / "copy" / "contrast.npy").shape == (100, 32, 32, 3)


def test_a_copy_that_must_stop_in_the_middle_ends_in_one_line(tmp_path):
    """The image is not among those that are looked at before Ray starts."""
    write_cifar_parquet(tmp_path / "cifar10", train=30, test=30, files=1)
    (file,) = (tmp_path / "cifar10").glob("test-*")
    table = pq.read_table(file)
    rows = table["image"].to_pylist()
    rows[20]["bytes"] = b"no image"
    pq.write_table(table.set_column(0, "image", pa.array(rows, table.schema.field("image").type)), file)
    flags = ["--recipe", "cifar10", "--data.path", tmp_path / "cifar10", "--output", tmp_path / "copy"]
    flags += ["--corruptions", "contrast", "--scale.evaluation-piece-size", "5"]
    code, _, err = finished("corrupt.py", *flags, storage=tmp_path)
    assert code == 2 and err.startswith(f"error: {file} row 20: ") and err.count("\n") == 1, err
    assert not list((tmp_path / "copy").glob("*.npy"))


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What a job says on stderr when it refuses, before it starts Ray or makes a folder; in this process, for speed."""
    storage = tmp_path / "storage"
    monkeypatch.setenv("AUGMIX_STORAGE", str(storage))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("ray.init", None)

    def run(job, *arguments, untouched=True):
        monkeypatch.setattr(sys, "argv", [job, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "jobs" / job), run_name="__main__")
        out, err = capsys.readouterr()
        assert (stopped.value.code, out) == (2, "")
        assert err.startswith("error: ") and err.count("\n") == 1
        assert not (untouched and storage.exists())
        return err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the network to score, such as --model resnet50"),
        (["--recipe", "digits", "--model", "resnet5O"], "model 'resnet5O' is unknown; did you mean 'resnet50'?"),
        (["--recipe", "digit", "--model", "resnet50"], "did you mean 'digits'?"),
        (["--model", "resnet50"], "data.path is not set; give the folder of imagenet"),
        (["--recipe", "cifar10", "--model", "resnet50", "--data.path", "/no/such"], "is not a folder on this machine"),
        (["--recipe", "digits", "--model", "convnet5"], "give the file with the weights of convnet5"),
    ],
)
def test_a_wrong_network_or_data_set_is_refused_in_one_line(refused, arguments, said):
    assert said in refused("evaluate.py", *arguments)


def test_a_report_of_nothing_says_what_to_run(refused, tmp_path):
    model = write_checkpoint(tmp_path / "checkpoint", network())
    command = ["evaluate.py", "report", "--recipe", "digits", "--model", model]
    assert "nothing has been scored under this name" in refused(*command)


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10 with ten test images, its -C, and a network's weights."""
    write_cifar_parquet(tmp_path / "cifar10", train=20, test=10, files=1)
    write_cifar_c(tmp_path / "c", ("contrast",))
    torch.save(network().state_dict(), tmp_path / "w.pt")
    flags = ["--recipe", "cifar10", "--data.path", tmp_path / "cifar10", "--evaluate.corruptions", "contrast"]
    return [*flags, "--model", "convnet5", "--weights", tmp_path / "w.pt", "--evaluate.published"]


def test_published_files_that_are_not_all_there_are_refused_in_one_line(refused, cifar, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is empty; unpack the published files into it" in refused("evaluate.py", *cifar, tmp_path / "empty")
    file = tmp_path / "c" / "contrast.npy"
    os.truncate(file, file.stat().st_size - 1)
    assert f"{file} has " in refused("evaluate.py", *cifar, tmp_path / "c")


def test_a_wrong_output_is_refused_in_one_line(refused, tmp_path):
    assert "output is ''; give the folder of the copy" in refused("corrupt.py")
    assert "output is 'copy'; give the absolute path" in refused("corrupt.py", "--output", "copy")
    (tmp_path / "photo.jpg").write_text("")
    assert "is not empty (found: photo.jpg" in refused("corrupt.py", "--output", tmp_path)


@pytest.mark.parametrize(
    ("job", "knobs"),
    [
        ("evaluate.py", ["--model", "--weights", "--evaluate.published", "--evaluate.severities", "--data.path"]),
        ("corrupt.py", ["--output", "--layout", "--split", "--corruptions", "--scale.evaluation-piece-size"]),
    ],
)
def test_help_lists_the_knobs_with_what_they_do(monkeypatch, capsys, job, knobs):
    monkeypatch.setattr(sys, "argv", [job, "--help"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "jobs" / job), run_name="__main__")
    shown = capsys.readouterr().out
    assert not [knob for knob in knobs if knob not in shown]
    assert f"jobs/{job} --recipe cifar10" in " ".join(shown.split())
