"""Evaluation: networks, side by side, on everything that is to be scored.

Actors hold the networks. Where they predict on GPUs, tasks on the CPUs of the cluster read, decode and corrupt for
them; on CPUs they do that themselves. All networks see the same pixels. What they answer to every image is kept in
the ledger, piece by piece; all scores are counted from it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray

from augmix_core import STREAM_VERSION
from augmix_core.calibration import fit_temperature, per_image_scores
from augmix_core.metrics import changes_of_frames, top5_distances_of_frames
from augmix_core.perturbations import NOISE_PERTURBATIONS
from pipeline.blocks import TRAIN_LABEL, opened_source, placement
from pipeline.budget import Scale, corrupts_in_tasks
from pipeline.cells import Cell, Plan, rows_of_a_piece
from pipeline.config import RunConfig, piece_size
from pipeline.corrupt import CleanImages, Missing, Portion, make_piece, portions_of, read_clean
from pipeline.decode import TooManyBadSamplesError
from pipeline.ledger import Ledger, as_parquet
from pipeline.networks import Network
from pipeline.predict import keep_freed_memory, predict
from pipeline.progress import counted
from pipeline.quarantine import add, described, too_many
from pipeline.source import digest_of
from pipeline.storage import StoredPath, write_atomically

TEMPERATURES = "temperatures.json"
PIECES_AHEAD = 2
"""Pieces that wait for each actor, so that it never waits for the driver."""


class Predictor:
    """An actor that holds the networks: a piece of images becomes the answers to them, as a parquet file.

    Args:
        references: to {method: Network} and to the sources of the plan, which the driver keeps alive.
        restricted: cell key -> the classes that its answers are restricted to, or None.
        temperatures: method -> softmax temperature; methods without one have none.
    """

    def __init__(
        self,
        references: tuple[ray.ObjectRef, ray.ObjectRef],
        restricted: Mapping[str, NDArray[np.int64] | None],
        temperatures: Mapping[str, float],
        batch: int,
        config: RunConfig,
    ) -> None:
        torch.set_num_threads(max(1, round(config.scale.worker_cpus)))
        keep_freed_memory()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        networks, self.sources = references
        self.networks: dict[str, Network] = ray.get(networks)
        for network in self.networks.values():
            network.model.to(self.device)
        self.restricted, self.temperatures = restricted, temperatures
        self.batch, self.config = batch, config

    def clean(self, portion: Portion) -> CleanImages:
        """Read and decode."""
        return read_clean(portion, opened_source(self.sources), self.config)

    def make_and_answer(self, portion: Portion, clean: CleanImages, cell: Cell, first: int) -> bytes:
        """Make a piece and answer it."""
        return self.answer(cell, make_piece(portion, clean, cell, first, opened_source(self.sources), self.config))

    def answer(self, cell: Cell, rows: dict[str, NDArray]) -> bytes:
        """The answers of all networks to some rows of a cell."""
        classes = self.restricted[cell.key]
        answers: dict[str, Any] = {name: rows[name] for name in ("sample_id", "label", "valid")}
        for method, network in self.networks.items():
            if cell.kind == "perturbation":
                columns = self.frames(cell, network, rows["image"])
            else:
                columns = self.images(cell, method, rows, classes)
            answers |= {f"{name}_{method}": values for name, values in columns.items()}
        return as_parquet(pa.table({name: as_column(values) for name, values in answers.items()}))

    def logits(self, network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 -> (N, C), a batch at a time."""
        parts = [torch.tensor(images[at : at + self.batch]) for at in range(0, len(images), self.batch)]
        return torch.cat([predict(network.model, part.to(self.device), network).cpu() for part in parts]).numpy()

    def images(
        self, cell: Cell, method: str, rows: Mapping[str, NDArray], classes: NDArray[np.int64] | None
    ) -> dict[str, NDArray]:
        """Answers to single images. Those to images of no class have a confidence alone."""
        logits, labels = self.logits(self.networks[method], rows["image"]), rows["label"]
        if classes is not None:
            place = {int(label): at for at, label in enumerate(classes)}
            logits, labels = logits[:, classes], np.array([place[int(label)] for label in labels], np.int64)
        known = np.maximum(labels, 0)
        columns = per_image_scores(logits, known)
        if method in self.temperatures:
            scaled = per_image_scores(logits / self.temperatures[method], known)
            columns |= {f"{name}_scaled": scaled[name] for name in ("confidence", "nll", "brier")}
        if classes is not None:
            columns["predicted"] = classes[columns["predicted"]]
        if cell.kind == "out_of_distribution":
            columns = {name: columns[name] for name in columns if name.split("_")[0] in ("predicted", "confidence")}
        if cell.kind == "held_out":
            columns["logits"] = logits
        return columns

    def frames(self, cell: Cell, network: Network, sequences: NDArray[np.uint8]) -> dict[str, NDArray]:
        """Answers to sequences (N, T, H, W, 3): the class of each frame, changes of class, mean top-5 distance."""
        count, frames = sequences.shape[:2]
        logits = self.logits(network, sequences.reshape(count * frames, *sequences.shape[2:]))
        ranking = np.argsort(-logits, axis=1, kind="stable").reshape(count, frames, -1)
        against_first = cell.base_and_difficulty[0] in NOISE_PERTURBATIONS
        return {
            "predicted": ranking[:, :, 0],
            "changes": changes_of_frames(ranking[:, :, 0], against_first=against_first),
            "top5_distance": top5_distances_of_frames(ranking, against_first=against_first),
        }


def as_column(values: NDArray) -> pa.Array:
    """A column of numbers, or of lists of one length for (N, K)."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def evaluate(
    config: RunConfig, scale: Scale, plan: Plan, networks: Mapping[str, Network], folder: StoredPath
) -> Ledger:
    """Answer what is not answered yet, and return the ledger.

    Args:
        networks: by method; all of them are asked the same.
        folder: of the ledger.
    Raises:
        TooManyBadSamplesError: More of some images than data.max_bad_fraction cannot be read.
    """
    ledger = Ledger(folder)
    identity = {
        "networks": {method: network.digest for method, network in networks.items()},
        "seed": config.seed,
        "image_size": config.data.image_size,
        "crop": config.data.crop,
        "jpeg85": config.evaluate.jpeg85,
        "frost_textures": digest_of_textures(config.evaluate.frost_textures),
        "stream_version": STREAM_VERSION,
    }
    batch, piece = config.scale.evaluation_batch_size, piece_size(config.scale, config.data)
    if ledger.asked and ledger.asked["identity"] == json.loads(json.dumps(identity)):
        about = ledger.asked["about"]  # pieces are cut as they were when this ledger was begun
        batch, piece = about["batch"], about["piece"]
    cells = {
        cell.key: {
            "kind": cell.kind,
            "name": cell.name,
            "severity": cell.severity,
            "generated": given.generated,
            "images": plan.digest(given),
            "rows": given.rows,
            "step": rows_of_a_piece(cell, piece),
        }
        for given in plan.inputs
        for cell in given.cells
    }
    origins = {method: network.origin for method, network in networks.items()}
    ledger.ask(identity, cells, plan.about | {"batch": batch, "piece": piece, "networks": origins})
    references = ray.put(dict(networks)), ray.put(plan.sources)
    quarantine = UnreadableImages(config, plan, ledger)
    temperatures: dict[str, float] = {}
    if held_out := [cell for cell in plan.cells if cell.kind == "held_out"]:
        answer(config, scale, plan, ledger, held_out, references, {}, quarantine)
        temperatures = chosen_temperatures(ledger, networks)
    answer(config, scale, plan, ledger, plan.cells, references, temperatures, quarantine)
    return ledger


def answer(
    config: RunConfig,
    scale: Scale,
    plan: Plan,
    ledger: Ledger,
    cells: Any,
    references: tuple[ray.ObjectRef, ray.ObjectRef],
    temperatures: Mapping[str, float],
    quarantine: "UnreadableImages",
) -> None:
    """Fill in the pieces that are missing in some cells."""
    left = {cell.key: set(ledger.all_firsts(cell.key)) - set(ledger.firsts(cell.key)) for cell in cells}
    missing: Missing = {cell.key: frozenset(left.get(cell.key, ())) for cell in plan.cells}
    pieces = sum(map(len, left.values()))
    for key, firsts in left.items():
        if not firsts and not ledger.is_finished(key):
            ledger.finish(key)
    if not pieces:
        return
    assert ledger.asked is not None
    about = ledger.asked["about"]
    portions = portions_of(plan, missing, about["piece"])
    restricted = {cell.key: given.classes for given in plan.inputs for cell in given.cells}
    asked: dict[str, Any] = {"num_cpus": config.scale.worker_cpus, "num_gpus": 1 if scale.use_gpu else 0}
    if config.scale.use_labels:
        asked["label_selector"] = TRAIN_LABEL
    retries = config.scale.max_failures
    actor = ray.remote(Predictor).options(max_restarts=retries, max_task_retries=retries, **asked)
    predictors = [
        actor.remote(references, restricted, temperatures, about["batch"], config)
        for _ in range(min(scale.evaluation_actors, pieces))
    ]
    tasks = Tasks(references[1], config) if corrupts_in_tasks(config, scale.use_gpu) else None
    coming = answered(portions, predictors, tasks, patience=config.scale.progress_timeout_s)
    for key, first, answers in counted(coming, "evaluate", pieces):
        quarantine.add(key, answers)
        ledger.put(key, first, answers)
        left[key].discard(first)
        if not left[key]:
            ledger.finish(key)
    for predictor in predictors:
        ray.kill(predictor)


class Tasks:
    """Reading, decoding and corrupting on the CPUs of the cluster, for networks on GPUs."""

    def __init__(self, sources: ray.ObjectRef, config: RunConfig) -> None:
        self.given = ray.put((sources, config))
        self.reading = ray.remote(read_in_task).options(**placement(config))
        self.making = ray.remote(make_in_task).options(**placement(config))
        self.slots = math.ceil(ray.cluster_resources().get("CPU", 1) / config.scale.data_cpus)

    def clean(self, portion: ray.ObjectRef) -> ray.ObjectRef:
        """CleanImages."""
        return self.reading.remote(self.given, portion)

    def piece(self, portion: ray.ObjectRef, clean: ray.ObjectRef, cell: Cell, first: int) -> ray.ObjectRef:
        """The arrays of a piece."""
        return self.making.remote(self.given, portion, clean, cell, first)


def read_in_task(given: tuple[ray.ObjectRef, RunConfig], portion: Portion) -> CleanImages:
    """`read_clean` on a node."""
    sources, config = given
    return read_clean(portion, opened_source(sources), config)


def make_in_task(
    given: tuple[ray.ObjectRef, RunConfig], portion: Portion, clean: CleanImages, cell: Cell, first: int
) -> dict[str, NDArray]:
    """`make_piece` on a node."""
    sources, config = given
    return make_piece(portion, clean, cell, first, opened_source(sources), config)


def answered(
    portions: Sequence[Portion], predictors: Sequence[Any], tasks: Tasks | None, *, patience: float
) -> Iterator[tuple[str, int, bytes]]:
    """Yield (cell key, first row, answers) of all wanted pieces, in the order in which they come.

    Only so many pieces are under way that no actor and no CPU waits, so memory does not grow with the images.

    Args:
        tasks: make the pieces; without them the actors do.
    Raises:
        RuntimeError: Nothing came for `patience` seconds.
    """
    ahead = PIECES_AHEAD + (math.ceil(tasks.slots / len(predictors)) if tasks else 0)
    waiting: dict[ray.ObjectRef, tuple[int, str, int]] = {}
    queues = [0] * len(predictors)

    def next_answers() -> tuple[str, int, bytes]:
        ready, _ = ray.wait(list(waiting), timeout=patience)
        if not ready:
            raise RuntimeError(
                f"no answer came for {patience:g} s; see `ray status` for what the {len(predictors)} actors wait for"
            )
        number, key, first = waiting.pop(ready[0])
        queues[number] -= 1
        return key, first, ray.get(ready[0])

    for portion in portions:
        shared = ray.put(portion)
        clean = tasks.clean(shared) if tasks else predictors[int(np.argmin(queues))].clean.remote(shared)
        for cell, first in portion.wanted:
            if min(queues) >= ahead:
                yield next_answers()
            number = int(np.argmin(queues))
            if tasks:
                answers = predictors[number].answer.remote(cell, tasks.piece(shared, clean, cell, first))
            else:
                answers = predictors[number].make_and_answer.remote(shared, clean, cell, first)
            waiting[answers] = number, cell.key, first
            queues[number] += 1
    while waiting:
        yield next_answers()


class UnreadableImages:
    """What could not be read of the images that are scored: left out, listed beside the ledger, and limited."""

    def __init__(self, config: RunConfig, plan: Plan, ledger: Ledger) -> None:
        self.config, self.plan, self.folder = config, plan, ledger.folder
        self.inputs = {cell.key: given for given in plan.inputs for cell in given.cells}
        self.known: dict[int, set[int]] = {}
        for given in plan.inputs:  # what an earlier start has met
            for table in ledger.tables(given.cells[0].key, ["sample_id", "valid"]):
                self.known.setdefault(given.source, set()).update(unreadable(table))

    def add(self, key: str, answers: bytes) -> None:
        """Take note of unreadable images in the answers to a piece.

        Raises:
            TooManyBadSamplesError: They are too many; these answers should not be kept.
        """
        given = self.inputs[key]
        known = self.known.setdefault(given.source, set())
        new = set(unreadable(pq.read_table(pa.BufferReader(answers), columns=["sample_id", "valid"]))) - known
        if not new:
            return
        known |= new
        source = self.plan.sources[given.source]
        split = {0: "test"}.get(given.source, "train" if key == "held_out" else key)
        rows = add(self.folder, described(source, new, split, self.config.data, resized=given.resized))
        if len(known) > self.config.data.max_bad_fraction * given.rows:
            mine = [row for row in rows if row["split"] == split]
            raise TooManyBadSamplesError(too_many(mine, len(known), given.rows, self.config.data))


def unreadable(answers: pa.Table) -> list[int]:
    """The ids of the images that could not be read."""
    return answers.filter(pc.invert(answers["valid"]))["sample_id"].to_pylist()


def chosen_temperatures(ledger: Ledger, networks: Mapping[str, Network]) -> dict[str, float]:
    """Choose each network's temperature on the held-out images, once."""
    path = ledger.folder / TEMPERATURES
    if not path.exists():
        table = ledger.read("held_out")
        valid = table["valid"].to_numpy()
        chosen = {}
        for method in networks:
            logits = np.stack(table[f"logits_{method}"].to_numpy(zero_copy_only=False))[valid]
            chosen[method] = fit_temperature(logits, table["label"].to_numpy()[valid])
        write_atomically(path, json.dumps(chosen))
    return json.loads(path.read_text())


def digest_of_textures(folder: str) -> str:
    """SHA-256 of the texture files, or '' for our own texture."""
    if not folder:
        return ""
    return digest_of(*(path.read_bytes() for path in sorted(Path(folder).glob("frost*"))))
