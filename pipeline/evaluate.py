"""Evaluation: the trained networks of a run, side by side, on clean and corrupted test images.

A Ray Data pipeline: tasks read and corrupt, actors hold the networks and predict. All methods see the same pixels.
What every network answers to every image is kept in `ledger/predictions.parquet`; all scores are counted from it.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from augmix_core import CORRUPTIONS
from augmix_core.metrics import unnormalized_corruption_error
from pipeline.budget import Scale
from pipeline.checkpoint import load_model
from pipeline.config import RunConfig
from pipeline.corrupt import CLEAN, evaluation_rows
from pipeline.journal import write_atomically
from pipeline.predict import predict
from pipeline.train import TRAIN_LABEL

PREDICTIONS = "predictions.parquet"
SCORED = "scored.json"


class Predictor:
    """An actor that holds the networks: adds a column `predicted_<method>` for each."""

    def __init__(self, checkpoints: Mapping[str, str], threads: int) -> None:
        torch.set_num_threads(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = {method: load_model(Path(folder), device) for method, folder in checkpoints.items()}

    def __call__(self, rows: dict[str, NDArray]) -> dict[str, NDArray]:
        """Predict one block."""
        images = torch.tensor(rows.pop("image"))
        for method, (model, data) in self.models.items():
            rows[f"predicted_{method}"] = predict(model, images, data).argmax(dim=1).cpu().numpy()
        return rows


def evaluate(
    config: RunConfig, scale: Scale, source: ray.ObjectRef, samples: int, checkpoints: Mapping[str, Path], ledger: Path
) -> pa.Table:
    """Return the predictions of every method on every cell, from the ledger if these checkpoints were scored before.

    Args:
        samples: how many test images, from the first.
        checkpoints: method -> checkpoint folder.
    """
    asked = {
        "checkpoints": {method: str(folder) for method, folder in checkpoints.items()},
        "evaluate": dataclasses.asdict(config.evaluate),
        "samples": samples,
        "seed": config.seed,
    }
    asked = json.loads(json.dumps(asked))
    if (ledger / SCORED).exists() and json.loads((ledger / SCORED).read_text()) == asked:
        return pq.read_table(ledger / PREDICTIONS)
    placement: dict[str, Any] = {"num_cpus": config.scale.worker_cpus, "num_gpus": 1 if scale.use_gpu else 0}
    if config.scale.use_labels:
        placement["label_selector"] = TRAIN_LABEL
    predictions = evaluation_rows(source, samples, config).map_batches(
        Predictor,
        fn_constructor_args=(asked["checkpoints"], max(1, round(config.scale.worker_cpus))),
        batch_size=config.scale.evaluation_batch_size,
        compute=ActorPoolStrategy(size=scale.evaluation_actors),
        **placement,
    )
    batches = predictions.iter_batches(batch_size=None, batch_format="pyarrow")
    table = pa.concat_tables([pa.table(batch) for batch in batches])
    order = [("corruption", "ascending"), ("severity", "ascending"), ("sample_id", "ascending")]
    table = table.sort_by(order)
    ledger.mkdir(parents=True, exist_ok=True)
    (ledger / SCORED).unlink(missing_ok=True)
    pq.write_table(table, ledger / PREDICTIONS)
    write_atomically(ledger / SCORED, json.dumps(asked, indent=1))
    return table


def scores(predictions: pa.Table, method: str) -> dict[str, Any]:
    """Return clean error, error of each corruption by severity, and uCE of one method, from integer counts.

    `errors` maps corruption -> list by severity; errors are fractions, `uCE` is in percent.
    """
    columns = {name: predictions[name].to_numpy() for name in ("corruption", "severity", "label", "valid")}
    wrong = predictions[f"predicted_{method}"].to_numpy() != columns["label"]

    def error(cell: NDArray[np.bool_]) -> float:
        counted = cell & columns["valid"]
        return int((wrong & counted).sum()) / max(1, int(counted.sum()))

    errors: dict[str, list[float]] = {}
    for index in np.unique(columns["corruption"]).tolist():
        if index == CLEAN:
            continue
        of_this = columns["corruption"] == index
        severities = np.unique(columns["severity"][of_this]).tolist()
        errors[CORRUPTIONS[index]] = [error(of_this & (columns["severity"] == s)) for s in severities]
    return {
        "clean_error": error(columns["corruption"] == CLEAN),
        "uCE": unnormalized_corruption_error(errors),
        "errors": errors,
    }
