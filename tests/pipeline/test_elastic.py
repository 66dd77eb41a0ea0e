"""A training goes on with fewer workers when a node is lost, and with more when one comes: real nodes of Ray's."""

import dataclasses
import json

import numpy as np
import pytest

from pipeline.config import ModelConfig, ScaleConfig
from tests.pipeline.test_train import CONFIG, by_hand, job_in
from tests.test_jobs import output_of

ELASTIC = dataclasses.replace(
    CONFIG,
    model=ModelConfig(name="convnet5_gn"),
    data=dataclasses.replace(CONFIG.data, crop="none"),
    scale=ScaleConfig(min_workers=1, worker_resource="trainer"),
)
LONG = dataclasses.replace(ELASTIC, train=dataclasses.replace(ELASTIC.train, epochs=60))
NODES = """
import functools, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipeline import checkpoint
from pipeline.train import fit
from tests.pipeline.test_elastic import ELASTIC, LONG
from tests.pipeline.test_train import job_in

folder, grows = Path(sys.argv[1]), sys.argv[2] == "grows"
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
ray.train.ScalingConfig = functools.partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=1)  # not 60
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
trainers = [cluster.add_node(num_cpus=1, resources={"trainer": 1}) for _ in range(2)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

def step():
    return json.loads((folder / "progress.json").read_text())["step"]

with ThreadPoolExecutor() as pool:  # nodes are added by the main thread alone
    training = pool.submit(fit, job_in(folder, LONG if grows else ELASTIC))
    while checkpoint.last_checkpoint(folder) is None and not training.done():
        time.sleep(0.02)
    cluster.remove_node(trainers[1], allow_graceful=False)
    print("lost after step", step(), flush=True)
    if grows:
        while '"workers": 1' not in (folder / "metrics.jsonl").read_text() and not training.done():
            time.sleep(0.02)
        cluster.add_node(num_cpus=1, resources={"trainer": 1})
        print("added after step", step(), flush=True)
    training.result()
ray.shutdown()
cluster.shutdown()
"""


def rows_of(out, folder):
    assert "lost after step" in out
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_training_goes_on_with_the_workers_that_are_left(tmp_path):
    """Two nodes with one worker each, one of which is lost after an epoch of three."""
    folder = tmp_path / "augmix"
    rows = rows_of(output_of(NODES, str(folder), "shrinks", timeout=400), folder)
    assert [(row["epoch"], row["workers"]) for row in rows] == [(1, 2), (2, 1), (3, 1)]
    losses = [loss for loss, _ in by_hand(job_in(folder, ELASTIC, put=lambda source: source), 18)]
    for row in rows:
        expected = np.mean(losses[6 * row["epoch"] - 6 : 6 * row["epoch"]])
        assert row["train/loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_training_takes_in_a_node_that_comes(tmp_path):
    """One of two nodes is lost after an epoch of sixty; another comes an epoch later."""
    folder = tmp_path / "augmix"
    out = output_of(NODES, str(folder), "grows", timeout=400)
    rows = rows_of(out, folder)
    assert "added after step" in out
    assert [row["epoch"] for row in rows] == list(range(1, 61))
    workers = [row["workers"] for row in rows]
    assert workers[0] == workers[-1] == 2 and 1 in workers
