"""Scoring a network without training it: what `jobs/evaluate.py` does.

The folder of the scores is laid out as a run's: config.json, ledger/, metrics.json, report.html.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.budget import check_storage, evaluation_scale
from pipeline.cells import Plan, plan_evaluation
from pipeline.checkpoint import trained_on
from pipeline.config import ScoreConfig, index_folder, require
from pipeline.evaluate import evaluate
from pipeline.networks import Network, find_checkpoint, from_checkpoint, open_network
from pipeline.order import Split, split_train
from pipeline.progress import say
from pipeline.quarantine import collecting
from pipeline.report import write_report
from pipeline.source import Source, find_source, open_source, summary
from pipeline.storage import StoredPath, storage_path


class Score:
    """A network and everything it is scored on, opened and checked.

    Raises:
        ValueError: The network or something that it is to be scored on is missing or does not fit.
    """

    def __init__(self, folder: StoredPath, config: ScoreConfig) -> None:
        require(bool(config.model), "model", config.model, "name the network to score, such as --model resnet50")
        self.folder = folder
        is_uri = "://" in config.model
        found = find_checkpoint(storage_path(config.model, "model") if is_uri else Path(config.model).expanduser())
        require(bool(found) or not is_uri, "model", config.model, "there is no checkpoint; give the URI of one")
        held_out: dict[str, Any] | None = None
        if found:
            self.network, meta = from_checkpoint(found)
            held_out = meta.held_out
            here = {name: getattr(config.data, name) for name in ("path", "download", "reindex", "test_limit")}
            config = dataclasses.replace(config, data=dataclasses.replace(trained_on(meta), **here))
        self.config = config
        found_test = find_source(config.data, train=False)
        self.test = found_test.open(index_folder(config.storage))
        self.about = summary("test", found_test, self.test)
        classes = len(self.test.class_names)
        if not found:
            self.network = open_network(config.model, config.weights, config.data, classes)
        self.network.check_classes(classes, config.data.image_size)
        self.plan = plan_evaluation(config.data, config.evaluate, self.test, self.left_out(held_out))

    def left_out(self, held_out: dict[str, Any] | None) -> tuple[Source, Split] | None:
        """The training images that the network has not seen, where it left some out and they are here."""
        if not held_out:
            return None
        try:
            source = open_source(self.config.data, train=True, index_folder=index_folder(self.config.storage))
        except ValueError:
            return None
        _, split = split_train(len(source), **held_out)
        return source, split

    def run(self) -> None:
        """Score and report."""
        run = self.config.as_run()
        check_storage(run.storage)
        say(f"{self.network.origin}: {rows_of(self.plan)}")
        say(self.about)
        with collecting(self.folder):
            evaluate(run, evaluation_scale(run), self.plan, self.networks(), self.folder / "ledger")
        self.report()

    def report(self) -> None:
        """Report what has been scored so far."""
        tables = write_report(self.folder, self.config.as_run(), test=self.test)
        say(f"\n{tables}\n\nreport: {self.folder / 'report.html'}")

    def networks(self) -> dict[str, Network]:
        """The network under the name it has in the report."""
        return {"network": self.network}


def rows_of(plan: Plan) -> str:
    """How much there is to score, for people."""
    rows = sum(given.rows * len(given.cells) for given in plan.inputs)
    return f"{rows:,} images or sequences in {len(plan.cells)} cells"
