"""The jobs as a user starts them: whole runs, a killed driver, a submitted job, a few ImageNet steps."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import checkpoint

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--data.train-limit",
    "128",
    "--data.test-limit",
    "64",
    "--train.epochs",
    "4",
    "--train.global-batch-size",
    "32",
]
TINY += [
    "--search.trials",
    "1",
    "--search.epochs",
    "1",
    "--search.grace-epochs",
    "1",
    "--evaluate.severities",
    "1",
    "5",
    "--evaluate.corruptions",
    "gaussian_noise",
    "fog",
]


def started(job, *arguments, storage):
    environment = os.environ | {"AUGMIX_STORAGE": str(storage), "RAY_ADDRESS": "local"}
    command = [ROOT / "jobs" / job, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def output_of(script, *arguments, timeout):
    """What a Python script says, in a process of its own and with a good end."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def finished(process, timeout=600):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The default job of digits, made tiny."""
    storage = tmp_path_factory.mktemp("storage")
    return storage, *finished(started("digits.py", *TINY, storage=storage))


def test_one_command_goes_from_images_to_the_table(digits_run):
    storage, code, out, err = digits_run
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"new run in {storage}/digits-convnet5-")
    assert sum(line.startswith("standard: epoch") for line in lines) == 4
    assert sum(line.startswith("augmix: epoch") for line in lines) == 4
    assert any(line.startswith("search: chose") for line in lines)
    assert any(line.startswith("| **uCE**") for line in lines)
    (folder,) = storage.iterdir()
    assert lines[-1] == f"report: {folder / 'report.html'}"
    for name in (
        "config.json",
        "metrics.json",
        "report.md",
        "report.html",
        "ledger/predictions/clean.parquet",
        "search/best.json",
    ):
        assert (folder / name).stat().st_size > 0
    for row in map(json.loads, (folder / "train/standard/metrics.jsonl").read_text().splitlines()):
        assert row["train/consistency"] == 0 and row["train/loss"] == row["train/cross_entropy"]
    assert (folder / "ray.log").exists()  # Ray talks there, not here
    assert not any(word in out for word in ("INFO", "WARNING", "(pid=", "raylet"))


def test_the_same_command_again_resumes_and_does_nothing_twice(digits_run):
    storage, *_ = digits_run
    (folder,) = storage.iterdir()
    before = (folder / "train" / "augmix" / "metrics.jsonl").read_bytes()
    code, out, err = finished(started("digits.py", *TINY, storage=storage))
    assert (code, err) == (0, "")
    assert out.startswith(f"resuming {folder}")
    assert "already trained" in out and "| **uCE**" in out
    assert (folder / "train" / "augmix" / "metrics.jsonl").read_bytes() == before
    assert len(list(storage.iterdir())) == 1


def test_a_stage_can_be_run_alone(digits_run):
    storage, *_ = digits_run
    (folder,) = storage.iterdir()
    (folder / "report.html").unlink()
    code, out, _ = finished(started("digits.py", "report", *TINY, storage=storage))
    assert code == 0 and "| **uCE**" in out and (folder / "report.html").exists()


@pytest.mark.slow
def test_a_stage_that_comes_too_early_says_which_one_is_missing(tmp_path):
    code, _, err = finished(started("digits.py", "evaluate", *TINY, "--name", "untrained", storage=tmp_path))
    assert code == 2 and "run the train stage first" in err and "Traceback" not in err


def interrupted(number, wait_for, process):
    """Send a signal to a job once a file exists, and return its exit code and what it said on stderr."""
    deadline = time.monotonic() + 300
    while not wait_for.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    code, _, err = finished(process)
    return code, err


@pytest.mark.parametrize(
    ("number", "after"),
    [
        pytest.param(signal.SIGTERM, "progress.json", marks=pytest.mark.slow),  # within the first epoch
        (signal.SIGKILL, checkpoint.SNAPSHOT),  # after it
    ],
)
def test_a_job_that_is_stopped_or_killed_resumes_to_the_same_weights(digits_run, tmp_path, number, after):
    """By the same command; compared with the training that nothing disturbed."""
    (whole,) = digits_run[0].glob("*/train/augmix")
    command = ["digits.py", "train", "--methods", "augmix", "--name", "killed", *TINY]
    folder = tmp_path / "killed" / "train" / "augmix"
    code, err = interrupted(number, folder / after, started(*command, storage=tmp_path))
    if number == signal.SIGTERM:
        step = checkpoint.read_meta(checkpoint.last_checkpoint(folder)).step
        told = f"stopped after step {step} of 16, which is kept in a checkpoint; the same command goes on from there\n"
        assert (code, err) == (143, told)
        assert not (folder / "stop").exists()
    else:
        assert code == -signal.SIGKILL
    code, out, err = finished(started(*command, storage=tmp_path))
    assert (code, err) == (0, "")
    assert out.startswith("resuming epoch ") and "/4 from " in out.splitlines()[0]
    rows = {
        path: [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, whole)
    }
    assert [row["epoch"] for row in rows[folder]] == [1, 2, 3, 4]
    assert [row["train/loss"] for row in rows[folder]] == [row["train/loss"] for row in rows[whole]]
    final = "step_000000016/model.safetensors"
    assert (folder / final).read_bytes() == (whole / final).read_bytes()


def test_a_few_imagenet_steps_on_real_images(real_imagenet, tmp_path):
    """224 px crops of the sample; one file is no image and ends in quarantine."""
    data = tmp_path / "imagenet"
    names = sorted(path.name for path in real_imagenet.iterdir())[:8]
    for split in ("train", "val"):
        for name in names:
            shutil.copytree(real_imagenet / name, data / split / name)
    broken = next((data / "train" / names[0]).iterdir())
    broken.chmod(0o644)
    broken.write_bytes(b"this is no image")
    flags = ["--data.path", str(data), "--model.name", "resnet18", "--train.global-batch-size", "4"]
    flags += ["--scale.num-workers", "1"]
    flags += [
        "--data.max-bad-fraction",
        "0.2",
        "--train.max-steps",
        "4",
        "--evaluate.corruptions",
        "contrast",
        "--evaluate.severities",
        "3",
    ]
    code, out, err = finished(
        started("imagenet.py", *flags, "--methods", "augmix", storage=tmp_path / "runs"), timeout=300
    )
    assert (code, err) == (0, "")
    assert "| contrast" in out
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "index")
    (listed,) = pq.read_table(folder / "quarantine.parquet").to_pylist()
    assert (listed["path"], listed["split"]) == (str(broken), "train") and "not a readable" in listed["reason"]
    assert str(broken) in (folder / "report.md").read_text()


def test_own_images_are_trained_on_scored_and_reported(ray_local, tmp_path):
    """Class folders alone, of which a quarter is the test set; a second run finds the indexes of the first."""
    import ray

    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light", "red")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            pixels = rng.integers(0, 60, (90, 70, 3)) + np.array([[0, 0, 0], [190, 190, 190], [190, 0, 0]])[label]
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{n}.jpg")
    flags = ["--recipe", "small", "--data.path", tmp_path / "data", "--data.image-size", "32", "--search.trials", "0"]
    flags += ["--train.global-batch-size", "8", "--train.epochs", "2", "--methods", "augmix", "--name", "mine"]
    flags += ["--evaluate.corruptions", "contrast", "--evaluate.severities", "3", "--evaluate.bootstrap", "10"]
    flags += ["--scale.num-workers", "1"]
    environment = os.environ | {
        "AUGMIX_STORAGE": str(tmp_path / "runs"),
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }
    command = [ROOT / "jobs/folder.py", "run", *flags]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert lines[1] == f"train: 27 images, 3 classes, 75 % of each class of the image folders in {tmp_path}/data"
    assert lines[2] == f"test: 9 images, 3 classes, 25 % of each class of the image folders in {tmp_path}/data"
    assert sum(line.startswith("augmix: epoch") for line in lines) == 2 and "| contrast" in first.stdout
    indexes = sorted((tmp_path / "runs" / "index").iterdir())
    assert [path.name.rpartition("-")[0] for path in indexes] == ["folder-test", "folder-train"]
    times = [path.stat().st_mtime_ns for path in indexes]
    command[1] = "report"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0 and lines[1] in again.stdout
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs" / "index").iterdir())] == times
    assert (tmp_path / "runs/mine/report.html").exists()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A real head, started in the clone's root as the README says, with its own ports and temporary folder."""
    temporary = Path("/tmp") / f"augmix-{os.getpid()}"  # Ray's socket paths must stay short
    dashboard = free_port()
    ray = Path(sys.executable).parent / "ray"
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "AUGMIX_STORAGE": str(tmp_path_factory.mktemp("submitted")),
    }
    command = [ray, "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--temp-dir={temporary}", "--include-dashboard=true"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # its usual one belongs to the Ray of the other tests
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while subprocess.run([ray, "job", "list", "--address", address], env=environment, capture_output=True).returncode:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(1)
    yield ray, address, environment
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize(
    "how",
    [pytest.param(["jobs/digits.py"], marks=pytest.mark.slow), ["--working-dir", ".", "--", "jobs/digits.py"]],
)
def test_a_submitted_job_succeeds(cluster, how):
    ray, address, environment = cluster
    flags = ["train", *TINY, "--methods", "augmix", "--name", f"submitted-{len(how)}", "--scale.num-workers", "1"]
    separator = [] if "--" in how else ["--"]
    command = [ray, "job", "submit", "--address", address, *how[:-1], *separator, how[-1], *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "augmix: epoch 4/4" in done.stdout
    run = Path(environment["AUGMIX_STORAGE"]) / f"submitted-{len(how)}"
    assert len((run / "train/augmix/metrics.jsonl").read_text().splitlines()) == 4
