"""How kernels are cut: a table by device, model and size, filled by `tune`; without an entry, as the kernels cut themselves.

The table is JSON: {"version": 1, "devices": {device name: {model key: {size: {kernel: {choice: value}}}}}}. Two are read, once a
process: the one that is shipped (`tuned.json` beside this file) and the user's own, which comes first. Nothing is ever tuned
without being asked.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atomjet.data import Capacity, System
from atomjet.errors import BackendError, ConfigError
from atomjet.models.base import Model, PaddedEvaluator

if TYPE_CHECKING:
    from atomjet.engine.engine import Engine

VERSION = 1
SIZES = (32, 256, 2048, 16384)
"""Atoms of a capacity: an entry serves those up to its size, the last one all that are larger."""

CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "message": {"edges": (8, 16, 32), "channels": (32, 64, 128), "warps": (1, 2, 4)},
    "message_back": {"edges": (8, 16, 32), "channels": (32, 64, 128), "warps": (1, 2, 4)},
    "update": {"rows": (16, 32, 64), "warps": (4, 8)},
}
"""What `tune` tries, kernel by kernel; a kernel without such a choice is left alone."""

EQUAL = 2e-3
"""Of the force rms: further apart no two ways to cut the same kernels may be."""

REPLAYS, ROUNDS = 20, 5
"""Replays of a CUDA graph that are timed together, and how often; the median counts."""


@dataclass(frozen=True)
class Tuning:
    """The entries for one model on one device.

    Attributes:
        evaluator: as the family makes it.
        entries: kernel and choice by size.
    """

    evaluator: PaddedEvaluator
    entries: dict[str, Any]

    @classmethod
    def of(cls, model: Model, evaluator: PaddedEvaluator, device: torch.device) -> Tuning:
        """Look both tables up."""
        key = model_key(model, evaluator)
        entries: dict[str, Any] = {}
        for table in (_shipped(), _users_own()):
            entries |= table.get(device_name(device), {}).get(key, {})
        return cls(evaluator, entries)

    def cut(self, capacity: Capacity) -> PaddedEvaluator:
        """The evaluator for a capacity; copies share the weights."""
        choices = self.entries.get(size_key(capacity.atoms))
        return self.evaluator if choices is None else with_tiles(self.evaluator, capacity, choices)


def size_key(atoms: int) -> str:
    """The size whose entry serves so many atoms."""
    return str(next((size for size in SIZES if atoms <= size), SIZES[-1]))


def model_key(model: Model, evaluator: Any) -> str:
    """What the best cut depends on besides device and size, such as "painn 128 float16"."""
    narrow = str(getattr(evaluator, "narrow", torch.float32)).removeprefix("torch.")
    return f"{model.family} {getattr(model.config, 'features', '')} {narrow}"


def device_name(device: torch.device) -> str:
    """As the driver says it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def with_tiles(evaluator: Any, capacity: Capacity, choices: dict[str, dict[str, int]]) -> Any:
    """A copy of an evaluator whose kernels are cut so; choices that its kernels do not know are left out."""
    tiles = evaluator.tiles_for(capacity)
    for kernel, values in choices.items():
        part = getattr(tiles, kernel, None)
        if part is not None:
            known = {name: value for name, value in values.items() if name in part._fields}
            tiles = tiles._replace(**{kernel: part._replace(**known)})
    other = copy.copy(evaluator)
    other.tiles = tiles
    return other


def user_table() -> Path:
    """Where the user's own table stands."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "atomjet" / "tuned.json"
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "atomjet" / "Cache" / "tuned.json"
    return home / ".cache" / "atomjet" / "tuned.json"


def read_table(path: Path) -> dict[str, Any]:
    """The devices of a table; none where there is no file.

    Raises:
        ConfigError: a file that is damaged or of another version.
    """
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["version"] == VERSION:
            return table["devices"]
        reason = f"version {table['version']}, not {VERSION}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise ConfigError(f"{path} is not a table of `atomjet tune` ({reason}); delete it, and tune again")


def write_table(path: Path, device: str, key: str, entries: dict[str, Any]) -> None:
    """Put entries into a table, beside what it has."""
    devices = read_table(path)
    devices.setdefault(device, {}).setdefault(key, {}).update(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": VERSION, "devices": devices}, indent=1) + "\n", encoding="utf-8")
    _users_own.cache_clear()


@dataclass(frozen=True)
class Tuned:
    """What was found for one size.

    Attributes:
        size: atoms.
        before, after: device time of an evaluation, ms, as the kernels cut themselves and at best.
        choices: the best.
        refused: ways to cut that did not compile or gave other forces.
    """

    size: int
    before: float
    after: float
    choices: dict[str, dict[str, int]]
    refused: int


def tune(
    engine: Engine, sizes: tuple[int, ...] = SIZES, timer: Callable[[Callable[[], None], Any], float] | None = None
) -> Iterator[Tuned]:
    """Try every choice of one kernel after the other on a box of each size; yields as it goes.

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
    for size in sizes:
        yield _tune_size(engine, size, timer)


def _tune_size(engine: Engine, size: int, timer: Callable[..., float]) -> Tuned:
    stages, evaluation = engine.stages, engine.reserve(box(engine, size))
    assert stages is not None
    evaluation.launch()
    if evaluation.needed_edges() > evaluation.capacity.edges:
        evaluation = engine.enlarge(evaluation)
        evaluation.launch()
    graph, capacity = evaluation.graph, evaluation.capacity
    edges = int(graph.row_ptr[-1])

    def run(choices: dict[str, dict[str, int]]) -> tuple[float, torch.Tensor]:
        evaluator = with_tiles(stages.evaluator, capacity, choices)
        workspace = evaluator.workspace(capacity)
        _, gradients = evaluator.launch(graph, workspace)
        gradients = gradients.reshape(-1, capacity.edges, 3)[:, :edges].double().sum(0)
        return timer(lambda: evaluator.launch(graph, workspace), engine.device), gradients

    before, exact = run({})
    best, choices, refused = before, {}, 0
    for kernel, options in CHOICES.items():
        tried = choices
        for values in itertools.product(*options.values()):
            attempt = choices | {kernel: dict(zip(options, values, strict=True))}
            try:
                time, gradients = run(attempt)
            except (
                Exception
            ):  # too much shared memory, too few warps ...: whatever the compiler raises, this cut is none
                refused += 1
                continue
            if not float((gradients - exact).square().mean()) <= EQUAL**2 * float(exact.square().mean()):
                refused += 1
            elif time < best:
                best, tried = time, attempt
        choices = tried
    return Tuned(size, before, best, choices, refused)


def box(engine: Engine, atoms: int) -> System:
    """A periodic box (a molecule, where so small) of the model's lightest elements at the density of organic matter, 0.1 / Å³."""
    rng = np.random.default_rng(0)
    side, spacing = math.ceil(atoms ** (1 / 3) - 1e-9), 2.154
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms] * spacing
    return System(
        positions=torch.from_numpy(grid + rng.uniform(-0.2, 0.2, grid.shape)),
        atomic_numbers=torch.from_numpy(rng.choice(np.array(engine.elements[:4]), atoms)),
        cell=torch.eye(3, dtype=torch.float64) * side * spacing,
        pbc=torch.tensor([atoms > 64] * 3),
    )


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


@functools.cache
def _shipped() -> dict[str, Any]:
    return read_table(Path(__file__).with_name("tuned.json"))


@functools.cache
def _users_own() -> dict[str, Any]:
    return read_table(user_table())
