#!/usr/bin/env python
"""What an epoch over a data set many times the object store holds in memory, and what it spills.

    benchmarks/bench_stream_memory.py --imagenet IMAGENET_FOLDER --folder /scratch

Ray gets an object store of 256 MiB; the JPEGs, hard links to those of a folder, take ten times as much, their views at
224 px some forty times. A training loop takes every batch of an epoch and trains nothing. Every tenth of the epoch has
a row: the private memory of all processes together, and the most that the object store has held and spilled by then.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_evaluate import status_of, tree
from bench_first_batch import job_of, make_tree
from timing import header

STORE_BYTES = 256 << 20
TIMES = 10
ROWS = 10


def main() -> None:
    """Parse, make the tree, consume an epoch, and look on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", required=True, type=Path, help="folder with JPEGs")
    parser.add_argument("--folder", required=True, type=Path, help="where the tree is made")
    arguments = parser.parse_args()
    import ray

    from pipeline.telemetry import StoreMeter
    from pipeline.train import trainer_of

    sizes = [path.stat().st_size for path in arguments.imagenet.rglob("*.JPEG")]
    images = round(TIMES * STORE_BYTES / (sum(sizes) / len(sizes)))
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, object_store_memory=STORE_BYTES)
        make_tree(arguments.imagenet, scratch / str(images), images)
        job = job_of(scratch, images, "epoch")
        job = replace(job, config=replace(job.config, train=replace(job.config.train, epochs=1, global_batch_size=32)))
        told = scratch / "step.json"
        trainer = trainer_of(job, partial(consume, told=str(told)))
        thread = threading.Thread(target=trainer.fit)
        thread.start()
        print("\n".join(header(f"An epoch over {images:,} JPEGs, {TIMES} times the object store")[:4]))
        print(f"\n| of {job.steps:,} steps | processes, MB | object store's peak, MiB | spilled, MiB |")
        print("|---:|---:|---:|---:|")
        meter, shown = StoreMeter(), 0
        while thread.is_alive():
            time.sleep(1)
            step = json.loads(told.read_text() or "0") if told.exists() else 0
            store = meter.sample()
            if step * ROWS // job.steps > shown:
                shown = step * ROWS // job.steps
                private = sum(status_of(pid).get("RssAnon", 0) for pid in tree(os.getpid())) / 1000
                figures = [store["object_store_peak_bytes"] / 2**20, store.get("spilled_bytes", float("nan")) / 2**20]
                print(f"| {step:,} | {private:,.0f} | {figures[0]:,.0f} | {figures[1]:,.0f} |", flush=True)
        thread.join()
        ray.shutdown()
    finally:
        shutil.rmtree(scratch)


def consume(loop_config: dict[str, Any], *, told: str) -> None:
    """Take every batch, and tell how far it has got."""
    from pipeline.train import steps_of

    for step, _ in enumerate(steps_of(loop_config["job"], 0), start=1):
        if step % 8 == 0 or step == loop_config["job"].steps:
            Path(told).write_text(str(step))


if __name__ == "__main__":
    main()
