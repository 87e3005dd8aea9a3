# pyright: reportCallIssue=false, reportArgumentType=false
"""`PaddedSystem` to `PaddedGraph`: the search that a CUDA graph can hold. Kernels only; nothing waits, nothing is allocated.

And `search`, which puts it to use once: guesses how many edges there will be, looks, grows the buffers where they were too small.
"""

from __future__ import annotations

import math

import torch

from atomjet.data import Capacity, Graph, PaddedGraph, PaddedSystem, Status, System
from atomjet.errors import StructureError
from atomjet.neighbors.routes import FREE_WORDS, AllPairs, Cells, OneProgram, groups
from atomjet.neighbors.rows import canonical_kernel
from atomjet.ops.edge_vectors import Edges, edge_vectors

ALL_PAIRS = 3000
"""Atoms of the largest structure up to which testing all pairs beats building cells."""

MOST = 2**31 - 1
"""Edges, and numbers in a buffer, are counted in 32 bits."""


class PaddedSearch:
    """Finds all pairs closer than the cutoff, again and again, in the same buffers.

    `launch` does not clear `graph.status`; whoever starts an evaluation does. If `Status.EDGES` is set, all rows are empty and
    `graph.needed_edges` says which capacity will do. Results are the same bits from launch to launch.

    Args:
        capacity: how much `launch` will be given at most. Decides the route: one program for everything, all pairs, or cells.
        cutoff: Å; pairs strictly closer are edges.
        device: where; the kernels also run in Triton's interpreter on the CPU.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device | str) -> None:
        words = FREE_WORDS + AllPairs.PIECES + groups(min(capacity.atoms_per_system, ALL_PAIRS), 32)
        if capacity.edges + words * capacity.atoms > MOST:
            raise StructureError(
                f"{capacity.edges} edges of {capacity.atoms} atoms in structures of up to {capacity.atoms_per_system} "
                f"are more than one search can hold ({MOST} numbers); search fewer structures at once, or a shorter cutoff"
            )
        self.capacity, self.cutoff = capacity, float(cutoff)
        self.device = torch.device(device)
        self.graph = PaddedGraph.empty(capacity, device)
        if capacity.atoms_per_system > ALL_PAIRS:
            self.route = Cells(self.graph, cutoff)
        elif capacity.atoms <= OneProgram.ALL:
            self.route = OneProgram(self.graph, cutoff)
        else:
            self.route = AllPairs(self.graph, cutoff)

    def launch(self, system: PaddedSystem) -> PaddedGraph:
        """Enqueue the search on the current stream; returns `self.graph`, the same buffers every time.

        Args:
            system: buffers of this search's capacity.
        """
        if system.capacity != self.capacity:
            raise ValueError(f"a search for {self.capacity} was given a system of {system.capacity}")
        self.route.launch(system)
        return self.graph


DENSE = 0.12
"""Atoms per Å³ where no cell says: those of liquids and molecules."""


def search(system: System, cutoff: float) -> Graph | None:
    """Find the same edges as `brute_force` does; None where something else than too many edges is in the way.

    Raises:
        StructureError: more edges than can be counted.
    """
    largest, edges = _guess(system, cutoff)
    while True:
        capacity = Capacity(system.num_systems, system.num_atoms, edges, largest)
        finder = PaddedSearch(capacity, cutoff, system.device)
        padded = PaddedSystem.empty(capacity, system.device)
        with torch.no_grad():
            padded.fill(system)
        graph = finder.launch(padded)
        status, needed = torch.cat([graph.status.long(), graph.needed_edges]).tolist()
        if not status:
            return _to_graph(graph, padded, system, cutoff, needed)
        if status != Status.EDGES:
            return None
        edges = needed


def _guess(system: System, cutoff: float) -> tuple[int, int]:
    """Atoms of the largest structure, and about how many edges, rather more."""
    counts = system.counts()
    volumes = torch.linalg.det(system.cell.double()).abs()
    density = torch.where(system.pbc.all(1), counts / volumes.clamp(min=1e-9), DENSE)
    degrees = 1.1 * (4 / 3 * math.pi * cutoff**3) * density + 8
    # Without images there are no more neighbors than other atoms.
    degrees = torch.where(system.pbc.any(1), degrees, degrees.minimum(counts - 1.0))
    if not system.num_systems:
        return 0, 0
    largest, edges = torch.stack([counts.max().double(), (counts * degrees).sum()]).tolist()
    return int(largest), int(edges)


def _to_graph(graph: PaddedGraph, padded: PaddedSystem, system: System, cutoff: float, edges: int) -> Graph:
    """Leave the fixed buffers: atoms numbered as given, canonical order, exact size."""
    atoms, device = system.num_atoms, system.device
    inverse = torch.empty_like(graph.order)
    inverse[graph.order.long()] = torch.arange(atoms, dtype=torch.int32, device=device)
    row_ptr = torch.zeros(atoms + 1, dtype=torch.int64, device=device)
    torch.cumsum(graph.row_ptr.diff()[inverse.long()], 0, out=row_ptr[1:])
    centers, neighbors = (torch.empty(edges, dtype=torch.int64, device=device) for _ in range(2))
    shifts = torch.empty(edges, 3, dtype=torch.int64, device=device)
    vectors = torch.empty(edges, 3, dtype=system.dtype, device=device)
    if edges:
        canonical_kernel[(atoms,)](
            graph.row_ptr,
            graph.neighbors,
            graph.shifts,
            graph.order,
            inverse,
            padded.positions,
            padded.cell,
            padded.system_index,
            row_ptr,
            centers,
            neighbors,
            shifts,
            vectors,
            SLOTS=128,
            OTHERS=32,
            num_warps=4,
            enable_fp_fusion=False,
        )
    if system.positions.requires_grad or system.cell.requires_grad:
        exact = Edges(centers, neighbors, shifts, system.system_index[centers])
        vectors = edge_vectors(system.positions.double(), system.cell.double(), exact).to(system.dtype)
    return Graph(
        centers=centers,
        neighbors=neighbors,
        shifts=shifts,
        vectors=vectors,
        row_ptr=row_ptr,
        atomic_numbers=system.atomic_numbers,
        system_index=system.system_index,
        charge=system.charge,
        spin=system.spin,
        cutoff=float(cutoff),
        task=system.task,
    )
