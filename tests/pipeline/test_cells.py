"""What is scored: broken or missing test sets are refused before anything starts, and images are read once."""

import dataclasses
import json

import numpy as np
import pytest

from augmix_core.baselines import ALEXNET_FLIP_PROBABILITIES
from pipeline.cells import Cell, plan_evaluation, rows_of_a_piece
from pipeline.config import DataConfig, EvaluateConfig
from pipeline.source import open_source
from tests.pipeline.fixtures import write_cifar_c

DIGITS = DataConfig(test_limit=50)


@pytest.fixture(scope="module")
def clean():
    return open_source(DIGITS, train=False)


def labelled(clean, size):
    """The digits' interface with the labels of `write_cifar_c`."""
    return dataclasses.replace(clean, images=clean.images[:size], labels=np.arange(size) % 10)


def test_generated_cells_share_one_reading_of_the_clean_images(clean):
    config = EvaluateConfig(perturbations=("translate",))
    plan = plan_evaluation(DIGITS, config, clean)
    assert len(plan.inputs) == 1 and plan.inputs[0].rows == 50
    assert len(plan.cells) == len({cell.key for cell in plan.cells}) == 1 + 15 * 5 + 1


def test_perturbations_of_raw_images_are_given_a_margin(clean):
    data = DataConfig(name="imagenet", image_size=224, crop="random_resized")
    plan = plan_evaluation(data, EvaluateConfig(perturbations=("all",)), clean)
    frames, images = plan.inputs
    assert frames.margin == 32 and [cell.name for cell in frames.cells] == list(ALEXNET_FLIP_PROBABILITIES)
    assert images.margin == 0 and images.cells[0] == Cell("clean")


def test_a_sequence_counts_as_many_images():
    assert rows_of_a_piece(Cell("perturbation", "tilt"), 320) == 10
    assert rows_of_a_piece(Cell("perturbation", "tilt"), 8) == 1
    assert rows_of_a_piece(Cell("clean"), 320) == 320


def test_a_published_set_replaces_the_generated_cells(clean, tmp_path):
    write_cifar_c(tmp_path, ("contrast", "fog"), size=20)
    config = EvaluateConfig(corruptions=("contrast", "fog"), severities=(1, 4), published=str(tmp_path))
    plan = plan_evaluation(DataConfig(), config, labelled(clean, 20))
    published = [given for given in plan.inputs if not given.generated]
    assert [given.cells[0].key for given in published] == ["contrast_1", "contrast_4", "fog_1", "fog_4"]
    assert all(given.rows == 20 and not given.resized for given in published)


def test_a_truncated_array_is_refused_with_the_bytes_expected_and_found(clean, tmp_path):
    write_cifar_c(tmp_path, ("contrast",), size=20)
    path = tmp_path / "contrast.npy"
    path.write_bytes(path.read_bytes()[:-1])
    config = EvaluateConfig(corruptions=("contrast",), published=str(tmp_path))
    with pytest.raises(ValueError, match=r"contrast.npy has 307,327 bytes .* says 307,328"):
        plan_evaluation(DataConfig(), config, labelled(clean, 20))


def test_labels_of_another_test_set_are_refused_with_both_counts(clean, tmp_path):
    write_cifar_c(tmp_path, ("contrast",), size=20)
    config = EvaluateConfig(corruptions=("contrast",), published=str(tmp_path))
    with pytest.raises(ValueError, match="labels 20 images and the clean test set has 30"):
        plan_evaluation(DataConfig(), config, labelled(clean, 30))


def test_a_folder_without_frost_textures_is_refused(clean, tmp_path):
    config = EvaluateConfig(corruptions=("frost",), frost_textures=str(tmp_path))
    with pytest.raises(ValueError, match=r"gives no frost1\.png"):
        plan_evaluation(DIGITS, config, clean)


def test_a_baseline_of_top5_distances_must_hold_the_ten_perturbations(clean, tmp_path):
    path = tmp_path / "top5.json"
    path.write_text(json.dumps({"translate": 1.5}))
    with pytest.raises(ValueError, match=r"top5_baseline .* lacks"):
        plan_evaluation(DIGITS, EvaluateConfig(top5_baseline=str(path)), clean)
