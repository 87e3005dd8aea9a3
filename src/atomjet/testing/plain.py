"""The captured path without kernels: search, model and sums over fixed buffers in plain PyTorch, by their definitions.

What an engine promises of that path (other contents in the same buffers, overflow, threads, refusals) can be proven with it on any
machine, for any backend. Nothing here is fast, and nothing is captured: it looks at the status and at sizes on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from atomjet.data import (
    Capacity,
    ConditionBuffers,
    Conditions,
    Graph,
    GraphBuffers,
    PredictionBuffers,
    Status,
    System,
    SystemBuffers,
)
from atomjet.data.buffers import SHIFT_LIMIT, unpack_shifts
from atomjet.engine import Engine
from atomjet.engine.evaluation import Stages
from atomjet.models.base import forces_from_gradients, virials_from_gradients
from atomjet.models.contract import Atomic, Backend, CapturedBackend, Model, Segment
from atomjet.neighbors.brute_force import brute_force


@dataclass
class Buffered:
    """Any backend as a captured one: what the buffers hold becomes a `Graph`, and what the backend says goes into the buffers.

    Attributes:
        silent_conditions: see `CapturedBackend`.
    """

    model: Model
    backend: Backend
    silent_conditions: tuple[int, int, int, int] | None = None
    precision: str = "high"
    storage_dtype: torch.dtype = torch.float64
    tuning: None = None
    exchanges: None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of the model, in the order of its tables; none for families without."""
        return getattr(self.model.config, "tasks", ())

    def admit(self, system: System, task: str | None) -> Conditions | None:
        """What the model makes of the structures."""
        return Conditions.of(self.model.complete(system, task), self.tasks)

    def workspace(self, capacity: Capacity) -> tuple[Tensor, Tensor]:
        """Energies and gradients."""
        energies = torch.zeros(capacity.atoms, dtype=torch.float64)
        return energies, torch.zeros(1, capacity.edges, 4, dtype=torch.float64)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        return 8 * capacity.atoms + 32 * capacity.edges

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Any) -> list[Segment]:
        """One: everything."""
        energies, gradients = workspace

        def launch() -> None:
            energies.fill_(torch.nan)  # what is not in use must not matter
            gradients.fill_(torch.nan)
            if int(graph.status) == 0:
                found = as_graph(graph, conditions, self.model.cutoff, self.tasks)
                per_atom, per_edge = self.backend.energies_and_gradients(found)
                energies[: found.num_atoms] = per_atom.double()
                gradients[0, : found.num_edges, :3] = per_edge.double()

        return [Segment(launch)]

    def result(self, workspace: Any) -> Atomic:
        """Energies and gradients of the workspace; gradients stand at the edges themselves, not at their reverse."""
        return Atomic(*workspace, of_reverse=False)

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Those of the backend."""
        return self.backend.energies_and_gradients(graph)

    def bytes_needed(self, graph: Graph) -> int:
        """Those of the backend."""
        return self.backend.bytes_needed(graph)


class PlainSearch:
    """The definition of neighbours, into fixed buffers.

    Attributes:
        graph: filled by `launch`. launches: how many there were.
    """

    def __init__(self, cutoff: float, dtype: torch.dtype, capacity: Capacity) -> None:
        self.cutoff, self.capacity, self.launches = cutoff, capacity, 0
        self.graph = GraphBuffers.empty(capacity, "cpu", dtype)

    def launch(self, system: SystemBuffers) -> None:
        """Search once."""
        self.launches += 1
        graph, atoms = self.graph, int(system.system_ptr[-1])
        for name in ("row_ptr", "neighbors", "system_ptr", "atomic_numbers", "status"):
            getattr(graph, name).zero_()
        if not bool(torch.isfinite(system.positions[:atoms]).all()):
            graph.status[0] = int(Status.NOT_FINITE)
            return
        found = brute_force(in_use(system), self.cutoff)
        graph.needed_edges[0] = found.num_edges
        if found.num_edges > self.capacity.edges:
            graph.status[0] = int(Status.EDGES)
            return
        if bool((found.shifts.abs() > SHIFT_LIMIT).any()):
            graph.status[0] = int(Status.SHIFTS)
            return
        filled = GraphBuffers.from_graph(found, self.capacity, graph.vectors.dtype)
        for name in ("row_ptr", "neighbors", "shifts", "vectors", "reverse", "system_ptr", "atomic_numbers"):
            getattr(graph, name).copy_(getattr(filled, name))


def sum_up(
    references: Tensor,
    closest: Tensor,
    system: SystemBuffers,
    graph: GraphBuffers,
    atomic: Atomic,
    prediction: PredictionBuffers,
) -> None:
    """Energies, forces and stress from what the model left, by their definitions; see `models/forces.py`."""
    prediction.buffer.fill_(torch.nan)
    status = int(graph.status)
    if status == 0:
        conditions = ConditionBuffers(system.conditions, system.system_index)
        found = as_graph(graph, conditions)
        atoms, systems = found.num_atoms, found.num_systems
        z, index = found.atomic_numbers, found.system_index
        if bool((found.lengths < closest[z[found.centers], z[found.neighbors]]).any()):
            status = int(Status.OVERLAP)
        double = found.with_vectors(found.vectors.double())
        gradients = atomic.gradients[:, : found.num_edges, :3].double().sum(0)
        gradients = gradients[graph.reverse[: found.num_edges].long()] if atomic.of_reverse else gradients
        rows = conditions.task[:systems].long()[index] if len(references) > 1 else torch.zeros_like(index)
        energies = atomic.energies[:atoms].double() + references[rows, z]
        virials = virials_from_gradients(double, gradients)
        total = torch.zeros(systems, dtype=torch.float64).index_add_(0, index, energies)
        good = (total + virials.diagonal(dim1=1, dim2=2).sum(1)).isfinite() & (status == 0)
        periodic = system.pbc[:systems].bool().all(1)[:, None, None]
        stress = virials / torch.linalg.det(system.cell[:systems]).abs()[:, None, None]
        prediction.atomic_energies[:atoms] = energies
        prediction.forces[:atoms] = forces_from_gradients(double, gradients)
        prediction.energy[:systems] = torch.where(good, total, torch.nan)
        prediction.stress[:systems] = torch.where(periodic, stress, torch.nan)
    prediction.status[0] = status


def plain_stages(engine: Engine, backend: CapturedBackend | None = None) -> Stages:
    """All of it for an engine on the CPU; default: its own backend, buffered. Give it to `Engine.use`."""
    backend = backend or Buffered(engine.model, engine.evaluator)
    references = torch.atleast_2d(engine.model.reference_energies)
    return Stages(
        search=partial(PlainSearch, engine.cutoff, engine.dtype),
        backend=backend,
        sums=lambda capacity: partial(sum_up, references, engine.shortest_allowed),
        device=torch.device("cpu"),
        bytes_beside=lambda capacity: 32 * capacity.edges,
    )


def in_use(buffers: SystemBuffers) -> System:
    """What a `SystemBuffers` holds."""
    bounds = buffers.system_ptr.tolist()
    systems, atoms = sum(after > before for before, after in pairwise(bounds)), bounds[-1]
    return System(
        positions=buffers.positions[:atoms],
        atomic_numbers=buffers.atomic_numbers[:atoms],
        cell=buffers.cell[:systems],
        pbc=buffers.pbc[:systems].bool(),
        system_index=buffers.system_index[:atoms].long(),
    )


def as_graph(
    graph: GraphBuffers, conditions: ConditionBuffers, cutoff: float = 0.0, tasks: tuple[str, ...] = ()
) -> Graph:
    """The edges in use, and what their structures were staged with."""
    bounds = graph.system_ptr.tolist()
    atoms, edges = bounds[-1], int(graph.row_ptr[-1])
    counts = [after - before for before, after in pairwise(bounds) if after > before]
    systems, row_ptr = len(counts), graph.row_ptr[: atoms + 1].long()
    return Graph(
        centers=torch.repeat_interleave(torch.arange(atoms), row_ptr.diff()),
        neighbors=graph.neighbors[:edges].long(),
        shifts=unpack_shifts(graph.shifts[:edges]),
        vectors=graph.vectors[:edges],
        row_ptr=row_ptr,
        atomic_numbers=graph.atomic_numbers[:atoms].long(),
        system_index=torch.repeat_interleave(torch.arange(systems), torch.tensor(counts)),
        charge=conditions.charge[:systems].long(),
        spin=conditions.spin[:systems].long(),
        cutoff=cutoff,
        task=tuple(tasks[row] for row in conditions.task[:systems].tolist()) if tasks else ("",) * systems,
    )
