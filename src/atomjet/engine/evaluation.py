"""`Evaluation`: search, model and forces over one set of buffers, enqueued without waiting for the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Capacity, PaddedGraph, PaddedPrediction, PaddedSystem
from atomjet.models.base import Model, PaddedEvaluator


class Search(Protocol):
    """A neighbour search in buffers of fixed size; a CUDA graph can hold it."""

    def launch(self, system: PaddedSystem) -> PaddedGraph:
        """Enqueue one search; the same `PaddedGraph` every time.

        The number of edges found is in `needed_edges` (1,), and what went wrong in `status` (1,), whatever stood there before.
        """
        ...


Sums = Callable[[PaddedSystem, PaddedGraph, Tensor, Tensor, PaddedPrediction], None]
"""From energies and gradients of the reverse edges to a whole prediction, its status included."""


@dataclass(frozen=True)
class Stages:
    """What an engine evaluates with, for any capacity.

    Attributes:
        search: makes the search for a capacity.
        evaluator: the model.
        sums: makes, for a capacity, what sums energies, forces and virials, and looks for overlapping atoms.
        device: of all buffers.
        bytes_beside: what search and sums of a capacity allocate.
        cut: the evaluator with its kernels cut for a capacity, sharing the weights; None leaves it as it is.
    """

    search: Callable[[Capacity], Search]
    evaluator: PaddedEvaluator
    sums: Callable[[Capacity], Sums]
    device: torch.device
    bytes_beside: Callable[[Capacity], int]
    cut: Callable[[Capacity], PaddedEvaluator] | None = None

    def evaluator_for(self, capacity: Capacity) -> PaddedEvaluator:
        """The model, its kernels cut for a capacity."""
        return self.evaluator if self.cut is None else self.cut(capacity)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what an `Evaluation` of this capacity allocates, known before it does."""
        buffers = PaddedSystem.bytes_of(capacity) + PaddedPrediction.bytes_of(capacity)
        return buffers + self.evaluator_for(capacity).bytes_of(capacity) + self.bytes_beside(capacity)


class Evaluation:
    """Buffers for one capacity, and what fills them.

    Attributes:
        system: to be filled before `launch`.
        prediction: filled by `launch`.
    """

    def __init__(self, stages: Stages, system: PaddedSystem) -> None:
        """Allocate everything."""
        self.stages, self.system, self.capacity = stages, system, system.capacity
        self.prediction = PaddedPrediction.empty(system.capacity, stages.device)
        self._search = stages.search(system.capacity)
        self._sums = stages.sums(system.capacity)
        self._evaluator = stages.evaluator_for(system.capacity)
        self._workspace = self._evaluator.workspace(system.capacity)
        self._graph: PaddedGraph | None = None

    @property
    def graph(self) -> PaddedGraph:
        """The edges of the last launch."""
        assert self._graph is not None, "nothing was launched yet"
        return self._graph

    def launch(self) -> None:
        """Enqueue search, model and sums; what went wrong in them is in `prediction.status`."""
        self._graph = self._search.launch(self.system)
        energies, gradients = self._evaluator.launch(self._graph, self._workspace)
        self._sums(self.system, self._graph, energies, gradients, self.prediction)

    def needed_edges(self) -> int:
        """Edges that the last search found, whether or not there was room for them; waits for the device."""
        return int(self.graph.needed_edges)


def gpu_stages(model: Model, evaluator: PaddedEvaluator, closest: Tensor) -> Stages:
    """The Triton kernels; `closest` (Z, Z), Å, are the shortest distances allowed."""
    from atomjet.engine.tuning import Tuning
    from atomjet.models import edge_forces
    from atomjet.models.skeleton import ShapesOnly
    from atomjet.neighbors.padded import PaddedSearch

    device, references = closest.device, model.reference_energies

    def sums(capacity: Capacity) -> Sums:
        virials = torch.zeros(6, capacity.atoms, dtype=torch.float64, device=device)

        def launch(
            system: PaddedSystem, graph: PaddedGraph, energies: Tensor, gradients: Tensor, out: PaddedPrediction
        ) -> None:
            edge_forces.launch(system, graph, energies, gradients, references, closest, virials, out)

        return launch

    @functools.lru_cache(maxsize=1024)  # asked before every new batch, and slow to answer
    def bytes_beside(capacity: Capacity) -> int:
        # Made on the device that has no memory, a search says how much it takes elsewhere.
        with ShapesOnly():
            search = PaddedSearch(capacity, model.cutoff, "meta")
        owned = {
            id(x): x for part in (search.graph, search.route) for x in vars(part).values() if isinstance(x, Tensor)
        }
        return 48 * capacity.atoms + sum(x.numel() * x.element_size() for x in owned.values())

    def search(capacity: Capacity) -> Search:
        return PaddedSearch(capacity, model.cutoff, device)

    return Stages(search, evaluator, sums, device, bytes_beside, Tuning.of(model, evaluator, device).cut)
