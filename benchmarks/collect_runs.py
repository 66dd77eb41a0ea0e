#!/usr/bin/env python
"""Put finished runs into one results document: mean and spread of the scores over seeds.

benchmarks/collect_runs.py --title digits --command "jobs/digits.py --seed S" RUN_FOLDER... > benchmarks/results/x.md
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
from pathlib import Path

import numpy as np


def main() -> None:
    """Read each folder's metrics.json and print a markdown document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True, help="what made the runs")
    arguments = parser.parse_args()
    runs = [json.loads((folder / "metrics.json").read_text()) for folder in arguments.folders]
    first = runs[0]
    if len({run["protocol"] for run in runs}) > 1:
        parser.error("the runs were scored by different protocols")
    packages = ", ".join(f"{name} {version}" for name, version in first["provenance"]["packages"].items())
    print(f"# {arguments.title}\n\n```sh\n{arguments.command}\n```\n")
    print(f"{len(runs)} run(s), seeds {', '.join(str(run['config']['seed']) for run in runs)}. {first['protocol']}.\n")
    print(f"| error, % | {' | '.join(first['methods'])} |\n|---|{'---:|' * len(first['methods'])}")
    for name in ["clean", *next(iter(first["methods"].values()))["errors"], "uCE"]:
        cells = [spread([score(run["methods"][method], name) for run in runs]) for method in first["methods"]]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{ratio_line(runs)}\n")
    for run in runs:
        if run["search"]:
            print(f"- seed {run['config']['seed']}: the search chose {run['search']['best']}")
    print(f"\nCommit {commit()}, {datetime.date.today()}, {hardware()}.")
    print(f"Python {first['provenance']['python']}, {packages}.")


def score(result: dict, name: str) -> float:
    """One value of a method, in percent."""
    if name == "uCE":
        return result["uCE"]
    return 100 * (result["clean_error"] if name == "clean" else float(np.mean(result["errors"][name])))


def spread(values: list[float]) -> str:
    """Mean and standard deviation over runs."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def ratio_line(runs: list[dict]) -> str:
    """AugMix against the standard baseline, run by run."""
    pairs = [(run["methods"]["augmix"]["uCE"], run["methods"]["standard"]["uCE"]) for run in runs]
    ratios = ", ".join(f"{augmix / standard:.2f}" for augmix, standard in pairs)
    differences = ", ".join(f"{augmix - standard:+.1f}" for augmix, standard in pairs)
    return f"uCE of AugMix + JSD over the standard baseline's, by run: {ratios}; difference in points: {differences}."


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def hardware() -> str:
    """Processor and cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, no GPU" if names else platform.machine()


if __name__ == "__main__":
    main()
