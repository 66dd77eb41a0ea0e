"""Indexes: built once, true or built anew, and small wherever they travel."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import DataConfig
from pipeline.source import open_folder, open_source
from pipeline.sources import folder as folder_module
from pipeline.sources import index as index_module
from pipeline.sources import tars
from tests.pipeline.fixtures import image_tree, refusal, write_shards


@pytest.fixture
def tree(tmp_path):
    image_tree(tmp_path / "data/train", {"cat": 3, "dog": 2})
    (tmp_path / "data/train/cat/deep").mkdir()
    shutil.copy(tmp_path / "data/train/cat/000.jpg", tmp_path / "data/train/cat/deep/x.jpg")
    return tmp_path / "data"


@pytest.fixture
def built(monkeypatch):
    """How often class folders or shards have been looked into."""
    calls = []
    for module, name in ((folder_module, "list_classes"), (tars, "scan")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, original=original: calls.append(a) or original(*a))
    return calls


def opened(path, kept, **more):
    config = DataConfig(name="folder", path=str(path), **more)
    return open_source(config, train=True, index_folder=kept)


def test_an_index_is_kept_used_again_and_travels_as_its_path(tree, tmp_path, built):
    first = opened(tree, tmp_path / "index")
    again = opened(tree, tmp_path / "index")
    assert len(built) == 1
    (file,) = (tmp_path / "index").iterdir()
    assert file.name.startswith("folder-train-") and file.suffix == ".arrow"
    assert again.digest == first.digest and again.labels.tolist() == first.labels.tolist()
    assert again.read(range(6))[0] == first.read(range(6))[0]
    travelled = pickle.dumps(again)
    assert str(file).encode() in travelled and b"000.jpg" not in travelled
    assert pickle.loads(travelled).describe(5) == str(tree / "train/dog/001.jpg")
    in_memory = opened(tree, None)
    assert in_memory.digest == first.digest and in_memory.paths.to_pylist() == first.paths.to_pylist()


def changed_by_adding(tree):
    shutil.copy(tree / "train/cat/000.jpg", tree / "train/dog/new.jpg")


def changed_deep_below(tree):
    shutil.copy(tree / "train/cat/000.jpg", tree / "train/cat/deep/new.jpg")


def changed_by_removing(tree):
    (tree / "train/cat/001.jpg").unlink()


def changed_by_a_class(tree):
    image_tree(tree / "train", {"eel": 1})


@pytest.mark.parametrize(
    "change", [changed_by_adding, changed_deep_below, changed_by_removing, changed_by_a_class], ids=lambda c: c.__name__
)
def test_a_change_of_the_folders_builds_a_new_index_and_leaves_the_old_one_to_those_who_use_it(tree, tmp_path, change):
    old = opened(tree, tmp_path / "index")
    paths = old.paths.to_pylist()
    travelling = pickle.dumps(old)
    change(tree)
    new = opened(tree, tmp_path / "index")
    assert new.digest != old.digest and new.paths.to_pylist() != paths
    assert new.paths.to_pylist() == opened(tree, None).paths.to_pylist()
    assert pickle.loads(travelling).paths.to_pylist() == paths
    assert opened(tree, tmp_path / "index").digest == new.digest


def test_a_file_overwritten_under_its_name_needs_no_new_index(tree, tmp_path, built):
    opened(tree, tmp_path / "index")
    (tree / "train/cat/000.jpg").write_bytes(b"other")
    assert opened(tree, tmp_path / "index").read([0])[0] == [b"other"] and len(built) == 1


def test_shards_are_scanned_again_when_one_has_changed(tmp_path, built):
    write_shards(tmp_path / "data", "train", shards=2, images=3)
    first = opened(tmp_path / "data", tmp_path / "index")
    opened(tmp_path / "data", tmp_path / "index")
    assert len(built) == 2  # one of each shard
    write_shards(tmp_path / "data", "train", shards=2, images=4)
    second = opened(tmp_path / "data", tmp_path / "index")
    assert len(built) == 4 and (len(first), len(second)) == (6, 8)


def test_reindex_builds_in_any_case_to_the_same_digest(tree, tmp_path, built):
    first = opened(tree, tmp_path / "index")
    again = opened(tree, tmp_path / "index", reindex=True)
    assert len(built) == 2 and again.digest == first.digest
    assert len(list((tmp_path / "index").iterdir())) == 1


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda c: c[:-40]])
def test_a_damaged_index_is_built_anew(tree, tmp_path, damage):
    first = opened(tree, tmp_path / "index")
    (file,) = (tmp_path / "index").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    index_module.mapped.cache_clear()
    assert opened(tree, tmp_path / "index").paths.to_pylist() == opened(tree, None).paths.to_pylist()
    assert first.digest == opened(tree, tmp_path / "index").digest


def test_an_index_that_has_gone_or_was_exchanged_is_not_taken_for_the_one_the_run_began_with(tree, tmp_path):
    source = opened(tree, tmp_path / "index")
    (file,) = (tmp_path / "index").iterdir()
    changed_by_adding(tree)
    opened(tree, tmp_path / "index")
    other = next(path for path in (tmp_path / "index").iterdir() if path != file)
    other.replace(file)
    index_module.mapped.cache_clear()
    with pytest.raises(RuntimeError, match="not the one that this run began with"):
        len(source)
    file.unlink()
    index_module.mapped.cache_clear()
    with pytest.raises(RuntimeError, match="mounted on all nodes"):
        len(source)


def test_two_data_sets_do_not_share_an_index(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    a, b = opened(tree, tmp_path / "index"), opened(tmp_path / "copy", tmp_path / "index")
    assert a.digest == b.digest  # the same images: a run may move on to a copy
    assert a.describe(0) != b.describe(0) and len(list((tmp_path / "index").iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_told(tree, tmp_path):
    (tmp_path / "index").write_text("a file")
    assert "cannot be written" in refusal(lambda: opened(tree, tmp_path / "index"))


def test_a_digest_does_not_depend_on_the_pieces_it_was_put_together_from():
    whole = pa.RecordBatch.from_pydict({"path": pa.array(["a", "bc", "d"], pa.large_string()), "label": [0, 1, 2]})
    pieces = index_module.joined([whole.slice(0, 1), whole.slice(1, 2)])
    assert index_module.digest_of_columns(pieces) == index_module.digest_of_columns(whole)
    moved = pa.RecordBatch.from_pydict({"path": pa.array(["ab", "c", "d"], pa.large_string()), "label": [0, 1, 2]})
    assert index_module.digest_of_columns(moved) != index_module.digest_of_columns(whole)


def test_tasks_of_ray_build_the_same_index(tmp_path, ray_local, monkeypatch):
    import ray

    monkeypatch.setattr(index_module, "SECONDS_FOR_RAY", 0)
    names = [f"c{n:03d}" for n in range(folder_module.CLASSES_A_TASK * (index_module.THREADS + 2))]
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
        for n in range(2):
            (tmp_path / "train" / name / f"{n}.jpg").write_bytes(name.encode())
    by_ray = opened(tmp_path, tmp_path / "index")
    here = folder_module.list_classes(folder_module.place_of(tmp_path / "train"), None, list(enumerate(names)))
    assert by_ray.paths.to_pylist() == here.batch.column("path").to_pylist()
    assert by_ray.labels.tolist() == np.repeat(np.arange(len(names)), 2).tolist()

    @ray.remote(num_cpus=0.1)
    def read(source):
        return os.getpid(), source.read([2, 0])[0]

    pid, images = ray.get(read.remote(by_ray))
    assert pid != os.getpid() and images == [b"c001", b"c000"]


def pid_of(item):
    if item == "wrong":
        raise ValueError(f"item {item}")
    return os.getpid()


def test_an_error_in_a_task_of_ray_is_the_same_line(ray_local, monkeypatch):
    monkeypatch.setattr(index_module, "SECONDS_FOR_RAY", 0)
    with pytest.raises(ValueError, match=r"^item wrong$"):
        list(index_module.each(pid_of, [*"12345678", "wrong"]))


def test_ray_is_asked_only_where_it_pays(ray_local, monkeypatch):
    items = range(index_module.THREADS + 2)
    assert set(index_module.each(pid_of, items)) == {os.getpid()}
    monkeypatch.setattr(index_module, "SECONDS_FOR_RAY", 0)
    pids = list(index_module.each(pid_of, items))
    assert set(pids[: index_module.THREADS]) == {os.getpid()} and os.getpid() not in pids[index_module.THREADS :]


def test_open_folder_reads_what_it_is_given(tmp_path):
    image_tree(tmp_path, {"a": 1, "b": 1})
    assert open_folder(Path(tmp_path), ("b", "a")).labels.tolist() == [0, 1]
