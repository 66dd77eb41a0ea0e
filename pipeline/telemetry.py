"""Figures for people and for Prometheus: what a training does, and what the cluster's object stores hold.

Training workers publish through ray.util.metrics; the series are on the metrics port of the worker's node as
ray_augmix_*. Of the object stores, Ray says publicly how much is free; what has been spilled stands on every node's
metrics port alone, which answers without a token. Where a node does not answer, the value is left out.
"""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Counter, Gauge

from pipeline.journal import STORE
from pipeline.storage import StoredPath, write_atomically

SECONDS_BETWEEN_SAMPLES = 5.0
SECONDS_FOR_AN_ANSWER = 2.0
OBJECT_STORE = "object_store_memory"
SPILLED = "ray_spill_manager_objects_bytes"


class TrainingMetrics:
    """Counters and gauges of one training, from its rank 0.

    Args:
        label: value of the tag `method`: the method, or search.
    """

    def __init__(self, label: str) -> None:
        def tagged(kind: Any, name: str, description: str) -> Any:
            metric = kind(name, description=description, tag_keys=("method",))
            metric.set_default_tags({"method": label})
            return metric

        self.samples = tagged(Counter, "augmix_samples_total", "Samples trained on, each with all its views.")
        self.waited = tagged(Counter, "augmix_data_wait_seconds_total", "Seconds that rank 0 waited for rows.")
        self.step = tagged(Gauge, "augmix_step", "Optimizer steps taken.")
        self.quarantined = tagged(Gauge, "augmix_quarantined", "Samples known to be unreadable.")

    def stepped(self, step: int, samples: int, waited: float, quarantined: int) -> None:
        """Publish a step."""
        self.samples.inc(samples)
        if waited > 0:
            self.waited.inc(waited)
        self.step.set(step)
        self.quarantined.set(quarantined)


class StoreMeter:
    """The most that the object stores of the cluster have held, and what they have spilled, since it was made."""

    def __init__(self) -> None:
        self.peak = 0
        self.spilled_before = spilled_bytes()

    def sample(self) -> dict[str, int]:
        """Look, and return object_store_peak_bytes and, where every node answers, spilled_bytes."""
        used = ray.cluster_resources().get(OBJECT_STORE, 0.0) - ray.available_resources().get(OBJECT_STORE, 0.0)
        self.peak = max(self.peak, round(used))
        spilled = spilled_bytes()
        if spilled is None or self.spilled_before is None:
            return {"object_store_peak_bytes": self.peak}
        return {"object_store_peak_bytes": self.peak, "spilled_bytes": spilled - self.spilled_before}


def spilled_bytes() -> int | None:
    """Return what all nodes have spilled since they started, or None where one does not say."""
    total = 0.0
    for node in ray.nodes():
        if node["Alive"]:
            try:
                total += sum(value for state, value in series(node, SPILLED, "State") if state == "Spilled")
            except OSError:
                return None
    return round(total)


def series(node: dict[str, Any], name: str, label: str) -> list[tuple[str, float]]:
    """Return (value of a label, value) of a metric on a node's port.

    Raises:
        OSError: The node does not answer.
    """
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=SECONDS_FOR_AN_ANSWER) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(name + "{")]
    families = text_string_to_metric_families("\n".join(lines) + "\n")  # of a page that takes 0.4 s to parse
    return [(sample.labels.get(label, ""), sample.value) for family in families for sample in family.samples]


@contextmanager
def metered(folder: StoredPath) -> Iterator[None]:
    """Keep the figures of the object stores in a training's folder, for as long as the block runs."""
    over = threading.Event()
    folder.mkdir(parents=True, exist_ok=True)

    def watch() -> None:
        meter = StoreMeter()
        while not over.is_set():
            write_atomically(folder / STORE, json.dumps(meter.sample()))
            over.wait(SECONDS_BETWEEN_SAMPLES)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
