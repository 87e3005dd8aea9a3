"""A suite in several fresh processes, one after the other, their results joined as they come."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atomjet.bench.result import Result, read_result
from atomjet.bench.run import Budget
from atomjet.errors import SimulationError
from atomjet.stopping import stoppable

PATIENCE = 30.0
"""Seconds that a process gets to write what it measured: compiled code hears no signal before it returns."""


def run_processes(
    suite: str,
    processes: int,
    budget: Budget,
    path: Path | None,
    request: dict[str, Any],
    say: Callable[[str], None] = print,
) -> Result:
    """Run a request in fresh processes; `result.about["stopped"]` says whether they were interrupted.

    Args:
        suite: its name.
        processes: how many.
        budget: shared evenly among those that are left.
        path: where the joined result is saved after each.
        request: options of `atomjet bench SUITE`, by name; None: not given.
        say: gets a line for each process.

    Raises:
        SimulationError: a process measured nothing, and none before it did.
    """
    passed = [f"--{name.replace('_', '-')}={value}" for name, value in request.items() if value is not None]
    joined: Result | None = None
    with tempfile.TemporaryDirectory() as folder, stoppable() as heard:
        for process in range(1, processes + 1):
            part = Path(folder) / f"{process}.json"
            minutes = budget.left / 60 / (processes + 1 - process)
            own = [f"--json={part}", f"--process={process}", f"--max-minutes={minutes:.3f}"]
            say(f"process {process} of {processes}")
            status, stopped = _run([suite, *passed, *own], heard)
            if part.exists():
                made = read_result(part)
                stopped |= made.about.get("stopped", False)
                joined = _joined(joined, made, path)
            if joined is None:
                if stopped:
                    raise KeyboardInterrupt
                raise SimulationError(f"process {process} ended with status {status} and measured nothing")
            if not stopped and status not in (0, 1):
                what = "what it had measured" if part.exists() else "what the others measured"
                say(f"process {process} ended with status {status}; {what} is kept")
            joined.about |= {"stopped": True} if stopped else {}
            joined.save()
            if stopped:
                break
    assert joined is not None
    return joined


def _joined(joined: Result | None, made: Result, path: Path | None) -> Result:
    """All results so far as one."""
    if joined is None:
        made.path = path
        return made
    joined.merge(made)
    return joined


def _run(arguments: list[str], heard: Callable[[], None]) -> tuple[int, bool]:
    """One process: its status, and whether it was interrupted."""
    child = subprocess.Popen([sys.executable, "-m", "atomjet", "bench", *arguments])
    try:
        return child.wait(), False
    except KeyboardInterrupt:
        heard()
        return _end(child), True


def _end(child: subprocess.Popen) -> int:
    """Have a process write what it measured, and end; return its status."""
    child.terminate()
    try:
        return child.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
