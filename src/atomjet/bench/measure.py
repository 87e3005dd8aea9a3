"""Timing in alternation, and the statistics of it.

Every round calls each contender once, in an order of its own: what disturbs the machine disturbs all alike, and none always comes
after the same other, with the caches and clocks that this one leaves. On a CPU the figure is the processor time of the
process (time that others take is not ours); on a GPU it is wall time from call to synchronisation. Both are kept. Where a contender
says how long the device took, that is the figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

WARM_UP = 10
RUNS = 100
FEWEST = 5
"""Rounds that a case gets at least, however long a call takes."""


@dataclass
class Series:
    """Seconds of each call of one contender: wall time, processor time of the whole process, and time on the device if asked."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    def figure(self, device: torch.device) -> np.ndarray:
        """What is judged: time on the device where there is one, else processor time on a CPU, wall time on a GPU."""
        return np.array(self.device or (self.wall if device.type == "cuda" else self.cpu))


class Stopwatch:
    """Two CUDA events around what is enqueued on the current stream; the time between them leaves out the host's last wait."""

    def __init__(self) -> None:
        self._start, self._stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def __enter__(self) -> None:
        self._start.record()

    def __exit__(self, *_: object) -> None:
        self._stop.record()

    @property
    def seconds(self) -> float:
        """On the device; waits for it."""
        self._stop.synchronize()
        return 1e-3 * self._start.elapsed_time(self._stop)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocated(device: torch.device) -> int:
    """Bytes that tensors hold on a GPU now; 0 on a CPU, where calls are traced for it."""
    synchronize(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def interleave(
    calls: Mapping[str, Callable[[int], Any]],
    device: torch.device,
    runs: int = RUNS,
    warm_up: int = WARM_UP,
    seconds: float = float("inf"),
    made: dict[str, Series] | None = None,
    between: Callable[[], None] = lambda: None,
    on_device: Mapping[str, Callable[[int], float]] | None = None,
) -> dict[str, Series]:
    """Call each contender once a round; `calls[name](turn)` gets a running number to take new input by.

    Args:
        runs: rounds wanted; fewer (but `FEWEST`) where `seconds` run out.
        warm_up: rounds before, not counted; two where they would take a fifth of `seconds`.
        made: filled round by round, for those who want it whatever ends the race. between: called after each round.
        on_device: of those that have it, what gives the seconds on the device of the call just synchronised.
    """
    names, on_device, order = list(calls), on_device or {}, np.random.default_rng(0)
    made = {} if made is None else made
    made.update({name: Series() for name in names})
    started = time.perf_counter()
    for turn in range(warm_up):
        for name in names:
            calls[name](turn)
        synchronize(device)
        if turn >= 1 and time.perf_counter() - started > seconds / 5:
            break
    for turn in range(runs):
        if turn >= FEWEST and time.perf_counter() - started > seconds:
            break
        for name in order.permutation(names).tolist():
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name](warm_up + turn)
            synchronize(device)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if name in on_device:
                made[name].device.append(on_device[name](warm_up + turn))
            made[name].cpu.append(cpu)
            made[name].wall.append(wall)
        between()
    return made


def describe(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, median, extremes and upper percentiles."""
    quantiles = {"median": 50, "min": 0, "max": 100, "p95": 95, "p99": 99}
    spread = {"mean": float(values.mean()), "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0}
    return spread | {name: float(np.percentile(values, level)) for name, level in quantiles.items()}


@dataclass(frozen=True)
class Ratio:
    """How many times faster, and the 95 % interval."""

    estimate: float
    low: float
    high: float


def ratio(base: np.ndarray, other: np.ndarray, seed: int = 0, resamples: int = 1000) -> Ratio:
    """How many times faster `other` is: ratio of medians and its 95 % interval by bootstrap of whole rounds."""
    generator = np.random.default_rng(seed)
    rounds = generator.integers(0, len(base), (resamples, len(base)))
    drawn = np.median(base[rounds], axis=1) / np.median(other[rounds], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Ratio(float(np.median(base) / np.median(other)), float(low), float(high))


def settle(device: torch.device, threads: int, process: int) -> None:
    """Keep a single-threaded process that is one of several (1, 2, ...) on a core of its own.

    A process that moves between cores loses its caches at moments of the scheduler's choosing: between ten processes on a
    machine with three times the load it has cores for, figures scattered by 2.5 % when free to move and by 1.5 % when kept.
    """
    if device.type == "cpu" and threads == 1 and process and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[process % len(cores)]})
