"""Finds how to cut the kernels on the device at hand, for the table of `tuning.py`: every choice is timed, and checked."""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atomjet.data import System
from atomjet.engine.engine import Engine
from atomjet.engine.evaluation import Evaluation
from atomjet.engine.tuning import SIZES, entry_key, with_tiles
from atomjet.errors import BackendError

MESSAGE = {"edges": (1, 2, 4, 8, 16), "channels": (32, 64, 128), "warps": (1, 2)}
REGISTERS = {"registers": (0, 96, 112, 128, 144)}
CHOICES: tuple[tuple[str, dict[str, tuple[int, ...]]], ...] = (
    ("message", MESSAGE),
    ("message", REGISTERS),
    ("message_back", MESSAGE),
    ("message_back", REGISTERS),
    ("update", {"rows": (16, 32), "warps": (4, 8)}),
)
"""What `tune` tries, one after the other, each with the best of those before; a kernel without such a choice is left alone."""

EQUAL = 2e-3
"""Of the force rms: further apart no two ways to cut the same kernels may be."""

WORTH = 0.995
"""Of the time of the best so far, what another may take at most to be worth an entry: closer is noise."""

PIECE, SPACING = 20, 2.154
"""Atoms of a molecule; Å between sites."""

REPLAYS, ROUNDS = 20, 5
"""Replays of a CUDA graph that are timed together, and how often; the median counts."""


@dataclass(frozen=True)
class Tuned:
    """What was found for one size and kind.

    Attributes:
        key: of the entry.
        before, after: device time of an evaluation, ms, as the kernels cut themselves and at best.
        choices: the best.
        refused: ways to cut that did not compile or gave other forces.
    """

    key: str
    before: float
    after: float
    choices: dict[str, dict[str, int]]
    refused: int


def tune(
    engine: Engine, sizes: tuple[int, ...] = SIZES, timer: Callable[[Callable[[], None], Any], float] | None = None
) -> Iterator[Tuned]:
    """Try every choice of one kernel after the other on a batch of molecules and a box of each size; yields as it goes.

    Args:
        engine: with backend fast_gpu.
        sizes: out of `SIZES`.
        timer: ms of some work that is enqueued on a stream; default: replays of a CUDA graph.

    Raises:
        BackendError: an engine whose kernels cannot be cut.
    """
    if engine.stages is None or not hasattr(engine.stages.evaluator, "tiles_for"):
        raise BackendError(f"backend {engine.backend} has nothing to tune; use fast_gpu on a CUDA device")
    timer = timer or time_replays
    done: set[str] = set()
    for size, make in itertools.product(sizes, (molecules, box)):
        evaluation = engine.reserve(make(engine, size))
        key = entry_key(evaluation.capacity)
        if key not in done:  # a box may be too small to be dense, or the cutoff too short
            done.add(key)
            yield _tune(engine, evaluation, key, timer)


def _tune(engine: Engine, evaluation: Evaluation, key: str, timer: Callable[..., float]) -> Tuned:
    stages = engine.stages
    assert stages is not None
    evaluation.launch()
    if evaluation.needed_edges() > evaluation.capacity.edges:
        evaluation = engine.enlarge(evaluation)
        evaluation.launch()
    graph, capacity = evaluation.graph, evaluation.capacity
    edges = int(graph.row_ptr[-1])

    def evaluate(choices: dict[str, dict[str, int]]) -> tuple[Callable[[], None], torch.Tensor]:
        evaluator = with_tiles(stages.evaluator, capacity, choices)
        workspace = evaluator.workspace(capacity)
        _, gradients = evaluator.launch(graph, workspace)
        gradients = gradients.reshape(-1, capacity.edges, 4)[:, :edges].double().sum(0)
        return lambda: evaluator.launch(graph, workspace), gradients

    def compile_only(choices: dict[str, dict[str, int]]) -> None:
        with torch.cuda.device(engine.device), torch.cuda.stream(torch.cuda.Stream()), suppress(Exception):
            evaluate(choices)

    work, exact = evaluate({})
    before = timer(work, engine.device)
    best, choices, refused = before, {}, 0
    for kernel, options in CHOICES:
        if kernel in getattr(stages.evaluator, "uncut", ()):
            continue
        attempts = [
            choices | {kernel: choices.get(kernel, {}) | dict(zip(options, values, strict=True))}
            for values in itertools.product(*options.values())
        ]
        if engine.device.type == "cuda":  # compiling takes nearly all of the time, and every core can do it
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(compile_only, attempts))
        for attempt in attempts:
            try:
                work, gradients = evaluate(attempt)
                time = timer(work, engine.device)
            except Exception:  # too much shared memory, too few warps: whatever the compiler raises, this cut is none
                refused += 1
                continue
            if not float((gradients - exact).square().mean()) <= EQUAL**2 * float(exact.square().mean()):
                refused += 1
            elif time < WORTH * best:
                best, choices = time, attempt
    # A whole cut, so that an entry does not depend on what the default was when it was made.
    tiles = with_tiles(stages.evaluator, capacity, choices).tiles_for(capacity)
    return Tuned(key, before, best, {kernel: getattr(tiles, kernel)._asdict() for kernel in choices}, refused)


def molecules(engine: Engine, atoms: int) -> System:
    """Pieces of up to `PIECE` atoms of such a box, each by itself."""
    counts = [PIECE] * (atoms // PIECE) + [atoms % PIECE] * (atoms % PIECE > 0)
    drawn = [_sites(engine, count, seed) for seed, count in enumerate(counts)]
    return System(
        positions=torch.cat([positions for positions, _ in drawn]),
        atomic_numbers=torch.cat([numbers for _, numbers in drawn]),
        system_index=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
    )


def box(engine: Engine, atoms: int) -> System:
    """A periodic box of the model's lightest elements at the density of organic matter, 0.1 / Å³."""
    positions, numbers = _sites(engine, atoms, 0)
    side = SPACING * _side(atoms)
    return System(
        positions=positions,
        atomic_numbers=numbers,
        cell=torch.eye(3, dtype=torch.float64) * side,
        pbc=torch.tensor([True] * 3),
    )


def _side(atoms: int) -> int:
    return math.ceil(atoms ** (1 / 3) - 1e-9)


def _sites(engine: Engine, atoms: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first sites of a grid, moved a little, and elements."""
    rng, side = np.random.default_rng(seed), _side(atoms)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms] * SPACING
    numbers = rng.choice(np.array(engine.elements[:4]), atoms)
    return torch.from_numpy(grid + rng.uniform(-0.2, 0.2, grid.shape)), torch.from_numpy(numbers)


def time_replays(work: Callable[[], None], device: torch.device) -> float:
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
