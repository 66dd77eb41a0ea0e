"""Search: Ray Tune over width, depth and JSD weight, with the very `fit` that trains the final networks.

A trial trains on the training images without the held-out split and is judged by its error on that split under the
extra corruptions, of which none is a test corruption: the search cannot peek at what the score is made of.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from pipeline.budget import TRIAL_CPUS, Scale
from pipeline.config import RunConfig, SearchConfig
from pipeline.decode import TooManyBadSamplesError
from pipeline.job import Job
from pipeline.storage import StoredPath, for_ray, write_atomically
from pipeline.train import fit

OBJECTIVE = "validation/error"
HALVING = 2
BEST = "best.json"


class OneLineATrial(tune.Callback):
    """Tells a person how the search gets on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.done = say, 0

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        """One line when a trial ends."""
        error = (trial.last_result or {}).get(OBJECTIVE)
        self.done += 1
        shown = "no result" if error is None else f"held-out error {100 * error:.1f} %"
        self.say(f"search: trial {self.done} {json.dumps(trial.config)} -> {shown}")


def search(job: Job, folder: StoredPath, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the best setting as {"augmix.width": .., "augmix.depth": .., "train.jsd_weight": ..}, from disk if done.

    Args:
        job: what a trial trains; its folder is ignored, its validation decides.
        folder: of the search, inside the run.
    """
    if (folder / BEST).exists():
        return json.loads((folder / BEST).read_text())["best"]
    config = job.config
    knobs = config.search
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job, folder=folder), {"CPU": TRIAL_CPUS})
    begun, files = for_ray(folder / "tune")
    if tune.Tuner.can_restore(begun, storage_filesystem=files):
        tuner = tune.Tuner.restore(begun, trainable=trainable, resume_errored=True, storage_filesystem=files)
    else:
        own = {"width": config.augmix.width, "depth": config.augmix.depth, "jsd_weight": config.train.jsd_weight}
        tuner = tune.Tuner(
            trainable,
            param_space={
                "width": tune.choice(list(knobs.widths)),
                "depth": tune.choice(list(knobs.depths)),
                "jsd_weight": tune.choice(list(knobs.jsd_weights)),
            },
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode="min",
                num_samples=knobs.trials,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[own],
                    max_concurrent=min(knobs.max_concurrent, knobs.trials),
                    random_state=config.seed % 2**32,
                ),
                scheduler=scheduler(knobs),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=for_ray(folder)[0],
                storage_filesystem=files,
                verbose=0,
                callbacks=[OneLineATrial(say)],
            ),
        )
    results = tuner.fit()
    for error in results.errors:
        if isinstance(error, TooManyBadSamplesError):
            raise TooManyBadSamplesError(str(getattr(error, "cause", error)))
    finished = [result for result in results if result.metrics and OBJECTIVE in result.metrics]
    if not finished:
        raise RuntimeError(
            f"no trial of the search finished; the first error: {results.errors[0] if results.errors else 'none'}"
        )
    trials = [
        {**(result.config or {}), "epoch": result.metrics["epoch"], "error": result.metrics[OBJECTIVE]}
        for result in finished
    ]
    best = min(trials, key=lambda trial: trial["error"])
    chosen = {"augmix.width": best["width"], "augmix.depth": best["depth"], "train.jsd_weight": best["jsd_weight"]}
    write_atomically(folder / BEST, json.dumps({"best": chosen, "trials": trials}, indent=1))
    return chosen


def scheduler(knobs: SearchConfig) -> FIFOScheduler | ASHAScheduler:
    """Successive halving, or none where no trial may be stopped; a trial that reaches the last epoch ends by itself."""
    if knobs.grace_epochs == knobs.epochs:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch", max_t=knobs.epochs + 1, grace_period=knobs.grace_epochs, reduction_factor=HALVING
    )


def run_trial(params: dict[str, Any], *, job: Job, folder: StoredPath) -> None:
    """One trial: `fit` with the drawn values, reporting to Tune."""
    name = f"trial-{tune.get_context().get_trial_id()}"
    trial = dataclasses.replace(
        job,
        config=with_setting(job.config, params["width"], params["depth"], params["jsd_weight"]),
        folder=folder / "trials" / name,
    )
    fit(trial, callbacks=[TuneReportCallback()])


def with_setting(config: RunConfig, width: int, depth: int, jsd_weight: float) -> RunConfig:
    """The configuration with the three values that the search chooses."""
    return dataclasses.replace(
        config,
        augmix=dataclasses.replace(config.augmix, width=width, depth=depth),
        train=dataclasses.replace(config.train, jsd_weight=jsd_weight),
    )


def trial_scale(scale: Scale) -> Scale:
    """One worker a trial: trials run side by side instead."""
    return dataclasses.replace(scale, num_workers=1)
