"""The job that writes shards: the same bytes whatever interrupts it, and refusals that lose nothing."""

import dataclasses
import json
import resource
import shutil
from contextlib import contextmanager

import pytest

from pipeline import preprocess
from pipeline.config import DataConfig, PreprocessConfig
from pipeline.shards import DONE, MANIFEST
from tests.pipeline.fixtures import imagenet_tree
from tests.pipeline.test_generate import contents
from tests.pipeline.test_shards import written_here
from tests.test_jobs import output_of

DIGITS = PreprocessConfig(data=DataConfig(), splits=("test",), rows_a_shard=100)
TREE = DataConfig(name="imagenet", image_size=56, crop="random_resized", flip=True)


def written_by_ray(kind, config):
    """The whole command but for its command line."""
    works = preprocess.plan_works(kind, config)
    for work in works:
        preprocess.begin(work)
    for work in works:
        preprocess.write(work)


def into(folder, config=DIGITS, **changes):
    return dataclasses.replace(config, output=str(folder), **changes)


@pytest.fixture
def tree(tmp_path):
    """Two classes of JPEGs, one of which is none."""
    imagenet_tree(tmp_path / "images")
    (tmp_path / "images" / "train" / "n02" / "1.JPEG").write_bytes(b"no image")
    return PreprocessConfig(data=dataclasses.replace(TREE, path=str(tmp_path / "images")), rows_a_shard=2, epochs=2)


@pytest.mark.parametrize("kind", ["images", "views"])
def test_ray_writes_the_same_files_as_one_process(ray_local, tree, tmp_path, kind):
    written_here(kind, into(tmp_path / "here", tree))
    written_by_ray(kind, into(tmp_path / "ray", tree))
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    manifests = list((tmp_path / "ray").rglob(MANIFEST))
    assert len(manifests) == (2 if kind == "images" else 1)
    assert not list((tmp_path / "ray").rglob(DONE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The test digits, in five shards."""
    folder = tmp_path_factory.mktemp("whole")
    written_here("images", into(folder))
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def times(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_again_writes_nothing(ray_local, copy):
    before = times(copy)
    written_by_ray("images", into(copy))
    assert times(copy) == before


def test_a_complete_folder_gets_back_what_it_lacks_and_nothing_else_is_written(ray_local, whole, copy):
    before = times(copy)
    for name in ("shard-00001.arrow", "labels.npy"):
        (copy / "test" / name).unlink()
    (copy / "test" / "shard-00003.arrow").write_bytes(b"cut")
    written_by_ray("images", into(copy))
    assert contents(copy) == contents(whole)
    kept = [path for path, state in times(copy).items() if state == before[path]]
    assert {path.name for path in kept} >= {f"shard-0000{n}.arrow" for n in (0, 2, 4)}


def begun(folder, shards):
    """What a kill leaves: some shards and their marks, one half written, one whose mark is missing."""
    (work,) = preprocess.plan_works("images", into(folder))
    preprocess.begin(work)
    for number in shards:
        preprocess.write_shard(work.source, preprocess.target_of(work), number)
    (folder / "test" / DONE / "shard-00002.arrow.0123.tmp").write_bytes(b"half")
    (folder / "test" / DONE / f"{shards[-1]:05d}.json").unlink()
    return work


def test_a_killed_job_goes_on_with_what_has_no_mark(ray_local, whole, tmp_path, monkeypatch):
    begun(tmp_path, [4, 0, 3])
    before = times(tmp_path)
    lines = []
    monkeypatch.setattr(preprocess, "say", lines.append)
    written_by_ray("images", into(tmp_path))
    assert contents(tmp_path) == contents(whole)
    assert lines[0].endswith("3 shards to do")
    for number in (4, 0):
        file = tmp_path / "test" / f"shard-{number:05d}.arrow"
        assert times(tmp_path)[file] == before[file]


def test_a_job_killed_while_it_claims_its_folder_can_be_begun_again(whole, tmp_path):
    (tmp_path / "test" / DONE).mkdir(parents=True)
    (tmp_path / "test" / DONE / "manifest.json.0123.tmp").write_text("{")
    written_here("images", into(tmp_path))
    assert contents(tmp_path) == contents(whole)


def test_shards_are_cut_as_when_they_were_begun(ray_local, whole, tmp_path):
    begun(tmp_path, [4, 0])
    written_by_ray("images", into(tmp_path, rows_a_shard=7))
    assert contents(tmp_path) == contents(whole)


def test_a_task_that_is_run_again_does_not_write_again(tmp_path):
    work = begun(tmp_path, [1, 0])
    before = times(tmp_path)
    mark = preprocess.write_shard(work.source, preprocess.target_of(work), 1)
    assert times(tmp_path) == before and mark["entry"]["file"] == "shard-00001.arrow"


def test_other_shards_into_the_same_folder_are_refused(whole, tree):
    before = contents(whole)
    for config, said in (
        (into(whole, short_side=16), "short_side 256 -> 16"),
        (into(whole, tree), "data.name 'digits' -> 'imagenet'"),
    ):
        with pytest.raises(ValueError, match=rf"holds other shards .*{said}.*; give another --output"):
            written_by_ray("images", dataclasses.replace(config, splits=("test",)))
    assert contents(whole) == before


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "photo.jpg").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(found: photo\.jpg\); give a new folder"):
        written_by_ray("images", into(tmp_path))
    assert contents(tmp_path) == {"test/photo.jpg": b"mine"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output '.*/file/below/test' cannot be used: Not a directory"):
        written_by_ray("images", into(tmp_path / "file" / "below"))


def test_what_does_not_fit_on_the_disk_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match=r"needs about [\d,.]+ GiB, its disk has [\d,.]+ GiB free"):
        written_by_ray("views", into(tmp_path, epochs=10**9))
    assert not contents(tmp_path)


@contextmanager
def files_at_most(size):
    """The system refuses to let any file of this process grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_is_named_in_one_line_and_leaves_nothing_half_written(whole, tmp_path):
    work = begun(tmp_path, [1, 0])
    before = contents(tmp_path)
    with files_at_most(100_000), pytest.raises(RuntimeError, match=r"shard-00002\.arrow cannot be written: ") as caught:
        preprocess.write_shard(work.source, preprocess.target_of(work), 2)
    assert "File too large" in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    preprocess.write_shard(work.source, preprocess.target_of(work), 2)
    file = "test/shard-00002.arrow"
    assert contents(tmp_path)[file] == contents(whole)[file]


def test_images_none_of_which_can_be_read_are_refused(tmp_path):
    imagenet_tree(tmp_path / "images")
    for file in (tmp_path / "images").rglob("*.JPEG"):
        file.write_bytes(b"no image")
    data = dataclasses.replace(TREE, path=str(tmp_path / "images"))
    with pytest.raises(ValueError, match="can be read"):
        preprocess.plan_works("images", into(tmp_path / "out", data=data))


def test_a_shard_without_one_readable_image_is_a_shard(tree, tmp_path):
    for number in (0, 1):
        (tmp_path / "images" / "train" / "n01" / f"{number}.JPEG").write_bytes(b"")
    written_here("images", into(tmp_path / "out", tree))
    opened = preprocess.open_source(dataclasses.replace(tree.data, path=str(tmp_path / "out")), train=True)
    assert [type(item).__name__ for item in opened.read(range(4))[0]] == [
        "Unreadable",
        "Unreadable",
        "ndarray",
        "ndarray",
    ]


def test_verify_is_content_with_what_was_written_and_names_each_damage(ray_local, copy, monkeypatch):
    lines = []
    monkeypatch.setattr(preprocess, "say", lines.append)
    preprocess.verify(into(copy))
    assert lines.pop() == f"verify: all 6 files in {copy} are as they were written"
    entries = json.loads((copy / "test" / MANIFEST).read_text())["shards"]
    for number in (1, 3):
        content = bytearray((copy / "test" / entries[number]["file"]).read_bytes())
        content[5000] ^= 1
        (copy / "test" / entries[number]["file"]).write_bytes(content)
    (copy / "test" / entries[4]["file"]).unlink()
    with pytest.raises(ValueError, match=f"3 of 6 files in '{copy}' are damaged"):
        preprocess.verify(into(copy))
    assert ["is missing" in line for line in lines] == [False, False, True]
    for number, line in zip((1, 3, 4), lines, strict=True):
        assert entries[number]["file"] in line and entries[number]["sha256"] in line


def test_verify_refuses_a_folder_without_shards(tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        preprocess.verify(into(tmp_path))


NODES = """
import os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipeline import preprocess
from tests.pipeline.test_preprocess import DIGITS, into, written_by_ray

output = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
extra = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
config = into(output, splits=("train",), rows_a_shard=4)
failures = []

def job():
    try:
        written_by_ray("images", config)
    except BaseException as error:
        failures.append(error)

thread = threading.Thread(target=job)
thread.start()
marks = output / "train" / ".done"
while thread.is_alive() and len(list(marks.glob("*.json"))) < 60:
    time.sleep(0.02)
assert thread.is_alive()
cluster.remove_node(extra, allow_graceful=False)
print("removed at", len(list(marks.glob("*.json"))), flush=True)
thread.join()
assert not failures, failures
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_that_is_lost_leaves_no_trace(tmp_path):
    written_here("images", into(tmp_path / "whole", splits=("train",), rows_a_shard=4))
    out = output_of(NODES, str(tmp_path / "nodes"), timeout=300)
    assert "removed at" in out
    assert contents(tmp_path / "nodes") == contents(tmp_path / "whole")
