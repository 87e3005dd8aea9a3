"""`Evaluation`: search, model and forces over one set of buffers, enqueued without waiting for the device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Capacity, PaddedGraph, PaddedPrediction, PaddedSystem
from atomjet.errors import BackendError
from atomjet.models.base import Model, PaddedEvaluator

CAPABILITY = (8, 0)
"""The oldest GPU that Triton compiles these kernels for: Ampere."""

BYTES_PER_EDGE = 24
"""Of a `PaddedGraph`."""

BYTES_PER_ATOM = 256
"""Of a `PaddedGraph` and a `PaddedPrediction`, and of what a search keeps beside them."""


class Search(Protocol):
    """A neighbour search in buffers of fixed size; a CUDA graph can hold it."""

    def launch(self, system: PaddedSystem) -> PaddedGraph:
        """Enqueue one search; the same `PaddedGraph` every time, with the number of edges found in `needed_edges` (1,)."""
        ...


Assemble = Callable[[PaddedSystem, PaddedGraph, Tensor, Tensor, PaddedPrediction], None]
"""From energies and gradients of the reverse edges to a whole prediction, its status included."""


@dataclass(frozen=True)
class Stages:
    """What an engine evaluates with, for any capacity.

    Attributes:
        search: makes the search for a capacity.
        evaluator: the model.
        assemble: sums energies, forces and virials, and looks for overlapping atoms.
        device: of all buffers.
    """

    search: Callable[[Capacity], Search]
    evaluator: PaddedEvaluator
    assemble: Assemble
    device: torch.device

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what an `Evaluation` of this capacity allocates, known before it does."""
        buffers = BYTES_PER_EDGE * capacity.edges + BYTES_PER_ATOM * capacity.atoms + PaddedSystem.bytes_of(capacity)
        return buffers + self.evaluator.bytes_of(capacity)


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
        self._workspace = stages.evaluator.workspace(system.capacity)
        self._graph: PaddedGraph | None = None

    @property
    def graph(self) -> PaddedGraph:
        """The edges of the last launch."""
        assert self._graph is not None, "nothing was launched yet"
        return self._graph

    def launch(self) -> None:
        """Enqueue search, model and sums; what went wrong is in `prediction.status`."""
        if self._graph is not None:
            self._graph.status.zero_()
        self._graph = self._search.launch(self.system)
        energies, gradients = self.stages.evaluator.launch(self._graph, self._workspace)
        self.stages.assemble(self.system, self._graph, energies, gradients, self.prediction)

    def needed_edges(self) -> int:
        """Edges that the last search found, whether or not there was room for them; waits for the device."""
        return int(self.graph.needed_edges)


def check_gpu(device: torch.device, precision: str) -> None:
    """Whether the backend `fast_gpu` can run here.

    Raises:
        BackendError: says why not, and what to use instead.
    """
    if device.type != "cuda":
        raise BackendError(f"backend 'fast_gpu' needs a CUDA device, not {device}; use fast_pytorch")
    if precision == "float64":
        raise BackendError(
            "backend 'fast_gpu' computes in float32 at most, not float64; use precision 'high', or fast_pytorch"
        )
    if importlib.util.find_spec("triton") is None:
        raise BackendError(
            "backend 'fast_gpu' needs triton, which is not installed; install atomjet[gpu], or use fast_pytorch"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise BackendError(
            f"backend 'fast_gpu' needs compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, {name} has "
            f"{capability[0]}.{capability[1]}; use fast_pytorch"
        )


def gpu_stages(model: Model, evaluator: PaddedEvaluator, closest: Tensor) -> Stages:
    """The kernels; `closest` (Z, Z), Å, are the shortest distances allowed."""
    raise NotImplementedError
