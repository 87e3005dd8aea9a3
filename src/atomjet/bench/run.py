"""Run a suite: gate, count, time in alternation; write down every row at once.

Whatever ends a run, nothing measured is lost: a row is written when its contender has been examined, and again while and after it
is timed (`atomjet.bench.rows` says what is in one).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from atomjet.bench.measure import allocated, synchronize
from atomjet.bench.race import race
from atomjet.bench.result import Result
from atomjet.bench.rows import OutOfTime, new_row, reason_of, settled, status_of
from atomjet.bench.suites import Case, Suite
from atomjet.bench.timed_calls import Contenders, TimedCall, progress_line
from atomjet.bench.trace import launches, peak_bytes, trace
from atomjet.bench.yardstick import Yardstick
from atomjet.engine import Engine
from atomjet.stopping import stoppable

SHARE = 0.4
"""Share of a case's time that making its structures, or one contender's first calls, may take."""

FIRST = 0.25
"""Share of the whole run's time that a contender's first calls in it may take, since they compile. One that takes longer is not
tried again."""

AGAIN = 2.0
"""Seconds between repeats of a deadline's exception: one raised inside a finalizer, of which compilers run many, is printed and
lost."""


@dataclass
class Budget:
    """Wall time for a whole suite."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.started)


def run_suite(
    suite: Suite,
    cases: list[Case],
    names: list[str],
    engine: Engine,
    result: Result,
    budget: Budget,
    runs: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measure every case; rows go into `result`, which saves itself with each.

    Ctrl-C and SIGTERM end the run, not the process: `result.about["stopped"]` says so, and what was measured is there.

    Args:
        names: contenders, the first of which is the baseline of every ratio.
        engine: gives weights, device and precision.
        runs: rounds, instead of each case's own number.
    """
    contenders = Contenders(suite, engine)
    rows: dict[str, dict[str, Any]] = {}

    def close(status: str, reason: str) -> None:
        """End the rows of a case that are still under way; write and print all of them."""
        for name in rows:
            rows[name] = settled(rows[name], status, reason, wanted)
        result.add(*rows.values())
        for row in rows.values():
            say(progress_line(row, result.clock))

    with stoppable() as heard:
        try:
            for place, case in enumerate(cases):
                share = budget.left * min(1.0, 1.5 / (len(cases) - place))
                wanted = runs or case.runs
                rows = {name: new_row(case.name, name, "stopped", "") for name in names}
                try:
                    _run_case(contenders, case, rows, share, budget, wanted, result.add)
                except (Exception, OutOfTime) as error:  # one case must not take the rest with it
                    close(status_of(error), reason_of(error))
                else:
                    close("ok", "")
                contenders.forget()
                _forget(engine.device)
        except KeyboardInterrupt:
            heard()
            result.about["stopped"] = True
            close("stopped", "interrupted")


def _run_case(
    contenders: Contenders,
    case: Case,
    rows: dict[str, dict[str, Any]],
    seconds: float,
    budget: Budget,
    runs: int,
    save: Callable[..., None],
) -> None:
    """Fill in the rows; those still `stopped` at the end were under way when something ended the case."""
    if seconds < 1:
        raise OutOfTime("nothing was left of --max-minutes")
    started, device, patience = time.monotonic(), contenders.engine.device, contenders.suite.patience
    with _deadline(SHARE * seconds):
        system = case.make().to(device, torch.float64)
    contenders.recharged = case.recharged
    timed_calls: dict[str, TimedCall] = {}
    for name, row in rows.items():
        row |= {"atoms": system.num_atoms, "structures": system.num_systems}
        new, began = name not in contenders.built, time.monotonic()
        try:
            if name in contenders.late:
                raise OutOfTime(contenders.late[name])
            first = FIRST * budget.seconds if new else 0.0
            with _deadline(max(SHARE * seconds, first, patience * budget.left)):
                timed = contenders.enter(name, system)
                examine(timed, row, device)
        except (Exception, OutOfTime) as error:
            row.update(status=status_of(error), reason=reason_of(error))
            if new and row["status"] == "out of time":
                contenders.late[name] = row["reason"]
            _forget(device)
        else:
            if row["status"] == "stopped":
                timed_calls[name] = timed
        if new:  # compiling for all cases takes none of this one's time
            started += time.monotonic() - began
        save(settled(row, "stopped", "before it was timed", runs))
    if timed_calls:
        left = max(min(seconds - (time.monotonic() - started), budget.left), 1.0)
        race(timed_calls, rows, Yardstick(device, system.num_atoms), device, left, runs, save)


def examine(timed: TimedCall, row: dict[str, Any], device: torch.device) -> None:
    """Fill in what a call includes, its accuracy, memory and launches; a red gate ends it."""
    row["includes"] = timed.includes
    before = allocated(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timed.call(0)
    synchronize(device)
    if device.type == "cuda":
        row["memory_bytes"] = torch.cuda.max_memory_allocated(device) - before + timed.held
    accuracy = timed.judge()
    if accuracy is not None:
        row["accuracy"] = accuracy
        if not accuracy["passed"]:
            row.update(status="inaccurate", reason="the result differs from the definition's beyond its gate: no speed")
            return
    made = trace(lambda: timed.call(1), device, profile_memory=device.type == "cpu")
    row["launches"] = round(launches(made, device) / timed.together)
    if device.type == "cpu":
        row["memory_bytes"] = peak_bytes(made) + timed.held


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        with suppress(Exception):  # a GPU that has failed fails here too; the row says why already
            torch.cuda.empty_cache()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside Python code that takes longer; only the main thread can be interrupted so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    over = False

    def ring(signum: int, frame: Any) -> None:
        if over:
            return
        raise OutOfTime(f"the first calls took longer than {seconds:.0f} s; raise --max-minutes")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), AGAIN)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
