"""What the cluster has against what a run asks for: refuse what would wait forever, and say what would fit."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import RunConfig

DEFAULT_CPU_WORKERS = 2
TRIAL_CPUS = 0.05


@dataclass(frozen=True, slots=True)
class Scale:
    """A cluster's answer to ScaleConfig's automatic values."""

    num_workers: int
    use_gpu: bool
    evaluation_actors: int


def resolve_scale(config: RunConfig) -> Scale:
    """Return how many workers train, and on what; checked against the cluster that Ray is connected to.

    Raises:
        ValueError: The run cannot fit, or the batch does not split over the workers.
    """
    cluster = ray.cluster_resources()
    gpus = int(cluster.get("GPU", 0))
    use_gpu = config.scale.use_gpu and (gpus > 0 or config.scale.use_labels)
    if config.scale.use_labels and not config.scale.num_workers:
        raise ValueError("scale.num_workers is 0; with scale.use_labels say how many, as nodes may be yet to come")
    workers = config.scale.num_workers or (gpus if use_gpu else DEFAULT_CPU_WORKERS)
    if config.train.global_batch_size % workers:
        raise ValueError(
            f"train.global_batch_size {config.train.global_batch_size} does not split over "
            f"scale.num_workers {workers}; choose a multiple"
        )
    if not config.scale.use_labels:  # with labels the nodes may be yet to come, from the autoscaler
        check_fits(config, workers, use_gpu, cpus=cluster.get("CPU", 0.0), gpus=gpus)
    return Scale(workers, use_gpu, config.scale.evaluation_actors or (workers if use_gpu else cpu_actors(config)))


def cpu_actors(config: RunConfig) -> int:
    """How many evaluation actors the cluster's CPUs can keep busy: each computes with one thread at least."""
    return max(1, int(ray.cluster_resources().get("CPU", 1) // max(1, config.scale.worker_cpus)))


def evaluation_scale(config: RunConfig) -> Scale:
    """Return how many actors score, and on what, where nothing is trained.

    Raises:
        ValueError: They cannot fit.
    """
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), cluster.get("CPU", 0.0)
    use_gpu = config.scale.use_gpu and (gpus > 0 or config.scale.use_labels)
    actors = config.scale.evaluation_actors or (gpus if use_gpu else cpu_actors(config)) or 1
    asked = actors * config.scale.worker_cpus + (config.scale.data_cpus if corrupts_in_tasks(config, use_gpu) else 0)
    if not config.scale.use_labels and (asked > cpus or (use_gpu and actors > gpus)):
        raise ValueError(
            f"scale.evaluation_actors {actors} ask for {asked:g} CPUs{f' and {actors} GPUs' if use_gpu else ''}, "
            f"the cluster has {cpus:g} CPUs and {gpus} GPUs; lower scale.evaluation_actors or scale.worker_cpus"
        )
    return Scale(actors, use_gpu, actors)


def corrupts_in_tasks(config: RunConfig, use_gpu: bool) -> bool:
    """Whether evaluation reads and corrupts in tasks, not in the actors that hold the networks."""
    return config.scale.corrupt_on == "tasks" or (config.scale.corrupt_on == "auto" and use_gpu)


def check_fits(config: RunConfig, workers: int, use_gpu: bool, *, cpus: float, gpus: int) -> None:
    """Refuse a demand above the cluster's CPUs and GPUs: Ray would wait for them without a word."""
    scale = config.scale
    if use_gpu and workers > gpus:
        raise ValueError(f"scale.num_workers is {workers}, the cluster has {gpus} GPUs; set --scale.num_workers {gpus}")
    trials = min(config.search.max_concurrent, config.search.trials)
    training = workers * scale.worker_cpus + scale.data_cpus
    searching = trials * (scale.worker_cpus + scale.data_cpus + TRIAL_CPUS)
    if max(training, searching) <= cpus:
        return
    if training > cpus:
        fitting = int((cpus - scale.data_cpus) / scale.worker_cpus)
        raise ValueError(
            f"training asks for {training:g} CPUs (scale.num_workers {workers} x "
            f"scale.worker_cpus {scale.worker_cpus:g} + "
            f"scale.data_cpus {scale.data_cpus:g}), the cluster has {cpus:g}; "
            + (f"{fitting} workers would fit" if fitting >= 1 else "lower scale.worker_cpus and scale.data_cpus")
        )
    fitting = int(cpus / (searching / trials))
    raise ValueError(
        f"the search asks for {searching:g} CPUs (search.max_concurrent {trials} trials), the cluster has {cpus:g}; "
        f"set --search.max_concurrent {max(1, fitting)}"
    )


def check_storage(storage: str, remedy: str = "set --storage or $AUGMIX_STORAGE") -> None:
    """Make the storage folder, and see that every node of the cluster sees the same one.

    Raises:
        ValueError: It cannot be written, or a node does not share it.
    """
    marker = Path(storage) / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ValueError(f"storage {storage!r} cannot be written ({error.strerror}); {remedy}") from error
    try:
        others = [
            node for node in ray.nodes() if node["Alive"] and node["NodeID"] != ray.get_runtime_context().get_node_id()
        ]
        seen = ray.get(
            [
                sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    str(marker)
                )
                for node in others
            ]
        )
        blind = [node["NodeManagerAddress"] for node, sees_it in zip(others, seen, strict=True) if not sees_it]
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise ValueError(
            f"storage {storage!r} is not shared: node {blind[0]} does not see what this one writes; "
            f"{remedy}, to a folder that all nodes mount"
        )


@ray.remote(num_cpus=0)
def sees(path: str) -> bool:
    """Whether a node sees a path."""
    return os.path.exists(path)
