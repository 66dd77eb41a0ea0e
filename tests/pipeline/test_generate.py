"""Corrupted copies: the pixels of `corrupt` in the published layouts, the same bytes after any interruption."""

import dataclasses
import io
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augmix_core import corrupt
from pipeline import generate
from pipeline.config import DataConfig, GenerateConfig, ScaleConfig
from pipeline.decode import evaluation_images
from pipeline.published import open_corruption_set
from pipeline.source import open_source
from tests.conftest import natural
from tests.pipeline.fixtures import imagenet_tree, jpeg

ROWS = 60
CONFIG = GenerateConfig(
    corruptions=("gaussian_noise", "contrast"),
    seed=5,
    data=DataConfig(test_limit=ROWS),
    scale=ScaleConfig(evaluation_piece_size=25),
)
SOURCE = open_source(CONFIG.data, train=False)
IMAGENET = DataConfig(name="imagenet", image_size=64, crop="random_resized")


def copied(folder, source=SOURCE, config=CONFIG, **changes):
    """Run the whole command on a folder and return it."""
    config = dataclasses.replace(config, output=str(folder), **changes)
    generate.begin(config, source)
    generate.generate(config, source)
    return folder


def contents(folder):
    """Every file's bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def corrupted(config, source, name, severity, ids):
    """What the copy should hold."""
    images, labels, _ = evaluation_images(source, ids, config.data)
    return corrupt(images, name, severity=severity, sample_ids=ids, seed=config.seed), labels


@pytest.fixture(scope="module")
def whole(ray_local, tmp_path_factory):
    """The digits, never interrupted."""
    return copied(tmp_path_factory.mktemp("whole"))


def test_an_array_holds_the_corrupted_images_severity_after_severity(whole):
    ids = np.arange(ROWS)
    for name in CONFIG.corruptions:
        rows = np.load(whole / f"{name}.npy")
        assert rows.shape == (5 * ROWS, 32, 32, 3) and rows.dtype == np.uint8
        for severity in CONFIG.severities:
            expected, _ = corrupted(CONFIG, SOURCE, name, severity, ids)
            assert np.array_equal(rows[ROWS * (severity - 1) : ROWS * severity], expected)


def test_the_labels_are_those_of_the_test_set_five_times(whole):
    assert np.array_equal(np.load(whole / "labels.npy"), np.tile(SOURCE.labels[:ROWS], 5))


def test_the_arrays_can_be_scored_as_a_published_set(whole):
    opened = open_corruption_set(whole, corruptions=CONFIG.corruptions, severities=(1, 5), labels_of=None)
    ids = np.array([0, 17, ROWS - 1])
    for (name, severity), source in opened.items():
        assert len(source) == ROWS
        images, labels = source.read(ids)
        expected, expected_labels = corrupted(CONFIG, SOURCE, name, severity, ids)
        assert np.array_equal(images, expected) and np.array_equal(labels, expected_labels)


def test_a_copy_says_that_it_is_not_the_published_files(whole):
    assert "not the published files of any benchmark" in (whole / "README.md").read_text()
    known = json.loads((whole / "generated.json").read_text())
    assert "not the published files" in known["what"]
    assert known["complete"] and known["unreadable"] == [] and known["seed"] == 5 and known["split"] == "test"


def test_a_finished_copy_is_tidy(whole):
    expected = {"README.md", "generated.json", "labels.npy", *(f"{name}.npy" for name in CONFIG.corruptions)}
    assert {path.name for path in whole.iterdir()} == expected


def test_the_same_command_again_writes_nothing(whole):
    def times():
        return {path: path.stat().st_mtime_ns for path in [whole, *whole.rglob("*")]}

    before, bytes_before = times(), contents(whole)
    copied(whole)
    assert times() == before and contents(whole) == bytes_before


def test_another_piece_size_goes_on_with_the_same_copy(whole):
    before = contents(whole)
    copied(whole, scale=ScaleConfig(evaluation_piece_size=7))
    assert contents(whole) == before


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it runs."""


def killed_after(monkeypatch, name, calls):
    """Let a function of generate.py be called so often, and then no more; returns the calls so far."""
    function, done = getattr(generate, name), []

    def counted(*arguments, **keywords):
        if len(done) == calls:
            raise KilledError
        done.append(arguments)
        return function(*arguments, **keywords)

    monkeypatch.setattr(generate, name, counted)
    return done


def interrupted(folder, monkeypatch, name, calls):
    """A copy that died when a function was called once too often."""
    with monkeypatch.context() as patched:
        killed_after(patched, name, calls)
        with pytest.raises(KilledError):
            copied(folder)
    return folder


def test_a_copy_killed_between_pieces_resumes_to_the_same_bytes(whole, tmp_path, monkeypatch):
    """Two writes claim the folder, and every one after them marks a piece."""
    interrupted(tmp_path, monkeypatch, "write_atomically", 2 + 11)
    done = {str(p.relative_to(tmp_path / ".done")) for p in (tmp_path / ".done").rglob("*") if p.is_file()}
    assert len(done) == 11 and not list(tmp_path.glob("*.npy"))
    for name in CONFIG.corruptions:  # what has no mark may be half written
        rows = np.load(tmp_path / f"{name}.partial", mmap_mode="r+")
        for severity in CONFIG.severities:
            for first in range(0, ROWS, 25):
                if f"{name}_{severity}/{first}" not in done:
                    at = ROWS * (severity - 1) + first
                    rows[at : at + min(25, ROWS - first)] = 77
        rows.flush()
    lines = []
    monkeypatch.setattr(generate, "say", lines.append)
    assert contents(copied(tmp_path)) == contents(whole)
    assert "19 pieces to do" in lines[0]


@pytest.mark.parametrize("calls", [0, 1])
def test_a_copy_killed_while_its_folder_is_claimed_can_be_begun_again(whole, tmp_path, monkeypatch, calls):
    interrupted(tmp_path, monkeypatch, "write_atomically", calls)
    (tmp_path / "generated.tmp").write_text("{")
    found = contents(copied(tmp_path))
    found.pop("generated.tmp", None)  # of the write that the kill came into, where nothing was left to write
    assert found == contents(whole)


def test_an_array_without_its_header_is_made_anew(ray_local, tmp_path):
    (tmp_path / "contrast.tmp").write_bytes(b"\x93NUMPY")  # died while it made the file
    target = generate.Target(str(tmp_path), "npy", ROWS, 32)
    generate.prepare_array(target, "contrast", 5)
    assert np.load(target.partial("contrast"), mmap_mode="r").shape == (5 * ROWS, 32, 32, 3)
    assert not (tmp_path / "contrast.tmp").exists()


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_copy_killed_while_it_is_finished_resumes_to_the_same_bytes(whole, tmp_path, renamed):
    """All pieces are marked; some arrays have their names, and `generated.json` does not say so yet."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    described = json.loads((folder / "generated.json").read_text())
    (folder / "generated.json").write_text(json.dumps(described | {"complete": False}))
    (folder / "labels.npy").unlink()
    for name in CONFIG.corruptions[renamed:]:
        (folder / f"{name}.npy").rename(folder / f"{name}.partial")
    for name in CONFIG.corruptions:
        for severity in CONFIG.severities:
            (folder / ".done" / f"{name}_{severity}").mkdir(parents=True)
            for first in range(0, ROWS, 25):
                (folder / ".done" / f"{name}_{severity}" / str(first)).write_text("[]")
    assert contents(copied(folder)) == contents(whole)


def test_marks_left_by_a_kill_after_completion_are_removed(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / ".done" / "contrast_1").mkdir(parents=True)
    (folder / ".done" / "contrast_1" / "0").write_text("[]")
    assert contents(copied(folder)) == contents(whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, "seed 5 -> 6"),
        ({"corruptions": ("contrast",)}, "corruptions"),
        ({"data": DataConfig(test_limit=ROWS - 1)}, f"images {ROWS} -> {ROWS - 1}"),
        ({"layout": "parquet"}, "layout 'npy' -> 'parquet'"),
    ],
)
def test_another_copy_into_the_same_folder_is_refused(whole, changes, said):
    before = contents(whole)
    with pytest.raises(ValueError, match="holds another copy") as caught:
        copied(whole, **changes)
    assert said in str(caught.value) and "give another --output" in str(caught.value)
    assert contents(whole) == before


@pytest.mark.parametrize("there", ["photo.jpg", "generated.json", ".hidden"])
def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path, there):
    (tmp_path / there).write_text("[1]")
    with pytest.raises(ValueError, match=r"is not empty \(found: |is not ours; give a new folder"):
        copied(tmp_path)
    assert contents(tmp_path) == {there: b"[1]"}


def test_a_folder_that_cannot_be_made_or_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"output '.*' cannot be used: "):
            copied(tmp_path / path)


def test_an_array_of_some_severities_is_refused():
    with pytest.raises(ValueError, match=r"severities is \(3,\); the npy layout holds 1 2 3 4 5"):
        dataclasses.replace(CONFIG, severities=(3,))
    dataclasses.replace(CONFIG, severities=(3,), layout="folder")


def test_a_parquet_copy_holds_the_same_pixels_and_labels(ray_local, tmp_path):
    copied(tmp_path / "copy", layout="parquet", severities=(3,))
    for name in CONFIG.corruptions:
        folder = tmp_path / "copy" / name / "3"
        assert [path.name for path in sorted(folder.iterdir())] == [f"{n:09d}.parquet" for n in (0, 25, 50)]
        table = pq.read_table(folder)
        expected, labels = corrupted(CONFIG, SOURCE, name, 3, np.arange(ROWS))
        assert table["label"].to_pylist() == labels.tolist()
        shown = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
        assert np.array_equal(shown, expected)
        assert table["image"][17].as_py()["path"] == f"{labels[17]}/00000017.png"


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images each, one of them broken."""
    imagenet_tree(tmp_path / "images")
    for label, name in enumerate(("n01", "n02")):
        for n, image in enumerate(natural(3, 90, 130)):
            (tmp_path / "images" / "val" / name / f"v{n}.JPEG").write_bytes(jpeg(image + np.uint8(20 * label)))
        (tmp_path / "images" / "val" / name / "0.JPEG").unlink()
    return tmp_path / "images"


def of_tree(tree, **changes):
    data = dataclasses.replace(IMAGENET, path=str(tree))
    config = dataclasses.replace(CONFIG, layout="folder", data=data, severities=(2, 5), corruptions=("contrast",))
    return dataclasses.replace(config, **changes), open_source(data, train=False)


def test_a_folder_copy_holds_jpegs_of_the_corrupted_images(ray_local, tree, tmp_path):
    config, source = of_tree(tree)
    folder = copied(tmp_path / "copy", source, config)
    for severity in (2, 5):
        expected, _ = corrupted(config, source, "contrast", severity, np.arange(6))
        for image, path in zip(expected, source.paths.to_pylist(), strict=True):
            with Image.open(folder / "contrast" / str(severity) / path) as shown:
                assert shown.format == "JPEG"
                apart = np.abs(np.asarray(shown).astype(int) - image)
            assert shown.size == (64, 64) and apart.mean() < 3  # quality 85; chance would be above 20
    assert len(contents(folder / "contrast")) == 2 * 6
    opened = open_corruption_set(folder, corruptions=("contrast",), severities=(2, 5), labels_of=source)
    assert np.array_equal(opened["contrast", 5].labels, source.labels)


def test_an_image_that_cannot_be_read_is_left_out_of_a_folder_and_listed(ray_local, tree, tmp_path):
    (tree / "val" / "n02" / "v1.JPEG").write_bytes(b"no image")
    config, source = of_tree(tree)
    folder = copied(tmp_path / "copy", source, config)
    for severity in ("2", "5"):
        names = set(contents(folder / "contrast" / severity))
        assert names == set(source.paths.to_pylist()) - {"n02/v1.JPEG"}
    known = json.loads((folder / "generated.json").read_text())
    assert known["unreadable"] == [str(tree / "val" / "n02" / "v1.JPEG")]


def test_an_array_is_never_finished_without_an_image(ray_local, tree, tmp_path):
    broken = tree / "val" / "n02" / "v1.JPEG"
    whole_file = broken.read_bytes()
    broken.write_bytes(b"no image")
    config, source = of_tree(tree, layout="npy", severities=(1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="the npy layout has a row for every image") as caught:
        copied(tmp_path / "copy", source, config)
    assert str(broken) in str(caught.value)
    assert not list((tmp_path / "copy").glob("*.npy"))
    broken.write_bytes(whole_file)
    rows = np.load(copied(tmp_path / "copy", source, config) / "contrast.npy")
    assert rows.any(axis=(1, 2, 3)).all()


def test_two_images_that_would_share_a_file_are_refused(tree, tmp_path):
    (tree / "val" / "n01" / "v1.png").write_bytes((tree / "val" / "n01" / "v1.JPEG").read_bytes())
    config, source = of_tree(tree)
    with pytest.raises(ValueError, match=r"2 images would be written to n01/v1\.JPEG"):
        copied(tmp_path / "copy", source, config)
    assert not os.path.exists(tmp_path / "copy")
