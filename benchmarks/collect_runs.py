#!/usr/bin/env python
"""Put finished runs into one results document: mean and spread of the scores over seeds.

    benchmarks/collect_runs.py --title "..." --command "jobs/digits.py --seed S" --commit abc1234 \
        --out benchmarks/results/digits RUN_FOLDER...

writes digits.md, and digits.json with every run's metrics (less the folders it lay in).
"""

import argparse
import datetime
import json
import platform
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np

SUMMARY = ("clean", "uCE", "rms clean", "rms corrupted")


def main() -> None:
    """Read each folder's metrics.json and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True, help="what made the runs")
    parser.add_argument("--commit", required=True, help="of the code that made them")
    parser.add_argument("--out", required=True, type=Path, help="path of the two files, without their endings")
    arguments = parser.parse_args()
    runs = [json.loads((folder / "metrics.json").read_text()) for folder in arguments.folders]
    if len({run["protocol"]["uCE"] for run in runs}) > 1:
        parser.error("the runs were scored by different protocols")
    for run in runs:
        del run["config"]["storage"], run["config"]["data"]["path"]
        for result in run["methods"].values():
            result.pop("network", None)  # the checkpoint's folder
    document = "\n".join(document_of(runs, arguments.title, arguments.command, arguments.commit))
    arguments.out.with_suffix(".md").write_text(document + "\n")
    arguments.out.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    print(document)


def document_of(runs: list[dict], title: str, command: str, commit: str) -> list[str]:
    """The lines of the markdown document."""
    first = runs[0]
    results: dict[str, list[dict]] = {}
    for run in runs:
        for method, result in run["methods"].items():
            results.setdefault(method, []).append(result)
    seeds = ", ".join(str(run["config"]["seed"]) for run in runs)
    lines = [f"# {title}", "", "```sh", command, "```", "", f"Seeds {seeds}. uCE: {first['protocol']['uCE']}.", ""]
    lines += ["| method | runs | epochs | clean error, % | uCE, % | RMS calibration error, clean, % | corrupted, % |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for method, of_runs in results.items():
        epochs = {str(result["curve"][-1]["epoch"]) for result in of_runs}
        cells = [spread([score(result, name) for result in of_runs]) for name in SUMMARY]
        lines.append(f"| {method} | {len(of_runs)} | {', '.join(sorted(epochs))} | {' | '.join(cells)} |")
    lines += ["", f"| error, % | {' | '.join(results)} |", f"|---|{'---:|' * len(results)}"]
    for name in ["clean", *results[next(iter(results))][0]["errors"], "uCE"]:
        cells = [spread([score(result, name) for result in of_runs]) for of_runs in results.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| training, last epoch | samples / s | data wait, % | GPU memory, MB |", "|---|---:|---:|---:|"]
    for method, of_runs in results.items():
        ends = [result["curve"][-1] for result in of_runs]
        memory = [end["device_memory_peak_bytes"] / 1e6 for end in ends if "device_memory_peak_bytes" in end]
        speed = spread([end["samples_per_second"] for end in ends])
        wait = spread([100 * end["data_wait_share"] for end in ends])
        lines.append(f"| {method} | {speed} | {wait} | {spread(memory) if memory else '—'} |")
    pairs = [
        (run["methods"]["augmix"]["uCE"], run["methods"]["standard"]["uCE"])
        for run in runs
        if {"augmix", "standard"} <= run["methods"].keys()
    ]
    if pairs:
        ratios = ", ".join(f"{augmix / standard:.2f}" for augmix, standard in pairs)
        differences = ", ".join(f"{augmix - standard:+.2f}" for augmix, standard in pairs)
        lines += ["", f"uCE of AugMix + JSD over the standard network's, by seed: {ratios}; difference: {differences}."]
    lines.append("")
    for run in runs:
        if run["search"]:
            lines.append(f"- seed {run['config']['seed']}: the search chose {run['search']['best']}")
    packages = ", ".join(f"{name} {version}" for name, version in first["provenance"]["packages"].items())
    made = f"Commit {commit}, {datetime.date.today()}, {hardware()}, Python {first['provenance']['python']}"
    return [*lines, "", f"{made}, {packages}."]


def score(result: dict, name: str) -> float:
    """One value of a method, in percent."""
    if name == "uCE":
        return result["uCE"]
    if name.startswith("rms "):
        return 100 * result[name.removeprefix("rms ")]["rms_calibration_error"]["fixed"]
    return 100 * (result["clean_error"] if name == "clean" else float(np.mean(result["errors"][name])))


def spread(values: list[float]) -> str:
    """Mean and standard deviation over runs."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def hardware() -> str:
    """Processor and cores of this machine."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} cores of {names[0]}" if names else platform.machine()
    return f"{processor}, {gpu()}"


def gpu() -> str:
    """The first GPU, as its driver calls it."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    return found[0] if found else "no GPU"


if __name__ == "__main__":
    main()
