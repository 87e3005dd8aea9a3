"""Run a suite: gate, count, time in alternation; write down every row at once.

Whatever ends a run, nothing measured is lost: a row is written when its contender has been examined, and again while and after it
is timed. Rows have a status: `ok`, `skipped`, `inaccurate`, `out of memory`, `out of time`, `failed`, or `stopped` where the run
ended first; and a `reason` for all but `ok`. An `ok` row whose reason speaks of rounds had fewer of them than wanted.
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

from atomjet.bench.contender import Unavailable
from atomjet.bench.measure import FEWEST, WARM_UP, Series, allocated, interleave, synchronize
from atomjet.bench.provenance import clocks
from atomjet.bench.result import Result
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

SAVE_EVERY = 10.0
"""Seconds of a race after which its rounds are written, in case the process is killed without a word."""


class OutOfTime(BaseException):
    """The time given to a stage is over. No `Exception`: what is interrupted must not take it for an error of its own."""


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
        """End what is still under way of a case; write and tell all of it."""
        for name in rows:
            rows[name] = _settled(rows[name], status, reason, wanted)
        result.add(*rows.values())
        for row in rows.values():
            say(progress_line(row, result.clock))

    with stoppable() as heard:
        try:
            for place, case in enumerate(cases):
                share = budget.left * min(1.0, 1.5 / (len(cases) - place))
                wanted = runs or case.runs
                rows = {name: _row(case.name, name, "stopped", "") for name in names}
                try:
                    _run_case(contenders, case, rows, share, budget, wanted, result.add)
                except (Exception, OutOfTime) as error:  # one case must not take the rest with it
                    close(_status(error), _reason(error))
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
            row.update(status=_status(error), reason=_reason(error))
            if new and row["status"] == "out of time":
                contenders.late[name] = row["reason"]
            _forget(device)
        else:
            if row["status"] == "stopped":
                timed_calls[name] = timed
        if new:  # compiling for all cases takes none of this one's time
            started += time.monotonic() - began
        save(_settled(row, "stopped", "before it was timed", runs))
    if timed_calls:
        left = max(min(seconds - (time.monotonic() - started), budget.left), 1.0)
        _time(timed_calls, rows, Yardstick(device, system.num_atoms), device, left, runs, save)


def _settled(row: dict[str, Any], status: str, reason: str, runs: int) -> dict[str, Any]:
    """What a row comes to if all ends here: `ok` with the rounds it has, where they are enough to tell something."""
    if row["status"] != "stopped":
        return row
    rounds = len(row["samples"][0]["wall"]) if "samples" in row else 0
    if rounds >= FEWEST:
        return row | {"status": "ok", "reason": f"{rounds} of {runs} rounds, then {status}: {reason}"}
    return row | {"status": status, "reason": reason}


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


def _time(
    timed_calls: dict[str, TimedCall],
    rows: dict[str, dict[str, Any]],
    yardstick: Yardstick,
    device: torch.device,
    seconds: float,
    runs: int,
    save: Callable[..., None],
) -> None:
    calls: dict[str, Callable[[int], Any]] = {"yardstick": yardstick}
    asked: dict[str, Callable[[int], float]] = {}
    lost: dict[str, tuple[Exception, int]] = {}
    for name, timed in timed_calls.items():
        calls[name] = _guarded(name, timed.call, lost)
        if timed.on_device is not None:
            asked[name] = _guarded(name, timed.on_device, lost)
    made: dict[str, Series] = {}
    saved = time.monotonic()

    def take() -> None:
        """Whole rounds only: an interrupted one has some contenders' calls and not the others'. What failed keeps those before."""
        whole = min(len(times) for series in made.values() for times in (series.wall, series.cpu))
        for name, timed in timed_calls.items():
            rounds = whole
            if name in lost:
                error, turn = lost[name]
                rounds = max(0, turn - WARM_UP)
                after = f"after {rounds} rounds: " if rounds else ""
                rows[name].update(status=_status(error), reason=after + _reason(error))
            if rounds:
                rows[name]["samples"] = [samples(made[name], made["yardstick"], timed.together, rounds)]
                rows[name]["per_call"] = timed.per_call

    def between() -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_EVERY:
            take()
            save(*(_settled(rows[name], "stopped", "killed", runs) for name in timed_calls))
            saved = time.monotonic()

    try:
        interleave(calls, device, runs, seconds=0.7 * seconds, made=made, between=between, on_device=asked)
    finally:
        take()
    running = {name: timed for name, timed in timed_calls.items() if name not in lost}
    seen = clocks(device)  # while it is still at the clocks of the race
    for name in running:
        rows[name].update(status="ok", reason="", clocks=seen)
    save(*(rows[name] for name in timed_calls))
    if len(made["yardstick"].wall) >= 20:
        _time_parts(running, rows, device, 0.2 * seconds)


def _time_parts(
    timed_calls: dict[str, TimedCall], rows: dict[str, dict[str, Any]], device: torch.device, seconds: float
) -> None:
    """Fill in where the time goes; one whose parts cannot be had keeps what was measured, and says why."""
    parts: dict[str, Callable[[int], Any]] = {}
    lost: dict[str, tuple[Exception, int]] = {}
    for name, timed in timed_calls.items():
        try:
            made = timed.parts()
        except Exception as error:
            lost[name] = error, 0
            continue
        parts |= {f"{name}/{part}": _guarded(name, call, lost) for part, call in made.items()}
    split = interleave(parts, device, runs=20, warm_up=3, seconds=seconds)
    for label, series in split.items():
        name, _, part = label.partition("/")
        if name not in lost:
            rows[name].setdefault("parts", {})[part] = float(sorted(series.figure(device))[len(series.wall) // 2])
    for name, (error, _) in lost.items():
        rows[name]["reason"] = f"no parts: {_reason(error)}"


def _guarded(name: str, work: Callable[[int], Any], lost: dict[str, tuple[Exception, int]]) -> Callable[[int], Any]:
    """What fails in mid-race is out, with the turn at which it failed; the others go on."""

    def call(turn: int) -> Any:
        if name in lost:
            return None
        try:
            return work(turn)
        except Exception as error:
            lost[name] = error, turn
            return None

    return call


def samples(own: Series, yardstick: Series, together: int, rounds: int) -> dict[str, list[float]]:
    """Seconds, in the first rounds, of what happens `together` times in one call of `own`."""
    parts = {"wall": (own.wall, together), "cpu": (own.cpu, together)}
    parts |= {"device": (own.device, together)} if own.device else {}
    parts |= {"yardstick_wall": (yardstick.wall, 1), "yardstick_cpu": (yardstick.cpu, 1)}
    return {
        name: [float(f"{value / times:.5g}") for value in values[:rounds]] for name, (values, times) in parts.items()
    }


def _row(case: str, setting: str, status: str, reason: str) -> dict[str, Any]:
    return {"case": case, "setting": setting, "status": status, "reason": reason}


def _status(error: BaseException) -> str:
    if isinstance(error, Unavailable):
        return "skipped"
    if isinstance(error, OutOfTime):
        return "out of time"
    text = str(error).lower()
    # The allocator's words on a GPU, on a CPU, and the engine's own, which refuses before it tries.
    says_so = any(words in text for words in ("out of memory", "allocate memory", "gib are free"))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or says_so:
        return "out of memory"
    return "failed"


def _reason(error: BaseException) -> str:
    kind = "" if isinstance(error, Unavailable | OutOfTime) else f"{type(error).__name__}: "
    return (kind + " ".join(str(error).split()))[:300]


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
