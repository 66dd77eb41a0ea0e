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
import statistics
from pathlib import Path

import numpy as np


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
    methods = list(first["methods"])
    seeds = ", ".join(str(run["config"]["seed"]) for run in runs)
    lines = [f"# {title}", "", "```sh", command, "```", "", f"Seeds {seeds}. uCE: {first['protocol']['uCE']}.", ""]
    lines += [f"| error, % | {' | '.join(methods)} |", f"|---|{'---:|' * len(methods)}"]
    for name in ["clean", *first["methods"][methods[0]]["errors"], "uCE"]:
        cells = [spread([score(run["methods"][method], name) for run in runs]) for method in methods]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    pairs = [(run["methods"]["augmix"]["uCE"], run["methods"]["standard"]["uCE"]) for run in runs]
    ratios = ", ".join(f"{augmix / standard:.2f}" for augmix, standard in pairs)
    differences = ", ".join(f"{augmix - standard:+.2f}" for augmix, standard in pairs)
    lines += ["", f"uCE of AugMix + JSD over the standard network's, by seed: {ratios}; difference: {differences}.", ""]
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
    return 100 * (result["clean_error"] if name == "clean" else float(np.mean(result["errors"][name])))


def spread(values: list[float]) -> str:
    """Mean and standard deviation over runs."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def hardware() -> str:
    """Processor and cores of this machine."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, no GPU" if names else platform.machine()


if __name__ == "__main__":
    main()
