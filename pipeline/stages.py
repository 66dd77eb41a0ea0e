"""The stages of a run, in order: search, train, evaluate, report. Each finds what the earlier ones have left."""

import dataclasses
import json

import ray

from pipeline import checkpoint
from pipeline.budget import Scale, check_storage, resolve_scale
from pipeline.cells import Plan
from pipeline.config import RunConfig, method_config
from pipeline.evaluate import evaluate
from pipeline.job import CLEAN, Job, search_cells
from pipeline.journal import forget_after
from pipeline.methods import MethodName
from pipeline.networks import Network, from_checkpoint
from pipeline.order import Split, classes_of_a_batch, split_train, training_splits
from pipeline.progress import followed, say
from pipeline.quarantine import collecting
from pipeline.report import write_report
from pipeline.search import BEST, search, trial_scale, with_setting
from pipeline.source import Source
from pipeline.storage import StoredPath
from pipeline.telemetry import metered
from pipeline.train import fit


class Run:
    """One run: its folder, configuration, images, and the cluster that Ray is connected to.

    Raises:
        ValueError: The cluster cannot hold the run, or does not share its storage.
    """

    def __init__(
        self, folder: StoredPath, config: RunConfig, train_source: Source, test_source: Source, plan: Plan
    ) -> None:
        self.folder, self.config, self.plan = folder, config, plan
        self.train_source, self.test_source = train_source, test_source
        self.scale: Scale = resolve_scale(config)
        check_storage(config.storage)
        warn_of_sorted_shards(config, train_source)
        self.train_ref, self.test_ref = ray.put(train_source), ray.put(test_source)

    @property
    def test_samples(self) -> int:
        """Test images that take part."""
        return self.config.data.tested(len(self.test_source))

    def run(self) -> None:
        """All stages."""
        if self.config.search.trials and "augmix" in self.config.methods:
            self.search()
        self.train()
        self.evaluate()
        self.report()

    def search(self) -> None:
        """Choose width, depth and JSD weight on training images held out."""
        knobs = self.config.search
        if not knobs.trials:
            raise ValueError("search.trials is 0; set how many settings to try")
        with collecting(self.folder):
            best = search(self.trial_job(), self.folder / "search", say)
        say(f"search: chose {json.dumps(best)}")

    def trial_job(self) -> Job:
        """What a trial trains: the training images without the held-out split, judged on that split."""
        config, knobs = self.config, self.config.search
        train = dataclasses.replace(config.train, epochs=knobs.epochs, max_steps=0)
        scale = dataclasses.replace(config.scale, validation_cpus=0.0, validation_gpus=0.0)
        config = dataclasses.replace(method_config(config, "augmix"), train=train, scale=scale)
        source = self.train_source
        split, held_out = training_splits(len(source), source.shard_rows, config.data, seed=config.seed, hold_out=True)
        return Job(
            config=config,
            scale=trial_scale(self.scale),
            folder=self.folder / "search",
            source=self.train_ref,
            split=split,
            validation_source=self.train_ref,
            validation_split=held_out,
            validation_cells=search_cells(knobs.severities),
            num_classes=len(self.train_source.class_names),
            label="search",
        )

    def method_job(self, method: MethodName) -> Job:
        """What the final training of a method trains: all training images; the test images only draw its curve."""
        config = self.config
        split, _ = final_split(config, self.train_source)
        tests, _ = split_train(len(self.test_source), seed=0, limit=self.test_samples)
        return Job(
            config=method_config(self.chosen(), method),
            scale=self.scale,
            folder=self.folder / "train" / method,
            source=self.train_ref,
            split=split,
            validation_source=self.test_ref,
            validation_split=tests,
            validation_cells=(CLEAN,),
            num_classes=len(self.train_source.class_names),
            label=method,
        )

    def chosen(self) -> RunConfig:
        """The configuration with what the search has chosen, if it has run."""
        path = self.folder / "search" / BEST
        if not path.exists():
            return self.config
        best = json.loads(path.read_text())["best"]
        return with_setting(self.config, best["augmix.width"], best["augmix.depth"], best["train.jsd_weight"])

    def train(self) -> None:
        """Train every method to the end, each from its last checkpoint."""
        for method in self.config.methods:
            job = self.method_job(method)
            last = checkpoint.last_checkpoint(job.folder)
            first_step = checkpoint.read_meta(last).step if last else 0
            if first_step >= job.steps:
                say(f"{method}: already trained ({last})")
                continue
            forget_after(job.folder, first_step)  # or they would be shown as new
            with (
                collecting(self.folder),
                metered(job.folder),
                followed(method, job.folder, epochs=self.config.train.epochs, first_step=first_step),
            ):
                fit(job)

    def evaluate(self) -> None:
        """Score the last checkpoint of every method on clean and corrupted test images."""
        networks: dict[str, Network] = {}
        for method in self.config.methods:
            last = checkpoint.last_checkpoint(self.folder / "train" / method)
            if last is None:
                raise ValueError(
                    f"method {method!r} of {str(self.folder)!r} has no checkpoint yet; run the train stage first"
                )
            networks[method], _ = from_checkpoint(last)
        say(f"evaluate: {self.test_samples} images x {len(self.plan.cells)} cells")
        with collecting(self.folder):
            evaluate(self.config, self.scale, self.plan, networks, self.folder / "ledger")

    def report(self) -> None:
        """Write the report and print its tables."""
        table = write_report(self.folder, self.chosen(), training=self.train_source)
        say(f"\n{table}\n\nreport: {self.folder / 'report.html'}")


def final_split(config: RunConfig, source: Source) -> tuple[Split, Split]:
    """(what the final training sees, what it leaves out)."""
    hold_out = config.train.hold_out
    return training_splits(len(source), source.shard_rows, config.data, seed=config.seed, hold_out=hold_out)


def warn_of_sorted_shards(config: RunConfig, source: Source) -> None:
    """Say it where shards hold few classes each, so that batches do: batch norm and SGD suffer."""
    if source.shard_rows is None:
        return
    split, _ = final_split(config, source)
    batch = config.train.global_batch_size
    ours, random = classes_of_a_batch(split, source.labels, batch, seed=config.seed)
    if 2 * ours < random:
        say(
            f"warning: a batch has {ours} classes, of images in any order it would have {random}: shards are sorted by "
            f"class; raise --data.shuffle-window {config.data.shuffle_window}, or write them in a random order"
        )


def first_line(folder: StoredPath, config: RunConfig) -> str:
    """Return what the command is about to do: a new run, or from where it resumes."""
    if not (folder / "config.json").exists():
        return f"new run in {folder}"
    begun = [last for method in config.methods if (last := checkpoint.last_checkpoint(folder / "train" / method))]
    if not begun:
        return f"resuming {folder}"
    meta = checkpoint.read_meta(begun[-1])
    if meta.epoch >= config.train.epochs:
        return f"resuming {folder} after the training of {begun[-1].parent.name}"
    return f"resuming epoch {meta.epoch + 1}/{config.train.epochs} from {begun[-1]}"
