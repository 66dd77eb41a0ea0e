"""Training: one loop, under Ray Train, for the final networks and for the trials of the search alike.

`fit` is driver side: it builds the stream from the last checkpoint, starts the workers and returns the last
checkpoint. `train_loop` is worker side and reads like the paper's algorithm.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from ray.data import ExecutionOptions
from ray.data.collate_fn import NumpyBatchCollateFn
from ray.train.torch import TorchTrainer
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from augmix_core import EXTRA_CORRUPTIONS, consistency_loss, corrupt
from augmix_core.adversary import pgd, random_starts
from augmix_core.philox import Purpose, words
from pipeline import checkpoint
from pipeline.augment import PREFETCHED_BATCHES, plan_stream, slot_bytes, training_rows, views_in_training
from pipeline.blocks import TRAIN_LABEL, opened_source
from pipeline.budget import Scale
from pipeline.config import RunConfig
from pipeline.decode import TooManyBadSamplesError, evaluation_images
from pipeline.journal import Journal
from pipeline.methods import METHODS
from pipeline.networks import starting_network
from pipeline.order import Split, total_steps
from pipeline.predict import predict, to_input
from pipeline.quarantine import Quarantine
from pipeline.telemetry import TrainingMetrics
from pipeline.training_views import with_views

CHECKPOINTS_KEPT = 2
CONTROLLER_FAILURES = 5
SECONDS_BETWEEN_POLLS = "0.25"
"""How often the controller collects reports; at Ray's 2 s an epoch shorter than that would wait for it."""
VALIDATION_BATCH = 500
STEPS_BETWEEN_CHECKS = 50
"""How often ranks tell each other of bad samples within an epoch."""
CLEAN = ("clean", 0)
STEP_DROP = 0.1  # the step schedule: a tenth after every third of the epochs


@dataclass(frozen=True)
class Job:
    """One training: what, on which samples, judged on which, into which folder."""

    config: RunConfig
    scale: Scale
    folder: Path
    """`<storage path>/<name>`, where Ray Train keeps the checkpoints."""
    source: ray.ObjectRef
    split: Split
    validation_source: ray.ObjectRef
    validation_split: Split
    validation_cells: tuple[tuple[str, int], ...]
    """(corruption, severity) pairs that every epoch is judged on; CLEAN for the images as they are."""
    num_classes: int
    label: str = "training"
    """What the published metrics call it: the method, or search."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        train = self.config.train
        steps = total_steps(self.split.size, epochs=train.epochs, global_batch_size=train.global_batch_size)
        if steps < 1:
            raise ValueError(
                f"train.global_batch_size {train.global_batch_size} is above train.epochs {train.epochs} x "
                f"{self.split.size} images; there is no step to take"
            )
        return min(steps, train.max_steps) if train.max_steps else steps

    def epochs_behind(self, step: int) -> int:
        """Epochs that end within the first `step` steps; the last step ends the last one, a rest of a batch early."""
        batch, last = self.config.train.global_batch_size, self.steps
        return -(-step * batch // self.split.size) if step == last else step * batch // self.split.size


def search_cells(severities: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """What a trial is judged on: the extra corruptions, none of which is among the test corruptions."""
    return tuple((name, severity) for name in EXTRA_CORRUPTIONS for severity in severities)


def fit(job: Job, *, callbacks: Sequence[Any] = ()) -> Path:
    """Train to the end, from the last checkpoint if there is one, and return the final checkpoint's folder.

    Raises:
        ray.train.TrainingFailedError: The workers failed more often than scale.max_failures.
        TooManyBadSamplesError: More samples than data.max_bad_fraction cannot be used.
        FloatingPointError: A step had no finite gradient; its step, its sample ids and the last checkpoint are named.
    """
    last = checkpoint.last_checkpoint(job.folder)
    if last is not None and checkpoint.read_meta(last).step >= job.steps:
        return last
    result = trainer_of(job, train_loop, callbacks).fit()
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

    def stream() -> ray.data.Dataset:
        """Runs in the controller at every start of the worker group."""
        found = checkpoint.last_checkpoint(job.folder)
        first = checkpoint.read_meta(found).step if found else 0
        cluster = ray.cluster_resources()
        room = slot_bytes(config, cpus=cluster.get("CPU", 0.0), store_bytes=cluster["object_store_memory"])
        plan = plan_stream(
            config, first_step=first, last_step=job.steps, num_workers=scale.num_workers, slot_bytes=room
        )
        return training_rows(plan, job.source, job.split, config)

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", SECONDS_BETWEEN_POLLS)
    return TorchTrainer(
        loop,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scale.num_workers,
            use_gpu=scale.use_gpu,
            resources_per_worker={"CPU": config.scale.worker_cpus} | ({"GPU": 1} if scale.use_gpu else {}),
            label_selector=TRAIN_LABEL if config.scale.use_labels else None,
        ),
        run_config=ray.train.RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder.parent),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            failure_config=ray.train.FailureConfig(
                max_failures=config.scale.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            callbacks=list(callbacks),
        ),
        datasets={"train": stream},
        dataset_config=ray.train.DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )


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
    seed_torch(config.seed, 0, 0, device)  # the same weights on every rank
    model, _ = starting_network(config.model, config.data, job.num_classes)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config)
    average = moving_average(model, config)
    step = resume(job, model, optimizer, average, rank)
    parallel = ray.train.torch.prepare_model(model)
    batch = config.train.global_batch_size
    journal = Journal(
        job.folder,
        rank,
        step=step,
        steps=job.steps,
        global_batch_size=batch,
        publish=TrainingMetrics(job.label).stepped,
    )
    quarantine = Quarantine(job.folder, rank, job.source, job.split.size, config.data)
    tally = Tally(device)

    for rows in journal.timed(steps_of(job, step)):
        seed_torch(config.seed, step, rank, device)  # dropout and the like, keyed by the step
        set_learning_rate(optimizer, learning_rate(step, job))
        loss, sums = loss_of(parallel, rows, job, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not clipped(model, config.train.clip_norm).isfinite():
            return FloatingPointError, not_finite(step, job)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        tally.add(sums)
        quarantine.add(rows)
        step += 1
        journal.stepped(step, len(quarantine.known))
        ends = job.epochs_behind(step) > job.epochs_behind(step - 1) or step == job.steps
        if (ends or step % STEPS_BETWEEN_CHECKS == 0) and (too_many := quarantine.share(device)):
            return TooManyBadSamplesError, too_many
        if ends:
            share_buffers(model)
            if average is not None:
                share_buffers(average.module)
            validated = model if average is None else average.module
            metrics = end_of_epoch(job, validated, tally, step, rank, device)
            metrics["data/quarantined"] = len(quarantine.known)
            journal.epoch(metrics)
            report(job, model, optimizer, average, metrics, rank)
            tally = Tally(device)
    if step < job.steps:
        raise RuntimeError(f"the stream of training rows ended at step {step} of {job.steps}")
    return None


def clipped(model: nn.Module, most: float) -> torch.Tensor:
    """Scale the gradient down to the norm `most`, if that is not 0, and return the norm that it had.

    The gradient is the sum over ranks, so all ranks get the same norm.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if most:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm


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


class Tally:
    """What one rank has summed since the last report."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, sums: torch.Tensor) -> None:
        """Count a batch; no wait for the device."""
        self.sums += sums


def end_of_epoch(
    job: Job, model: nn.Module, tally: Tally, step: int, rank: int, device: torch.device
) -> dict[str, float]:
    """Validate, and return the metrics of the epoch, the same on every rank."""
    jsd_weight = job.config.train.jsd_weight
    cross_entropy, consistency, wrong, samples = summed(tally.sums, device).tolist()
    return {
        "train/loss": (cross_entropy + jsd_weight * consistency) / samples,
        "train/cross_entropy": cross_entropy / samples,
        "train/consistency": consistency / samples,
        "train/error": wrong / samples,
        "train/learning_rate": learning_rate(step - 1, job),
        "validation/error": validation_error(model, job, rank, device),
        "epoch": job.epochs_behind(step),
        "step": step,
    }


def loss_of(
    model: nn.Module, rows: Mapping[str, torch.Tensor], job: Job, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the first view + jsd_weight x consistency of all views, in one joint forward pass.

    The first view is the clean one where there are several; of methods that train on one view it is that one.

    Returns:
        (scalar loss, float64 (4,) sums over the batch: cross-entropy, consistency, wrong answers, samples).
    """
    views_BVHWC = rows["views"].to(device, non_blocking=True)
    labels = rows["label"].to(device)
    batch, views = views_BVHWC.shape[:2]
    images = views_BVHWC.transpose(0, 1).reshape(views * batch, *views_BVHWC.shape[2:])
    if METHODS[job.config.method].adversarial:
        images = attacked(model, images, labels, rows, job.config)
    with torch.autocast(device.type, torch.bfloat16, enabled=job.config.train.precision == "bf16"):
        logits = model(to_input(images, job.config.data))
    logits_VBC = logits.float().view(views, batch, -1)
    cross_entropy = label_loss(logits_VBC[0], labels, rows, smoothing=job.config.train.label_smoothing)
    loss, consistency = cross_entropy, torch.zeros((), device=device)
    if views > 1:
        consistency = consistency_loss(logits_VBC)
        loss = cross_entropy + job.config.train.jsd_weight * consistency
    wrong = (logits_VBC[0].argmax(dim=1) != labels).sum()
    means = torch.stack([cross_entropy.detach(), consistency.detach(), torch.ones_like(cross_entropy)]).double()
    cross_entropy_sum, consistency_sum, samples = means * batch
    return loss, torch.stack([cross_entropy_sum, consistency_sum, wrong.double(), samples])


def label_loss(
    logits_BC: torch.Tensor, labels: torch.Tensor, rows: Mapping[str, torch.Tensor], *, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy, mean over the batch; where two samples are mixed, of both labels by their shares."""
    if "share" not in rows:
        return F.cross_entropy(logits_BC, labels, label_smoothing=smoothing)
    share, partners = rows["share"].to(logits_BC.device), rows["partner_label"].to(logits_BC.device)
    own, other = (
        F.cross_entropy(logits_BC, each, reduction="none", label_smoothing=smoothing) for each in (labels, partners)
    )
    return (share * own + (1 - share) * other).mean()


def attacked(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, rows: Mapping[str, torch.Tensor], config: RunConfig
) -> torch.Tensor:
    """Adversarial examples of (B, H, W, 3) images, against the network with the running statistics of batch norm.

    Batch statistics would make an attack on one image depend on its batch, and the attack's passes would enter the
    running statistics. The step that follows trains on the adversarial examples with batch statistics, as ever.
    """
    network, baseline = getattr(model, "module", model), config.baseline  # DDP's hooks are for the step alone
    start = random_starts(
        rows["sample_id"].clamp(min=0).numpy(),  # NO_SAMPLE is seen before its step counts
        tuple(images.shape[1:]),
        epoch=rows["epoch"].numpy(),
        seed=config.seed,
        epsilon=baseline.pgd_epsilon,
    )
    network.eval()
    examples = pgd(
        lambda pixels: network(to_input(pixels, config.data)),
        images,
        labels,
        start.to(images.device),
        epsilon=baseline.pgd_epsilon,
        step_size=baseline.pgd_step_size,
        steps=baseline.pgd_steps,
    )
    network.train()
    return examples


def seed_torch(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's generators for a step, one by one: without CUDA, torch.manual_seed queues a traceback each time."""
    low, high = words(step, seed=seed, purpose=Purpose.MODEL, block=rank)[:2].tolist()
    torch.default_generator.manual_seed(high << 32 | low)
    if device.type == "cuda":
        torch.cuda.manual_seed(high << 32 | low)


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """SGD as the paper trains: momentum, and weight decay on every parameter unless train.decay_all is off.

    Biases and the parameters of normalisation are those of one axis.
    """
    train = config.train
    parameters = list(model.parameters())
    groups = [{"params": parameters, "weight_decay": train.weight_decay}]
    if not train.decay_all:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": train.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.SGD(groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.nesterov)


def moving_average(model: nn.Module, config: RunConfig) -> AveragedModel | None:
    """An exponential moving average of weights and buffers, if train.ema_decay asks for one: the first step's weights
    to begin with, then decay x average + (1 - decay) x weights after every step.
    """
    decay = config.train.ema_decay
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


def learning_rate(step: int, job: Job) -> float:
    """The learning rate of a step (from 0): cosine over all steps, or a tenth after every third of the epochs.

    A warm-up comes before; its last step has the full rate. The cosine then runs over the steps that are left, the
    thirds stay those of all epochs.
    """
    train = job.config.train
    steps = total_steps(job.split.size, epochs=train.epochs, global_batch_size=train.global_batch_size)
    warmup = int(train.warmup_epochs * job.split.size / train.global_batch_size)
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    if train.schedule == "cosine":
        rise = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        return train.min_learning_rate + (train.learning_rate - train.min_learning_rate) * rise
    third = max(1, train.epochs // 3)
    return train.learning_rate * STEP_DROP ** (step * train.global_batch_size // job.split.size // third)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """For all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def steps_of(job: Job, first_step: int) -> Iterator[Mapping[str, torch.Tensor]]:
    """This rank's rows of each step that is left."""
    shard = ray.train.get_dataset_shard("train")
    rank_rows = job.config.train.global_batch_size // job.scale.num_workers
    batches = shard.iter_torch_batches(
        batch_size=rank_rows, prefetch_batches=PREFETCHED_BATCHES, device="cpu", collate_fn=AsTensors(job.config)
    )
    for _, rows in zip(range(first_step, job.steps), batches, strict=False):
        yield rows


class AsTensors(NumpyBatchCollateFn):
    """Rows to tensors that share the object store's memory, which nobody writes to; Ray's own way copies twice.

    AugMix too, where it is the training worker's: in the threads that fetch batches ahead, as kernels release the GIL.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.makes_views = config, views_in_training(config)

    def __call__(self, batch: dict[str, NDArray]) -> dict[str, torch.Tensor]:
        """Arrays to tensors, and perhaps image to views."""
        rows = with_views(batch, self.config) if self.makes_views else batch
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return {name: torch.from_numpy(column) for name, column in rows.items()}


def resume(
    job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None, rank: int
) -> int:
    """Restore the last undamaged checkpoint, if there is one, and return the step to go on from.

    Ray's own choice would be its newest, damaged or not.
    """
    chosen: list[Path | None] = [None]
    if rank == 0:
        checkpoint.remove_uncommitted(job.folder)
        chosen = [checkpoint.last_checkpoint(job.folder)]
    if distributed():
        dist.broadcast_object_list(chosen, src=0)
    return 0 if chosen[0] is None else checkpoint.load_training(chosen[0], model, optimizer, average).step


def report(
    job: Job,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    metrics: dict[str, Any],
    rank: int,
) -> None:
    """Hand metrics and, from rank 0, a checkpoint to Ray Train; every rank takes part."""
    with tempfile.TemporaryDirectory() if rank == 0 else nullcontext() as folder:
        saved = None
        if folder is not None:
            config = job.config
            meta = checkpoint.Meta(
                metrics["step"],
                metrics["epoch"],
                config.model.name,
                job.num_classes,
                asdict(config.data),
                held_out_of(config),
                metrics["validation/error"],
            )
            checkpoint.save(Path(folder), model, optimizer, meta, average)
            checkpoint.keep_best(Path(folder), job.folder)
            saved = ray.train.Checkpoint.from_directory(folder)
        name = checkpoint.free_name(job.folder, metrics["step"])  # that of rank 0 counts
        ray.train.report(metrics, checkpoint=saved, checkpoint_dir_name=name)


def held_out_of(config: RunConfig) -> dict[str, Any] | None:
    """What a later evaluation needs to find the images that this training left out."""
    if not config.train.hold_out:
        return None
    return {
        "seed": config.seed,
        "limit": config.data.train_limit,
        "holdout_fraction": config.data.holdout_fraction,
    }


def validation_error(model: nn.Module, job: Job, rank: int, device: torch.device) -> float:
    """Mean over the validation cells of the error: every image once, shared between ranks, integer counts summed.

    An unreadable image is left out.
    """
    model.eval()
    source, cells = opened_source(job.validation_source), job.validation_cells
    wrong, seen = torch.zeros(len(cells), dtype=torch.int64), torch.zeros(len(cells), dtype=torch.int64)
    members = np.arange(rank, job.validation_split.size, job.scale.num_workers)
    for start in range(0, len(members), VALIDATION_BATCH):
        ids = job.validation_split.sample_ids(members[start : start + VALIDATION_BATCH])
        images, true_labels, valid = evaluation_images(source, ids, job.config.data)
        images, ids, labels = images[valid], ids[valid], torch.from_numpy(true_labels[valid])
        for n, (name, severity) in enumerate(cells):
            shown = (
                images
                if (name, severity) == CLEAN
                else corrupt(images, name, severity=severity, sample_ids=ids, seed=job.config.seed)
            )
            answers = predict(model, torch.from_numpy(shown), job.config.data).argmax(dim=1).cpu()
            wrong[n] += torch.ne(answers, labels).sum()
            seen[n] += len(labels)
    model.train()
    totals = summed(torch.stack([wrong, seen]), device)
    return float((totals[0] / totals[1].clamp(min=1)).mean())


def summed(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum over ranks, on the CPU."""
    if not distributed():
        return values.clone()
    on_device = values.to(device)
    dist.all_reduce(on_device)
    return on_device.cpu()


def distributed() -> bool:
    """Whether there is more than this rank."""
    return dist.is_available() and dist.is_initialized()


def share_buffers(model: nn.Module) -> None:
    """Give every rank the batch-norm statistics of rank 0, which are the ones a checkpoint keeps."""
    if distributed():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
