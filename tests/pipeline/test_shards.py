"""Shards: the same rows as without them, bit for bit, and no damaged byte that goes unseen."""

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import S3FileSystem

from augmix_core import AugMixConfig
from augmix_core.crop import resize_short_side
from augmix_core.decode import decode_rgb
from pipeline import preprocess, shards
from pipeline.augment import check_stored_views, plan_stream, rows_of, training_rows
from pipeline.config import DataConfig, PreprocessConfig, RunConfig, ScaleConfig, SearchConfig, TrainConfig
from pipeline.decode import evaluation_images, reason_unreadable
from pipeline.order import split_train
from pipeline.shards import DamagedShardError, ShardSource, checksum, opened_views
from pipeline.source import open_source
from pipeline.sources.base import Unreadable
from tests.conftest import natural
from tests.pipeline.fixtures import imagenet_tree, jpeg
from tests.test_jobs import ROOT

IMAGENET = DataConfig(name="imagenet", image_size=56, crop="random_resized", flip=True)  # evaluation resizes to 64
AUGMIX = AugMixConfig(width=2)


def written_here(kind, config):
    """The whole command, without Ray."""
    for work in preprocess.plan_works(kind, config):
        preprocess.begin(work)
        target = preprocess.target_of(work)
        marks = {n: preprocess.write_shard(work.source, target, n) for n in range(work.wanted.files)}
        preprocess.complete(work, marks)


def at(config, path):
    return dataclasses.replace(config, path=str(path))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six training images, one of them broken and one small, and two test images."""
    folder = tmp_path_factory.mktemp("images")
    imagenet_tree(folder)
    (folder / "train" / "n02" / "1.JPEG").write_bytes(b"no image")
    (folder / "train" / "n01" / "2.JPEG").write_bytes(jpeg(natural(1, 60, 40)[0]))
    return folder


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    """Its shards of two images each, at full size."""
    folder = tmp_path_factory.mktemp("whole")
    config = PreprocessConfig(output=str(folder), data=at(IMAGENET, tree), short_side=0, rows_a_shard=2)
    written_here("images", config)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """One to damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def equal_rows(ours, theirs):
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in theirs)


def test_training_rows_from_shards_equal_those_from_the_files(tree, whole):
    config = RunConfig(data=IMAGENET, augmix=AUGMIX, seed=3)
    files, ours = open_source(at(IMAGENET, tree), train=True), open_source(at(IMAGENET, whole), train=True)
    split, _ = split_train(len(files), seed=3)
    expected = rows_of(files, split, np.arange(18), config)
    assert equal_rows(rows_of(ours, split, np.arange(18), config), expected)
    assert (expected["sample_id"] != expected["requested_id"]).sum() == 3  # the broken one, once an epoch


def test_evaluation_from_reduced_shards_equals_that_from_the_files(tree, tmp_path):
    """Reduced to the side that evaluation resizes to, nothing is left to resize; smaller images are kept."""
    written_here("images", PreprocessConfig(output=str(tmp_path), data=at(IMAGENET, tree), short_side=64))
    for train in (True, False):
        files, ours = open_source(at(IMAGENET, tree), train=train), open_source(at(IMAGENET, tmp_path), train=train)
        ids = np.arange(len(files))
        for one, other in zip(
            evaluation_images(files, ids, IMAGENET), evaluation_images(ours, ids, IMAGENET), strict=True
        ):
            assert (one == other).all()
        for n, item in enumerate(ours.read(ids)[0]):
            if not isinstance(item, Unreadable):
                raw = decode_rgb(files.read([n])[0][0])
                kept = resize_short_side(raw, 64) if min(raw.shape[:2]) > 64 else raw
                assert (item == kept).all()


def test_a_broken_image_gives_the_same_reason_as_its_file(tree, whole):
    files, ours = open_source(at(IMAGENET, tree), train=True), open_source(at(IMAGENET, whole), train=True)
    reasons = [reason_unreadable(files, n, IMAGENET) for n in range(6)]
    assert reasons == [reason_unreadable(ours, n, IMAGENET) for n in range(6)]
    assert reasons[4].startswith("not a readable JPEG") and not any(reasons[:4])
    manifest = json.loads((whole / "train" / "manifest.json").read_text())
    assert manifest["unreadable"] == [[4, "train/n02/1.JPEG", reasons[4]]]
    assert ours.describe(4) == f"{whole}/train/shard-00002.arrow row 0 (train/n02/1.JPEG)"


def test_the_source_knows_labels_classes_and_that_any_row_is_at_hand(tree, whole):
    files, ours = open_source(at(IMAGENET, tree), train=True), open_source(at(IMAGENET, whole), train=True)
    assert (ours.labels == files.labels).all() and ours.class_names == files.class_names and len(ours) == len(files)
    assert ours.shard_rows is None
    assert (ours.read([5, 0])[1] == files.labels[[5, 0]]).all()


def test_images_are_read_without_a_copy_and_cannot_be_written(whole):
    source = ShardSource(str(whole / "train"))
    image = source.read([3])[0][0]
    assert image.shape == (90, 130, 3) or image.shape == (60, 40, 3)
    assert np.shares_memory(image, source.shard(1).pixels) and not image.flags.writeable


def test_a_source_travels_as_its_path_and_opens_no_shard_before_it_is_read(whole):
    source = ShardSource(str(whole / "train"))
    source.read([0])
    sent = pickle.dumps(source)
    assert len(sent) < 400
    arrived = pickle.loads(sent)
    assert arrived.shard.cache_info().currsize == 0
    assert (arrived.read([1])[0][0] == source.read([1])[0][0]).all()


def test_a_source_that_was_written_anew_meanwhile_is_refused(copy):
    sent = pickle.dumps(ShardSource(str(copy / "train")))
    manifest = copy / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"short_side": 0', '"short_side": 8'))
    with pytest.raises(ValueError, match="has changed since this run began"):
        pickle.loads(sent)


def test_anybody_with_pyarrow_can_read_a_shard(tree, whole):
    table = pa.ipc.open_file(pa.memory_map(str(whole / "train" / "shard-00002.arrow"))).read_all()
    types = {"sample_id": "int64", "label": "int64", "height": "int32", "width": "int32"}
    types |= {"image": "large_binary", "path": "string", "check": "uint64"}
    assert {field.name: str(field.type) for field in table.schema} == types
    first, second = table.to_pylist()
    assert first["image"] is None and first["sample_id"] == 4
    pixels = np.frombuffer(second["image"], np.uint8).reshape(second["height"], second["width"], 3)
    assert (pixels == decode_rgb((tree / second["path"]).read_bytes())).all()


@given(st.binary(min_size=1, max_size=70), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_changes_the_checksum(content, at):
    changed = bytearray(content)
    changed[at % len(content)] ^= 1 << at % 8
    assert checksum(np.frombuffer(content, np.uint8)) != checksum(np.frombuffer(changed, np.uint8))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_all(folder):
    """As a training does: open at the door, then read everything."""
    source = open_source(at(IMAGENET, folder), train=True)
    source.read(np.arange(len(source)))


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def check_named(folder, file, expected):
    """Reading names the file, what its hash is and what it should be, in one line."""
    with pytest.raises((DamagedShardError, ValueError)) as caught:
        read_all(folder)
    text = str(caught.value)
    assert f"{folder}/train/{file} is damaged: its SHA-256 is {sha256(folder / 'train' / file)}" in text
    assert f"says {expected}" in text and "\n" not in text


def test_every_flipped_bit_is_named_by_file_and_hash(copy):
    rng = np.random.default_rng(5)
    file = copy / "train" / "shard-00001.arrow"
    kept, expected = file.read_bytes(), sha256(file)
    for at_byte in [0, len(kept) - 1, *rng.integers(0, len(kept), 60).tolist()]:
        flip(file, at_byte, int(rng.integers(8)))
        check_named(copy, file.name, expected)
        file.write_bytes(kept)
    read_all(copy)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_shard_is_named_when_it_is_opened(copy, share):
    file = copy / "train" / "shard-00001.arrow"
    expected = sha256(file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    check_named(copy, file.name, expected)
    with pytest.raises(ValueError, match="is damaged"):
        open_source(at(IMAGENET, copy), train=True)


def test_a_missing_shard_is_named_when_it_is_opened(copy):
    file = copy / "train" / "shard-00001.arrow"
    expected = sha256(file)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing or cannot be read, .* says {expected}"):
        open_source(at(IMAGENET, copy), train=True)


def test_swapped_shards_of_one_size_are_named(tmp_path):
    written_here("images", PreprocessConfig(output=str(tmp_path), data=DataConfig(), splits=("train",), rows_a_shard=9))
    one, other = tmp_path / "train" / "shard-00001.arrow", tmp_path / "train" / "shard-00002.arrow"
    expected = sha256(one)
    assert one.stat().st_size == other.stat().st_size
    for source, target in ((one, tmp_path / "x"), (other, one), (tmp_path / "x", other)):
        source.rename(target)
    opened = open_source(at(DataConfig(), tmp_path), train=True)
    with pytest.raises(DamagedShardError, match=rf"{one} is damaged: its SHA-256 is {sha256(one)}, .* says {expected}"):
        opened.read([9])
    opened.read([0])  # the others are as good as before


def test_damage_is_not_taken_for_an_unreadable_image(tree, copy):
    source = open_source(at(IMAGENET, copy), train=True)
    entry = source.manifest.shards[0]
    flip(copy / "train" / entry.file, entry.pixels[0] + 1000)
    with pytest.raises(DamagedShardError):
        evaluation_images(source, np.array([0]), IMAGENET)


def test_damaged_labels_are_named_when_they_are_opened(copy):
    labels = copy / "train" / "labels.npy"
    expected = sha256(labels)
    flip(labels, -8)
    with pytest.raises(ValueError, match=rf"{labels} is damaged: its SHA-256 is {sha256(labels)}, .* says {expected}"):
        open_source(at(IMAGENET, copy), train=True)
    labels.unlink()
    with pytest.raises(ValueError, match=rf"{labels} is missing"):
        open_source(at(IMAGENET, copy), train=True)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"complete": true', '"complete": false', "is not complete; give the command of jobs/preprocess.py again"),
        ('"kind": "images"', '"kind": "views"', "holds views, not images"),
        ('"version": 1', '"version": 2', "version 2; 'augmix-ray shards' version 1 is read"),
        ('"rows"', '"raws"', "is no manifest of shards"),
        ("{", "", "is no manifest of shards"),
        ('"imagenet"', '"cifar10"', "holds shards of 'cifar10', data.name is 'imagenet'"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(copy, old, new, said):
    manifest = copy / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        open_source(at(IMAGENET, copy), train=True)
    assert "\n" not in str(caught.value)


def test_a_split_that_was_not_written_is_refused_with_the_command(copy):
    shutil.rmtree(copy / "test")
    with pytest.raises(ValueError, match=r"none of the test images; give jobs/preprocess\.py images --splits test"):
        open_source(at(IMAGENET, copy), train=False)


@pytest.fixture(scope="module")
def stored(tree, tmp_path_factory):
    """Three epochs of the tree's views, in shards of five rows."""
    folder = tmp_path_factory.mktemp("views")
    config = PreprocessConfig(
        output=str(folder), data=at(IMAGENET, tree), augmix=AUGMIX, seed=3, epochs=3, rows_a_shard=5
    )
    written_here("views", config)
    return folder


def test_views_are_stored_the_same_where_training_would_make_them(tree, stored, tmp_path):
    config = PreprocessConfig(
        output=str(tmp_path / "views"),
        data=at(IMAGENET, tree),
        augmix=AUGMIX,
        seed=3,
        epochs=3,
        rows_a_shard=5,
        scale=ScaleConfig(augment_on="train"),
    )
    written_here("views", config)
    assert (tmp_path / "views" / "manifest.json").read_bytes() == (stored / "manifest.json").read_bytes()


def of_run(tree, stored, **changes):
    """The run that the views were made for."""
    data = dataclasses.replace(at(IMAGENET, tree), views=str(stored))
    run = RunConfig(
        data=data,
        augmix=AUGMIX,
        seed=3,
        train=TrainConfig(epochs=3, global_batch_size=4),
        search=SearchConfig(trials=0),
    )
    return dataclasses.replace(run, **changes)


def without_views(config):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, views=""))


def test_rows_from_stored_views_equal_those_made_on_the_fly(tree, stored):
    config, source = of_run(tree, stored), open_source(at(IMAGENET, tree), train=True)
    split, _ = split_train(len(source), seed=3)
    for positions in (np.arange(18), np.array([17, 4, 5, 11, 0])):
        expected = rows_of(source, split, positions, without_views(config))
        assert equal_rows(rows_of(source, split, positions, config), expected)
        assert (expected["views"][:, 1] != expected["views"][:, 0]).any()


def test_training_without_augmentation_takes_the_clean_view(tree, stored):
    config, source = of_run(tree, stored, augmix=AugMixConfig(views=1)), open_source(at(IMAGENET, tree), train=True)
    split, _ = split_train(len(source), seed=3)
    check_stored_views(config, split, source)
    rows = rows_of(source, split, np.arange(18), config)
    assert rows["views"].shape == (18, 1, 56, 56, 3)
    assert equal_rows(rows, rows_of(source, split, np.arange(18), without_views(config)))


def test_the_training_stream_is_the_same_from_stored_views(ray_local, tree, stored):
    import ray

    config, source = of_run(tree, stored), open_source(at(IMAGENET, tree), train=True)
    split, _ = split_train(len(source), seed=3)
    plan = plan_stream(config, first_step=1, last_step=4, num_workers=2)
    made = training_rows(plan, ray.put(source), split, config)
    made.context.execution_options.preserve_order = True
    received = [
        {name: column[0] for name, column in block.items()}
        for block in made.iter_batches(batch_size=1, batch_format="numpy")
    ]
    blocks = [block for task in plan.tasks() for block in plan.blocks(task)]
    for ours, positions in zip(received, blocks, strict=True):
        wanted = positions < 18  # what lies behind them is surplus that training stops before
        expected = rows_of(source, split, positions, without_views(config))
        assert equal_rows(*({name: rows[name][wanted] for name in expected} for rows in (ours, expected)))


def check_refused(config, source, said):
    split, _ = split_train(
        len(source),
        seed=config.seed,
        limit=config.data.train_limit,
        holdout_fraction=0.2 if config.train.hold_out else 0.0,
    )
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_stored_views(config, split, source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 4}, "seed 3 -> 4"),
        ({"augmix": AugMixConfig(width=3)}, "augmix.width 2 -> 3"),
        ({"augmix": AugMixConfig(width=2, aug_severity=1.0)}, "augmix.aug_severity 3.0 -> 1.0"),
        ({"data": {"flip": False}}, "data.flip True -> False"),
        ({"data": {"image_size": 64}}, "data.image_size 56 -> 64"),
        ({"data": {"train_limit": 5}}, "split.size 6 -> 5"),
        ({"train": TrainConfig(epochs=3, global_batch_size=4, hold_out=True)}, "split.start 0 -> 1"),
        ({"train": TrainConfig(epochs=4, global_batch_size=4)}, "holds 18 rows, 3 epochs; train.epochs 4 asks for 24"),
    ],
)
def test_views_of_another_training_are_refused_with_what_differs(tree, stored, changes, said):
    config = of_run(tree, stored, **{name: value for name, value in changes.items() if name != "data"})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **changes.get("data", {})))
    check_refused(config, open_source(at(IMAGENET, tree), train=True), said)


def test_views_of_other_images_are_refused(tree, whole, stored):
    check_refused(of_run(tree, stored), open_source(at(IMAGENET, whole), train=True), "(the images;")


def test_fewer_steps_than_epochs_need_fewer_views(tree, stored):
    train = TrainConfig(epochs=9, global_batch_size=4, max_steps=4)
    source = open_source(at(IMAGENET, tree), train=True)
    check_stored_views(of_run(tree, stored, train=train), split_train(6, seed=3)[0], source)


def test_damaged_views_are_named_before_they_are_trained_on(tree, stored, tmp_path):
    folder = shutil.copytree(stored, tmp_path / "views")
    entry = opened_views(str(folder)).manifest.shards[1]
    expected = sha256(folder / entry.file)
    flip(folder / entry.file, entry.pixels[1] - 1)
    config = of_run(tree, folder)
    rows_of(None, None, np.arange(5), config)
    with pytest.raises(DamagedShardError, match=rf"{entry.file} is damaged: .* says {expected}"):
        rows_of(None, None, np.arange(9, 10), config)


def test_a_job_refuses_wrong_views_before_anything_starts(tree, stored, tmp_path):
    command = [sys.executable, str(ROOT / "jobs" / "imagenet.py"), "train", "--storage", str(tmp_path / "runs")]
    flags = ["--data.path", str(tree), "--data.views", str(stored), "--search.trials", "0", "--scale.num-workers", "1"]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "seed 3 -> 0" in ended.stderr
    assert not [folder for folder in (tmp_path / "runs").iterdir() if folder.name != "index"]


def test_a_search_among_stored_views_is_refused():
    with pytest.raises(ValueError, match=r"search\.trials is 3; with data\.views it must be 0"):
        RunConfig(data=DataConfig(views="/views"), search=SearchConfig(trials=3))


@pytest.fixture(scope="module")
def bucket():
    """An S3 of our own on this machine."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patched:
        host, port = server.get_host_and_port()
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patched.setenv("AWS_ACCESS_KEY_ID", "key")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        store.create_dir("shards")
        yield "s3://shards"
    server.stop()


def test_shards_in_an_object_store_give_the_same_rows_a_shard_at_a_time(bucket, tree, whole):
    config = PreprocessConfig(output=f"{bucket}/images", data=at(IMAGENET, tree), short_side=0, rows_a_shard=1)
    written_here("images", config)
    local, remote = (open_source(at(IMAGENET, path), train=True) for path in (whole, f"{bucket}/images"))
    assert remote.shard_rows.tolist() == [1] * 6
    for ours, theirs in zip(remote.read(np.arange(6))[0], local.read(np.arange(6))[0], strict=True):
        assert ours == theirs if isinstance(theirs, Unreadable) else (ours == theirs).all()
    assert remote.shard.cache_info().currsize == shards.REMOTE_SHARDS_KEPT
    assert (remote.labels == local.labels).all()
    assert not shards.Folder(f"{bucket}/images/train").sizes(".done")


def test_a_bucket_that_does_not_answer_is_an_error_of_one_line(bucket):
    with pytest.raises(ValueError, match="no-such-bucket") as caught:
        open_source(at(IMAGENET, "s3://no-such-bucket/images"), train=True)
    assert "\n" not in str(caught.value)
