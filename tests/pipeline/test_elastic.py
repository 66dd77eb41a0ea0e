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
    train=dataclasses.replace(CONFIG.train, epochs=60),
    scale=ScaleConfig(min_workers=1, worker_resource="trainer"),
)
NODES = """
import functools, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipeline import checkpoint
from pipeline.train import fit
from tests.pipeline.test_elastic import ELASTIC
from tests.pipeline.test_train import job_in

folder = Path(sys.argv[1])
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
ray.train.ScalingConfig = functools.partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=1)  # not 60
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
trainers = [cluster.add_node(num_cpus=1, resources={"trainer": 1}) for _ in range(2)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

def step():
    return json.loads((folder / "progress.json").read_text())["step"]

with ThreadPoolExecutor() as pool:  # nodes are added by the main thread alone
    training = pool.submit(fit, job_in(folder, ELASTIC))
    while checkpoint.last_checkpoint(folder) is None and not training.done():
        time.sleep(0.02)
    cluster.remove_node(trainers[1], allow_graceful=False)
    print("lost after step", step(), flush=True)
    while '"workers": 1' not in (folder / "metrics.jsonl").read_text() and not training.done():
        time.sleep(0.02)
    cluster.add_node(num_cpus=1, resources={"trainer": 1})
    print("added after step", step(), flush=True)
    training.result()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_training_goes_on_with_the_workers_that_are_left_and_with_those_that_come(tmp_path):
    """Two nodes with one worker each, one of which is lost after an epoch of sixty; another comes an epoch later."""
    folder = tmp_path / "augmix"
    out = output_of(NODES, str(folder), timeout=400)
    assert "lost after step" in out and "added after step" in out
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 61))
    workers = [row["workers"] for row in rows]
    assert workers[0] == workers[-1] == 2 and 1 in workers
    losses = [loss for loss, _ in by_hand(job_in(folder, ELASTIC, put=lambda source: source), 60)]
    for row in rows[:10]:  # rounding grows
        expected = np.mean(losses[6 * row["epoch"] - 6 : 6 * row["epoch"]])
        assert row["train/loss"] == pytest.approx(expected, rel=1e-3)
