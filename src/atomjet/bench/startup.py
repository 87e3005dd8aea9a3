"""What a user waits for before the first call: a fresh process that imports the package and loads the model."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from atomjet.bench.contender import Unavailable

PROGRAM = """
import sys, time, json
begin = time.perf_counter()
import atomjet
imported = time.perf_counter()
import torch
ready = time.perf_counter()
atomjet.load(sys.argv[1], device=sys.argv[2], precision=sys.argv[3])
print(json.dumps({"import": imported - begin, "torch": ready - imported, "load": time.perf_counter() - ready}))
"""


def startup(model: str, device: str, precision: str, times: int = 3) -> dict[str, float]:
    """Seconds for the package, for PyTorch (imported when it is first used), and for the model; files are in the system's cache.

    Medians of some fresh processes.

    Raises:
        Unavailable: a process failed; another copy of the model may not fit on the device.
    """
    made = []
    for _ in range(times):
        command = [sys.executable, "-c", PROGRAM, model, device, precision]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
        made.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(median(run[name] for run in made), 5) for name in ("import", "torch", "load")}
