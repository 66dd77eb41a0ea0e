"""Runs in an object store: its folders do what those on a disk do, and a whole run lives in one."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import checkpoint
from pipeline.budget import check_storage
from pipeline.cells import plan_evaluation
from pipeline.cli import working_in
from pipeline.config import DataConfig, EvaluateConfig, RunConfig, ScaleConfig, ScoreConfig, SearchConfig, TrainConfig
from pipeline.interrupt import STOP, Watch, stoppable
from pipeline.ledger import Ledger
from pipeline.networks import find_checkpoint, from_checkpoint
from pipeline.score import Score
from pipeline.source import open_source
from pipeline.stages import Run, first_line
from pipeline.storage import (
    StorePath,
    append_line,
    matching,
    open_file,
    remove_folder,
    rename_folder,
    storage_path,
    write_atomically,
    write_durably,
)
from pipeline.train import fit
from tests.pipeline.fixtures import Server, refusal
from tests.pipeline.test_evaluate import untrained

CONFIG = RunConfig(
    methods=("augmix",),
    data=DataConfig(train_limit=128, test_limit=64),
    train=TrainConfig(epochs=2, global_batch_size=32),
    search=SearchConfig(trials=0, epochs=1, grace_epochs=1, severities=(3,)),
    evaluate=EvaluateConfig(corruptions=("gaussian_noise", "fog"), severities=(1, 5), bootstrap=20),
    scale=ScaleConfig(evaluation_piece_size=32),
)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=["disk", "store"])
def root(request, tmp_path, server):
    return tmp_path if request.param == "disk" else storage_path(server.uri(f"images/{tmp_path.name}"))


def test_a_folder_in_a_store_does_what_one_on_a_disk_does(root):
    folder = root / "train" / "augmix"
    assert not folder.exists() and matching(root, "train/*") == [] and matching(folder, "*") == []
    folder.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    assert folder.is_dir() and not folder.is_file()
    (folder / "stop").touch()
    assert (folder / "stop").is_file() and (folder / "stop").read_bytes() == b""
    write_atomically(folder / "told.json", "{}")
    write_atomically(folder / "told.json", '{"step": 1, "ü": 2}')
    assert json.loads((folder / "told.json").read_text()) == {"step": 1, "ü": 2}
    write_durably(folder / "weights", bytes(range(256)))
    assert open_file(folder / "weights").read() == (folder / "weights").read_bytes() == bytes(range(256))
    for line in "ab":
        append_line(folder / "lines", line)
    assert (folder / "lines").read_text() == "a\nb\n"
    assert {path.name for path in folder.iterdir()} == {"stop", "told.json", "weights", "lines"}
    (folder / "stop").unlink()
    (folder / "stop").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "stop").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "stop").read_bytes()
    write_atomically(root / "report.md", "")
    assert matching(root, "train/*") == [folder] and matching(root, "train/*/told.json") == [folder / "told.json"]
    assert matching(root, "train/*/t*.json") == [folder / "told.json"] and matching(root, "*/none") == []
    rename_folder(root / "train", "old")
    assert matching(root, "*/*/lines") == [root / "old" / "augmix" / "lines"] and not folder.exists()
    remove_folder(root / "old")
    remove_folder(root / "old")
    assert [path.name for path in root.iterdir()] == ["report.md"]
    assert (folder.name, folder.parent.name, (root / "0012.parquet").stem) == ("augmix", "train", "0012")
    assert pickle.loads(pickle.dumps(folder)) == folder


def test_a_uri_that_is_no_place_for_runs_is_refused_in_one_line(server):
    assert "storage is 's3x://bucket/runs'" in refusal(lambda: RunConfig(storage="s3x://bucket/runs"))
    assert "storage 's3://bucket/a?b=c' cannot be opened" in refusal(lambda: storage_path("s3://bucket/a?b=c"))


def test_a_bucket_that_is_not_there_is_refused_in_one_line(ray_local, server):
    told = refusal(lambda: check_storage(server.uri("no-such-bucket/runs")))
    assert "cannot be written" in told and "--storage" in told


def test_all_nodes_are_asked_whether_they_see_the_store(ray_local, server):
    check_storage(server.uri("images/asked"))
    assert not list(storage_path(server.uri("images/asked")).iterdir())


def test_the_answers_to_another_question_are_moved_aside_in_a_store_too(root):
    ledger = Ledger(root / "ledger")
    cell = {"clean": {"rows": 2, "step": 1}}
    ledger.ask({"networks": "a"}, cell, {})
    write_atomically(root / "ledger" / "answers", "a")
    ledger.ask({"networks": "b"}, cell, {})
    assert (root / "ledger-old-1" / "answers").read_text() == "a"
    assert not (root / "ledger" / "answers").exists() and Ledger(root / "ledger").asked["identity"] == {"networks": "b"}


def test_the_best_checkpoint_in_a_store_is_replaced_when_the_next_is_complete(root, tmp_path):
    root.mkdir(parents=True, exist_ok=True)
    network = untrained(tmp_path / "made", "standard")
    for step, error in ((1, 0.4), (2, 0.3), (3, 0.35)):
        saved = tmp_path / f"saved{step}"
        saved.mkdir()
        meta = checkpoint.Meta(step, step, "convnet5", 10, dataclasses.asdict(CONFIG.data), validation_error=error)
        made = tmp_path / "made" / "standard"
        contents = {name: (made / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.TRAINING_STATE)}
        contents[checkpoint.META] = json.dumps(dataclasses.asdict(meta)).encode()
        for name, content in contents.items():
            (saved / name).write_bytes(content)
        (saved / checkpoint.MANIFEST).write_text(checkpoint.manifest_of(contents))
        checkpoint.keep_best(saved, root)
        if step == 1:  # what a kill in the middle of a copy leaves
            (root / "best_step_000000002").mkdir()
            (root / "best_step_000000002" / checkpoint.MODEL).write_bytes(b"half")
            assert checkpoint.best_checkpoint(root).name == "best_step_000000001"
    assert [path.name for path in matching(root, "best_*")] == ["best_step_000000002"]
    assert from_checkpoint(checkpoint.best_checkpoint(root))[0].digest == network.digest


@pytest.fixture(scope="module")
def finished(ray_local, server):
    """A run in the store that has gone through all stages."""
    folder = storage_path(server.uri("images/runs")) / "one"
    folder.mkdir()
    train, test = open_source(CONFIG.data, train=True), open_source(CONFIG.data, train=False)
    config = dataclasses.replace(CONFIG, storage=server.uri("images/runs"))
    write_atomically(folder / "config.json", json.dumps(dataclasses.asdict(config)))
    run = Run(folder, config, train, test, plan_evaluation(config.data, config.evaluate, test))
    run.run()
    return run


def test_a_whole_run_lives_in_a_store(finished):
    folder = finished.folder
    assert isinstance(folder, StorePath)
    names = {path.name for path in folder.iterdir()}
    assert {"train", "ledger", "metrics.json", "report.md", "report.html", "figures"} <= names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["methods"]["augmix"]["curve"]] == [1, 2]
    last = checkpoint.last_checkpoint(folder / "train" / "augmix")
    assert isinstance(last, StorePath) and checkpoint.read_meta(last).step == 8
    assert find_checkpoint(folder) == last
    assert checkpoint.best_checkpoint(folder / "train" / "augmix") is not None
    assert len(pq.read_table(open_file(folder / "ledger/predictions/clean.parquet"))) == 64
    assert first_line(folder, finished.config).startswith("resuming")


@pytest.mark.slow
def test_a_search_lives_in_a_store(finished):
    config = dataclasses.replace(finished.config, search=dataclasses.replace(finished.config.search, trials=2))
    run = Run(finished.folder, config, finished.train_source, finished.test_source, finished.plan)
    run.search()
    run.report()
    assert len(json.loads((run.folder / "metrics.json").read_text())["search"]["trials"]) == 2
    run.search()  # finds what it has chosen
    (run.folder / "search" / "best.json").unlink()
    run.search()  # from what Tune has kept, without another trial
    assert len(matching(run.folder, "search/trials/*")) == 2


@pytest.mark.slow
def test_what_a_store_holds_is_what_a_disk_would(finished, tmp_path):
    """The same training into a folder ends in the same weights."""
    job = finished.method_job("augmix")
    on_disk = fit(dataclasses.replace(job, folder=tmp_path / "augmix"))
    in_store = checkpoint.last_checkpoint(job.folder)
    assert isinstance(on_disk, Path) and on_disk.name == in_store.name
    assert (on_disk / checkpoint.MODEL).read_bytes() == (in_store / checkpoint.MODEL).read_bytes()


def test_a_training_in_a_store_goes_on_after_its_newest_checkpoint_is_damaged(finished):
    job = finished.method_job("augmix")
    last = checkpoint.last_checkpoint(job.folder)
    whole = (last / checkpoint.MODEL).read_bytes()
    (last / checkpoint.MODEL).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = fit(job)
    assert checkpoint.read_meta(again).step == 8 and (again / checkpoint.MODEL).read_bytes() == whole
    assert again != last


def test_a_stop_is_asked_for_through_the_store(server):
    folder = storage_path(server.uri("images/stopped"))
    folder.mkdir()
    watch = Watch(folder, every_steps=0, every_minutes=0, step=0)
    assert not watch.stop_is_asked_for()
    (folder / STOP).touch()
    assert watch.stop_is_asked_for()
    assert stoppable(lambda: watch.stop_is_asked_for(), folder) is False  # an old one is forgotten


def test_a_store_that_does_not_answer_stops_nobody():
    server = Server()
    watch = Watch(storage_path(server.uri("images/gone")), every_steps=0, every_minutes=0, step=0)
    server.stop()
    assert not watch.stop_is_asked_for()


def test_the_log_of_a_command_lies_in_the_store_afterwards_and_grows(server):
    folder = storage_path(server.uri("images/logged"))
    for _ in range(2):
        with working_in(folder):
            os.write(1, b"Ray says something\n")
    assert (folder / "ray.log").read_text() == 2 * "Ray says something\n"


def test_wrong_input_leaves_nothing_behind_in_a_store(server):
    folder = storage_path(server.uri("images/wrong"))
    with pytest.raises(ValueError, match="no such thing"), working_in(folder):
        raise ValueError("no such thing")
    assert not folder.exists()


def test_a_store_that_does_not_answer_is_told_in_one_line():
    folder = storage_path("s3://bucket/runs?endpoint_override=127.0.0.1:1&scheme=http")
    told = refusal(lambda: working_in(folder).__enter__())
    assert "storage 's3://bucket' cannot be written" in told and "--storage" in told


def test_a_uri_without_a_checkpoint_is_no_import_path(server, tmp_path):
    config = ScoreConfig(model=server.uri("images/none"), data=DataConfig(name="digits"))
    assert "there is no checkpoint" in refusal(lambda: Score(tmp_path, config))
