"""Checkpoints that notice damage: nothing damaged is used, nothing in them is run, and what was there before stays."""

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch

from augmix_core.models import build_model
from pipeline import checkpoint
from pipeline.config import DataConfig, RunConfig
from pipeline.optimise import build_optimizer
from tests.pipeline.fixtures import write_snapshot

ONE_LINE = r"\A[^\n]{1,600}\Z"
FILES = ("model.safetensors", "training_state.pt", "meta.json", "manifest.json")


def trained(seed=0):
    """A network and its optimizer after one step, so that there is momentum."""
    torch.manual_seed(seed)
    model = build_model("convnet5", 10)
    optimizer = build_optimizer(model, RunConfig())
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


def write(folder: Path, step=1, error=0.5, seed=0) -> Path:
    folder.mkdir(parents=True)
    meta = checkpoint.Meta(step, 1, "convnet5", 10, dataclasses.asdict(DataConfig()), validation_error=error)
    checkpoint.save(folder, *trained(seed), meta)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "step_000000001")


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "step_000000001"))


def forge(folder: Path) -> None:
    """Make the manifest agree with the files, as somebody with bad intentions would."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    (folder / "manifest.json").write_text(checkpoint.manifest_of(files))


def refused(folder: Path, error=checkpoint.DamagedCheckpointError) -> str:
    """The line that loading ends in; neither model nor optimizer have changed."""
    model, optimizer = trained(seed=1)
    before = safetensors.torch.save(dict(model.state_dict()))
    with pytest.raises(error, match=ONE_LINE) as caught:
        checkpoint.load_training(folder, model, optimizer)
    assert safetensors.torch.save(dict(model.state_dict())) == before
    return str(caught.value)


@pytest.fixture
def no_reader(monkeypatch):
    """Whoever deserialises a damaged file fails the test."""

    def reached(*_, **__):
        raise AssertionError("a damaged file has been deserialised")

    monkeypatch.setattr(torch, "load", reached)
    monkeypatch.setattr(safetensors.torch, "load", reached)


def all_or(short, count, slow):
    """The first few as a short form, all of them marked slow."""
    return [pytest.param(short, id="short"), pytest.param(count, id="all", marks=slow)]


@pytest.mark.parametrize("flips", all_or(60, 1000, pytest.mark.slow))
def test_a_flipped_bit_anywhere_is_noticed_before_anything_is_read(copy, no_reader, flips):
    rng = random.Random(flips)
    for n in range(flips):
        path = copy / FILES[n % len(FILES)]
        content = path.read_bytes()
        at = rng.randrange(8 * len(content))
        path.write_bytes(content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :])
        with pytest.raises(checkpoint.DamagedCheckpointError, match=ONE_LINE):
            checkpoint.check(copy)
        path.write_bytes(content)
    checkpoint.check(copy)


def test_every_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    """Over a checkpoint of three small files, so that all 3,000 flips take a second."""
    contents = {name: name.encode() for name in FILES[:3]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    manifest = checkpoint.manifest_of(contents).encode()
    (tmp_path / "manifest.json").write_bytes(manifest)
    checkpoint.check(tmp_path)
    for at in range(8 * len(manifest)):
        flipped = bytearray(manifest)
        flipped[at // 8] ^= 1 << at % 8
        (tmp_path / "manifest.json").write_bytes(flipped)
        with pytest.raises(checkpoint.DamagedCheckpointError):
            checkpoint.check(tmp_path)


@pytest.mark.parametrize("percent", all_or(10, 1, pytest.mark.slow))
def test_a_truncation_anywhere_is_noticed_before_anything_is_read(copy, no_reader, percent):
    for name in FILES:
        content = (copy / name).read_bytes()
        for kept in range(0, 100, percent):
            (copy / name).write_bytes(content[: len(content) * kept // 100])
            refused(copy)
        (copy / name).write_bytes(content)
    checkpoint.check(copy)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda folder: (folder / "meta.json").unlink(), "meta.json is missing"),
        (lambda folder: (folder / "more.pt").touch(), "more.pt is not in its manifest"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors has 0 bytes"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: "),
        (lambda folder: (folder / "manifest.json").write_text('{"meta.json": 3}'), "manifest.json: "),
        (shutil.rmtree, "it has no manifest.json"),
    ],
)
def test_a_folder_that_is_not_as_it_was_written_is_refused(copy, no_reader, damage, said):
    damage(copy)
    assert said in refused(copy)


class Marks:
    """What an unpickled file could do: here it makes a marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_a_pickle_that_would_run_code_is_not_run_even_with_a_forged_manifest(copy, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"state": {0: Marks(marker)}, "param_groups": []}, copy / "training_state.pt")
    torch.load(copy / "training_state.pt", weights_only=False)
    assert marker.exists()  # the bomb is live
    marker.unlink()
    assert "is damaged: training_state.pt has" in refused(copy)
    forge(copy)
    assert "cannot be read: training_state.pt: " in refused(copy, ValueError)
    assert not marker.exists()


ALTERED = {
    "classifier.bias is missing": lambda state: state.pop("classifier.bias"),
    "other is unknown": lambda state: state.update(other=torch.zeros(1)),
    "classifier.bias has shape (11,), not (10,)": lambda state: state.update({"classifier.bias": torch.zeros(11)}),
    "classifier.bias is torch.float16, not": lambda state: state.update({"classifier.bias": torch.zeros(10).half()}),
    "classifier.bias holds values that are not finite": lambda state: state["classifier.bias"].fill_(torch.nan),
}


@pytest.mark.parametrize("said", ALTERED)
def test_weights_that_are_not_those_of_the_model_are_refused_even_with_a_forged_manifest(copy, said):
    state = safetensors.torch.load_file(copy / "model.safetensors")
    ALTERED[said](state)
    safetensors.torch.save_file(state, copy / "model.safetensors")
    forge(copy)
    assert f"does not fit: model.safetensors: {said}" in refused(copy, ValueError)
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.load_model(copy, torch.device("cpu"))


@pytest.mark.parametrize(
    "alter",
    [
        lambda state: state["state"].update({99: state["state"][0]}),
        lambda state: state["state"][0].update(momentum_buffer=torch.zeros(2, 2)),
        lambda state: state["state"][0].update(momentum_buffer=state["state"][0]["momentum_buffer"].to_sparse()),
        lambda state: state["state"][0].update(momentum_buffer=state["state"][0]["momentum_buffer"].double()),
        lambda state: state["state"][0].update(momentum_buffer="none"),
        lambda state: state["state"][0]["momentum_buffer"].fill_(torch.inf),
        lambda state: state["param_groups"][0].pop("momentum"),
        lambda state: state["param_groups"][0].update(params=[0, 1]),
        lambda state: state.pop("state"),
        lambda state: state.update(param_groups=3),
    ],
)
def test_an_optimizer_state_of_another_optimizer_is_refused_even_with_a_forged_manifest(copy, alter):
    state = torch.load(copy / "training_state.pt", weights_only=True)
    alter(state)
    torch.save(state, copy / "training_state.pt")
    forge(copy)
    assert "training_state.pt: " in refused(copy, ValueError)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint, "say", said.append)
    folders = [write(tmp_path / checkpoint.name_of(step), step) for step in (1, 2)]
    write_snapshot(tmp_path, [folder.name for folder in folders])
    assert checkpoint.last_checkpoint(tmp_path) == folders[1] and not said
    model = folders[1] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    for _ in range(2):
        assert checkpoint.last_checkpoint(tmp_path) == folders[0]
    (line,) = said
    assert f"{str(folders[1])!r} is damaged: model.safetensors has SHA-256" in line and "taking the one before" in line
    assert checkpoint.free_name(tmp_path, 2) == "step_000000002_2" and checkpoint.free_name(tmp_path, 3)[-1] == "3"
    (folders[0] / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"\Aall 2 checkpoints in .* are damaged; restore step_000000002 from a copy"):
        checkpoint.last_checkpoint(tmp_path)


def test_the_best_checkpoint_is_that_with_the_lowest_validation_error(tmp_path):
    for step, error in ((1, 0.5), (2, 0.3), (3, 0.4), (4, 0.3)):
        checkpoint.keep_best(write(tmp_path / "written" / str(step), step, error), tmp_path)
    best = checkpoint.best_checkpoint(tmp_path)
    assert best.name == "best_step_000000002" and checkpoint.read_meta(best).validation_error == 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"written", "best_step_000000002"}


def test_a_damaged_best_checkpoint_is_replaced_by_the_next(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint, "say", said.append)
    checkpoint.keep_best(write(tmp_path / "written" / "1", 1, 0.1), tmp_path)
    (tmp_path / "best_step_000000001" / "meta.json").write_text("{}")
    checkpoint.keep_best(write(tmp_path / "written" / "2", 2, 0.9), tmp_path)
    assert checkpoint.best_checkpoint(tmp_path).name == "best_step_000000002"
    assert "is damaged" in said[0]


def test_folders_that_never_came_onto_the_list_are_removed(tmp_path):
    for step in (1, 2):
        write(tmp_path / checkpoint.name_of(step), step)
    write_snapshot(tmp_path, [checkpoint.name_of(1)])
    checkpoint.remove_uncommitted(tmp_path)
    assert [path.name for path in tmp_path.glob("step_*")] == [checkpoint.name_of(1)]


FAULTS = """
    import os, resource
    from pathlib import Path
    from pipeline import checkpoint
    from tests.pipeline.test_checkpoint import write

    def told(act, *arguments):
        try:
            act(*arguments)
        except OSError as error:
            return print(error)
        raise SystemExit(f"{act} {arguments}: the fault did not fire")

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 1 << 40))
    told(write, Path("new"), 2, 0.1)
    told(checkpoint.store, Path("written"), Path("full/step"))
    told(checkpoint.keep_best, Path("written"), Path("full"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))
    told(checkpoint.keep_best, Path("written"), Path("vanished"))
    if os.geteuid() == 0:
        os.setuid(65534)  # root may write everywhere
    told(checkpoint.keep_best, Path("written"), Path("read-only"))
"""


def test_where_storage_fails_the_line_names_the_path_and_the_checkpoint_before_stays(tmp_path):
    """Disk full, a folder that has vanished, and one without permission, in a process that has only these."""
    before = write(tmp_path / "before", 1, 0.5)
    write(tmp_path / "written", 2, 0.1)
    for method in ("full", "read-only", "vanished"):
        (tmp_path / method).mkdir()
        checkpoint.keep_best(before, tmp_path / method)
    (tmp_path / "vanished").rename(tmp_path / "moved")
    (tmp_path / "read-only").chmod(0o555)
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FAULTS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (tmp_path / "read-only").chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    reasons = (*["File too large"] * 3, "No such file or directory", "Permission denied")
    for line, reason in zip(lines, reasons, strict=True):
        assert f" cannot be written: {reason}; the one before is unchanged: " in line
    named = ("new", "full/step", *(f"{method}/best_step_000000002" for method in ("full", "vanished", "read-only")))
    assert [line.split("'")[1] for line in lines] == list(named)
    content = {path.name: path.read_bytes() for path in before.iterdir()}
    for method in ("full", "read-only", "moved"):
        kept = tmp_path / method / "best_step_000000001"
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == content
    assert not (tmp_path / "vanished").exists()
