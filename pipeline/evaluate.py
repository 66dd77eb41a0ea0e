"""Evaluation: networks, side by side, on everything that is to be scored.

A Ray Data pipeline: tasks read, decode and corrupt, actors hold the networks and predict. All networks see the same
pixels. What they answer to every image is kept in the ledger, piece by piece; all scores are counted from it.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from augmix_core import STREAM_VERSION
from augmix_core.calibration import fit_temperature, per_image_scores
from augmix_core.metrics import changes_of_frames, top5_distances_of_frames
from augmix_core.perturbations import NOISE_PERTURBATIONS
from pipeline.blocks import TRAIN_LABEL, rows_of
from pipeline.budget import Scale
from pipeline.cells import Cell, Plan, rows_of_a_piece
from pipeline.config import RunConfig, piece_size
from pipeline.corrupt import Missing, evaluation_rows
from pipeline.decode import TooManyBadSamplesError
from pipeline.journal import write_atomically
from pipeline.ledger import Ledger, as_parquet
from pipeline.networks import Network
from pipeline.predict import predict
from pipeline.progress import counted
from pipeline.quarantine import add, described, too_many
from pipeline.source import digest_of

TEMPERATURES = "temperatures.json"


class Predictor:
    """An actor that holds the networks: a piece of images becomes the answers to them, as a parquet file.

    Args:
        networks: reference to {method: Network}.
        kinds: cell key -> (cell, the classes that answers are restricted to, or None).
        temperatures: method -> softmax temperature; methods without one have none.
    """

    def __init__(
        self,
        networks: ray.ObjectRef,
        kinds: Mapping[str, tuple[Cell, NDArray[np.int64] | None]],
        temperatures: Mapping[str, float],
        batch: int,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.networks: dict[str, Network] = ray.get(networks)
        for network in self.networks.values():
            network.model.to(self.device)
        self.kinds, self.temperatures, self.batch = kinds, temperatures, batch

    def __call__(self, pieces: dict[str, NDArray]) -> dict[str, Any]:
        """Predict pieces: one, as a rule. Tells which images could not be read."""
        answers = [
            self.piece(str(key), {name: pieces[name][at] for name in ("sample_id", "label", "valid", "image")})
            for at, key in enumerate(pieces["cell"])
        ]
        unreadable = [ids[~ok] for ids, ok in zip(pieces["sample_id"], pieces["valid"].astype(bool), strict=True)]
        return {
            "cell": pieces["cell"],
            "first": pieces["first"],
            "answers": np.array(answers, object),
            "unreadable": pa.array(unreadable, pa.list_(pa.int64())),
        }

    def piece(self, key: str, rows: dict[str, NDArray]) -> bytes:
        """The answers of all networks to some rows of a cell."""
        cell, classes = self.kinds[key]
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


def evaluate(config: RunConfig, scale: Scale, plan: Plan, networks: Mapping[str, Network], folder: Path) -> Ledger:
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
    kinds = {cell.key: (cell, given.classes) for given in plan.inputs for cell in given.cells}
    placement: dict[str, Any] = {"num_cpus": config.scale.worker_cpus, "num_gpus": 1 if scale.use_gpu else 0}
    if config.scale.use_labels:
        placement["label_selector"] = TRAIN_LABEL
    networks, sources = references
    assert ledger.asked is not None
    batch, piece = ledger.asked["about"]["batch"], ledger.asked["about"]["piece"]
    answers = evaluation_rows(sources, plan, missing, piece, config).map_batches(
        Predictor,
        fn_constructor_args=(networks, kinds, temperatures, batch, max(1, round(config.scale.worker_cpus))),
        batch_size=None,
        compute=ActorPoolStrategy(size=scale.evaluation_actors),
        **placement,
    )
    with closing(rows_of(answers)) as answered:
        for row in counted(answered, "evaluate", pieces):
            quarantine.add(row["cell"], row["unreadable"])
            ledger.put(row["cell"], row["first"], row["answers"])
            left[row["cell"]].discard(row["first"])
            if not left[row["cell"]]:
                ledger.finish(row["cell"])
    unanswered = [key for key, firsts in left.items() if firsts]
    if unanswered:
        raise RuntimeError(f"no answers came for {len(unanswered)} cells, the first {unanswered[0]}")


class UnreadableImages:
    """What could not be read of the images that are scored: left out, listed beside the ledger, and limited."""

    def __init__(self, config: RunConfig, plan: Plan, ledger: Ledger) -> None:
        self.config, self.plan, self.folder = config, plan, ledger.folder
        self.inputs = {cell.key: given for given in plan.inputs for cell in given.cells}
        self.known: dict[int, set[int]] = {}
        for given in plan.inputs:  # what an earlier start has met
            for table in ledger.tables(given.cells[0].key, ["sample_id", "valid"]):
                bad = table.filter(pc.invert(table["valid"]))["sample_id"].to_pylist()
                self.known.setdefault(given.source, set()).update(bad)

    def add(self, key: str, sample_ids: list[int]) -> None:
        """Take note of unreadable images of a cell.

        Raises:
            TooManyBadSamplesError: They are too many; those of this piece have not been answered yet.
        """
        given = self.inputs[key]
        known = self.known.setdefault(given.source, set())
        new = set(sample_ids) - known
        if not new:
            return
        known |= new
        source = self.plan.sources[given.source]
        split = {0: "test"}.get(given.source, "train" if key == "held_out" else key)
        rows = add(self.folder, described(source, new, split, self.config.data, resized=given.resized))
        if len(known) > self.config.data.max_bad_fraction * given.rows:
            mine = [row for row in rows if row["split"] == split]
            raise TooManyBadSamplesError(too_many(mine, len(known), given.rows, self.config.data))


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
