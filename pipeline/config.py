"""The configuration of a run: frozen values, checked once, at the door. The only place where a default is written.

Every field's docstring is its `--help` text. `fingerprint` says which fields decide the result of a run and which
(scale, storage, more epochs) only how it comes about.
"""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from augmix_core import STREAM_VERSION, AugMixConfig
from augmix_core.baselines import (
    ALEXNET_ERRORS,
    ALEXNET_EXTRA_ERRORS,
    ALEXNET_EXTRA_FLIP_PROBABILITIES,
    ALEXNET_FLIP_PROBABILITIES,
)
from augmix_core.errors import did_you_mean
from pipeline.methods import METHODS, MethodName

MOST_PIXELS = 178_956_970
"""Pillow refuses larger images whatever it is asked: twice its warning level."""


def require(condition: bool, field_name: str, value: object, rule: str) -> None:
    """Raise the one-line error of a wrong value."""
    if not condition:
        raise ValueError(f"{field_name} is {value!r}; {rule}")


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By channel, as torchvision's networks expect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, and how a training crop is made of one."""

    name: Literal["digits", "cifar10", "cifar100", "imagenet", "folder"] = "digits"
    """Data set: digits comes with scikit-learn; the others need data.path. folder is images of your own."""
    path: str = ""
    """Absolute folder of the data set, on every node, or its s3:// or gs:// URI; holds image folders train/ and val/,
    parquet files or tar shards, or what jobs/preprocess.py images wrote, which is found out by looking into it."""
    views: str = ""
    """Absolute folder, or s3:// address, of views that jobs/preprocess.py views has made: training takes them as they
    are instead of computing them."""
    download: bool = False
    """Fetch CIFAR through torchvision into data.path when it is not there."""
    reindex: bool = False
    """Index data.path anew: needed after images were added to or removed from folders in an object store."""
    test_fraction: float = 0.25
    """Share of each class that is the test set where data.name is folder and data.path holds class folders alone."""
    image_size: int = 32
    """Height and width, in pixels, of what the network sees."""
    crop: Literal["none", "pad", "random_resized"] = "pad"
    """Training crop: none, pad by 4 and cut (CIFAR), or random area and aspect (ImageNet)."""
    flip: bool = False
    """Mirror training images by a coin."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean by channel that normalisation subtracts, in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation by channel that normalisation divides by."""
    train_limit: int = 0
    """Train on this many images, drawn by the seed; 0 means all."""
    test_limit: int = 0
    """Evaluate on the first so many test images; 0 means all. Anything else is marked NOT COMPARABLE."""
    holdout_fraction: float = 0.1
    """Share of the training images that the search is judged on and does not train on."""
    shuffle_window: int = 16
    """Shards whose rows are mixed at a time, of sources that are read in sequence, such as tar files; others are
    shuffled as a whole."""
    max_pixels: int = MOST_PIXELS // 2
    """Height x width above which a file counts as a bad sample, by its header and without decoding it."""
    max_bad_fraction: float = 0.001
    """Share of the images that may be unreadable: they are replaced in training, left out of evaluation, and listed in
    quarantine.parquet. More of them stop the run."""

    def __post_init__(self) -> None:
        require(self.image_size >= 8, "data.image_size", self.image_size, "networks need at least 8 pixels")
        require(self.train_limit >= 0, "data.train_limit", self.train_limit, "it counts images; 0 means all")
        require(self.test_limit >= 0, "data.test_limit", self.test_limit, "it counts images; 0 means all")
        require(
            0 < self.holdout_fraction < 1,
            "data.holdout_fraction",
            self.holdout_fraction,
            "a share lies between 0 and 1",
        )
        require(self.shuffle_window >= 1, "data.shuffle_window", self.shuffle_window, "it counts shards")
        require(
            1 <= self.max_pixels <= MOST_PIXELS,
            "data.max_pixels",
            self.max_pixels,
            f"it lies between 1 and {MOST_PIXELS}",
        )
        require(
            0 <= self.max_bad_fraction <= 1,
            "data.max_bad_fraction",
            self.max_bad_fraction,
            "a share lies between 0 and 1",
        )
        require(0 < self.test_fraction < 1, "data.test_fraction", self.test_fraction, "a share lies between 0 and 1")
        require(all(s > 0 for s in self.std), "data.std", self.std, "a standard deviation must be positive")
        for name in ("path", "views"):
            where = getattr(self, name)
            require(
                not where or os.path.isabs(where) or "://" in where,
                f"data.{name}",
                where,
                "give an absolute path, or a URI such as s3://bucket/folder: a submitted job runs in another folder",
            )
            if "@" in where.partition("://")[2].partition("/")[0]:  # not repeated: it would be in every log
                raise ValueError(
                    f"data.{name} has credentials in it; give them in the environment, as AWS_ACCESS_KEY_ID does"
                )
        require(
            not self.download or "://" not in self.path,
            "data.download",
            self.download,
            "it fetches into a folder of this machine; data.path is a URI",
        )

    def tested(self, available: int) -> int:
        """How many of the available test images take part."""
        return min(self.test_limit or available, available)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network."""

    name: str = "convnet5"
    """For 32 px: convnet5, convnet5_gn (GroupNorm), wrn40_2, allconv, densenet_bc_100_12, densenet40_12,
    densenet40_12_released, resnext29_32x4; or any torchvision classification model such as resnet50."""
    weights: str = ""
    """What training starts from: the absolute path of a file with a state dict, .safetensors or .pt, or the name of
    torchvision's weights such as DEFAULT or IMAGENET1K_V1; when empty, random weights. A head of another number of
    classes is replaced."""

    def __post_init__(self) -> None:
        require(
            os.path.isabs(self.weights) or not is_weights_file(self.weights),
            "model.weights",
            self.weights,
            "give an absolute path: a submitted job runs in another folder",
        )


WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".tar", ".bin")


def is_weights_file(weights: str) -> bool:
    """Whether `weights` is a file and not a name of published weights."""
    return os.path.sep in weights or weights.endswith(WEIGHT_FILES)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Optimisation. SGD with momentum on cross-entropy of the clean view + jsd_weight x consistency loss."""

    epochs: int = 20
    """Passes over the training images. More of them resume a finished run, at the rates of the longer schedule."""
    global_batch_size: int = 64
    """Samples in one optimizer step over all workers; each counts once, however many views it has."""
    learning_rate: float = 0.1
    """At the first step."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Cosine to min_learning_rate by step, or a tenth after every third of the epochs."""
    min_learning_rate: float = 1e-6
    """Where the cosine ends."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Nesterov's form of momentum (CIFAR: yes; ImageNet as released: no)."""
    weight_decay: float = 5e-4
    """L2 penalty on all parameters, as released, unless train.decay_all is off."""
    decay_all: bool = True
    """Penalise biases and the parameters of normalisation too, as released."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly to train.learning_rate; the schedule runs over what is left."""
    label_smoothing: float = 0.0
    """Share of a label's mass that is spread evenly over all classes (released: 0)."""
    clip_norm: float = 0.0
    """Scale the gradient down to this norm where it is longer; 0 leaves it."""
    ema_decay: float = 0.0
    """Decay, in a step, of an exponential moving average of the weights, such as 0.999; it is what is validated and
    scored. 0 keeps none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; weights, gradients and losses stay in float32. fp16 scales the loss, and a step
    whose gradient overflows changes no weight."""
    compile: bool = False
    """Compile the network with torch.compile: faster on GPUs after minutes of compiling, and not the same bits."""
    batch_norm: Literal["joint", "split", "sync"] = "joint"
    """Which images share batch norm's statistics: all views of a worker's pass, as released (joint), each view alone
    with the clean one for evaluation (split), or those of all workers, on GPUs (sync)."""
    micro_batch_size: int = 0
    """Samples of one pass on a worker; a step takes as many passes as its share needs and sums their gradients. 0 takes
    the share at once."""
    checkpoint_steps: int = 0
    """A checkpoint after every so many steps too; 0 leaves it at the ends of epochs."""
    checkpoint_minutes: float = 0.0
    """A checkpoint after so many minutes without one; 0 leaves it at the ends of epochs."""
    jsd_weight: float = 12.0
    """Factor of the consistency loss (paper: 12)."""
    hold_out: bool = False
    """Leave data.holdout_fraction of the training images out of the final training too; evaluation then chooses the
    softmax temperature on them."""
    max_steps: int = 0
    """Stop after so many steps, with the schedule of the full run; 0 means all."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", self.epochs, "it counts passes and must be at least 1")
        require(
            self.global_batch_size >= 1,
            "train.global_batch_size",
            self.global_batch_size,
            "it counts samples and must be at least 1",
        )
        require(
            0 < self.learning_rate < math.inf,
            "train.learning_rate",
            self.learning_rate,
            "it must be positive and finite",
        )
        require(
            0 <= self.min_learning_rate <= self.learning_rate,
            "train.min_learning_rate",
            self.min_learning_rate,
            "it lies between 0 and train.learning_rate",
        )
        require(0 <= self.momentum < 1, "train.momentum", self.momentum, "it lies in [0, 1)")
        require(
            not self.nesterov or self.momentum > 0, "train.nesterov", self.nesterov, "it needs a train.momentum above 0"
        )
        require(
            0 <= self.weight_decay < math.inf, "train.weight_decay", self.weight_decay, "it must be >= 0 and finite"
        )
        require(0 <= self.jsd_weight < math.inf, "train.jsd_weight", self.jsd_weight, "it must be >= 0 and finite")
        require(self.max_steps >= 0, "train.max_steps", self.max_steps, "it counts steps; 0 means all")
        require(
            0 <= self.warmup_epochs < self.epochs,
            "train.warmup_epochs",
            self.warmup_epochs,
            f"it lies in [0, train.epochs {self.epochs})",
        )
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "a share lies in [0, 1)")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "it lies in [0, 1); 0 keeps no average")
        require(0 <= self.clip_norm < math.inf, "train.clip_norm", self.clip_norm, "it must be >= 0 and finite")
        require(
            self.micro_batch_size >= 0,
            "train.micro_batch_size",
            self.micro_batch_size,
            "it counts samples; 0 takes a worker's whole share",
        )
        require(
            self.checkpoint_steps >= 0, "train.checkpoint_steps", self.checkpoint_steps, "it counts steps; 0 is off"
        )
        require(
            0 <= self.checkpoint_minutes < math.inf,
            "train.checkpoint_minutes",
            self.checkpoint_minutes,
            "it must be >= 0 and finite; 0 is off",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """The methods that AugMix is compared with. Each value belongs to the method of its name alone."""

    cutout_size: int = 16
    """Side of the hole, in pixels (CIFAR-10: 16); it may reach over the border."""
    mixup_alpha: float = 1.0
    """Concentration of the Beta law of the two images' shares (CIFAR: 1, ImageNet: 0.2)."""
    cutmix_alpha: float = 1.0
    """Concentration of the Beta law of the box's share of the area."""
    cutmix_probability: float = 0.5
    """Share of the samples that get a box (CIFAR: 0.5, ImageNet: 1)."""
    pgd_epsilon: float = 8.0
    """Bound of what the attack changes a value by, in grey levels of 255."""
    pgd_step_size: float = 2.0
    """Change of a value in one step of the attack, in grey levels."""
    pgd_steps: int = 7
    """Gradient steps of the attack; each costs a forward and a backward pass."""

    def __post_init__(self) -> None:
        require(self.cutout_size >= 1, "baseline.cutout_size", self.cutout_size, "it counts pixels, at least 1")
        for name in ("mixup_alpha", "cutmix_alpha"):
            alpha = getattr(self, name)
            require(0.01 <= alpha <= 1000, f"baseline.{name}", alpha, "a concentration lies between 0.01 and 1000")
        require(
            0 <= self.cutmix_probability <= 1,
            "baseline.cutmix_probability",
            self.cutmix_probability,
            "a probability lies between 0 and 1",
        )
        for name in ("pgd_epsilon", "pgd_step_size"):
            levels = getattr(self, name)
            require(0 < levels <= 255, f"baseline.{name}", levels, "it counts grey levels, above 0 and up to 255")
        require(self.pgd_steps >= 1, "baseline.pgd_steps", self.pgd_steps, "it counts steps, at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Search over width, depth and JSD weight, judged on held-out training images under corruptions of its own."""

    trials: int = 3
    """How many settings are tried, the recipe's own first; 0 leaves the search out."""
    epochs: int = 6
    """Epochs of a trial at the most."""
    grace_epochs: int = 6
    """Epochs before a poor trial may be stopped (ASHA, halving); equal to search.epochs stops none."""
    max_concurrent: int = 2
    """Trials at a time."""
    widths: tuple[int, ...] = (1, 2, 3, 4)
    """Values of augmix.width to draw from."""
    depths: tuple[int, ...] = (-1, 1, 2, 3)
    """Values of augmix.depth to draw from."""
    jsd_weights: tuple[float, ...] = (3.0, 6.0, 12.0, 24.0)
    """Values of train.jsd_weight to draw from."""
    severities: tuple[int, ...] = (1, 3, 5)
    """Severities of the search's corruptions (speckle_noise, gaussian_blur, spatter, saturate)."""

    def __post_init__(self) -> None:
        require(self.trials >= 0, "search.trials", self.trials, "it counts trials; 0 leaves the search out")
        require(self.epochs >= 1, "search.epochs", self.epochs, "it counts passes and must be at least 1")
        require(
            1 <= self.grace_epochs <= self.epochs,
            "search.grace_epochs",
            self.grace_epochs,
            f"it lies between 1 and search.epochs {self.epochs}",
        )
        require(
            self.max_concurrent >= 1, "search.max_concurrent", self.max_concurrent, "at least one trial runs at a time"
        )
        require(
            bool(self.widths and self.depths and self.jsd_weights),
            "search",
            self,
            "widths, depths and jsd_weights need a value each",
        )
        check_severities("search.severities", self.severities)
        for width in self.widths:
            AugMixConfig(width=width)
        for depth in self.depths:
            AugMixConfig(depth=depth)


TEST_CORRUPTIONS = tuple(ALEXNET_ERRORS)
"""The benchmark's 15, in its order."""
EXTRA_CORRUPTIONS = tuple(ALEXNET_EXTRA_ERRORS)
PERTURBATIONS = (
    *(*ALEXNET_FLIP_PROBABILITIES, *ALEXNET_EXTRA_FLIP_PROBABILITIES),
    *(f"{noise}_noise_{difficulty}" for noise in ("gaussian", "shot", "speckle") for difficulty in (2, 3)),
)
"""The ten, the four extra ones, and the harder noises, named as the published files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What networks are scored on. None of it decides a training: change it and score the same run again."""

    corruptions: tuple[str, ...] = TEST_CORRUPTIONS
    """Corruptions: the 15 of the benchmark, which the search never sees, and perhaps the four extra ones."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities, 1 to 5."""
    published: str = ""
    """Absolute folder of CIFAR-10-C, CIFAR-100-C, ImageNet-C or Tiny-ImageNet-C as published; when empty, corrupted
    images are generated, which comes near to those files but is not them."""
    frost_textures: str = ""
    """Absolute folder of the published frost textures for generated frost; when empty, a texture of our own."""
    jpeg85: bool = False
    """Pass generated corruptions through a JPEG of quality 85, as ImageNet-C's files were."""
    perturbations: tuple[str, ...] = ()
    """Perturbation sequences for flip rates, such as translate or tilt; all stands for the ten of the benchmark."""
    published_perturbations: str = ""
    """Absolute folder of CIFAR-10-P, CIFAR-100-P or ImageNet-P as published; when empty, sequences are generated."""
    top5_baseline: str = ""
    """JSON file with AlexNet's top-5 distance of each perturbation, for mT5D; none has been published as text."""
    imagenet_r: str = ""
    """Absolute folder of ImageNet-R; the answers are restricted to its 200 classes."""
    imagenet_a: str = ""
    """Absolute folder of ImageNet-A; the answers are restricted to its 200 classes."""
    imagenet_v2: str = ""
    """Absolute folder of ImageNet-V2, with class folders 0 to 999."""
    imagenet_sketch: str = ""
    """Absolute folder of ImageNet-Sketch."""
    cifar10_1: str = ""
    """Absolute folder of CIFAR-10.1."""
    out_of_distribution: str = ""
    """Absolute folder or .npy of images of none of the classes, for AUROC, AUPR and FPR95 of the confidence."""
    bootstrap: int = 1000
    """Replicates of the bootstrap over images behind the 95 % intervals; 0 leaves them out."""

    def __post_init__(self) -> None:
        check_severities("evaluate.severities", self.severities)
        require(bool(self.corruptions), "evaluate.corruptions", self.corruptions, "name at least one")
        check_names("evaluate.corruptions", self.corruptions, (*TEST_CORRUPTIONS, *EXTRA_CORRUPTIONS))
        if self.perturbations != ("all",):
            check_names("evaluate.perturbations", self.perturbations, ("all", *PERTURBATIONS))
        require(0 <= self.bootstrap <= 100_000, "evaluate.bootstrap", self.bootstrap, "it lies between 0 and 100000")
        for name in PATHS_OF_EVALUATION:
            path = getattr(self, name)
            require(
                not path or os.path.isabs(path),
                f"evaluate.{name}",
                path,
                "give an absolute path: a submitted job runs in another folder",
            )


SHIFTS = ("imagenet_r", "imagenet_a", "imagenet_v2", "imagenet_sketch", "cifar10_1")
"""Other test sets of the same classes: fields of EvaluateConfig and kinds of `published.open_shift_set`."""
PATHS_OF_EVALUATION = (
    *("published", "frost_textures", "published_perturbations", "top5_baseline"),
    *(*SHIFTS, "out_of_distribution"),
)


def check_names(field_name: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Refuse an unknown name, with the nearest known one, and one that stands there twice."""
    for name in names:
        if name not in known:
            raise ValueError(f"{field_name} has {name!r}; {did_you_mean(name, known)}")
    require(len(set(names)) == len(names), field_name, names, "name each once")


def default_progress_timeout() -> float:
    """Long enough for a node that is starting."""
    return float(os.environ.get("AUGMIX_PROGRESS_TIMEOUT_S", "600"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """How many machines do it. Results do not depend on it, up to batch norm's share of a batch."""

    num_workers: int = 0
    """Training workers; 0 takes every GPU of the cluster, or 2 CPU workers where there is none."""
    min_workers: int = 0
    """Go on with as few training workers where nodes are lost, and with more when they are back, each time from the
    last checkpoint; 0: always with num_workers. The global batches stay the same."""
    worker_resource: str = ""
    """A custom resource that training nodes have, of which every training worker takes 1."""
    use_gpu: bool = True
    """Train on GPUs where the cluster has any."""
    worker_cpus: float = 0.5
    """CPUs that one training worker asks of Ray; on a CPU it computes with that many threads, at least one."""
    data_cpus: float = 0.4
    """CPUs that one preprocessing task asks of Ray."""
    validation_cpus: float = 0.0
    """CPUs of a task that validates the checkpoint of every epoch while the training goes on; 0: the training workers
    validate between epochs, and always in the search, whose trials are judged as they go on."""
    validation_gpus: float = 0.0
    """GPUs of that task, or a share of one, besides those of the training workers."""
    evaluation_actors: int = 0
    """Actors that hold the networks during evaluation; 0 takes every GPU, or every CPU where there is none."""
    corrupt_on: Literal["auto", "actors", "tasks"] = "auto"
    """Where evaluation reads and corrupts: in the actors, which saves the way through the object store, or in tasks on
    all CPUs; auto: in tasks where the networks are on GPUs."""
    evaluation_batch_size: int = 250
    """Images in one forward pass of evaluation."""
    evaluation_piece_size: int = 0
    """Images of a cell that are answered, kept and resumed together; 0 means 2,000, or 40 MiB if that is less."""
    use_labels: bool = False
    """Preprocess on nodes labelled augmix.io/role=preprocess, train on augmix.io/role=train, see cluster.yaml."""
    augment_on: Literal["data", "train"] = "data"
    """Where AugMix runs: in the preprocessing tasks, or in the training workers, which then receive one image a sample
    instead of augmix.views. The pixels are the same."""
    progress_timeout_s: float = field(default_factory=default_progress_timeout)
    """Seconds in which preprocessing must get on, else it is an error; $AUGMIX_PROGRESS_TIMEOUT_S overrides the
    default."""
    collective_timeout_s: float = 600.0
    """Seconds that training workers wait for one that does not answer, before they are started again."""
    max_failures: int = 3
    """Restarts of the training workers after a crash before the run gives up."""

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, "scale.num_workers", self.num_workers, "it counts workers; 0 means automatic")
        require(self.min_workers >= 0, "scale.min_workers", self.min_workers, "it counts workers; 0 means all of them")
        require(self.worker_cpus > 0, "scale.worker_cpus", self.worker_cpus, "a worker needs a share of a CPU")
        require(self.data_cpus > 0, "scale.data_cpus", self.data_cpus, "a task needs a share of a CPU")
        require(self.validation_cpus >= 0, "scale.validation_cpus", self.validation_cpus, "0 means between epochs")
        require(
            self.validation_gpus == 0 or (self.validation_gpus > 0 and self.validation_cpus > 0),
            "scale.validation_gpus",
            self.validation_gpus,
            "a task beside the training has them, which scale.validation_cpus asks for; 0 means none",
        )
        require(
            self.evaluation_actors >= 0,
            "scale.evaluation_actors",
            self.evaluation_actors,
            "it counts actors; 0 means automatic",
        )
        require(
            self.evaluation_batch_size >= 1,
            "scale.evaluation_batch_size",
            self.evaluation_batch_size,
            "it counts images",
        )
        require(
            self.evaluation_piece_size >= 0,
            "scale.evaluation_piece_size",
            self.evaluation_piece_size,
            "it counts images; 0 means automatic",
        )
        require(self.progress_timeout_s > 0, "scale.progress_timeout_s", self.progress_timeout_s, "it must be positive")
        require(
            1 <= self.collective_timeout_s < math.inf,
            "scale.collective_timeout_s",
            self.collective_timeout_s,
            "it must be at least 1 and finite",
        )
        require(self.max_failures >= 0, "scale.max_failures", self.max_failures, "it counts restarts")


MOST_IMAGES_AT_ONCE, MOST_BYTES_AT_ONCE = 2000, 40 << 20


def piece_size(scale: ScaleConfig, data: DataConfig) -> int:
    """Return how many images of a cell are answered together.

    Ray's work for a piece takes 30 ms, as long as a small network needs for 100 images of 32 px.
    """
    most = MOST_BYTES_AT_ONCE // (3 * data.image_size**2)
    return scale.evaluation_piece_size or max(1, min(MOST_IMAGES_AT_ONCE, most))


INDEX_FOLDER = "index"
"""Below storage, beside the runs: the indexes of data sets."""
STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""Protocols of the object stores that runs may be stored in."""


def default_storage() -> str:
    """Outside any working directory, which a submitted job loses when it ends."""
    return os.environ.get("AUGMIX_STORAGE") or str(Path.home() / "augmix_runs")


def index_folder(storage: str) -> Path | None:
    """Where indexes are kept; None, so that the driver makes them anew, where workers could not map them."""
    return None if "://" in storage else Path(storage) / INDEX_FOLDER


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything about a run."""

    name: str = ""
    """Folder of the run below storage; when empty: recipe, model and a hash of what decides the result."""
    storage: str = field(default_factory=default_storage)
    """Absolute folder that holds all runs, on all nodes, or its URI in an object store, such as s3://bucket/runs;
    $AUGMIX_STORAGE overrides the default."""
    seed: int = 0
    """Decides every random number of the run: order, crops, plans, weights, search, corruptions."""
    methods: tuple[MethodName, ...] = ("standard", "augmix")
    """What is trained and scored side by side: standard (clean images only), augmix (with its consistency loss),
    augmix_no_jsd (one augmented view), cutout, mixup, cutmix, autoaugment (CIFAR's policy without the ops that overlap
    the test), random_autoaugment (two ops by lot), random_autoaugment_jsd, pgd (adversarial training)."""
    data: DataConfig = field(default_factory=DataConfig)
    augmix: AugMixConfig = field(default_factory=AugMixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**64, "seed", self.seed, "it must be a whole number from 0 to 2**64 - 1")
        require(
            bool(self.methods) and len(set(self.methods)) == len(self.methods),
            "methods",
            self.methods,
            "name each method once",
        )
        protocol, _, bucket = self.storage.partition("://")
        require(
            os.path.isabs(self.storage) or (protocol in STORES and bool(bucket)),
            "storage",
            self.storage,
            "give an absolute path, as a submitted job runs in another folder, or a URI such as s3://bucket/runs "
            f"({', '.join(STORES)})",
        )
        allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
        require(
            len(self.name) <= 64 and set(self.name) <= allowed and self.name not in (".", "..", INDEX_FOLDER),
            "name",
            self.name,
            f"use up to 64 letters, digits, '.', '_' and '-'; {INDEX_FOLDER} is taken",
        )
        require(
            not (self.data.views and self.search.trials),
            "search.trials",
            self.search.trials,
            "with data.views it must be 0: a search may choose other views than those that are stored",
        )

    @property
    def method(self) -> MethodName:
        """What this configuration trains: its only method; as long as it lists several, AugMix."""
        return self.methods[0] if len(self.methods) == 1 else "augmix"

    @property
    def views_of_a_sample(self) -> int:
        """How many views the network sees of a sample in training."""
        return self.augmix.views if METHODS[self.method].consistency else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Scoring a network without training it."""

    model: str = ""
    """A checkpoint folder of ours or a run's train/<method>, also by URI; a torchvision model such as resnet50,
    timm:<name>, a network of ours such as wrn40_2 with --weights, or module:function that returns an nn.Module."""
    weights: str = "DEFAULT"
    """Of a torchvision model: DEFAULT, or a name such as IMAGENET1K_V1; or the absolute path of a file with a state
    dict, .safetensors or .pt."""
    name: str = ""
    """Folder of the scores below storage; when empty: recipe, model and a hash of the two and of data.*."""
    storage: str = field(default_factory=default_storage)
    """Absolute folder that holds all runs, on all nodes, or its URI in an object store, such as s3://bucket/runs;
    $AUGMIX_STORAGE overrides the default."""
    seed: int = 0
    """Decides the random numbers of generated corruptions, and of the bootstrap."""
    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def as_run(self) -> RunConfig:
        """The same as the configuration of a run that trains nothing."""
        return RunConfig(
            name=self.name,
            storage=self.storage,
            seed=self.seed,
            data=self.data,
            evaluate=self.evaluate,
            scale=self.scale,
            search=SearchConfig(trials=0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """A corrupted copy of a data set."""

    output: str = ""
    """Absolute folder of the copy, on all nodes; new, or one that this command has begun."""
    split: Literal["test", "train"] = "test"
    """Which images are copied; data.test_limit bounds either."""
    layout: Literal["auto", "npy", "folder", "parquet"] = "auto"
    """As CIFAR-10-C (npy), as ImageNet-C (folder), or parquet files; auto: folder for image folders, else npy."""
    corruptions: tuple[str, ...] = (*TEST_CORRUPTIONS, *EXTRA_CORRUPTIONS)
    """Corruptions: the 15 of the benchmark and the four extra ones."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities, 1 to 5; the npy layout holds all of them."""
    frost_textures: str = ""
    """Absolute folder of the published frost textures; when empty, a texture of our own."""
    seed: int = 0
    """Decides the random numbers."""
    data: DataConfig = field(default_factory=DataConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    def __post_init__(self) -> None:
        check_severities("severities", self.severities)
        check_names("corruptions", self.corruptions, (*TEST_CORRUPTIONS, *EXTRA_CORRUPTIONS))
        require(bool(self.corruptions), "corruptions", self.corruptions, "name at least one")
        require(
            not self.output or (os.path.isabs(self.output) and "://" not in self.output),
            "output",
            self.output,
            "give the absolute path of a mounted folder",
        )
        if self.layout_of() == "npy":
            require(self.severities == (1, 2, 3, 4, 5), "severities", self.severities, "the npy layout holds 1 2 3 4 5")

    def layout_of(self) -> str:
        """The layout, `auto` resolved."""
        if self.layout != "auto":
            return self.layout
        return "folder" if self.data.name in ("imagenet", "folder") else "npy"

    def as_run(self) -> RunConfig:
        """What tasks that read and corrupt need to know."""
        return RunConfig(
            seed=self.seed,
            data=self.data,
            evaluate=EvaluateConfig(
                corruptions=self.corruptions, severities=self.severities, frost_textures=self.frost_textures
            ),
            scale=self.scale,
            search=SearchConfig(trials=0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessConfig:
    """Shards: a data set decoded once, or the views of some epochs of a training made beforehand."""

    output: str = ""
    """Absolute folder that all nodes mount, or an s3:// address; new, or one that this command has begun."""
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    """Which images are decoded."""
    short_side: int = 256
    """The short side of larger images is reduced to so many pixels; 0 keeps every size."""
    epochs: int = 1
    """Passes over the training images whose views are made."""
    hold_out: bool = False
    """Views of a training with --train.hold-out."""
    rows_a_shard: int = 0
    """Images, or rows of views, in a file; 0 means about 128 MiB."""
    seed: int = 0
    """The seed of the training that will read the views."""
    data: DataConfig = field(default_factory=DataConfig)
    augmix: AugMixConfig = field(default_factory=AugMixConfig)
    scale: ScaleConfig = field(default_factory=lambda: ScaleConfig(data_cpus=1.0))

    def __post_init__(self) -> None:
        require(
            not self.output or os.path.isabs(self.output) or "://" in self.output,
            "output",
            self.output,
            "give an absolute path: a submitted job runs in another folder",
        )
        require(
            bool(self.splits) and len(set(self.splits)) == len(self.splits), "splits", self.splits, "name each once"
        )
        require(
            self.short_side == 0 or self.short_side >= 8,
            "short_side",
            self.short_side,
            "it counts pixels, at least 8; 0 keeps every size",
        )
        require(self.epochs >= 1, "epochs", self.epochs, "it counts passes and must be at least 1")
        require(self.rows_a_shard >= 0, "rows_a_shard", self.rows_a_shard, "it counts rows; 0 means about 128 MiB")

    def as_run(self) -> RunConfig:
        """What tasks that read and augment need to know."""
        return RunConfig(
            seed=self.seed,
            data=dataclasses.replace(self.data, views=""),
            augmix=self.augmix,
            train=TrainConfig(epochs=self.epochs, hold_out=self.hold_out),
            scale=dataclasses.replace(self.scale, augment_on="data"),  # what is stored are views
            search=SearchConfig(trials=0),
        )


def check_severities(name: str, severities: tuple[int, ...]) -> None:
    """Refuse severities other than 1..5, and none at all."""
    require(
        bool(severities) and all(s in (1, 2, 3, 4, 5) for s in severities),
        name,
        severities,
        "severities are 1, 2, 3, 4 and 5",
    )


def method_config(config: RunConfig, method: MethodName) -> RunConfig:
    """Return the configuration that trains one method of a run."""
    if METHODS[method].consistency:
        return dataclasses.replace(config, methods=(method,))
    return dataclasses.replace(
        config,
        methods=(method,),
        augmix=dataclasses.replace(config.augmix, views=1),
        train=dataclasses.replace(config.train, jsd_weight=0.0),
    )


NOT_OF_THE_RESULT = ("name", "storage", "scale", "evaluate")
NOT_OF_THE_RESULT_IN = {
    "data": ("path", "views", "download", "reindex", "max_bad_fraction"),
    "train": ("epochs", "max_steps", "checkpoint_steps", "checkpoint_minutes"),
    "search": ("max_concurrent",),
}


def result_fields(config: RunConfig) -> dict[str, Any]:
    """Return, flat as `section.field`, the values that decide the result of a run.

    Left out: where data and run lie, how many machines work, how long it trains, so that more epochs resume, and what
    it is scored on, which the ledger of the evaluation guards by itself.
    """
    flat: dict[str, Any] = {"stream_version": STREAM_VERSION}
    for key, value in dataclasses.asdict(config).items():
        if key in NOT_OF_THE_RESULT:
            continue
        if isinstance(value, dict):
            left_out = NOT_OF_THE_RESULT_IN.get(key, ())
            flat |= {f"{key}.{name}": inner for name, inner in value.items() if name not in left_out}
        else:
            flat[key] = value
    return json.loads(json.dumps(flat))


def fingerprint(config: RunConfig) -> str:
    """Return eight hex digits of what decides the result."""
    return hashlib.sha256(json.dumps(result_fields(config), sort_keys=True).encode()).hexdigest()[:8]


def run_name(config: RunConfig, recipe: str) -> str:
    """Return `--name`, or a name that the same command gives again."""
    return config.name or f"{recipe}-{config.model.name}-{fingerprint(config)}"


def score_name(config: ScoreConfig, recipe: str) -> str:
    """Return `--name`, or a name that the same network and data give again, whatever it is scored on."""
    data = dataclasses.asdict(dataclasses.replace(config.data, reindex=False))
    known = json.dumps([config.model, config.weights, config.seed, data], sort_keys=True)
    model = "".join(c if c.isalnum() else "-" for c in Path(config.model.partition("?")[0]).name)
    return config.name or f"score-{recipe}-{model}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"
