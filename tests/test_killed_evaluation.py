"""A killed evaluation, resumed by the same command, ends with the score card of one that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.config import DataConfig
from tests.pipeline.test_evaluate import untrained
from tests.test_jobs import ROOT

DIGITS = [
    *("--recipe", "digits", "--data.test-limit", "200", "--scale.evaluation-piece-size", "25"),
    *("--evaluate.corruptions", "gaussian_noise", "fog", "contrast", "--evaluate.severities", "1", "5"),
]


def command(storage, model, arguments):
    return [
        *(str(ROOT / "jobs" / "evaluate.py"), "--name", "scores", "--storage", str(storage), "--model", str(model)),
        *("--evaluate.bootstrap", "100", *arguments),
    ]


def lines_of(journal):
    return journal.read_text().splitlines() if journal.exists() else []


def killed_after(lines, journal, arguments):
    """Start the command and end it with SIGKILL once the ledger's journal has so many lines."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 1800
    while len(lines_of(journal)) < lines:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def check_kills(storage, model, arguments, *, kills, seed):
    """Run whole, then killed at random moments, in a folder of the same path."""
    folder = storage / "scores"
    arguments = command(storage, model, arguments)
    subprocess.run(arguments, check=True, capture_output=True)
    whole = (folder / "metrics.json").read_bytes()
    answers = {path.name: path.read_bytes() for path in (folder / "ledger" / "predictions").iterdir()}
    pieces = len(lines_of(folder / "ledger" / "journal.jsonl"))
    folder.rename(storage / "whole")
    for lines in sorted(random.Random(seed).sample(range(1, pieces), kills)):
        killed_after(lines, folder / "ledger" / "journal.jsonl", arguments)
    out = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert "report: " in out
    assert (folder / "metrics.json").read_bytes() == whole
    for path in (folder / "ledger" / "predictions").iterdir():
        assert answers.pop(path.name) == path.read_bytes(), path.stem
    assert not answers
    answered = [
        (line["cell"], line["first"]) for line in map(json.loads, lines_of(folder / "ledger" / "journal.jsonl"))
    ]
    assert len(answered) == len(set(answered))  # nothing was answered twice


def test_a_kill_leaves_no_trace_in_the_scores(tmp_path):
    untrained(tmp_path, "augmix", data=DataConfig(name="digits"))
    check_kills(tmp_path, tmp_path / "augmix", DIGITS, kills=1, seed=0)


@pytest.mark.slow
def test_five_kills_in_a_whole_evaluation_of_cifar10(tmp_path, real_cifar10: Path):
    data = DataConfig(name="cifar10")
    untrained(tmp_path, "augmix", data=data)
    arguments = ["--recipe", "cifar10", "--data.path", str(real_cifar10)]
    check_kills(tmp_path, tmp_path / "augmix", arguments, kills=5, seed=1)
