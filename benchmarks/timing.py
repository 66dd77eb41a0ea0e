"""How every benchmark here measures: contenders take turns in one process, and ratios are formed inside a round.

Machines drift by tens of percent; what one round saw of two contenders, it saw within seconds. Rates are items per
second of this thread's CPU time; the wall clock beside it would show work that went to other threads.
"""

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from collect_runs import hardware

from augmix_core import augmix

ROOT = Path(__file__).resolve().parent.parent
TURN_S = 1.0
"""CPU time of one contender in one round, or one call where that takes longer."""
VARIANTS = ("avx512", "avx2", "portable", "reference")
PACKAGES = ("numpy", "pillow", "torch", "torchvision", "timm", "simplejpeg")


@dataclass(frozen=True)
class Contender:
    """`make()` prepares, unmeasured, and returns what is measured: a callable that handles `items` items.

    ImportError or RuntimeError, from either, means that it cannot run here.
    """

    name: str
    make: Callable[[], Callable[[], object]]
    items: int


@dataclass
class Measured:
    """Rates of one contender, one a round; no rates and a reason if it could not run."""

    name: str
    cpu_rates: list[float] = field(default_factory=list)
    wall_rates: list[float] = field(default_factory=list)
    reason: str = ""


def measure(contenders: Sequence[Contender], *, rounds: int) -> list[Measured]:
    """Warm all contenders up, then let them take turns, starting with another one in each round."""
    measured = [Measured(contender.name) for contender in contenders]
    ready = []
    for contender, into in zip(contenders, measured, strict=True):
        try:
            run = contender.make()
            ready.append((run, calls_a_turn(run), contender.items, into))
        except (ImportError, RuntimeError) as error:
            into.reason = " ".join(str(error).split())
    for first in range(rounds):
        for i in range(len(ready)):
            run, calls, items, into = ready[(first + i) % len(ready)]
            cpu_s, wall_s = timed(run, calls)
            into.cpu_rates.append(calls * items / cpu_s)
            into.wall_rates.append(calls * items / wall_s)
    return measured


def calls_a_turn(run: Callable[[], object]) -> int:
    """Warm up, and return how many calls fill a turn."""
    run()
    calls, cpu_s = 1, timed(run, 1)[0]
    while cpu_s < TURN_S / 10:
        calls *= 4
        cpu_s = timed(run, calls)[0]
    return max(1, round(TURN_S * calls / cpu_s))


def timed(run: Callable[[], object], calls: int) -> tuple[float, float]:
    """Seconds of this thread's CPU time, and of the wall clock, that some calls take."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(calls):
        run()
    return max(time.thread_time() - cpu, 1e-9), time.perf_counter() - wall


def table(measured: Sequence[Measured], *, items: str, baseline: str) -> list[str]:
    """Markdown: medians [min..max] over the rounds; the ratio to the baseline is taken in each round."""
    base = next(row for row in measured if row.name == baseline)
    if base.reason:
        raise RuntimeError(f"the baseline {baseline!r} cannot run: {base.reason}")
    lines = [f"| contender | {items} / CPU s | {items} / wall s | × {baseline} |", "|---|---:|---:|---:|"]
    for row in (row for row in measured if not row.reason):
        ratios = [rate / base_rate for rate, base_rate in zip(row.cpu_rates, base.cpu_rates, strict=True)]
        lines.append(f"| {row.name} | {spread(row.cpu_rates)} | {spread(row.wall_rates)} | {spread(ratios)} |")
    return [*lines, "", *(f"- {row.name}: not run, {row.reason}" for row in measured if row.reason), ""]


def spread(values: Sequence[float]) -> str:
    """Median [min..max], to three digits."""
    return f"{short(statistics.median(values))} [{short(min(values))}..{short(max(values))}]"


def short(value: float) -> str:
    """Three digits, or all that are left of the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def header(title: str) -> list[str]:
    """Markdown: what was measured, of which code, on what."""
    libraries = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    return [
        f"# {title}",
        "",
        f"- {datetime.date.today()}, commit {commit()}, {hardware()}",
        f"- Python {platform.python_version()}, {libraries}",
        f"- backends that run here: {', '.join(available_variants())}",
        "- medians [min..max] over the rounds, one thread",
    ]


def version_of(package: str) -> str:
    """The installed version, or a dash."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "—"


def commit() -> str:
    """This checkout's commit, marked where tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"}, capture_output=True, text=True
        ).stdout.strip()

    head = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{head} with changes" if git("status", "--porcelain", "--untracked-files=no") else head


def available_variants() -> list[str]:
    """The backends of augmix() that run here, fastest first."""
    return [name for name in VARIANTS if runs(name)]


def runs(variant: str) -> bool:
    """Whether a backend can augment a tiny image."""
    try:
        augmix(np.zeros((1, 8, 8, 3), np.uint8), [0], backend=variant)
    except RuntimeError:
        return False
    return True
