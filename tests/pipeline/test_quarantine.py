"""Bad samples: listed, counted, limited, and never in the way of the good ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from PIL import Image

from pipeline.budget import Scale
from pipeline.cli import working_in
from pipeline.config import DataConfig, RunConfig, ScaleConfig, TrainConfig
from pipeline.decode import NO_SAMPLE, TooManyBadSamplesError, training_images
from pipeline.job import CLEAN, Job
from pipeline.order import Split
from pipeline.quarantine import QUARANTINE, Quarantine, add, collected, listed
from pipeline.source import open_folder
from pipeline.train import fit
from tests.pipeline.fixtures import jpeg

BAD = (b"", b"no image", b"\xff\xd8\xff\xe0 cut", jpeg(np.zeros((32, 32, 3), np.uint8))[:200])
LIMIT = 0.02


def hundred(folder: Path, *, bad: int) -> tuple[object, DataConfig]:
    """100 images of 32 px in two classes, the first `bad` of the second class spoilt in different ways."""
    rng = np.random.default_rng(0)
    for n in range(100):
        path = folder / f"n0{n % 2}" / f"{n // 2:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    for n in range(bad):
        (folder / "n01" / f"{n:02d}.png").write_bytes(BAD[n % len(BAD)])
    data = DataConfig(name="imagenet", image_size=32, crop="random_resized", max_bad_fraction=LIMIT)
    return open_folder(folder, ("n00", "n01")), data


def whole(source) -> Split:
    return Split(len(source), 0, len(source), 0)


def epoch_of(source, data) -> dict[str, torch.Tensor]:
    rows = training_images(source, whole(source), np.arange(len(source)), data, seed=0)
    return {name: torch.from_numpy(column) for name, column in rows.items()}


@pytest.mark.parametrize(("bad", "stops"), [(0, False), (1, False), (2, False), (3, True), (5, True)])
def test_more_bad_samples_than_the_limit_stop_the_training_and_fewer_do_not(ray_local, tmp_path, bad, stops):
    source, data = hundred(tmp_path / "images", bad=bad)
    quarantine = Quarantine(tmp_path, 0, ray.put(source), 100, data)
    quarantine.add(epoch_of(source, data))
    told = quarantine.share(torch.device("cpu"))
    assert bool(told) == stops and len(quarantine.known) == bad
    assert len(listed(tmp_path)) == bad
    if stops:
        assert f"{bad} of 100 images ({bad} %) cannot be used, data.max_bad_fraction 0.02 allows 2 %" in told
        assert told.count("n01/") == 3 and "\n" not in told and "raise --data.max-bad-fraction" in told


def test_pandas_reads_the_list_sorted_by_split_and_id(tmp_path):
    rows = [{"sample_id": n, "path": f"/{n}", "reason": "no", "split": split} for n in (9, 3) for split in "ba"]
    add(tmp_path / "train" / "augmix", rows[:3])
    add(tmp_path / "ledger", [rows[3], rows[0] | {"reason": "another"}])
    collected(tmp_path)
    collected(tmp_path)
    found = pd.read_parquet(tmp_path / QUARANTINE)
    assert list(found.columns) == ["sample_id", "path", "reason", "split"]
    assert list(zip(found["split"], found["sample_id"], strict=True)) == [("a", 3), ("a", 9), ("b", 3), ("b", 9)]


def test_a_repaired_file_counts_no_more_after_a_resume(ray_local, tmp_path):
    source, data = hundred(tmp_path / "images", bad=3)
    first = Quarantine(tmp_path, 0, ray.put(source), 100, data)
    first.add(epoch_of(source, data))
    assert first.share(torch.device("cpu"))
    whole_file = (tmp_path / "images" / "n00" / "00.png").read_bytes()
    (tmp_path / "images" / "n01" / "00.png").write_bytes(whole_file)
    again = Quarantine(tmp_path, 0, ray.put(source), 100, data)
    assert again.share(torch.device("cpu")) == "" and len(again.known) == 2
    assert len(listed(tmp_path)) == 3


def test_a_hundred_bad_samples_in_a_row_stop_the_training_at_once(ray_local, tmp_path):
    source, _ = hundred(tmp_path / "images", bad=0)
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    data = DataConfig(name="imagenet", image_size=32, crop="random_resized", max_bad_fraction=1.0)
    rows = training_images(source, whole(source), np.arange(2), data, seed=0)
    assert rows["sample_id"].tolist() == [NO_SAMPLE] * 2 and not rows["image"].any()
    quarantine = Quarantine(tmp_path, 0, ray.put(source), 100, data)
    quarantine.add({name: torch.from_numpy(column) for name, column in rows.items()})
    assert "100 samples in a row have no replacement" in quarantine.share(torch.device("cpu"))


def test_a_training_with_too_many_bad_samples_stops_once_with_the_list(ray_local, tmp_path):
    """Two ranks meet them; no restart, no checkpoint, and the list is that of both: every rank has met all of its own
    in the first step, whenever the ranks speak."""
    source, data = hundred(tmp_path / "images", bad=5)
    config = RunConfig(data=data, train=TrainConfig(epochs=3, global_batch_size=100), scale=ScaleConfig(max_failures=3))
    reference, split = ray.put(source), whole(source)
    scale = Scale(num_workers=2, use_gpu=False, evaluation_actors=1)
    folder = tmp_path / "run" / "train" / "augmix"
    job = Job(config, scale, folder, reference, split, reference, split, (CLEAN,), 2)
    with pytest.raises(TooManyBadSamplesError, match=r"5 of 100 images \(5 %\) cannot be used"):
        fit(job)
    assert [row["path"] for row in listed(folder)] == [str(tmp_path / "images/n01" / f"{n:02d}.png") for n in range(5)]
    assert not (folder / "metrics.jsonl").exists() and not list(folder.glob("step_*"))
    assert json.loads((folder / "progress.json").read_text())["step"] == 1


def test_too_many_bad_samples_end_a_command_in_one_line_and_code_1(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended, working_in(tmp_path):
        raise TooManyBadSamplesError("3 of 100 images cannot be used")
    told = capfd.readouterr().err
    assert ended.value.code == 1
    assert told == f"stopped: 3 of 100 images cannot be used; the whole list is {tmp_path / QUARANTINE}\n"
