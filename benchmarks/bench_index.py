"""What it costs to index image folders and to open them again, by their number of images.

    python benchmarks/bench_index.py --folder /scratch --images 10000 1300000

Makes a tree of 1,000 class folders with empty files, builds its index in threads and with Ray tasks, and opens it
again as a second run does. Every measurement is a process of its own; memory is the peak of that process, the driver,
with Python, NumPy and pyarrow in it (and Ray, where Ray runs).
"""

import argparse
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import header

CLASSES = 1000
HOW = ("threads", "ray", "again")


def main() -> None:
    """Parse and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the trees are made")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_300_000])
    parser.add_argument("--measure", choices=HOW, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.folder)
        return
    print("\n".join(header("Indexing image folders")[:4]))
    print(
        "\n| images | how | to the source, s | of it on the CPU, s | driver's peak, MB | index, MB | travels, bytes |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|")
    for images in arguments.images:
        root = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            make_tree(root / "data" / "train", images)
            for how in HOW:
                if how != "again":
                    shutil.rmtree(root / "index", ignore_errors=True)
                command = [sys.executable, __file__, "--folder", str(root), "--measure", how]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                assert row["images"] == images
                print(
                    f"| {images:,} | {how} | {row['seconds']:.2f} | {row['cpu']:.2f} | {row['peak']:,.0f} "
                    f"| {row['index']:.1f} | {row['pickled']:,} |",
                    flush=True,
                )
        finally:
            shutil.rmtree(root)


def make_tree(root: Path, images: int) -> None:
    """Class folders named like synsets, and empty files in them named like ILSVRC's."""
    for label in range(CLASSES):
        name = f"n{1_440_764 + 7 * label:08d}"
        (root / name).mkdir(parents=True)
        for n in range(label, images, CLASSES):
            os.close(os.open(root / name / f"{name}_{n}.JPEG", os.O_CREAT))


def measure(how: str, root: Path) -> None:
    """One row, as JSON."""
    from pipeline.config import DataConfig
    from pipeline.source import open_source
    from pipeline.sources import index

    if how == "ray":
        import ray

        index.SECONDS_FOR_RAY = 0  # also where it does not pay
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    config = DataConfig(name="folder", path=str(root / "data"))
    begun, cpu = time.perf_counter(), time.process_time()
    source = open_source(config, train=True, index_folder=root / "index")
    source.read([len(source) - 1])
    row = {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "images": len(source),
        "index": sum(file.stat().st_size for file in (root / "index").iterdir()) / 1e6,
        "pickled": len(pickle.dumps(source)),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
