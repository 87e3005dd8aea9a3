"""Does `atomjet bench compare` tell a slowdown from noise on this machine? Runs of one revision, each against every other.

    python benchmarks/detection.py --runs 7 --json benchmarks/detection.json      (about 15 minutes on 2 cores)

Every pair is compared twice: as measured, where any alarm is a false one, and with the times of the second made longer by
`--slowdown`, where each row without an alarm is one missed. Pairs share runs, so they are not independent.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from atomjet.bench.compare import compare
from atomjet.bench.provenance import provenance
from atomjet.bench.result import Result, read_result


def slowed(result: Result, factor: float) -> Result:
    """The same run, had all calls but the yardstick's taken longer."""
    other = copy.deepcopy(result)
    for row in other.rows:
        for sample in row.get("samples", ()):
            for name in ("wall", "cpu"):
                sample[name] = [factor * time for time in sample[name]]
    return other


def alarms(base: Result, new: Result) -> tuple[int, int]:
    """Rows whose time is called worse, and rows."""
    times = [change for change in compare(base, new) if change.quantity == "time"]
    return sum(change.verdict == "worse" for change in times), len(times)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=2.0, help="of each run")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(given.runs):
            path = Path(folder) / f"{run}.json"
            command = [sys.executable, "-m", "atomjet", "bench", "latency", "--settings", "general,fast_pytorch"]
            command += ["--max-atoms", str(given.max_atoms), "--processes", "8", "--device", "cpu"]
            command += ["--max-minutes", str(given.minutes), "--json", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results.append(read_result(path))
            print(f"run {run + 1} of {given.runs} done", flush=True)
    pairs = list(itertools.combinations(results, 2))
    false, missed = [], []
    for base, new in pairs:
        worse, rows = alarms(base, new)
        found, _ = alarms(base, slowed(new, 1 + given.slowdown))
        false.append(worse)
        missed.append(rows - found)
    summary = {
        "runs": given.runs,
        "pairs": len(pairs),
        "rows_a_pair": rows,
        "slowdown": given.slowdown,
        "pairs_without_false_alarm": sum(count == 0 for count in false),
        "pairs_in_which_the_slowdown_was_flagged": sum(count < rows for count in missed),
        "rows_missed": sum(missed),
        "provenance": provenance(torch.device("cpu")),
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "provenance"}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
