"""Trainings that are killed, at length; short forms are among the tests of jobs and of training."""

import subprocess
import sys

import pytest

from tests.test_jobs import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--runs", "3"], ["--runs", "0", "--writes", "5"]])
def test_killed_trainings_end_with_the_weights_of_one_that_nobody_disturbed(arguments):
    command = [sys.executable, ROOT / "benchmarks" / "kill_training.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "As if nothing had happened." in done.stdout
