"""`Evaluation`: search, model and forces over one set of buffers, enqueued without waiting for the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Capacity, ConditionBuffers, Conditions, GraphBuffers, PredictionBuffers, SystemBuffers
from atomjet.engine.tuning import Tuning
from atomjet.models.contract import Atomic, CapturedBackend, Model
from atomjet.models.ensemble import members_of
from atomjet.ops.compile_ahead import compile_ahead


class Search(Protocol):
    """A neighbour search in buffers of fixed size; a CUDA graph can hold it.

    Attributes:
        graph: filled by `launch`, the same buffers every time.
    """

    graph: GraphBuffers

    def launch(self, system: SystemBuffers) -> object:
        """Enqueue one search.

        The number of edges found is in `graph.needed_edges`, and what went wrong in `graph.status`, whatever stood there before.
        """
        ...


Sums = Callable[[SystemBuffers, GraphBuffers, Atomic, PredictionBuffers], None]
"""From energies and gradients to a whole prediction, its status included; a structure with a number that is not finite gets an
energy that is none.
"""


@dataclass(frozen=True)
class Stages:
    """What an engine evaluates with, for any capacity.

    Attributes:
        search: makes the search for a capacity.
        backend: the model.
        sums: makes, for a capacity, what sums energies, forces and virials, and looks for overlapping atoms.
        device: of all buffers.
        bytes_beside: what search and sums of a capacity allocate.
        tuning: the choices for the backend's kernels; None leaves them to the backend.
        has_spread: whether the sums fill in the spreads of an ensemble.
    """

    search: Callable[[Capacity], Search]
    backend: CapturedBackend
    sums: Callable[[Capacity], Sums]
    device: torch.device
    bytes_beside: Callable[[Capacity], int]
    tuning: Tuning | None = None
    has_spread: bool = False

    def backend_for(self, capacity: Capacity) -> CapturedBackend:
        """The model with the choices for a capacity, sharing its weights."""
        return self.backend if self.tuning is None else self.tuning.backend_for(capacity)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what an `Evaluation` of this capacity allocates, known before it does."""
        buffers = SystemBuffers.bytes_of(capacity) + PredictionBuffers.bytes_of(capacity, self.has_spread)
        return buffers + self.backend_for(capacity).bytes_of(capacity) + self.bytes_beside(capacity)

    def smaller(self, capacity: Capacity) -> Capacity | None:
        """A capacity for as much in less memory, whose backend computes again what it would save; None where that is not less."""
        other = replace(capacity, recompute=True)
        return other if self.bytes_of(other) < self.bytes_of(capacity) else None


class Evaluation:
    """Buffers for one capacity, and what fills them.

    Attributes:
        system: to be filled before `launch`.
        graph: the edges of the last launch.
        prediction: filled by `launch`.
        staged: what the kernels see of conditions. workspace: the backend's.
        conditions: what the structures were admitted with, held as long as this is; None for what says nothing of itself.
    """

    def __init__(self, stages: Stages, system: SystemBuffers, conditions: Conditions | None = None) -> None:
        """Allocate everything."""
        self.stages, self.system, self.capacity = stages, system, system.capacity
        self.conditions = conditions
        self.prediction = PredictionBuffers.empty(system.capacity, stages.device, stages.has_spread)
        self._search = stages.search(system.capacity)
        self._sums = stages.sums(system.capacity)
        backend = stages.backend_for(system.capacity)
        self.workspace = backend.workspace(system.capacity)
        self.staged = ConditionBuffers(system.conditions, system.system_index)
        self._segments = backend.segments(self._search.graph, self.staged, self.workspace)
        self._atomic = backend.result(self.workspace)

    @property
    def graph(self) -> GraphBuffers:
        """The edges of the last launch."""
        return self._search.graph

    def launch(self) -> None:
        """Enqueue search, model and sums; what went wrong in them is in `prediction.status`."""
        self._search.launch(self.system)
        for segment in self._segments:
            segment.launch()
        self._sums(self.system, self.graph, self._atomic, self.prediction)

    def compile(self) -> None:
        """Compile all kernels; before anything is put into the buffers."""
        compile_ahead(self.launch, self.system.positions.device)

    def needed_edges(self) -> int:
        """Edges that the last search found, whether or not they fitted; waits for the device."""
        return int(self.graph.needed_edges)


def gpu_stages(model: Model, backend: CapturedBackend, closest: Tensor) -> Stages:
    """Search and sums by Triton kernels; `closest` (Z, Z), Å, are the shortest distances allowed."""
    from atomjet.models import ensemble_mean, forces
    from atomjet.models.skeleton import ShapesOnly
    from atomjet.neighbors.buffered_search import BufferedSearch

    members, device = members_of(model), closest.device
    references = [torch.atleast_2d(member.reference_energies) for member in members]
    has_spread = len(members) > 1

    def sums(capacity: Capacity) -> Sums:
        virials = torch.zeros(6, capacity.atoms, dtype=torch.float64, device=device)
        if not has_spread:
            return lambda system, graph, atomic, out: forces.launch(
                system, graph, atomic, references[0], closest, virials, out
            )
        size = PredictionBuffers.bytes_of(capacity) // 8
        each = torch.zeros(len(members), size, dtype=torch.float64, device=device)
        parts = [PredictionBuffers(own, capacity) for own in each]

        def launch(system: SystemBuffers, graph: GraphBuffers, atomic: Atomic, out: PredictionBuffers) -> None:
            for own, table, part in zip((atomic, *atomic.others), references, parts, strict=True):
                forces.launch(system, graph, own, table, closest, virials, part)
            ensemble_mean.launch(graph, each, out)

        return launch

    @functools.lru_cache(maxsize=1024)  # called before every new batch, and slow
    def bytes_beside(capacity: Capacity) -> int:
        # Made on the device that has no memory, a search says how much it takes elsewhere.
        with ShapesOnly():
            search = BufferedSearch(capacity, model.cutoff, "meta")
        owned = {
            id(x): x for part in (search.graph, search.algorithm) for x in vars(part).values() if isinstance(x, Tensor)
        }
        each = len(members) * PredictionBuffers.bytes_of(capacity) if has_spread else 0
        return each + 48 * capacity.atoms + sum(x.numel() * x.element_size() for x in owned.values())

    def search(capacity: Capacity) -> Search:
        return BufferedSearch(capacity, model.cutoff, device)

    return Stages(search, backend, sums, device, bytes_beside, Tuning.of(backend, device), has_spread)
