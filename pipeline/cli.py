"""One command line for all jobs: `jobs/<data set>.py [stage] [--recipe NAME] [--section.field value]`.

The same command resumes: the run's folder follows from the recipe, the model and what decides the result.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from augmix_core import backends
from augmix_core.errors import MissingExtraError, did_you_mean, missing_extra
from pipeline.config import RunConfig, result_fields, run_name
from pipeline.decode import reason_unreadable
from pipeline.progress import chatter_into, say
from pipeline.source import Source, open_source

Stage = Literal["run", "train", "search", "evaluate", "report"]
CONFIG, IDENTITY, RAY_LOG = "config.json", "identity.json", "ray.log"
NOT_UPLOADED = [".git/", "benchmarks/results/", "*.so", "*.parquet", "*.npy", "*.pt", "*.safetensors"]
IMAGES_LOOKED_AT = 10
AUTH_TOKEN = Path.home() / ".ray" / "auth_token"


def main(recipes: Mapping[str, RunConfig], description: str) -> None:
    """Run a job: parse, check, connect to Ray, go through the stages. The first recipe is the default.

    Wrong input ends in one line on stderr and exit code 2, a failed run in one line and exit code 1.
    """
    try:
        stage, recipe, config = parse(sys.argv[1:], recipes, description)
        run(stage, recipe, config)
    except (ValueError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def parse(arguments: Sequence[str], recipes: Mapping[str, RunConfig], description: str) -> tuple[Stage, str, RunConfig]:
    """Return (stage, recipe name, configuration); tyro ends the program for --help and for unknown flags."""
    chosen = recipe_of(arguments, recipes)
    names = tuple(recipes)

    @dataclass(frozen=True)
    class Command:
        stage: tyro.conf.Positional[Stage] = "run"
        """run goes through train, search, evaluate and report; any of them can be run alone."""
        recipe: Literal[names] = chosen  # type: ignore[valid-type]
        """Named starting point; every flag below changes one value of it."""
        config: Annotated[RunConfig, tyro.conf.arg(name="")] = recipes[chosen]

    command = tyro.cli(Command, args=list(arguments), description=description)
    return command.stage, command.recipe, command.config


def recipe_of(arguments: Sequence[str], recipes: Mapping[str, RunConfig]) -> str:
    """The recipe that the arguments name, needed first because it holds the defaults of all other flags."""
    for n, argument in enumerate(arguments):
        if argument == "--recipe" or argument.startswith("--recipe="):
            name = argument.partition("=")[2] or (arguments[n + 1] if n + 1 < len(arguments) else "")
            if name not in recipes:
                raise ValueError(f"recipe {name!r} is unknown; {did_you_mean(name, recipes)}")
            return name
    return next(iter(recipes))


def run(stage: Stage, recipe: str, config: RunConfig) -> None:
    """Open the images, connect to Ray, and go through a stage or through all of them."""
    check_packages()
    check_kernels()
    from augmix_core.models import check_model_name  # loads torch, so not at the top

    check_model_name(config.model.name)
    train_source, test_source = open_source(config.data, train=True), open_source(config.data, train=False)
    if train_source.class_names != test_source.class_names:
        raise ValueError(
            f"training and test images have {len(train_source.class_names)} and {len(test_source.class_names)} "
            "classes, or others; they must agree"
        )
    check_readable(train_source, config)
    folder = Path(config.storage) / run_name(config, recipe)
    identity = {"recipe": recipe, "fields": result_fields(config), "data": [train_source.digest, test_source.digest]}
    check_same_run(folder, identity)

    from pipeline.stages import Run, first_line

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with chatter_into(folder / RAY_LOG):
            say(first_line(folder, config))
            with connected():
                whole = Run(folder, config, train_source, test_source)
                save_config(folder, config, identity)
                getattr(whole, stage)()
    except Exception as error:
        with (folder / RAY_LOG).open("a") as log:
            traceback.print_exception(error, file=log)
        if isinstance(error, (ValueError, MissingExtraError)):
            raise
        told = f"failed: {root_cause(error)}; details in {folder / RAY_LOG}; the same command resumes"
        print(told, file=sys.stderr)
        sys.exit(1)


def check_kernels() -> None:
    """Say here, and not in a worker's log, that a wrong backend is asked for or that kernels are missing."""
    try:
        backends.variant_of("auto")
    except RuntimeError as error:
        raise ValueError(f"AUGMIX_BACKEND: {error}") from error


def check_packages() -> None:
    """Refuse to start without the packages of the [ray] extra, naming it."""
    for package in ("ray", "torch", "torchvision", "safetensors", "scipy", "matplotlib", "jinja2", "tqdm"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "ray")


def check_readable(source: Source, config: RunConfig) -> None:
    """Refuse a data set of which not one of the first images can be used, as with a wrong data.image_size."""
    looked_at = range(min(IMAGES_LOOKED_AT, len(source)))
    reasons = [reason_unreadable(source, sample_id, config.data) for sample_id in looked_at]
    if all(reasons):
        raise ValueError(f"none of the first {len(reasons)} images can be used; {source.describe(0)}: {reasons[0]}")


def check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds a run of another configuration or of other images, and say what differs.

    Raises:
        ValueError: With the differences and the two ways out.
    """
    path = folder / IDENTITY
    if not path.exists():
        return
    known = json.loads(path.read_text())
    if known["data"] != identity["data"]:
        raise ValueError(
            f"run {str(folder)!r} was made with other images than data.path has now; "
            "restore them, or give another --name"
        )
    old, new = known["fields"], identity["fields"]
    changed = [
        f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    if changed:
        raise ValueError(
            f"run {str(folder)!r} was made with another configuration ({'; '.join(changed)}); "
            "give the old values to resume it, or another --name for a new run"
        )


def save_config(folder: Path, config: RunConfig, identity: dict[str, Any]) -> None:
    """Write config.json, as it is now, and what the run must keep to be the same run."""
    from pipeline.journal import write_atomically  # loads torch, so not at the top

    write_atomically(folder / CONFIG, json.dumps(dataclasses.asdict(config), indent=1))
    write_atomically(folder / IDENTITY, json.dumps(identity, indent=1))


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster this command belongs to, or start Ray on this machine for as long as the block runs."""
    import ray

    fresh_token = not AUTH_TOKEN.exists()
    root = Path(__file__).resolve().parents[1]
    sent_by_job = "working_dir" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    upload = not sent_by_job and (root / "pyproject.toml").exists()
    try:
        ray.init(
            runtime_env={"working_dir": str(root), "excludes": NOT_UPLOADED} if upload else {},
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"cannot connect to Ray: {error}") from error
    if fresh_token and AUTH_TOKEN.exists():
        AUTH_TOKEN.chmod(0o600)  # Ray leaves it readable to everyone
    try:
        yield
    finally:
        ray.shutdown()


def root_cause(error: BaseException) -> str:
    """The innermost error that Ray has wrapped, in one line."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
