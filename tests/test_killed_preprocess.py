"""A killed preprocessing job, resumed by the same command, ends with the files of one that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline.config import DataConfig, PreprocessConfig
from tests.pipeline.test_generate import contents
from tests.pipeline.test_shards import written_here
from tests.test_jobs import ROOT

ROWS = 12
SHARDS = -(-1348 // ROWS)


def states(folder):
    """When each shard was written, and as which file."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("*.arrow")}


def killed_after(marks, folder, arguments):
    """Start the command and end it with SIGKILL once so many shards are marked; returns those that are."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while len(marked := list((folder / ".done").glob("*.json"))) < marks:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return {f"shard-{path.stem}.arrow" for path in marked}


def check_kills(tmp_path, monkeypatch, *, kills, seed):
    monkeypatch.setenv("AUGMIX_STORAGE", str(tmp_path / "runs"))
    whole, output = tmp_path / "whole", tmp_path / "output"
    written_here("images", PreprocessConfig(output=str(whole), data=DataConfig(), splits=("train",), rows_a_shard=ROWS))
    arguments = [sys.executable, str(ROOT / "jobs" / "preprocess.py"), "images", "--recipe", "digits"]
    arguments += ["--output", str(output), "--splits", "train", "--rows-a-shard", str(ROWS)]
    before: dict[str, tuple[int, int]] = {}
    for marks in sorted(random.Random(seed).sample(range(1, SHARDS - 30), kills)):
        marked = killed_after(marks, output / "train", arguments)
        now = states(output / "train")
        assert all(now[name] == state for name, state in before.items())  # no finished shard was written again
        before = {name: now[name] for name in marked}
    out = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert f"preprocess: {output / 'train'} is complete" in out
    now = states(output / "train")
    assert all(now[name] == state for name, state in before.items())
    assert contents(output) == contents(whole)


def test_a_kill_leaves_no_trace_in_the_shards(tmp_path, monkeypatch):
    check_kills(tmp_path, monkeypatch, kills=1, seed=0)


@pytest.mark.slow
def test_five_kills_leave_no_trace_in_the_shards(tmp_path, monkeypatch):
    check_kills(tmp_path, monkeypatch, kills=5, seed=1)
