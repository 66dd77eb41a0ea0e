#!/usr/bin/env python
"""Kill a training at random moments, and compare its final weights with those of one that nobody disturbed.

    benchmarks/kill_training.py                          20 runs, each with one SIGKILL
    benchmarks/kill_training.py --runs 3 --seed 7        other moments
    benchmarks/kill_training.py --writes 20 --runs 0     one training, killed in 20 writes of checkpoints

Every run trains the same small network on two CPU workers through `jobs/digits.py`. By turns the victim is a training
worker, a data worker, and the driver; the job goes on by itself or, without its driver, by the same command again. The
moment is drawn from the seed, uniformly over the steps; for a data worker, as these have little to do here and are soon
done, over the first half second of their work. Of a write the victims are both training workers,
within milliseconds of its beginning. Exit status 1: some weights differ.
"""

import argparse
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_evaluate import tree
from timing import header

from pipeline import checkpoint

JOB = Path(__file__).resolve().parent.parent / "jobs" / "digits.py"
EPOCHS, BATCH, SAMPLES = 4, 32, 480
STEPS = EPOCHS * SAMPLES // BATCH
VICTIMS = ("training worker", "data worker", "driver")
DATA_WORK_S = 0.5
"""In which a data worker is hit."""
SECONDS_AT_MOST = 600
WRITE_S = 0.02
"""Within which a write is hit."""
DIFFERENT = "DIFFERENT"


@dataclass(frozen=True)
class Outcome:
    """What a kill has led to."""

    step: int
    """Steps that had been taken when it came."""
    resumed: str
    """The line in which a job says where it goes on, or "" where it had no need to."""
    weights: str
    """SHA-256 of the final weights."""
    losses: list[float]
    """Of every epoch, each of which has one line."""


def main() -> None:
    """Parse, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--writes", type=int, default=0, help="kills in writes of checkpoints, all in one training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        finish(start(storage / "undisturbed"))
        undisturbed = Outcome(STEPS, "", *result_of(storage / "undisturbed"))
        print("\n".join(header("Trainings that are killed")[:4]))
        print(f"\n{EPOCHS} epochs of {SAMPLES} digits in {STEPS} steps, seed {arguments.seed}.")
        good = True
        if arguments.runs:
            print("\n| run | killed | after step | weights | epochs' losses | goes on |\n|---:|---|---:|---|---|---|")
        for number in range(arguments.runs):
            victim = VICTIMS[number % len(VICTIMS)]
            outcome = killed(storage / str(number), victim, moments)
            told = compared(outcome, undisturbed)
            good &= DIFFERENT not in told
            print(f"| {number + 1} | {victim} | {outcome.step} | {told} | {outcome.resumed} |", flush=True)
        if arguments.writes:
            incomplete, outcome = killed_in_writes(storage / "writes", arguments.writes, moments)
            told = compared(outcome, undisturbed)
            good &= DIFFERENT not in told
            print(
                f"\n{arguments.writes} kills within {WRITE_S * 1000:g} ms after the beginning of a checkpoint's write, "
                f"{incomplete} of which left an incomplete one; weights | losses at the end: {told}"
            )
        print("\nAs if nothing had happened." if good else f"\nSome are {DIFFERENT}.")
    sys.exit(not good)


def compared(outcome: Outcome, undisturbed: Outcome) -> str:
    """Two columns: weights and losses."""
    same = outcome.weights == undisturbed.weights, outcome.losses == undisturbed.losses
    return " | ".join("equal" if each else DIFFERENT for each in same)


def start(storage: Path, *more: str) -> subprocess.Popen[str]:
    """The job, with storage of its own."""
    command = [JOB, "train", "--methods", "augmix", "--name", "run", "--data.train-limit", str(SAMPLES)]
    command += ["--train.epochs", str(EPOCHS), "--train.global-batch-size", str(BATCH)]
    command += ["--train.checkpoint-steps", "4", "--data.test-limit", "64", "--scale.num-workers", "2", *more]
    environment = os.environ | {"AUGMIX_STORAGE": str(storage), "RAY_ADDRESS": "local"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the job's end, which must be a good one, and return what it has said."""
    said, _ = process.communicate(timeout=SECONDS_AT_MOST)
    if process.returncode:
        raise RuntimeError(f"the job ended with {process.returncode}: {said}")
    return said


def killed(storage: Path, victim: str, moments: random.Random) -> Outcome:
    """Train with one kill, at a moment at which the victim is at work.

    Raises:
        RuntimeError: The training ended before.
    """
    process = start(storage)
    after, wait = moments.randrange(STEPS - 8), 0.0
    if victim == "data worker":
        after, wait = -1, moments.uniform(0, DATA_WORK_S)
    due = math.inf
    while time.monotonic() < due:
        if process.poll() is not None:
            raise RuntimeError(f"no {victim} was at work after step {after}: {process.communicate()[0]}")
        if due == math.inf and step_of(storage) >= after and pids_of(victim, process.pid):
            due = time.monotonic() + wait
        time.sleep(0.005)
    while not (found := pids_of(victim, process.pid)):
        if process.poll() is not None:
            raise RuntimeError(f"no {victim} was at work any more: {process.communicate()[0]}")
        time.sleep(0.001)
    step = max(0, step_of(storage))
    os.kill(found[0], signal.SIGKILL)
    if victim == "driver":
        process.communicate()
        process = start(storage)
    resumed = next((line for line in finish(process).splitlines() if "resuming" in line), "")
    return Outcome(step, resumed.replace(str(storage), ""), *result_of(storage))


def killed_in_writes(storage: Path, kills: int, moments: random.Random) -> tuple[int, Outcome]:
    """Train with so many kills in writes; returns how many left an incomplete checkpoint, and what came of it all.

    Raises:
        RuntimeError: The training ended before.
    """
    process = start(storage, "--train.checkpoint-steps", "1", "--scale.max-failures", str(kills))
    known: set[str] = set()
    incomplete = 0
    for _ in range(kills):
        while not (new := {path.name for path in folder_in(storage).glob("step_*")} - known):
            if process.poll() is not None:
                raise RuntimeError(f"the training ended before all kills: {process.communicate()[0]}")
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, WRITE_S))
        for pid in pids_of("training worker", process.pid):
            os.kill(pid, signal.SIGKILL)
        known |= new
        (hit,) = new
        try:
            checkpoint.check(folder_in(storage) / hit)
        except checkpoint.DamagedCheckpointError:
            incomplete += 1
            known.discard(hit)  # its step comes again
            while (folder_in(storage) / hit).exists() and process.poll() is None:
                time.sleep(0.01)  # until the next start has removed it
    finish(process)
    return incomplete, Outcome(STEPS, "", *result_of(storage))


def folder_in(storage: Path) -> Path:
    """Of the training."""
    return storage / "run" / "train" / "augmix"


def step_of(storage: Path) -> int:
    """How many steps the training says to have taken."""
    try:
        return int(json.loads((folder_in(storage) / "progress.json").read_text())["step"])
    except FileNotFoundError:
        return -1


def result_of(storage: Path) -> tuple[str, list[float]]:
    """SHA-256 of the final weights, and the losses of the epochs."""
    weights = (folder_in(storage) / f"step_{STEPS:09}" / "model.safetensors").read_bytes()
    lines = (folder_in(storage) / "metrics.jsonl").read_text().splitlines()
    return hashlib.sha256(weights).hexdigest(), [json.loads(line)["train/loss"] for line in lines]


def pids_of(victim: str, driver: int) -> list[int]:
    """The processes that are such a victim of a driver's job."""
    if victim == "driver":
        return [driver]
    sign = b"RayTrainWorker" if victim == "training worker" else b"make_blocks"
    return [pid for pid in tree(driver) if sign in name_of(pid)]


def name_of(pid: int) -> bytes:
    """The command line, in which Ray tells what a worker does."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
