"""The command line: what a person types, and what he is told."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from augmix_core import backends
from pipeline.cli import check_kernels, check_same_run, parse, root_cause, save_config
from pipeline.config import RunConfig, TrainConfig, result_fields
from pipeline.progress import say
from tests.pipeline.fixtures import imagenet_tree

JOBS = Path(__file__).resolve().parents[2] / "jobs"
RECIPES = {"small": RunConfig(), "large": RunConfig(train=TrainConfig(epochs=77))}


def job(name, *arguments, **environment):
    """Exit code, output and errors of a job that could reach no cluster: what is wrong is told before one is needed."""
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"} | environment
    command = [JOBS / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_flags_change_the_recipe_that_is_named():
    arguments = ["train", "--recipe", "large", "--augmix.width", "5", "--methods", "augmix"]
    stage, recipe, config = parse(arguments, RECIPES, "")
    assert (stage, recipe, config.train.epochs, config.augmix.width, config.methods) == (
        "train",
        "large",
        77,
        5,
        ("augmix",),
    )
    assert parse([], RECIPES, "") == ("run", "small", RunConfig())


@pytest.mark.parametrize("name", ["digits.py", "cifar.py", "imagenet.py", "folder.py"])
def test_help_documents_every_knob_without_starting_anything(name):
    code, shown, _ = job(name, "--help")
    assert code == 0
    flat = " ".join(shown.split())
    for section in ("data", "augmix", "model", "train", "search", "evaluate", "scale"):
        for field in dataclasses.fields(getattr(RunConfig(), section)):
            assert f"--{section}.{field.name.replace('_', '-')}" in flat
    assert "[{run,train,search,evaluate,report}]" in flat and "default:" in flat


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--augmix.widht", "4"], ["--augmix.width"]),
        (["--augmix.width", "three"], ["three"]),
        (["--augmix.width", "9"], ["augmix.width is 9", "from 1 to 8"]),
        (["--recipe", "digit"], ["did you mean 'digits'"]),
        (["trian"], ["trian"]),
        (["--model.name", "resnet5o"], ["did you mean 'resnet50'"]),
        (["--data.name", "imagenet"], ["data.path is not set", "jobs/digits.py"]),
        (["--storage", "relative"], ["storage is 'relative'", "absolute"]),
    ],
)
def test_wrong_input_ends_with_code_2_and_the_remedy(arguments, parts):
    code, _, told = job("digits.py", *arguments)
    assert code == 2
    assert "Traceback" not in told
    for part in parts:
        assert part in " ".join(told.split())


def test_what_is_found_wrong_after_ray_has_started_leaves_no_folder_behind(ray_local, tmp_path):
    import ray

    there = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "AUGMIX_STORAGE": str(tmp_path)}
    code, out, told = job("digits.py", "--data.image-size", "64", **there)
    assert code == 2 and told.strip().count("\n") == 0
    assert "none of the first 10 images" in told and "digits image 0: is 32x32 pixels" in told
    assert "train: 1,348 images, 10 classes, scikit-learn's digits" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/not/there", "s3://bucket/folder?endpoint_override=127.0.0.1:1&scheme=teleport"])
def test_images_that_are_not_there_are_told_before_ray_starts(path):
    code, _, told = job("folder.py", "--data.path", path)
    assert code == 2 and told.strip().count("\n") == 0 and f"data.path {path!r}" in told


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("avx51", "AUGMIX_BACKEND 'avx51' is unknown; did you mean 'avx512'"),
        ("avx512", "AUGMIX_BACKEND: backend 'avx512' cannot run"),
    ],
)
def test_a_backend_that_cannot_run_is_told_before_anything_starts(backend, told, monkeypatch):
    monkeypatch.setenv("AUGMIX_BACKEND", backend)
    monkeypatch.setattr(backends, "VARIANTS", ("portable",))
    with pytest.raises(ValueError, match=told):
        check_kernels()


def test_imagenet_without_data_ends_at_once_and_says_what_to_set():
    code, _, told = job("imagenet.py")
    assert code == 2
    assert told.strip().count("\n") == 0
    assert "--data.path" in told and "jobs/digits.py runs without any data" in told


def test_classes_that_differ_between_training_and_validation_are_refused(tmp_path):
    imagenet_tree(tmp_path)
    (tmp_path / "val" / "n77").mkdir()
    code, _, told = job("imagenet.py", "--data.path", str(tmp_path))
    assert code == 2 and "'n77'" in told and "Traceback" not in told


def identity(config, data=("a", "b")):
    return {"recipe": "small", "fields": result_fields(config), "data": list(data)}


def test_a_name_with_another_configuration_is_refused_with_the_difference_and_two_ways_out(tmp_path):
    config = RunConfig(name="mine")
    save_config(tmp_path, config, identity(config))
    check_same_run(tmp_path, identity(dataclasses.replace(config, train=TrainConfig(epochs=99))))
    changed = dataclasses.replace(config, train=TrainConfig(learning_rate=0.2))
    with pytest.raises(ValueError, match=r"train\.learning_rate 0\.1 -> 0\.2.*old values.*another --name"):
        check_same_run(tmp_path, identity(changed))


def test_a_run_whose_images_have_changed_is_refused(tmp_path):
    config = RunConfig(name="mine")
    save_config(tmp_path, config, identity(config))
    with pytest.raises(ValueError, match="other images"):
        check_same_run(tmp_path, identity(config, data=("a", "c")))


def test_the_root_cause_is_the_innermost_error_in_one_line():
    wrapped = RuntimeError("training failed")
    wrapped.__cause__ = FileNotFoundError("the disk\nis gone")
    assert root_cause(wrapped) == "FileNotFoundError: is gone"


def test_parsing_loads_neither_ray_nor_torch():
    code = "import sys, pipeline.cli; print([m for m in ('ray', 'torch') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_line_goes_to_the_standard_output_of_the_moment(capsys):
    say("here")
    assert capsys.readouterr().out == "here\n"
