"""Finds the best choices for a backend's kernels on the device at hand, for the table of `tuning.py`: each is timed, and checked.

What is best for the largest structures that an entry serves can be worse than no entry for the smallest (on an H200 by 15 %, in a
box of half as many atoms), so both are timed, and neither may be slower than with the default.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from atomjet.data import System
from atomjet.engine.engine import Engine
from atomjet.engine.evaluation import Evaluation
from atomjet.engine.tuning import SIZES, entry_key
from atomjet.errors import BackendError
from atomjet.models.contract import CapturedBackend, Choices, TuningSpace

EQUAL = 2e-3
"""Largest rms difference of gradients between two choices for the same kernels, as a share of their rms; others are refused."""

WORTH, SLOWER = 0.995, 1.005
"""WORTH: share of the best time so far, in the geometric mean over sizes, below which another choice becomes an entry: closer is
noise. SLOWER: share of the default's time that a choice may take at any one size.
"""

FEWEST = 8
"""Smallest number of atoms that the smallest size is tuned for."""

CLUSTER, SPACING = 20, 2.154
"""CLUSTER: atoms of one of the molecules of a probe, at most. SPACING: distance between sites of a probe's grid, Å."""

REPLAYS, ROUNDS = 20, 5
"""Replays of a CUDA graph that are timed together, and how often; the median counts."""


@dataclass(frozen=True)
class Tuned:
    """What was found for one entry.

    Attributes:
        model, key: of the entry.
        before, after: device times of an evaluation, ms, as the backend chooses and at best, of the smallest and the largest
            structures that the entry serves.
        choices: the best; of each kernel that is named, all.
        refused: those that did not compile, gave other forces, or were slower than the default at one of the sizes.
    """

    model: str
    key: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    choices: dict[str, dict[str, int]]
    refused: int


Timer = Callable[[Callable[[], object], torch.device], float]
"""Time, ms, of some work that is enqueued on a stream."""


def tune(engine: Engine, sizes: tuple[int, ...] = SIZES, timer: Timer | None = None) -> Iterator[Tuned]:
    """Try every choice of one kernel after the other, on molecules and on boxes of each size; yields as it goes.

    Args:
        engine: one whose backend has choices.
        sizes: out of `SIZES`.
        timer: default: replays of a CUDA graph.

    Raises:
        BackendError: a backend without choices.
    """
    space = None if engine.stages is None else engine.stages.backend.tuning
    if space is None:
        raise BackendError(f"backend {engine.backend} has nothing to tune; use one with kernels, on a CUDA device")
    done: set[str] = set()
    for size, make in itertools.product(sizes, (molecules, box)):
        smallest = max([other for other in SIZES if other < size], default=FEWEST - 1) + 1
        served = [engine.reserve(make(engine, atoms)) for atoms in (smallest, size)]
        key = entry_key(served[-1].capacity)
        if key not in done:  # with a short cutoff boxes have few edges too
            done.add(key)
            served = [one for one in served if entry_key(one.capacity) == key]
            yield _tune(space, [Probe(engine, one, timer or time_replays) for one in served], key)


def _tune(space: TuningSpace, probes: list[Probe], key: str) -> Tuned:
    before = after = tuple(probe.before for probe in probes)
    best, choices, refused = 1.0, {}, 0
    for kernel, options in space.rounds:
        attempts = [
            choices | {kernel: choices.get(kernel, {}) | dict(zip(options, values, strict=True))}
            for values in itertools.product(*options.values())
        ]
        if probes[-1].device.type == "cuda":  # compiling takes nearly all of the time, and every core can do it
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(probes[-1].compile, attempts))
        for attempt in attempts:
            times = tuple(probe.time(attempt) for probe in probes)
            ratios = [time / own for time, own in zip(times, before, strict=True)]
            mean = math.prod(ratios) ** (1 / len(ratios))
            if not max(ratios) <= SLOWER:
                refused += 1
            elif mean < WORTH * best:
                best, choices, after = mean, attempt, times
    # All choices of a kernel, so that an entry does not depend on what the default was when it was made.
    chosen = space.with_tiles(probes[-1].capacity, choices).tuning
    tiles = {} if chosen is None else chosen.tiles(probes[-1].capacity)
    return Tuned(space.key, key, before, after, {kernel: dict(tiles[kernel]) for kernel in choices}, refused)


class Probe:
    """Structures that choices are timed on; `before`: ms as the backend chooses."""

    def __init__(self, engine: Engine, evaluation: Evaluation, timer: Timer) -> None:
        assert engine.stages is not None
        self.backend, self.device, self.timer = engine.stages.backend, engine.device, timer
        evaluation.launch()
        if evaluation.needed_edges() > evaluation.capacity.edges:
            evaluation = engine.enlarge(evaluation)
            evaluation.launch()
        self.graph, self.staged = evaluation.graph, evaluation.staged
        self.capacity, self.edges = evaluation.capacity, evaluation.needed_edges()
        work, self.exact = self._launched({})
        self.before = timer(work, self.device)

    def time(self, choices: Choices) -> float:
        """ms with these choices; infinite where kernels do not compile, or give other forces."""
        try:
            work, gradients = self._launched(choices)
            time = self.timer(work, self.device)
        except Exception:  # too much shared memory, too few warps: whatever the compiler raises, this choice is none
            return math.inf
        right = float((gradients - self.exact).square().mean()) <= EQUAL**2 * float(self.exact.square().mean())
        return time if right else math.inf

    def compile(self, choices: Choices) -> None:
        """Leave the kernels in the cache, on a stream of its own; threads may do so at once."""
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.Stream()), suppress(Exception):
            self._launched(choices)

    def _launched(self, choices: Choices) -> tuple[Callable[[], object], torch.Tensor]:
        backend: CapturedBackend = self.backend
        if choices and backend.tuning is not None:
            backend = backend.tuning.with_tiles(self.capacity, choices)
        workspace = backend.workspace(self.capacity)
        segments = backend.segments(self.graph, self.staged, workspace)

        def work() -> None:
            for segment in segments:
                segment.launch()

        work()
        gradients = backend.result(workspace).gradients
        return work, gradients.reshape(-1, self.capacity.edges, 4)[:, : self.edges].double().sum(0)


def molecules(engine: Engine, atoms: int) -> System:
    """Clusters of up to `CLUSTER` atoms of such a box, each by itself."""
    counts = [CLUSTER] * (atoms // CLUSTER) + [atoms % CLUSTER] * (atoms % CLUSTER > 0)
    drawn = [_sites(engine, count, math.ceil(count ** (1 / 3)), seed) for seed, count in enumerate(counts)]
    return System(
        positions=torch.cat([positions for positions, _, _ in drawn]),
        atomic_numbers=torch.cat([numbers for _, numbers, _ in drawn]),
        system_index=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
    )


def box(engine: Engine, atoms: int) -> System:
    """A periodic box of the model's lightest elements at the density of organic matter, 0.1 / Å³."""
    positions, numbers, sides = _sites(engine, atoms, max(1, math.floor(atoms ** (1 / 3) + 1e-9)), 0)
    return System(
        positions=positions,
        atomic_numbers=numbers,
        cell=torch.diag(torch.tensor(sides, dtype=torch.float64)),
        pbc=torch.tensor([True] * 3),
    )


def _sites(engine: Engine, atoms: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Sites of a grid so wide in two directions, layer by layer, moved a little; elements; and the sides of the grid, Å."""
    rng, number = np.random.default_rng(seed), (-(-atoms // width**2), width, width)
    grid = np.stack(np.meshgrid(*map(np.arange, number), indexing="ij"), -1).reshape(-1, 3)[:atoms] * SPACING
    numbers = rng.choice(np.array(engine.elements[:4]), atoms)
    positions = torch.from_numpy(grid + rng.uniform(-0.2, 0.2, grid.shape))
    return positions, torch.from_numpy(numbers), [SPACING * sites for sites in number]


def time_replays(work: Callable[[], object], device: torch.device) -> float:
    """ms of some work on a CUDA device, captured; the median of several rounds."""
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph.capture_begin()
        work()
        graph.capture_end()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(ROUNDS):
            first.record()
            for _ in range(REPLAYS):
                graph.replay()
            last.record()
            stream.synchronize()
            times.append(first.elapsed_time(last) / REPLAYS)
    return statistics.median(times)
