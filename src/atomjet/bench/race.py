"""The race of a case: every contender called in turn, round after round, then the parts of a call of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from atomjet.bench.measure import WARM_UP, Series, interleave
from atomjet.bench.provenance import clocks
from atomjet.bench.rows import reason_of, settled, status_of
from atomjet.bench.timed_calls import TimedCall
from atomjet.bench.yardstick import Yardstick

SAVE_EVERY = 10.0
"""Seconds of a race after which its rounds are written, in case the process is killed without a word."""


def race(
    timed_calls: dict[str, TimedCall],
    rows: dict[str, dict[str, Any]],
    yardstick: Yardstick,
    device: torch.device,
    seconds: float,
    runs: int,
    save: Callable[..., None],
) -> None:
    """Time the contenders of a case in turn, and fill in their rows.

    Args:
        timed_calls: by contender.
        rows: by contender.
        yardstick: work that is timed with them, by which slow spells of the machine show.
        device: where they compute.
        seconds: for the race and the parts together.
        runs: rounds.
        save: writes rows.
    """
    calls: dict[str, Callable[[int], Any]] = {"yardstick": yardstick}
    on_device: dict[str, Callable[[int], float]] = {}
    lost: dict[str, tuple[Exception, int]] = {}
    for name, timed in timed_calls.items():
        calls[name] = _guarded(name, timed.call, lost)
        if timed.on_device is not None:
            on_device[name] = _guarded(name, timed.on_device, lost)
    made: dict[str, Series] = {}
    saved = time.monotonic()

    def between() -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_EVERY:
            _fill_in(rows, timed_calls, made, lost)
            save(*(settled(rows[name], "stopped", "killed", runs) for name in timed_calls))
            saved = time.monotonic()

    try:
        interleave(calls, device, runs, seconds=0.7 * seconds, made=made, between=between, on_device=on_device)
    finally:
        _fill_in(rows, timed_calls, made, lost)
    running = {name: timed for name, timed in timed_calls.items() if name not in lost}
    seen = clocks(device)  # while it is still at the clocks of the race
    for name in running:
        rows[name].update(status="ok", reason="", clocks=seen)
    save(*(rows[name] for name in timed_calls))
    if len(made["yardstick"].wall) >= 20:
        time_parts(running, rows, device, 0.2 * seconds)


def _fill_in(
    rows: dict[str, dict[str, Any]],
    timed_calls: dict[str, TimedCall],
    made: dict[str, Series],
    lost: dict[str, tuple[Exception, int]],
) -> None:
    """Write samples into the rows, of whole rounds only: an interrupted one has some contenders' calls and not the others'. A
    contender that failed keeps the rounds before.
    """
    whole = min(len(times) for series in made.values() for times in (series.wall, series.cpu))
    for name, timed in timed_calls.items():
        rounds = whole
        if name in lost:
            error, turn = lost[name]
            rounds = max(0, turn - WARM_UP)
            after = f"after {rounds} rounds: " if rounds else ""
            rows[name].update(status=status_of(error), reason=after + reason_of(error))
        if rounds:
            rows[name]["samples"] = [samples(made[name], made["yardstick"], timed.together, rounds)]
            rows[name]["per_call"] = timed.per_call


def time_parts(
    timed_calls: dict[str, TimedCall], rows: dict[str, dict[str, Any]], device: torch.device, seconds: float
) -> None:
    """Fill in how long the parts of a call take; a contender that cannot be divided keeps what was measured, with the reason."""
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
        rows[name]["reason"] = f"no parts: {reason_of(error)}"


def _guarded(name: str, work: Callable[[int], Any], lost: dict[str, tuple[Exception, int]]) -> Callable[[int], Any]:
    """`work`, which does nothing any more once it has failed: the error and its turn stand in `lost`, the others go on."""

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
