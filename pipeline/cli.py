"""One command line for all jobs: `jobs/<data set>.py [stage] [--recipe NAME] [--section.field value]`.

The same command resumes: the run's folder follows from the recipe, the model and what decides the result.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tyro

from augmix_core import backends
from augmix_core.errors import MissingExtraError, did_you_mean, missing_extra
from pipeline.config import (
    DataConfig,
    GenerateConfig,
    PreprocessConfig,
    RunConfig,
    ScoreConfig,
    default_storage,
    index_folder,
    method_config,
    result_fields,
    run_name,
    score_name,
)
from pipeline.decode import TooManyBadSamplesError, reason_unreadable
from pipeline.progress import StoppedError, chatter_into, say
from pipeline.source import Found, Source, find_source, of_same_classes, open_source, summary
from pipeline.storage import StoredPath, StorePath, in_one_line, reason, remove_folder, storage_path, write_atomically

RunStage = Literal["run", "train", "search", "evaluate", "report"]
ScoreStage = Literal["run", "report"]
PreprocessStage = Literal["images", "views", "verify"]
CONFIG, IDENTITY, RAY_LOG = "config.json", "identity.json", "ray.log"
NOT_UPLOADED = [".git/", "benchmarks/results/", "*.so", "*.parquet", "*.npy", "*.pt", "*.safetensors"]
IMAGES_LOOKED_AT = 10
AUTH_TOKEN = Path.home() / ".ray" / "auth_token"
Config = TypeVar("Config")


def main(recipes: Mapping[str, RunConfig], description: str) -> None:
    """A training job: parse, check, connect to Ray, go through the stages. The first recipe is the default."""
    with errors_in_words():
        run(*parse(sys.argv[1:], recipes, description))


def score(recipes: Mapping[str, ScoreConfig], description: str) -> None:
    """A scoring job: the same without training."""
    stages = "run scores and reports; report tells what has been scored so far."
    with errors_in_words():
        run_score(*parse(sys.argv[1:], recipes, description, ScoreStage, stages))


def copy_corrupted(recipes: Mapping[str, GenerateConfig], description: str) -> None:
    """A job that writes a corrupted copy of a data set."""
    with errors_in_words():
        _, _, config = parse(sys.argv[1:], recipes, description, Literal["run"], "There is one stage.")
        run_generate(config)


def preprocess(recipes: Mapping[str, PreprocessConfig], description: str) -> None:
    """A job that writes shards, or verifies them."""
    stages = (
        "images decodes a data set; views augments some epochs of a training; verify checks what they have written."
    )
    with errors_in_words():
        stage, _, config = parse(sys.argv[1:], recipes, description, PreprocessStage, stages)
        run_preprocess(stage, config)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Wrong input ends in one line on stderr and exit code 2, a failed run in one line and exit code 1."""
    try:
        yield
    except (ValueError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in `--help | head`: nobody reads on, not even what Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a store that does not answer before the run has begun
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def parse(
    arguments: Sequence[str],
    recipes: Mapping[str, Config],
    description: str,
    stages: Any = RunStage,
    about_stages: str = "run goes through train, search, evaluate and report; any of them can be run alone.",
) -> tuple[str, str, Config]:
    """Return (stage, recipe name, configuration); tyro ends the program for --help and for unknown flags."""
    chosen = recipe_of(arguments, recipes)
    names = tuple(recipes)
    kind: Any = type(recipes[chosen])
    first = get_args(stages)[0]

    @dataclass(frozen=True)
    class Command:
        stage: Annotated[tyro.conf.Positional[stages], tyro.conf.arg(help=about_stages)] = first  # type: ignore[valid-type]
        recipe: Literal[names] = chosen  # type: ignore[valid-type]
        """Named starting point; every flag below changes one value of it."""
        config: Annotated[kind, tyro.conf.arg(name="")] = recipes[chosen]  # type: ignore[valid-type]

    command = tyro.cli(Command, args=list(arguments), description=description)
    return command.stage, command.recipe, command.config


def recipe_of(arguments: Sequence[str], recipes: Mapping[str, Any]) -> str:
    """The recipe that the arguments name, needed first because it holds the defaults of all other flags."""
    for n, argument in enumerate(arguments):
        if argument == "--recipe" or argument.startswith("--recipe="):
            name = argument.partition("=")[2] or (arguments[n + 1] if n + 1 < len(arguments) else "")
            if name not in recipes:
                raise ValueError(f"recipe {name!r} is unknown; {did_you_mean(name, recipes)}")
            return name
    return next(iter(recipes))


def run(stage: str, recipe: str, config: RunConfig) -> None:
    """Open the images, connect to Ray, and go through a stage or through all of them."""
    check_packages()
    check_kernels()
    from augmix_core.models import check_model_name  # loads torch, so not at the top

    check_model_name(config.model.name)
    found = {"train": find_source(config.data, train=True), "test": find_source(config.data, train=False)}
    from pipeline.augment import check_stored_views
    from pipeline.cells import plan_evaluation
    from pipeline.networks import starting_network
    from pipeline.stages import Run, final_split, first_line

    folder = storage_path(config.storage) / run_name(config, recipe)
    with working_in(folder):
        say(first_line(folder, config))
        with connected():
            train_source, test_source = opened(found, index_folder(config.storage))
            check_readable(train_source, config.data)
            split, held_out = final_split(config, train_source)
            if config.data.views:
                for method in config.methods:
                    check_stored_views(method_config(config, method), split, train_source)
            plan = plan_evaluation(
                config.data, config.evaluate, test_source, (train_source, held_out) if config.train.hold_out else None
            )
            data = [train_source.digest, test_source.digest]
            fields = result_fields(config) | {"order": split.order}
            identity = {"recipe": recipe, "fields": fields, "data": data}
            check_same_run(folder, identity)
            if config.model.weights:
                say(starting_network(config.model, config.data, len(train_source.class_names))[1])
            whole = Run(folder, config, train_source, test_source, plan)
            save_config(folder, config, identity)
            getattr(whole, stage)()


def opened(found: Mapping[str, Found], indexes: Path | None) -> tuple[Source, Source]:
    """The training and the test images, which must be of the same classes; says what they are."""
    train = found["train"].open(indexes)
    test = of_same_classes(train, found["test"].open(indexes))
    for split, source in (("train", train), ("test", test)):
        say(summary(split, found[split], source))
    return train, test


def run_score(stage: str, recipe: str, config: ScoreConfig) -> None:
    """Open the network and what it is scored on, connect to Ray, score and report."""
    check_packages()
    check_kernels()
    from pipeline.score import Score

    folder = storage_path(config.storage) / score_name(config, recipe)
    whole = Score(folder, config)
    if stage == "report" and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} does not exist; nothing has been scored under this name")
    with working_in(folder):
        if stage == "report":
            whole.report()
            return
        save_config(folder, whole.config)
        with connected(dashboard=False):
            whole.run()


def run_generate(config: GenerateConfig) -> None:
    """Open the images, connect to Ray and write."""
    check_packages()
    check_kernels()
    if not config.output:
        raise ValueError("output is ''; give the folder of the copy: --output /absolute/folder")
    source = open_source(config.data, train=config.split == "train")
    check_readable(source, config.data)
    from pipeline import generate

    generate.begin(config, source)
    with working_in(Path(config.output)), connected(dashboard=False):
        generate.generate(config, source)


def run_preprocess(stage: str, config: PreprocessConfig) -> None:
    """Open the images, connect to Ray and write shards; or check those that are there."""
    check_packages()
    check_kernels()
    if not config.output:
        raise ValueError("output is ''; give the folder of the shards: --output /absolute/folder")
    from pipeline import preprocess

    logs = storage_path(default_storage()) / "preprocess"
    if stage == "verify":
        with working_in(logs), connected(dashboard=False):
            preprocess.verify(config)
        return
    works = preprocess.plan_works(stage, config)
    for work in works:
        check_readable(work.source, config.data)
        preprocess.begin(work)
    with working_in(logs), connected(dashboard=False):
        for work in works:
            preprocess.write(work)


@contextmanager
def working_in(folder: StoredPath) -> Iterator[None]:
    """Make the run's folder; what others print goes into its log, and so does the traceback of a failure.

    Wrong input that is found before anything was written leaves no folder behind.
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"storage {str(folder.parent)!r} cannot be written ({reason(error)}); set --storage or $AUGMIX_STORAGE"
        ) from error
    try:
        with log_of(folder) as log:
            try:
                with chatter_into(log):
                    yield
            except Exception as error:
                with log.open("a") as lines:
                    traceback.print_exception(error, file=lines)
                raise
    except Exception as error:
        if isinstance(error, (ValueError, MissingExtraError)):
            if is_new and {path.name for path in folder.iterdir()} <= {RAY_LOG}:
                remove_folder(folder)
            raise
        if isinstance(error, StoppedError):
            print(f"stopped {error}; the same command goes on from there", file=sys.stderr)
            sys.exit(128 + error.signal_number)
        if isinstance(error, TooManyBadSamplesError):
            print(f"stopped: {error}; the whole list is {folder / 'quarantine.parquet'}", file=sys.stderr)
            sys.exit(1)
        told = f"failed: {root_cause(error)}; details in {folder / RAY_LOG}; the same command goes on from here"
        print(told, file=sys.stderr)
        sys.exit(1)


@contextmanager
def log_of(folder: StoredPath) -> Iterator[Path]:
    """Where a run's log is written: in its folder, or, where that is in an object store, here until the block ends."""
    kept = folder / RAY_LOG
    if not isinstance(kept, StorePath):
        yield kept
        return
    with tempfile.TemporaryDirectory() as here:
        log = Path(here) / RAY_LOG
        log.write_bytes(kept.read_bytes() if kept.exists() else b"")
        try:
            yield log
        finally:
            with suppress(OSError):  # a store that has gone is what the run has ended with
                kept.write_bytes(log.read_bytes())


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


def check_readable(source: Source, config: DataConfig) -> None:
    """Refuse a data set of which not one of the first images can be used, as with a wrong data.image_size."""
    looked_at = range(min(IMAGES_LOOKED_AT, len(source)))
    try:
        reasons = [reason_unreadable(source, sample_id, config) for sample_id in looked_at]
    except OSError as error:
        raise ValueError(str(error)) from error
    if all(reasons):
        raise ValueError(f"none of the first {len(reasons)} images can be used; {source.describe(0)}: {reasons[0]}")


def check_same_run(folder: StoredPath, identity: dict[str, Any]) -> None:
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


def save_config(folder: StoredPath, config: RunConfig | ScoreConfig, identity: Mapping[str, Any] | None = None) -> None:
    """Write config.json, as it is now, and what a run must keep to be the same run."""
    write_atomically(folder / CONFIG, json.dumps(dataclasses.asdict(config), indent=1))
    if identity:
        write_atomically(folder / IDENTITY, json.dumps(identity, indent=1))


@contextmanager
def connected(*, dashboard: bool = True) -> Iterator[None]:
    """Connect to the cluster this command belongs to, or start Ray on this machine for as long as the block runs.

    Args:
        dashboard: Tune needs one; without it a Ray of its own starts and works faster.
    """
    import ray

    fresh_token = not AUTH_TOKEN.exists()
    root = Path(__file__).resolve().parents[1]
    sent_by_job = "working_dir" in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    upload = not sent_by_job and (root / "pyproject.toml").exists()
    try:
        ray.init(
            runtime_env={"working_dir": str(root), "excludes": NOT_UPLOADED} if upload else {},
            log_to_driver=False,
            include_dashboard=dashboard,
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
