# pyright: reportCallIssue=false, reportArgumentType=false
"""`SystemBuffers` to `GraphBuffers`: the search that a CUDA graph can hold. Kernels only; nothing waits, nothing is allocated.

And `search`, which puts it to use once: guesses how many edges there will be, looks, grows the buffers where they were too small.
"""

from __future__ import annotations

import math
import threading

import torch

from atomjet.data import Capacity, Graph, GraphBuffers, Status, System, SystemBuffers
from atomjet.data.buffers import has_images
from atomjet.errors import StructureError
from atomjet.neighbors.routes import FREE_WORDS, PER_ATOM, AllPairs, Cells, OneKernel
from atomjet.neighbors.rows import canonical_kernel
from atomjet.ops.edge_vectors import Edges, edge_vectors

ALL_PAIRS = 3000
"""Atoms of the largest structure up to which testing all pairs beats building cells."""

KEEP = 2_000_000
"""Edges up to which a thread keeps the buffers of its last search for the next: some hundred MB at most."""

MOST = 2**31 - 1
"""Edges, and numbers in a buffer, are counted in 32 bits."""


class PaddedSearch:
    """Finds all pairs closer than the cutoff, again and again, in the same buffers.

    `launch` leaves in `graph.status` what went wrong in it, whatever stood there before. If `Status.EDGES` is set, all rows are
    empty and `graph.needed_edges` says which capacity will do. Results are the same bits from launch to launch.

    Args:
        capacity: how much `launch` will be given at most. Decides the route: one kernel for everything, all pairs, or cells.
        cutoff: Å; pairs strictly closer are edges.
        device: where; the kernels also run in Triton's interpreter on the CPU.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device | str) -> None:
        words = FREE_WORDS if capacity.atoms_per_system > ALL_PAIRS else AllPairs.words(capacity)
        if capacity.edges + max(words, PER_ATOM) * capacity.atoms > MOST:
            raise StructureError(
                f"{capacity.edges} edges of {capacity.atoms} atoms in structures of up to {capacity.atoms_per_system} "
                f"are more than one search can hold ({MOST} numbers); search fewer structures at once, or a shorter cutoff"
            )
        self.capacity, self.cutoff = capacity, float(cutoff)
        self.device = torch.device(device)
        self.graph = GraphBuffers.empty(capacity, device)
        if capacity.atoms_per_system > ALL_PAIRS:
            self.route = Cells(self.graph, cutoff)
        elif capacity.atoms <= OneKernel.ALL and capacity.systems <= OneKernel.SYSTEMS and not capacity.images:
            self.route = OneKernel(self.graph, cutoff)
        else:
            self.route = AllPairs(self.graph, cutoff)

    def launch(self, system: SystemBuffers) -> GraphBuffers:
        """Enqueue the search on the current stream; returns `self.graph`, the same buffers every time, its status included.

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
    largest, edges, images = _guess(system, cutoff)
    while True:
        finder, padded = _room(system, Capacity(system.num_systems, system.num_atoms, edges, largest, images), cutoff)
        with torch.no_grad():
            padded.fill(system)
        graph = finder.launch(padded)
        status, needed = torch.cat([graph.status.long(), graph.needed_edges]).tolist()
        if not status:
            return to_graph(graph, padded, system, cutoff, needed)
        if status != Status.EDGES:
            return None
        edges = needed


class _Kept(threading.local):
    """The room of this thread's last search. What a search leaves there has been copied out when it returns."""

    key: tuple[torch.device, float, torch.cuda.Stream | None] | None = None
    room: tuple[PaddedSearch, SystemBuffers] | None = None


_kept = _Kept()


def _room(system: System, asked: Capacity, cutoff: float) -> tuple[PaddedSearch, SystemBuffers]:
    """Buffers for so much: those of the last search, where they are large enough and not far too large, else others."""
    device = system.device
    key = (device, cutoff, torch.cuda.current_stream(device) if device.type == "cuda" else None)
    if _kept.room is not None and _kept.key == key and _serves(_kept.room[0].capacity, asked):
        return _kept.room
    small = asked.edges <= KEEP
    sizes = asked.systems, asked.atoms, asked.edges, asked.atoms_per_system
    wanted = Capacity(*(_rounded(n) for n in sizes), asked.images) if small else asked
    finder = PaddedSearch(wanted, cutoff, device)
    room = finder, SystemBuffers.empty(wanted, device)
    if small:
        _kept.key, _kept.room = key, room
    return room


def _serves(capacity: Capacity, asked: Capacity) -> bool:
    """Whether a search of some capacity will do for another."""
    enough = all(getattr(capacity, name) >= getattr(asked, name) for name in ("systems", "atoms", "edges"))
    alike = asked.atoms_per_system <= capacity.atoms_per_system <= 2 * asked.atoms_per_system + 64
    alike &= asked.images == capacity.images
    return enough and alike and capacity.atoms <= 2 * asked.atoms + 64 and capacity.systems <= 2 * asked.systems + 64


def _rounded(number: int) -> int:
    """A little more, so that the next may be a little larger."""
    return number + number // 8


def _guess(system: System, cutoff: float) -> tuple[int, int, bool]:
    """Atoms of the largest structure; about how many edges, rather more; whether there are images."""
    counts = system.counts()
    cell = system.cell.detach().double()
    a, b, c = cell.unbind(1)
    volumes = (torch.linalg.cross(a, b) * c).sum(1).abs()
    density = torch.where(system.pbc.all(1), counts / volumes.clamp(min=1e-9), DENSE)
    degrees = 1.1 * (4 / 3 * math.pi * cutoff**3) * density + 8
    # Without images there are no more neighbors than other atoms.
    degrees = torch.where(system.pbc.any(1), degrees, degrees.minimum(counts - 1.0))
    if not system.num_systems:
        return 0, 0, False
    found = counts.max().double(), (counts * degrees).sum(), has_images(cell, system.pbc, cutoff).double()
    largest, edges, images = torch.stack(found).tolist()
    return int(largest), int(edges), bool(images)


def to_graph(graph: GraphBuffers, padded: SystemBuffers, system: System, cutoff: float, edges: int) -> Graph:
    """Leave the fixed buffers: atoms numbered as given, canonical order, exact size."""
    atoms, device = system.num_atoms, system.device
    order = graph.order[:atoms]
    inverse = torch.empty_like(order)
    inverse[order.long()] = torch.arange(atoms, dtype=torch.int32, device=device)
    row_ptr = torch.zeros(atoms + 1, dtype=torch.int64, device=device)
    torch.cumsum(graph.row_ptr[: atoms + 1].diff()[inverse.long()], 0, out=row_ptr[1:])
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
