"""What the cluster has against what a run asks for: refuse what would wait forever or spill, and say what would fit."""

import dataclasses
import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.augment import PREFETCHED_BLOCKS, STORE_SHARE, largest_share, plan_stream, row_bytes
from pipeline.blocks import PREPROCESS_LABEL, TRAIN_LABEL
from pipeline.config import RunConfig, piece_size
from pipeline.progress import say
from pipeline.storage import StoredPath, reason, storage_path

DEFAULT_CPU_WORKERS = 2
TRIAL_CPUS = 0.05
BLOCKS_OF_A_TASK = 3
"""Ray lets a task finish two blocks that nobody has taken yet; a third one is being made."""
GROUP_LABEL = "ray.io/node-group"
PIECES_OF_AN_ACTOR = 3
"""Of evaluation: one at work and two that wait for each actor, besides those that tasks are making. Actors that make
pieces themselves share the clean images that they are made of."""
SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Scale:
    """A cluster's answer to ScaleConfig's automatic values."""

    num_workers: int
    use_gpu: bool
    evaluation_actors: int


@dataclass(frozen=True, slots=True)
class Nodes:
    """What the living nodes of a cluster have, as Ray says."""

    cpus: tuple[float, ...]
    """By node."""
    gpus: int
    store_bytes: float
    """Of all object stores."""
    roles: frozenset[str]
    """Values of the label augmix.io/role."""
    may_grow: bool
    """An autoscaler may add nodes: the cluster launcher and KubeRay label theirs by group, or none can work yet."""


def nodes_now() -> Nodes:
    """The cluster that Ray is connected to."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    resources = [node["Resources"] for node in alive]
    (key,) = PREPROCESS_LABEL
    return Nodes(
        cpus=tuple(has.get("CPU", 0.0) for has in resources),
        gpus=int(sum(has.get("GPU", 0) for has in resources)),
        store_bytes=sum(has.get("object_store_memory", 0.0) for has in resources),
        roles=frozenset(node["Labels"].get(key, "") for node in alive),
        may_grow=any(GROUP_LABEL in node["Labels"] for node in alive) or not any("CPU" in has for has in resources),
    )


def resolve_scale(config: RunConfig) -> Scale:
    """Return how many workers train, and on what; checked against the cluster that Ray is connected to.

    Raises:
        ValueError: The run cannot fit, or the batch does not split over the workers.
    """
    nodes = nodes_now()
    use_gpu = config.scale.use_gpu and (nodes.gpus > 0 or config.scale.use_labels)
    if config.scale.use_labels and not config.scale.num_workers:
        raise ValueError("scale.num_workers is 0; with scale.use_labels say how many, as nodes may be yet to come")
    free_gpus = math.floor(nodes.gpus - config.scale.validation_gpus)
    workers = config.scale.num_workers or (max(1, free_gpus) if use_gpu else DEFAULT_CPU_WORKERS)
    least = config.scale.min_workers or workers
    if config.train.global_batch_size % workers and least == workers:
        raise ValueError(
            f"train.global_batch_size {config.train.global_batch_size} does not split over "
            f"scale.num_workers {workers}; choose a multiple"
        )
    check_elastic(config, workers, use_gpu)
    if config.train.batch_norm == "sync" and workers > 1 and not use_gpu:
        raise ValueError(
            "train.batch_norm is 'sync', which runs between GPUs only, and this training is on CPUs; take 'joint', "
            "'split', or --scale.num-workers 1"
        )
    check_fits(config, least, use_gpu, nodes)
    return Scale(
        workers, use_gpu, config.scale.evaluation_actors or (workers if use_gpu else cpu_actors(config, nodes))
    )


def check_elastic(config: RunConfig, workers: int, use_gpu: bool) -> None:
    """Refuse a number of workers that cannot change, or not as Ray changes it.

    Raises:
        ValueError: With the remedy.
    """
    least = config.scale.min_workers
    if least > workers:
        raise ValueError(f"scale.min_workers is {least}, above scale.num_workers {workers}; lower it")
    if workers > config.train.global_batch_size:
        raise ValueError(
            f"scale.num_workers is {workers}, above train.global_batch_size {config.train.global_batch_size}; a worker "
            "would have nothing to do: lower it"
        )
    if 0 < least < workers and not use_gpu and not config.scale.worker_resource:
        raise ValueError(
            f"scale.min_workers is {least}, and training on CPUs shares them with preprocessing, so that Ray cannot "
            "tell how many workers fit; start training nodes with --resources '{\"trainer\": 1}', 1 for each worker, "
            "and set --scale.worker-resource trainer"
        )


def cpu_actors(config: RunConfig, nodes: Nodes) -> int:
    """How many evaluation actors the cluster's CPUs can keep busy: each computes with one thread at least."""
    return max(1, int(sum(nodes.cpus) // max(1, config.scale.worker_cpus)))


def corrupts_in_tasks(config: RunConfig, use_gpu: bool) -> bool:
    """Whether evaluation reads and corrupts in tasks, not in the actors that hold the networks."""
    return config.scale.corrupt_on == "tasks" or (config.scale.corrupt_on == "auto" and use_gpu)


def evaluation_scale(config: RunConfig) -> Scale:
    """Return how many actors score, and on what, where nothing is trained.

    Raises:
        ValueError: They cannot fit.
    """
    nodes = nodes_now()
    use_gpu = config.scale.use_gpu and (nodes.gpus > 0 or config.scale.use_labels)
    actors = config.scale.evaluation_actors or (nodes.gpus if use_gpu else cpu_actors(config, nodes)) or 1
    check_labels(config, nodes)
    if not config.scale.use_labels:
        check_evaluation(config, actors, use_gpu, nodes)
    return Scale(actors, use_gpu, actors)


def check_fits(config: RunConfig, workers: int, use_gpu: bool, nodes: Nodes) -> None:
    """Refuse a demand above what the cluster has: Ray would wait for it without a word, or spill to disk.

    With labels the nodes may be yet to come, from the autoscaler, so that sums over nodes say nothing.
    """
    check_labels(config, nodes)
    if config.scale.use_labels:
        return
    scale, gpus, cpus = config.scale, nodes.gpus, sum(nodes.cpus)
    if (use_gpu and workers > gpus - scale.validation_gpus) or scale.validation_gpus > gpus:
        beside = f" and scale.validation_gpus {scale.validation_gpus:g}" if scale.validation_gpus else ""
        raise ValueError(
            f"scale.num_workers is {workers}{beside}, the cluster has {gpus} GPUs; set --scale.num-workers "
            f"{max(1, math.floor(gpus - scale.validation_gpus))}{', or give validation less' if beside else ''}"
        )
    trials = min(config.search.max_concurrent, config.search.trials)
    training = workers * scale.worker_cpus + scale.data_cpus + scale.validation_cpus
    searching = trials * (scale.worker_cpus + scale.data_cpus + TRIAL_CPUS)
    if training > cpus:
        fitting = int((cpus - scale.data_cpus - scale.validation_cpus) / scale.worker_cpus)
        beside = f" + scale.validation_cpus {scale.validation_cpus:g}" if scale.validation_cpus else ""
        raise ValueError(
            f"training asks for {training:g} CPUs (scale.num_workers {workers} x "
            f"scale.worker_cpus {scale.worker_cpus:g} + "
            f"scale.data_cpus {scale.data_cpus:g}{beside}), the cluster has {cpus:g}; "
            + (f"{fitting} workers would fit" if fitting >= 1 else "lower scale.worker_cpus and scale.data_cpus")
        )
    if searching > cpus:
        fitting = int(cpus / (searching / trials))
        raise ValueError(
            f"the search asks for {searching:g} CPUs (search.max_concurrent {trials} trials), the cluster has "
            f"{cpus:g}; set --search.max-concurrent {max(1, fitting)}"
        )
    check_largest_node(config, nodes.cpus)
    check_store(config, workers, trials, nodes.store_bytes)
    actors = scale.evaluation_actors or (workers if use_gpu else cpu_actors(config, nodes))
    check_evaluation(config, actors, use_gpu, nodes)


def check_evaluation(config: RunConfig, actors: int, use_gpu: bool, nodes: Nodes) -> None:
    """Refuse more actors than fit, or pieces that the object store cannot hold."""
    scale, cpus, in_tasks = config.scale, sum(nodes.cpus), corrupts_in_tasks(config, use_gpu)
    asked = actors * scale.worker_cpus + (scale.data_cpus if in_tasks else 0)
    if asked > cpus or (use_gpu and actors > nodes.gpus):
        raise ValueError(
            f"scale.evaluation_actors {actors} ask for {asked:g} CPUs{f' and {actors} GPUs' if use_gpu else ''}, "
            f"the cluster has {cpus:g} CPUs and {nodes.gpus} GPUs; lower scale.evaluation_actors or scale.worker_cpus"
        )
    check_largest_node(config, nodes.cpus)
    size, image = piece_size(scale, config.data), 3 * config.data.image_size**2
    pieces = PIECES_OF_AN_ACTOR * actors + math.ceil(cpus / scale.data_cpus) if in_tasks else actors + 1
    if pieces * size * image > nodes.store_bytes:
        raise ValueError(
            f"evaluation keeps {pieces} pieces of {size} images, {pieces * size * image / MIB:.0f} MiB, in Ray's "
            f"object store of {nodes.store_bytes / MIB:.0f} MiB; set --scale.evaluation-piece-size "
            f"{max(1, int(nodes.store_bytes / (pieces * image)))}"
        )


def check_largest_node(config: RunConfig, cpus: Sequence[float]) -> None:
    """Refuse a worker or a task that no node can hold by itself."""
    for name in ("worker_cpus", "data_cpus", "validation_cpus"):
        asked = getattr(config.scale, name)
        if asked > max(cpus):
            raise ValueError(f"scale.{name} is {asked:g}, the largest node has {max(cpus):g} CPUs; lower it")


def check_labels(config: RunConfig, nodes: Nodes) -> None:
    """Refuse labels that no node has where none can come."""
    missing = {*PREPROCESS_LABEL.values(), *TRAIN_LABEL.values()} - nodes.roles
    if config.scale.use_labels and missing and not nodes.may_grow:
        raise ValueError(
            f"scale.use_labels is True, and no node of this cluster has the label augmix.io/role={min(missing)}; "
            "leave it out, or label the nodes: ray start --labels, or cluster.yaml"
        )


def bytes_in_flight(config: RunConfig, workers: int) -> int:
    """Return what one training keeps in the object store at the least while it goes on without a stop.

    Every worker holds the block that it uses and those fetched ahead, the next block of each waits for it, and one
    task makes more. Further tasks take what is left.
    """
    plan = plan_stream(config, first_step=0, last_step=1, num_workers=workers, slot_bytes=0)
    blocks = workers * (1 + PREFETCHED_BLOCKS) + workers + BLOCKS_OF_A_TASK
    return blocks * largest_share(plan.batch, workers) * plan.steps_a_block * row_bytes(config)


def check_store(config: RunConfig, workers: int, trials: int, store_bytes: float) -> None:
    """Refuse blocks that Ray's object store cannot hold, with what would fit; warn where it lies on a disk."""
    may_use = STORE_SHARE * store_bytes

    def asked(config: RunConfig) -> int:
        return max(bytes_in_flight(config, workers), trials * bytes_in_flight(config, 1))

    if asked(config) > may_use:
        raise ValueError(
            f"training keeps at least {asked(config) / MIB:.0f} MiB in Ray's object store (train.global_batch_size "
            f"{config.train.global_batch_size} over {workers} workers or {trials} trials, "
            f"{row_bytes(config) / MIB:.2g} MiB a sample); Ray Data may use {may_use / MIB:.0f} MiB; "
            + " or ".join(what_fits(config, workers, asked, may_use))
        )
    if SHARED_MEMORY.is_dir() and (shared := shutil.disk_usage(SHARED_MEMORY).total) < asked(config):
        say(
            f"warning: {SHARED_MEMORY} has {shared / MIB:.0f} MiB, so Ray's object store lies on a disk; "
            f"give the container --shm-size {math.ceil(asked(config) / STORE_SHARE / MIB)}m or more"
        )


def what_fits(config: RunConfig, workers: int, asked: Callable[[RunConfig], int], may_use: float) -> list[str]:
    """What to change so that a training fits into the object store."""
    remedies = []
    in_the_worker = dataclasses.replace(config, scale=dataclasses.replace(config.scale, augment_on="train"))
    if asked(in_the_worker) <= may_use:
        remedies.append("set --scale.augment-on train")
    for batch in range(config.train.global_batch_size // workers * workers - workers, 0, -workers):
        smaller = dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch_size=batch))
        if asked(smaller) <= may_use:
            remedies.append(f"set --train.global-batch-size {batch}")
            break
    return [*remedies, f"start Ray with --object-store-memory {math.ceil(asked(config) / STORE_SHARE)}"]


def check_storage(storage: str, remedy: str = "set --storage or $AUGMIX_STORAGE") -> None:
    """Make the storage folder, and see that every node of the cluster sees the same one.

    Raises:
        ValueError: It cannot be written, or a node does not share it.
    """
    marker = storage_path(storage) / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ValueError(f"storage {storage!r} cannot be written ({reason(error)}); {remedy}") from error
    try:
        others = [
            node for node in ray.nodes() if node["Alive"] and node["NodeID"] != ray.get_runtime_context().get_node_id()
        ]
        seen = ray.get(
            [
                sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    marker
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
            f"{remedy}, to a folder that all nodes mount, or to an object store that all may read"
        )


@ray.remote(num_cpus=0)
def sees(path: StoredPath) -> bool:
    """Whether a node sees a path."""
    try:
        return path.exists()
    except OSError:
        return False
