"""Training: one loop, under Ray Train, for the final networks and for the trials of the search alike.

`fit` is driver side: it builds the stream from the last checkpoint, starts the workers and returns the last
checkpoint. `train_loop` is worker side and reads like the paper's algorithm.
"""

import math
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.data import ExecutionOptions, ExecutionResources
from ray.data.collate_fn import NumpyBatchCollateFn
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

from augmix_core.philox import Purpose, words
from pipeline import checkpoint
from pipeline.augment import (
    PREFETCHED_BLOCKS,
    largest_share,
    plan_stream,
    share_of_batch,
    slot_bytes,
    steps_of_block,
    training_rows,
    views_in_training,
)
from pipeline.blocks import TRAIN_LABEL
from pipeline.config import RunConfig
from pipeline.decode import TooManyBadSamplesError
from pipeline.interrupt import Watch, stoppable
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.loss import loss_of
from pipeline.networks import starting_network, with_batch_norm
from pipeline.optimise import build_optimizer, clipped, learning_rate, moving_average, set_learning_rate
from pipeline.progress import StoppedError
from pipeline.quarantine import Quarantine
from pipeline.ranks import fill_from_rank_0, from_rank_0, missing_ranks_named, summed, unshared, world_size
from pipeline.storage import StoredPath, for_ray
from pipeline.telemetry import TrainingMetrics
from pipeline.training_views import with_views
from pipeline.validation import beside_training, validation_error

CHECKPOINTS_KEPT = 2
CONTROLLER_FAILURES = 5
SECONDS_BETWEEN_POLLS = "0.25"
"""How often the controller collects reports; at Ray's 2 s an epoch shorter than that would wait for it."""
LEAST_SCALE = 1.0
"""Of the loss in fp16; gradients that overflow with less are the training's own."""


def fit(job: Job, *, callbacks: Sequence[Any] = ()) -> StoredPath:
    """Train to the end, from the last checkpoint if there is one, and return the final checkpoint's folder.

    Raises:
        ray.train.TrainingFailedError: The workers failed more often than scale.max_failures.
        TooManyBadSamplesError: More samples than data.max_bad_fraction cannot be used.
        FloatingPointError: A step had no finite gradient; its step, its sample ids and the last checkpoint are named.
        StoppedError: It was asked to stop, by Ctrl-C or SIGTERM, and has written a checkpoint.
    """
    last = checkpoint.last_checkpoint(job.folder)
    if last is not None and checkpoint.read_meta(last).step >= job.steps:
        return last
    result = stoppable(trainer_of(job, train_loop, callbacks).fit, job.folder)
    if result.return_value:
        error, why = result.return_value
        raise error(why)
    final = checkpoint.last_checkpoint(job.folder)
    assert final is not None
    assert checkpoint.read_meta(final).step >= job.steps
    return final


def trainer_of(job: Job, loop: Callable[[dict[str, Any]], Any], callbacks: Sequence[Any] = ()) -> TorchTrainer:
    """What runs a loop on all training workers, with the stream of the job's rows."""
    config, scale = job.config, job.scale
    elastic = 0 < config.scale.min_workers < scale.num_workers
    per_worker = {"CPU": config.scale.worker_cpus} | ({"GPU": 1.0} if scale.use_gpu else {})
    if config.scale.worker_resource:
        per_worker[config.scale.worker_resource] = 1.0
    storage, files = for_ray(job.folder.parent)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", SECONDS_BETWEEN_POLLS)
    return TorchTrainer(
        loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=math.ceil(config.scale.collective_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(config.scale.min_workers, scale.num_workers) if elastic else scale.num_workers,
            use_gpu=scale.use_gpu,
            resources_per_worker=per_worker,
            label_selector=TRAIN_LABEL if config.scale.use_labels else None,
        ),
        run_config=ray.train.RunConfig(
            name=job.folder.name,
            storage_path=storage,
            storage_filesystem=files,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            failure_config=ray.train.FailureConfig(
                max_failures=config.scale.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            callbacks=list(callbacks),
        ),
        validation_config=beside_training(job),
        datasets={"train": ray.data.range(1)},  # for which StreamOf puts the stream
        dataset_config=StreamOf(job),
    )


class StreamOf(ray.train.DataConfig):
    """At every start of the worker group: the stream from the last checkpoint on, for as many workers as there are."""

    def __init__(self, job: Job) -> None:
        scale = job.config.scale
        elsewhere = ExecutionResources(cpu=scale.validation_cpus, gpu=scale.validation_gpus)
        super().__init__(execution_options=ExecutionOptions(preserve_order=True, exclude_resources=elsewhere))
        self.job = job

    def __deepcopy__(self, memo: dict[int, Any]) -> "StreamOf":
        """Itself, as copies of the job's references would not keep the objects alive."""
        return self

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The stream's part for each rank; of `datasets` nothing is taken."""
        job, config = self.job, self.job.config
        found = checkpoint.last_checkpoint(job.folder)
        first = checkpoint.read_meta(found).step if found else 0
        cluster = ray.cluster_resources()
        room = slot_bytes(config, cpus=cluster.get("CPU", 0.0), store_bytes=cluster["object_store_memory"])
        plan = plan_stream(config, first_step=first, last_step=job.steps, num_workers=world_size, slot_bytes=room)
        rows = training_rows(plan, job.source, job.split, config)
        return super().configure({"train": rows}, world_size, *args, **kwargs)


def train_loop(loop_config: dict[str, Any]) -> tuple[type[Exception], str] | None:
    """What every training worker runs.

    Returns:
        None, or why all ranks have stopped early: an error here would only be tried again, with the same samples.
    """
    job: Job = loop_config["job"]
    config = job.config
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    torch.set_num_threads(max(1, round(config.scale.worker_cpus)))
    training = Training(job, device, rank=rank)
    training.resume()
    training.parallel = parallel_of(training.model, config)
    journal = Journal(
        job.folder,
        rank,
        step=training.step,
        steps=job.steps,
        global_batch_size=config.train.global_batch_size,
        publish=TrainingMetrics(job.label).stepped,
    )
    quarantine = Quarantine(job.folder, rank, job.source, job.split.size, config.data)
    watch = Watch(
        job.folder,
        every_steps=config.train.checkpoint_steps,
        every_minutes=config.train.checkpoint_minutes,
        step=training.step,
    )

    with missing_ranks_named(config.scale.collective_timeout_s):
        for rows in journal.timed(steps_of(job, training.step)):
            if not training.take_step(rows):
                return FloatingPointError, not_finite(training.step, job)
            quarantine.add(rows)
            step = training.step
            journal.stepped(step, len(quarantine.known))
            ends = job.ends_epoch(step)
            if not (ends or watch.due(step)):
                continue
            if too_many := quarantine.share(device):
                return TooManyBadSamplesError, too_many
            asked = watch.ask(step)
            if ends or asked.save:
                training.share_buffers()
                metrics: dict[str, Any] = {"epoch": job.epochs_behind(step), "step": step}
                if ends:
                    metrics |= training.end_of_epoch() | {"data/quarantined": len(quarantine.known)}
                    journal.epoch(metrics)
                training.report(metrics, ends_epoch=ends)
                watch.saved()
            if asked.stop and step < job.steps:
                return StoppedError, f"after step {step} of {job.steps}, which is kept in a checkpoint"
    if training.step < job.steps:
        raise RuntimeError(f"the stream of training rows ended at step {training.step} of {job.steps}")
    return None


class Training:
    """What one rank trains: the network, and everything else that a checkpoint keeps.

    Args:
        job: the training.
        device: of the network.
        rank: of this worker.
    """

    def __init__(self, job: Job, device: torch.device, *, rank: int = 0) -> None:
        config = job.config
        self.job, self.config, self.device, self.rank = job, config, device, rank
        seed_torch(config.seed, 0, 0, device)  # the same weights on every rank
        network, _ = starting_network(config.model, config.data, job.num_classes)
        self.model = with_batch_norm(network, config).to(device).to(memory_format=torch.channels_last)
        self.parallel = self.model
        """The network whose backward pass leaves the mean over all ranks' gradients."""
        self.optimizer = build_optimizer(self.model, config)
        self.average = moving_average(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.storing = threading.Lock()
        """Held from a report until its checkpoint is in storage: one after the other, in their order."""
        self.step = 0
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)
        """Of this rank since the epoch began: cross-entropy, consistency, wrong answers, samples, gradient norms."""

    def resume(self) -> None:
        """Restore the last undamaged checkpoint, if there is one; Ray's own choice would be its newest."""
        found = None
        if self.rank == 0:
            checkpoint.remove_uncommitted(self.job.folder)
            found = checkpoint.last_checkpoint(self.job.folder)
        (chosen,) = from_rank_0([found])
        if chosen is None:
            return
        meta = checkpoint.load_training(chosen, self.model, self.optimizer, self.average)
        self.step = meta.step
        if meta.scaler is not None:
            self.scaler.load_state_dict(meta.scaler)
        if meta.sums is not None and self.rank == 0:
            self.sums += torch.tensor(meta.sums, dtype=torch.float64)

    def take_step(self, rows: Mapping[str, torch.Tensor]) -> bool:
        """Take an optimizer step on this rank's share of a global batch; False where the gradient is not finite.

        With fp16 such a step changes no weight and halves the factor of the loss, until that factor is at its end.
        """
        train = self.config.train
        seed_torch(self.config.seed, self.step, self.rank, self.device)  # dropout and the like, keyed by the step
        set_learning_rate(self.optimizer, learning_rate(self.step, train, self.job.split.size))
        self.optimizer.zero_grad(set_to_none=True)
        for part, last in micro_batches(rows, most_at_once(self.job)):
            share = len(part["label"]) * world_size() / train.global_batch_size  # ranks' gradients are averaged
            with nullcontext() if last else unshared(self.parallel):
                loss, sums = loss_of(self.parallel, part, self.config, self.device)
                self.scaler.scale(loss * share).backward()
            self.sums[:4] += sums  # no wait for the device
        self.scaler.unscale_(self.optimizer)
        norm = clipped(self.model, train.clip_norm)
        finite = bool(norm.isfinite())
        if finite:
            self.sums[4] += norm * len(rows["label"])
        elif not (self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE):
            return False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return True

    def end_of_epoch(self) -> dict[str, float]:
        """Validate, unless a task does, and return the epoch's metrics; but for the memory every rank has the same."""
        network = self.model if self.average is None else self.average.module
        cross_entropy, consistency, wrong, samples, norms = summed(self.sums, self.device).tolist()
        self.sums = torch.zeros_like(self.sums)
        train = self.config.train
        on_gpu = self.device.type == "cuda"
        memory = {"device_memory_peak_bytes": torch.cuda.max_memory_allocated(self.device)} if on_gpu else {}
        metrics = memory | {
            "workers": world_size(),
            "train/loss": (cross_entropy + train.jsd_weight * consistency) / samples,
            "train/cross_entropy": cross_entropy / samples,
            "train/consistency": consistency / samples,
            "train/error": wrong / samples,
            "train/gradient_norm": norms / samples,
            "train/learning_rate": learning_rate(self.step - 1, train, self.job.split.size),
        }
        if not self.config.scale.validation_cpus:
            metrics["validation/error"] = validation_error(network, self.job, self.rank, self.device)
        return metrics

    def report(self, metrics: dict[str, Any], *, ends_epoch: bool) -> None:
        """Hand metrics and, from rank 0, a checkpoint to Ray Train; every rank takes part."""
        sums = summed(self.sums, self.device).tolist()
        saved = None
        if self.rank == 0:
            meta = checkpoint.Meta(
                self.step,
                metrics["epoch"],
                self.config.model.name,
                self.job.num_classes,
                asdict(self.config.data),
                held_out_of(self.config),
                metrics.get("validation/error"),
                sums,
                self.scaler.state_dict() or None,
            )
            local = Path(tempfile.mkdtemp())
            checkpoint.save(local, self.model, self.optimizer, meta, self.average)
            saved = ray.train.Checkpoint.from_directory(local)
            self.storing.acquire()
        ray.train.report(
            metrics,
            checkpoint=saved,
            checkpoint_dir_name=checkpoint.free_name(self.job.folder, self.step),  # that of rank 0 counts
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,  # storage may be slow
            checkpoint_upload_fn=self.store,
            validation=self.rank == 0 and ends_epoch and bool(self.config.scale.validation_cpus),
        )

    def store(self, saved: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Copy a checkpoint to the training's folder, in a thread of Ray Train's, which then lists it."""
        try:
            stored = checkpoint.store(Path(saved.path), self.job.folder / name)
            checkpoint.keep_best(Path(saved.path), self.job.folder)
            return stored
        finally:
            self.storing.release()

    def share_buffers(self) -> None:
        """Give every rank the batch-norm statistics of rank 0, which are the ones a checkpoint keeps."""
        averaged = [] if self.average is None else list(self.average.module.buffers())
        fill_from_rank_0([*self.model.buffers(), *averaged])


def parallel_of(model: nn.Module, config: RunConfig) -> nn.Module:
    """The network as all ranks train it together, compiled if train.compile says so."""
    parallel: nn.Module = ray.train.torch.prepare_model(model)
    if config.train.compile:
        parallel.compile()
    return parallel


def most_at_once(job: Job) -> int:
    """Samples of one pass: train.micro_batch_size, or else the share of a worker when none is missing."""
    train = job.config.train
    return train.micro_batch_size or largest_share(train.global_batch_size, job.scale.num_workers)


def micro_batches(rows: Mapping[str, torch.Tensor], most: int) -> Iterator[tuple[Mapping[str, torch.Tensor], bool]]:
    """Cut a rank's rows into passes of at most so many samples; yields each with whether it is the last."""
    samples = len(rows["label"])
    for start in range(0, samples, most):
        yield {name: column[start : start + most] for name, column in rows.items()}, start + most >= samples


def not_finite(step: int, job: Job) -> str:
    """What is to be known of a step without a finite gradient; training it again would end in the same."""
    batch = job.config.train.global_batch_size
    _, sample_ids = job.split.at(np.arange(step * batch, (step + 1) * batch), seed=job.config.seed)
    last = checkpoint.last_checkpoint(job.folder)
    return (
        f"the gradient is not finite in step {step + 1} of {job.steps}, sample ids {' '.join(map(str, sample_ids))}; "
        f"the last good checkpoint is {last or 'none yet'}: lower train.learning_rate "
        f"{job.config.train.learning_rate}, or set train.clip_norm"
    )


def seed_torch(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's generators for a step, one by one: without CUDA, torch.manual_seed queues a traceback each time."""
    low, high = words(step, seed=seed, purpose=Purpose.MODEL, block=rank)[:2].tolist()
    torch.default_generator.manual_seed(high << 32 | low)
    if device.type == "cuda":
        torch.cuda.manual_seed(high << 32 | low)


def steps_of(job: Job, first_step: int) -> Iterator[Mapping[str, torch.Tensor]]:
    """This rank's rows of each step that is left."""
    shard = ray.train.get_dataset_shard("train")
    rank = ray.train.get_context().get_world_rank()
    rows_a_step = len(share_of_batch(job.config.train.global_batch_size, rank, world_size()))
    blocks = shard.iter_torch_batches(
        batch_size=1, prefetch_batches=PREFETCHED_BLOCKS, device="cpu", collate_fn=AsTensors(job.config)
    )
    batches = (rows for block in blocks for rows in steps_of_block(block, rows_a_step))
    for _, rows in zip(range(first_step, job.steps), batches, strict=False):
        yield rows


class AsTensors(NumpyBatchCollateFn):
    """A block's rows to tensors in the object store's memory, which nobody writes to; Ray's own way copies twice.

    AugMix too, where it is the training worker's: in the threads that fetch batches ahead, as kernels release the GIL.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.makes_views = config, views_in_training(config)

    def __call__(self, batch: dict[str, NDArray]) -> dict[str, torch.Tensor]:
        """Arrays to tensors, and perhaps image to views."""
        rows: Mapping[str, NDArray] = {name: column[0] for name, column in batch.items()}
        if self.makes_views:
            rows = with_views(rows, self.config)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return {name: torch.from_numpy(column) for name, column in rows.items()}


def held_out_of(config: RunConfig) -> dict[str, Any] | None:
    """What a later evaluation needs to find the images that this training left out."""
    if not config.train.hold_out:
        return None
    return {
        "seed": config.seed,
        "limit": config.data.train_limit,
        "holdout_fraction": config.data.holdout_fraction,
    }
