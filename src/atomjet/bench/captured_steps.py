"""Whole steps on the device: from new positions to energies and forces, captured in CUDA graphs and timed without the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from atomjet.bench.measure import Stopwatch, allocated
from atomjet.data import Prediction, Status, System
from atomjet.engine import Engine
from atomjet.errors import SimulationError

SAMPLE = 0.03
"""Seconds of replays between two events, at least one: what the host takes to launch the first is then lost in them."""

SPARE = 1.05
"""Edges that buffers of fixed size hold, as a multiple of those of the first positions."""


def capacity_for(edges: int) -> int:
    """Edges that a buffer is made for which other positions of the same atoms shall fit too."""
    return int(SPARE * edges) + 64


class DeviceCall(Protocol):
    """One evaluation in buffers of its own.

    Attributes:
        includes: what it does, in words. edges: of the structures it was made for. held: bytes of the device that it keeps.
    """

    includes: str
    edges: int
    held: int

    def take(self, positions: Tensor) -> None:
        """Enqueue: these positions in, energies and forces out."""
        ...

    def prediction(self, system: System) -> Prediction:
        """Result of the last step; `system`: its structures, or as many of the first as are wanted."""
        ...

    def check(self, every: Sequence[Tensor]) -> None:
        """Raise where the last step, or a step from any of these positions, went wrong."""
        ...


class EngineCall:
    """An evaluation by an engine, as dynamics on the device enqueues it.

    Args:
        engine: one with `stages`.
        systems: structures that differ in positions only; the buffers hold the edges of all.

    Raises:
        StructureError: what the engine refuses.
    """

    includes = (
        "copy of new positions from elsewhere on the device, neighbour search, energy, forces, stress; several such steps from "
        "different positions in one CUDA graph, its replays enqueued together"
    )

    def __init__(self, engine: Engine, systems: Sequence[System]) -> None:
        before = allocated(engine.device)
        self.evaluation = engine.reserve(systems[0])
        for system in systems:
            self.take(system.positions)
            while self._status() == Status.EDGES:
                self.evaluation = engine.enlarge(self.evaluation)
                self.take(system.positions)
            if self._status():
                engine.predict(system)  # says which atom, and the limit
            self.check([])
        self.edges, self.held = self.evaluation.needed_edges(), allocated(engine.device) - before

    def take(self, positions: Tensor) -> None:
        """Enqueue search, model and sums."""
        self.evaluation.system.positions[: len(positions)].copy_(positions)
        self.evaluation.launch()

    def prediction(self, system: System) -> Prediction:
        """A copy of the results in the buffers."""
        padded = self.evaluation.prediction
        copy = padded.like(padded.buffer.clone())
        return copy.in_use(system.num_systems, system.system_index)

    def check(self, every: Sequence[Tensor]) -> None:
        """Ask for the status of the last step, then of one from each of these positions."""
        self._demand()
        for positions in every:
            self.take(positions)
            self._demand()

    def _status(self) -> int:
        return int(self.evaluation.prediction.status)

    def _demand(self) -> None:
        if status := self._status():
            raise SimulationError(f"a step ended with {Status(status)!r}: what it says is wrong, and so is its speed")


class CapturedSteps:
    """Steps from one set of positions after the other in one CUDA graph, replayed many times in one call.

    Attributes:
        step: after a call it holds the results of the last positions.
        together: steps in one call.
    """

    def __init__(self, step: DeviceCall, every: Sequence[Tensor]) -> None:
        self.step, self.every, self.replays = step, every, 1
        self.replay = captured(self._take_all)
        self._watch = Stopwatch()
        self(0)  # the first replay also moves the graph to the device
        self(1)
        self.replays = max(1, round(SAMPLE / self._watch.seconds))

    @property
    def together(self) -> int:
        """How many steps a call takes."""
        return self.replays * len(self.every)

    def __call__(self, turn: int) -> None:
        """Enqueue the replays between two events."""
        with self._watch:
            for _ in range(self.replays):
                self.replay()

    def seconds(self, turn: int) -> float:
        """On the device, of the last call; what it computed is checked, outside of any timing."""
        elapsed = self._watch.seconds
        self.step.check(self.every)
        return elapsed

    def _take_all(self) -> None:
        for positions in self.every:
            self.step.take(positions)


def captured(work: Callable[[], object]) -> Callable[[], None]:
    """A CUDA graph of work whose kernels are compiled already, ready to be replayed."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
