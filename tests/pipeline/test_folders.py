"""Image folders: anyone's own, ImageFolder trees, and the forms in which ILSVRC's validation images are labelled."""

import os
import pickle
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from pipeline.config import DataConfig
from pipeline.source import find_source, of_same_classes, open_folder, open_source, summary
from tests.pipeline.fixtures import image_tree, jpeg, natural, refusal


def own(path, **more):
    return DataConfig(name="folder", path=str(path), **more)


@pytest.mark.parametrize("test", ["val", "test", "validation"])
def test_an_image_folder_is_read_by_its_splits(tmp_path, test):
    image_tree(tmp_path / "train", {"cat": 3, "dog": 2})
    image_tree(tmp_path / test, {"cat": 1, "dog": 1})
    found = find_source(own(tmp_path), train=True)
    train, tests = found.open(None), open_source(own(tmp_path), train=False)
    assert train.labels.tolist() == [0, 0, 0, 1, 1] and tests.labels.tolist() == [0, 1]
    assert train.read([4])[0] == [(tmp_path / "train/dog/001.jpg").read_bytes()]
    assert train.describe(4) == str(tmp_path / "train/dog/001.jpg")
    assert summary("train", found, train) == f"train: 5 images, 2 classes, image folders in {tmp_path}/train"
    assert train.shard_rows is None


def test_images_are_found_below_a_class_folder_whatever_the_case_of_their_suffix(tmp_path):
    image_tree(tmp_path / "train", {"cat": 1})
    for name in ("deep/er/A.JPEG", "b.Png", "c.WEBP", "notes.txt", "._b.png", ".cache/d.jpg", "deep/e.jpg"):
        file = tmp_path / "train" / "cat" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "train/cat/deep/loop").symlink_to(tmp_path / "train" / "cat")
    os.mkfifo(tmp_path / "train/cat/waits.jpg")  # reading it would never end
    source = open_source(own(tmp_path), train=True)
    assert source.paths.to_pylist() == [
        f"cat/{name}" for name in ("000.jpg", "b.Png", "c.WEBP", "deep/e.jpg", "deep/er/A.JPEG")
    ]


def test_class_folders_alone_are_split_by_a_fixed_share_of_each_class(tmp_path):
    image_tree(tmp_path, {"cat": 8, "dog": 2, "eel": 13})
    found = find_source(own(tmp_path), train=False)
    train, test = open_source(own(tmp_path), train=True), found.open(None)
    assert np.bincount(test.labels).tolist() == [2, 1, 3] and np.bincount(train.labels).tolist() == [6, 1, 10]
    both = train.paths.to_pylist() + test.paths.to_pylist()
    assert len(set(both)) == 23
    assert found.what == f"25 % of each class of the image folders in {tmp_path}"
    assert open_source(own(tmp_path), train=False).paths.to_pylist() == test.paths.to_pylist()
    half = open_source(own(tmp_path, test_fraction=0.5), train=False)
    assert np.bincount(half.labels).tolist() == [4, 1, 6]
    assert half.paths.to_pylist() != sorted(half.paths.to_pylist())[: len(half)] or half.paths[0].as_py() != "cat/000"


def test_the_share_is_not_the_first_files_of_a_class(tmp_path):
    image_tree(tmp_path, {"cat": 40})
    test = open_source(own(tmp_path), train=False)
    assert test.paths.to_pylist() != [f"cat/{n:03d}.jpg" for n in range(10)]


class TestRefused:
    def test_an_empty_class_folder(self, tmp_path):
        image_tree(tmp_path / "train", {"cat": 1, "dog": 0, "eel": 0})
        told = refusal(lambda: open_source(own(tmp_path), train=True))
        assert "2 of 3 class folders have no image in them" in told and "'dog'" in told and ".jpeg" in told

    def test_a_class_of_one_image_that_would_have_to_be_split(self, tmp_path):
        image_tree(tmp_path, {"cat": 2, "dog": 1})
        told = refusal(lambda: open_source(own(tmp_path), train=True))
        assert "1 of 2 class folders" in told and "'dog'" in told and "at least two" in told

    def test_a_class_in_val_alone_before_any_image_is_listed(self, tmp_path):
        image_tree(tmp_path / "train", {"cat": 1})
        image_tree(tmp_path / "val", {"cat": 1, "dog": 1, "eel": 1})
        told = refusal(lambda: find_source(own(tmp_path), train=False))
        assert "'dog'" in told and "2 such of 3" in told and "train/ has 1" in told

    @pytest.mark.parametrize("name", ["imagenet", "folder"])
    def test_a_folder_of_nothing_known(self, tmp_path, name):
        (tmp_path / "readme.txt").write_text("nothing")
        told = refusal(lambda: find_source(DataConfig(name=name, path=str(tmp_path)), train=True))
        assert "no folder train/" in told and "no train-*.parquet" in told and "found: readme.txt" in told

    def test_a_name_that_is_no_utf8(self, tmp_path):
        image_tree(tmp_path / "train", {"cat": 1})
        (tmp_path / "train/cat" / "\udcff.jpg").write_bytes(b"")
        assert "not UTF-8" in refusal(lambda: open_source(own(tmp_path), train=True))

    def test_credentials_in_the_path_are_refused_and_not_repeated(self):
        told = refusal(lambda: own("s3://key:secret@bucket/folder"))
        assert "credentials" in told and "secret" not in told.replace("credentials", "")

    def test_a_folder_that_vanishes_before_it_is_listed(self, tmp_path):
        image_tree(tmp_path / "train", {"cat": 1})
        found = find_source(own(tmp_path), train=True)
        shutil.rmtree(tmp_path / "train")
        assert f"data.path '{tmp_path}' cannot be listed" in refusal(lambda: found.open(None))

    @pytest.mark.parametrize(("train", "test"), [(("a", "b"), ("a",)), (("0", "1"), ("1",)), (("a",), ("a", "b"))])
    def test_classes_that_differ(self, tmp_path, train, test):
        sources = []
        for names in (train, test):
            image_tree(tmp_path / str(len(sources)), dict.fromkeys(names, 1))
            sources.append(open_folder(tmp_path / str(len(sources)), names))
        assert "must agree" in refusal(lambda: of_same_classes(*sources))


def test_test_images_without_the_last_of_numbered_classes_take_over_the_classes_of_training(tmp_path):
    image_tree(tmp_path / "a", {"0": 1, "1": 1, "2": 1})
    image_tree(tmp_path / "b", {"0": 1, "1": 1})
    train, test = open_folder(tmp_path / "a", ("0", "1", "2")), open_folder(tmp_path / "b", ("0", "1"))
    assert of_same_classes(train, test).class_names == ("0", "1", "2")


def test_a_file_that_vanishes_is_a_bad_sample_and_a_data_set_that_vanishes_is_an_error(tmp_path):
    image_tree(tmp_path / "train", {"cat": 2})
    source = open_source(own(tmp_path), train=True)
    (tmp_path / "train/cat/000.jpg").unlink()
    assert source.read([0, 1])[0][0] == b"" != source.read([0, 1])[0][1]
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(OSError, match="cannot be read any more"):
        source.read([1])


WNIDS = ("n01", "n02", "n03")
BY_ID = {1: "n03", 2: "n01", 3: "n02"}  # not in the order of the sorted wnids, as ILSVRC2012_IDs are not
IDS = [3, 1, 2, 1]
VAL_LABELS = [1, 2, 0, 2]


@pytest.fixture
def flat(tmp_path):
    """train/ with three classes, and four validation images in one folder."""
    image_tree(tmp_path / "train", dict.fromkeys(WNIDS, 1))
    (tmp_path / "val").mkdir()
    for n, image in enumerate(natural(4, 24, 40), start=1):
        (tmp_path / "val" / f"ILSVRC2012_val_{n:08d}.JPEG").write_bytes(jpeg(image))
    return tmp_path


def opened(folder):
    return open_source(DataConfig(name="imagenet", path=str(folder)), train=False)


def write_meta(file):
    """The development kit's table: leaves, and one inner node that no image is labelled with."""
    kinds = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    rows = [(n, wnid, f"word of {wnid}", 0) for n, wnid in BY_ID.items()]
    savemat(file, {"synsets": np.array([*rows, (4, "n99", "entity", 3)], kinds).reshape(-1, 1)})


@pytest.mark.parametrize("table", ["meta.mat", "map_clsloc.txt"])
@pytest.mark.parametrize("where", ["", "ILSVRC2012_devkit_t12/data", "devkit/data", "val"])
def test_the_ground_truth_is_read_by_the_development_kits_ids(flat, table, where):
    (flat / where).mkdir(parents=True, exist_ok=True)
    (flat / where / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, IDS)) + "\n")
    if table == "meta.mat":
        write_meta(flat / where / table)
    else:
        (flat / where / table).write_text("".join(f"{wnid} {n} word\n" for n, wnid in BY_ID.items()))
    source = opened(flat)
    assert source.labels.tolist() == VAL_LABELS and source.class_names == WNIDS
    assert source.read([2])[0] == [(flat / "val/ILSVRC2012_val_00000003.JPEG").read_bytes()]
    assert source.describe(2) == str(flat / "val/ILSVRC2012_val_00000003.JPEG")


@pytest.mark.parametrize("labels", [VAL_LABELS, [WNIDS[label] for label in VAL_LABELS]])
def test_caffes_list_is_read_by_sorted_wnids(flat, labels):
    lines = [f"ILSVRC2012_val_{n:08d}.JPEG {label}" for n, label in enumerate(labels, start=1)]
    (flat / "val.txt").write_text("\n".join(reversed(lines)))
    assert opened(flat).labels.tolist() == VAL_LABELS


def test_kaggles_solution_begins_with_the_wnid(flat):
    rows = [f"ILSVRC2012_val_{n:08d},{WNIDS[label]} 85 1 499 272 n01 1 2 3 4 " for n, label in enumerate(VAL_LABELS, 1)]
    below = flat / "ILSVRC/Data/CLS-LOC"
    below.mkdir(parents=True)
    for split in ("train", "val"):
        (flat / split).rename(below / split)
    (flat / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]))
    assert opened(flat).labels.tolist() == VAL_LABELS
    shutil.rmtree(below / "train")  # scoring needs no training images
    alone = opened(flat)
    assert alone.labels.tolist() == VAL_LABELS and alone.class_names == WNIDS


class TestFlatRefused:
    def test_without_labels(self, flat):
        assert "no folder val/" in refusal(lambda: opened(flat))

    def test_a_missing_image(self, flat):
        (flat / "val.txt").write_text("".join(f"ILSVRC2012_val_{n:08d}.JPEG 0\n" for n in range(1, 6)))
        told = refusal(lambda: opened(flat))
        assert "labels 5 images and 4 are there (no image of ILSVRC2012_val_00000005.JPEG)" in told

    def test_an_image_without_label(self, flat):
        (flat / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01 1 2 3 4\n")
        told = refusal(lambda: opened(flat))
        assert "labels 1 images and 4 are there (ILSVRC2012_val_00000002 has none)" in told

    @pytest.mark.parametrize(
        ("label", "part"), [("3", "label '3'; labels must be from 0 to 2"), ("-1", "'-1'"), ("n99", "'n99'")]
    )
    def test_a_label_out_of_range(self, flat, label, part):
        (flat / "val.txt").write_text("".join(f"ILSVRC2012_val_{n:08d}.JPEG {label}\n" for n in range(1, 5)))
        assert part in refusal(lambda: opened(flat))

    @pytest.mark.parametrize(
        ("ids", "part"),
        [([3, 1, 2], "labels 3 images and 4"), ([3, 1, 2, 4], "ID '4'"), ([0, 1, 2, 3], "ID '0'; IDs are from 1 to 3")],
    )
    def test_a_ground_truth_of_other_images(self, flat, ids, part):
        (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, ids)))
        write_meta(flat / "meta.mat")
        assert part in refusal(lambda: opened(flat))

    def test_a_ground_truth_without_its_table(self, flat):
        (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, IDS)))
        assert "meta.mat or map_clsloc.txt" in refusal(lambda: opened(flat))

    def test_a_table_that_is_a_pickle(self, flat, tmp_path):
        (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, IDS)))
        (flat / "meta.mat").write_bytes(pickle.dumps({"synsets": 1}))
        assert "not the development kit's meta.mat" in refusal(lambda: opened(flat))

    def test_images_of_other_names(self, flat):
        (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, IDS)))
        write_meta(flat / "meta.mat")
        (flat / "val/ILSVRC2012_val_00000004.JPEG").rename(flat / "val/four.JPEG")
        assert "other names" in refusal(lambda: opened(flat))
