"""Stand-ins for the kernels, in plain PyTorch: the same contract, one structure of control flow to prove with them."""

from functools import partial
from itertools import pairwise

import torch

from atomjet.data import Conditions, Graph, PaddedGraph, Status, System
from atomjet.data.buffers import unpack_shifts
from atomjet.engine.evaluation import Stages
from atomjet.models.base import forces_from_gradients, virials_from_gradients
from atomjet.models.contract import Atomic, Segment
from atomjet.models.painn.fast_pytorch import FastPyTorch
from atomjet.neighbors.brute_force import brute_force


def in_use(padded) -> System:
    """What a `PaddedSystem` holds, unchecked positions included."""
    bounds = padded.system_ptr.tolist()
    systems = next((s for s in range(padded.capacity.systems) if bounds[s + 1] == bounds[s]), padded.capacity.systems)
    atoms = bounds[-1]
    return System(
        positions=padded.positions[:atoms],
        atomic_numbers=padded.atomic_numbers[:atoms],
        cell=padded.cell[:systems],
        pbc=padded.pbc[:systems].bool(),
        system_index=padded.system_index[:atoms].long(),
    )


def as_graph(padded: PaddedGraph) -> Graph:
    """The edges in use."""
    bounds = padded.system_ptr.tolist()
    atoms, edges = bounds[-1], int(padded.row_ptr[-1])
    systems = sum(b > a for a, b in pairwise(bounds))
    row_ptr = padded.row_ptr[: atoms + 1].long()
    degrees = row_ptr[1:] - row_ptr[:-1]
    counts = torch.tensor([b - a for a, b in pairwise(bounds)][:systems])
    return Graph(
        centers=torch.repeat_interleave(torch.arange(atoms), degrees),
        neighbors=padded.neighbors[:edges].long(),
        shifts=unpack_shifts(padded.shifts[:edges]),
        vectors=padded.vectors[:edges],
        row_ptr=row_ptr,
        atomic_numbers=padded.atomic_numbers[:atoms].long(),
        system_index=torch.repeat_interleave(torch.arange(systems), counts),
        charge=torch.zeros(systems, dtype=torch.int64),
        spin=torch.zeros(systems, dtype=torch.int64),
        cutoff=0.0,
    )


class Search:
    """The definition, into fixed buffers."""

    def __init__(self, cutoff, capacity):
        self.cutoff, self.capacity = cutoff, capacity
        self.graph = PaddedGraph.empty(capacity, "cpu")
        self.launches = 0

    def launch(self, padded):
        self.launches += 1
        graph = self.graph
        for name in ("row_ptr", "neighbors", "system_ptr", "atomic_numbers", "status"):
            getattr(graph, name).zero_()
        if not bool(torch.isfinite(padded.positions[: int(padded.system_ptr[-1])]).all()):
            graph.status[0] = int(Status.NOT_FINITE)
            return graph
        found = brute_force(in_use(padded), self.cutoff)
        graph.needed_edges[0] = found.num_edges
        if found.num_edges > self.capacity.edges:
            graph.status[0] = int(Status.EDGES)
            return graph
        if bool((found.shifts.abs() > 511).any()):
            graph.status[0] = int(Status.SHIFTS)
            return graph
        filled = PaddedGraph.from_graph(found, self.capacity)
        for name in ("row_ptr", "neighbors", "shifts", "vectors", "reverse", "system_ptr", "atomic_numbers"):
            getattr(graph, name).copy_(getattr(filled, name))
        return graph


class Buffered(FastPyTorch):
    """FastPyTorch in fixed buffers."""

    precision, storage_dtype, tuning, silent_conditions = "high", torch.float32, None, (0, 0, 0, 0)

    def admit(self, system, task):
        return Conditions.of(self.model.complete(system, task))

    def workspace(self, capacity):
        return torch.zeros(capacity.atoms), torch.zeros(1, capacity.edges, 4)

    def bytes_of(self, capacity):
        return 1000 * capacity.atoms + 100 * capacity.edges

    def segments(self, padded, conditions, workspace):
        energies, gradients = workspace

        def launch():
            energies.fill_(torch.nan)  # what is not in use must not matter
            gradients.fill_(torch.nan)
            if int(padded.status) == 0:
                graph = as_graph(padded)
                energies[: graph.num_atoms], gradients[0, : graph.num_edges, :3] = self.energies_and_gradients(graph)

        return [Segment(launch)]

    def result(self, workspace):
        return Atomic(*workspace, of_reverse=False)


class Pairs(Buffered):
    """Springs between all atoms within the cutoff, ending smoothly there: what an atom feels is its own row's business only, to the
    last bit, which products of matrices on a CPU do not promise.
    """

    def energies_and_gradients(self, graph):
        length, cutoff = graph.lengths.double(), 3.0
        gap = (cutoff - length).clamp(min=0)
        energy = torch.zeros(graph.num_atoms, dtype=torch.float64).index_add_(0, graph.centers, 0.05 * gap**3)
        slope = -0.15 * gap**2 / length
        return energy, slope[:, None] * graph.vectors


def assemble(references, closest, system, padded, found, prediction):
    """Sums in float64."""
    prediction.buffer[1:] = torch.nan
    status = int(padded.status)
    if status == 0:
        graph = as_graph(padded)
        z = graph.atomic_numbers
        if bool((graph.lengths < closest[z[graph.centers], z[graph.neighbors]]).any()):
            status = int(Status.OVERLAP)
        wide = graph.with_vectors(graph.vectors.double())
        gradients = found.gradients[:, : graph.num_edges, :3].double().sum(0)
        gradients = gradients[padded.reverse[: graph.num_edges].long()] if found.of_reverse else gradients
        atomic = found.energies[: graph.num_atoms].double() + references[z]
        prediction.atomic_energies[: graph.num_atoms] = atomic
        prediction.forces[: graph.num_atoms] = forces_from_gradients(wide, gradients)
        total = torch.zeros(graph.num_systems, dtype=torch.float64).index_add_(0, graph.system_index, atomic)
        broken = torch.zeros(graph.num_systems).index_add_(
            0, graph.system_index[graph.centers], gradients.sum(1).float()
        )
        prediction.energy[: graph.num_systems] = torch.where(broken.isfinite() & (status == 0), total, torch.nan)
        cell = system.cell[: graph.num_systems]
        stress = virials_from_gradients(wide, gradients) / torch.linalg.det(cell).abs()[:, None, None]
        periodic = system.pbc[: graph.num_systems].bool().all(1)[:, None, None]
        prediction.stress[: graph.num_systems] = torch.where(periodic, stress, torch.nan)
    prediction.status[0] = status


def stages(engine, backend=Buffered, **changed) -> Stages:
    """All three for an engine on the CPU."""
    given = {
        "search": partial(Search, engine.cutoff),
        "backend": backend(engine.model),
        "sums": lambda capacity: partial(assemble, engine.model.reference_energies, engine._closest),
        "device": torch.device("cpu"),
        "bytes_beside": lambda capacity: 32 * capacity.edges,
    }
    return Stages(**(given | changed))
