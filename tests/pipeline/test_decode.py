"""Rows to clean images: crops by key, broken samples replaced in training and left out in evaluation."""

import dataclasses

import numpy as np
import pytest

from augmix_core.decode import decode_rgb
from pipeline.config import DataConfig
from pipeline.decode import evaluation_images, reason_unreadable, training_images
from pipeline.order import Split
from pipeline.source import open_folder
from tests.pipeline.fixtures import imagenet_tree

IMAGENET = DataConfig(name="imagenet", image_size=56, crop="random_resized", flip=True)


@pytest.fixture
def source(tmp_path):
    imagenet_tree(tmp_path)
    return open_folder(tmp_path / "train", ("n01", "n02"))


def whole(source):
    return Split(total=len(source), start=0, size=len(source), seed=0)


def test_rows_do_not_depend_on_the_batch(source):
    positions = np.arange(12)
    batch = training_images(source, whole(source), positions, IMAGENET, seed=0)
    assert batch["image"].shape == (12, 56, 56, 3)
    assert batch["epoch"].tolist() == [0] * 6 + [1] * 6
    for k in positions:
        alone = training_images(source, whole(source), positions[k : k + 1], IMAGENET, seed=0)
        assert all((alone[column][0] == batch[column][k]).all() for column in batch)


def test_a_broken_sample_is_replaced_by_the_next_of_its_epoch(source, tmp_path):
    before = training_images(source, whole(source), np.arange(6), IMAGENET, seed=0)
    (tmp_path / "train" / "n02" / "1.JPEG").write_bytes(b"no image")
    after = training_images(source, whole(source), np.arange(6), IMAGENET, seed=0)
    broken = 4
    (at,) = np.flatnonzero(before["sample_id"] == broken)
    following = (at + 1) % 6
    assert after["requested_id"].tolist() == before["sample_id"].tolist()
    assert after["sample_id"][at] == before["sample_id"][following]
    assert (after["image"][at] == before["image"][following]).all()
    assert after["label"][at] == before["label"][following]
    others = np.arange(6) != at
    assert (after["image"][others] == before["image"][others]).all()
    assert "not a readable JPEG or PNG or WebP" in reason_unreadable(source, broken, IMAGENET)
    assert reason_unreadable(source, 0, IMAGENET) == ""


def test_evaluation_marks_broken_samples_and_keeps_the_others(source, tmp_path):
    (tmp_path / "train" / "n01" / "1.JPEG").write_bytes(b"")
    images, labels, valid = evaluation_images(source, np.arange(6), IMAGENET)
    assert valid.tolist() == [True, False, True, True, True, True]
    assert images.shape == (6, 56, 56, 3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_images_above_data_max_pixels_are_bad_samples(source):
    small = dataclasses.replace(IMAGENET, max_pixels=90 * 130 - 1)
    assert reason_unreadable(source, 0, IMAGENET) == ""
    assert "claims 130x90 pixels; the limit is 11699" in reason_unreadable(source, 0, small)
    assert not evaluation_images(source, np.arange(6), small)[2].any()


def test_an_image_of_another_size_is_refused_where_nothing_resizes(source):
    config = DataConfig(name="imagenet", image_size=56)
    assert reason_unreadable(source, 0, config) == "is 130x90 pixels; data.image_size 56 takes 56x56"


def test_published_images_are_cut_to_the_centre_and_never_resized(tmp_path):
    imagenet_tree(tmp_path)  # 130 x 90
    source = open_folder(tmp_path / "val", ("n01", "n02"))
    whole = decode_rgb(source.read([0])[0][0])
    images, _, valid = evaluation_images(source, np.array([0]), IMAGENET, resized=False)
    assert valid.all() and (images[0] == whole[17:73, 37:93]).all()
    large = dataclasses.replace(IMAGENET, image_size=100)
    assert not evaluation_images(source, np.array([0]), large, resized=False)[2].any()


def test_a_margin_is_read_around_the_evaluation_crop(source):
    ids = np.arange(3)
    crop, _, _ = evaluation_images(source, ids, IMAGENET)
    wider, _, _ = evaluation_images(source, ids, IMAGENET, margin=8)
    assert wider.shape[1:3] == (64, 64) and (wider[:, 4:-4, 4:-4] == crop).all()
