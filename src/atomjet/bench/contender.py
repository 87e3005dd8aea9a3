"""What a contender of a benchmark is, and what all contenders share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from atomjet.bench.captured_steps import EngineCall
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine

ENGINE_CALL = (
    "checks of the structure, neighbour search, energy, forces, stress, synchronisation; positions are on the device"
)
GRAPH_CALL = (
    "energy and forces, synchronisation; neighbour search for the new positions done before, outside the timing"
)


class Unavailable(Exception):
    """A contender that cannot take part, and why."""


class Contender(Protocol):
    """Something that predicts; `includes` says what one call does."""

    name: str
    includes: str

    def prepare(self, system: System) -> Any:
        """What is done before the timing."""
        ...

    def call(self, prepared: Any) -> Prediction:
        """What is timed."""
        ...


class EngineContender:
    """One of our backends, from positions on the device to forces on the device."""

    includes = ENGINE_CALL

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.engine = name, engine

    def prepare(self, system: System) -> Any:
        """Nothing but taking the positions out: they are put in again inside the timing, checks and all."""
        return system, system.positions

    def call(self, prepared: Any) -> Prediction:
        """Predict for new positions."""
        system, positions = prepared
        return self.engine.predict(system.with_positions(positions))

    def step(self, systems: Sequence[System]) -> EngineCall:
        """What `call` does, in buffers of its own that one call after the other may use without the host.

        Raises:
            Unavailable: a backend that does not work in such buffers.
        """
        if self.engine.stages is None:
            raise Unavailable(f"backend {self.engine.backend} does not work in fixed buffers")
        return EngineCall(self.engine, systems)


@dataclass(frozen=True)
class Search:
    """One that is ready for a case.

    Attributes:
        call: what is timed, for the case's structures with other positions. includes: what it does, in words.
        graph: what a call finds, in canonical order.
        enqueues: whether a call returns before the device is done, so that the next can be enqueued.
    """

    call: Callable[[System], Any]
    graph: Callable[[System], Graph]
    includes: str
    enqueues: bool = False


def reference(engine: Engine) -> Engine:
    """The definition in float64 with the same weights."""
    return engine.with_settings(backend="general", precision="float64")


def predicted(system: System, energies: torch.Tensor, forces: torch.Tensor, model: Any) -> Prediction:
    """What a peer that gives atomic energies and forces says, in our terms; no stress."""
    atomic = energies.double() + model.reference_energies[system.atomic_numbers]
    energy = torch.zeros(system.num_systems, dtype=torch.float64, device=system.device)
    energy.index_add_(0, system.system_index, atomic)
    stress = torch.full((system.num_systems, 3, 3), torch.nan, device=system.device)
    return Prediction(energy, forces, stress, atomic, system.system_index)


def network(engine: Engine) -> Any:
    """A copy of the model for a peer to change as it likes."""
    return copy.deepcopy(engine.model)
