"""Structures and edges in buffers of fixed size: what a CUDA graph can be captured over and replayed with other contents.

Letters with a roof are capacities, chosen by the host: Ŝ structures, N̂ atoms, Ê edges. How much of them is in use is written on
the device only: structure s owns the atoms system_ptr[s] ... system_ptr[s + 1] - 1, center i the edges row_ptr[i] ...
row_ptr[i + 1] - 1, and structures and atoms beyond those in use own nothing. Kernels read these bounds and leave at once where
there is nothing to do, so padding costs next to nothing and adds exact zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor

from atomjet.data.capacity import Capacity
from atomjet.data.conditions import CONDITIONS, Conditions
from atomjet.data.graph import Graph
from atomjet.data.system import System
from atomjet.errors import StructureError

SHIFT_BITS = 10
"""Bits in which each component of a shift is stored."""

SHIFT_LIMIT = 2 ** (SHIFT_BITS - 1) - 1
"""Largest shift that can be stored, in whole cells, either way."""


class Status(IntFlag):
    """What went wrong on the device, one bit each; whoever sets one also makes the energies NaN, so nothing is silently wrong."""

    EDGES = 1  # more edges than Ê
    CELLS = 2  # more cells, or more atoms in one, than the search has memory for
    IMAGES = 4  # a cell so thin that too many images lie within the cutoff
    SHIFTS = 8  # a shift beyond SHIFT_LIMIT: an atom hundreds of cells away from its own
    NOT_FINITE = 16  # a position or a cell is NaN, infinite, or so large that digits may be lost
    SINGULAR = 32  # periodic cell vectors that do not span their directions
    OVERLAP = 64  # atoms nearer than the model allows
    SLOT = 128  # the weights of a structure are in no slot
    RANGE = 256  # a number left the range of its type in the model


@dataclass(frozen=True, eq=False)
class SystemBuffers:
    """Structures in fixed buffers, atoms one structure after the other.

    Attributes:
        positions: (N̂, 3) float64, Å.
        atomic_numbers: (N̂,) int32.
        system_index: (N̂,) int32; Ŝ for atoms not in use.
        system_ptr: (Ŝ + 1,) int32.
        cell: (Ŝ, 3, 3) float64, rows; zero in directions that are not periodic.
        pbc: (Ŝ, 3) int32, 0 or 1.
        conditions: (4, Ŝ) int32, in the order of `CONDITIONS`.
        capacity: host values.
    """

    positions: Tensor
    atomic_numbers: Tensor
    system_index: Tensor
    system_ptr: Tensor
    cell: Tensor
    pbc: Tensor
    conditions: Tensor
    capacity: Capacity

    @classmethod
    def empty(cls, capacity: Capacity, device: torch.device | str) -> SystemBuffers:
        """Buffers of this capacity, holding no structures."""
        return cls.over(torch.zeros(cls.bytes_of(capacity), dtype=torch.uint8, device=device), capacity)

    @classmethod
    def over(cls, buffer: Tensor, capacity: Capacity) -> SystemBuffers:
        """Views of one buffer of `bytes_of` bytes, so that one copy moves everything to the device; holds no structures."""
        views, first = {}, 0
        for name, dtype, shape in _fields(capacity):
            count = math.prod(shape) * dtype.itemsize
            views[name] = buffer[first : first + count].view(dtype).view(shape)
            first += _aligned(count)
        views["system_index"].fill_(capacity.systems)
        return cls(**views, capacity=capacity)

    @staticmethod
    def bytes_of(capacity: Capacity) -> int:
        """Return what the buffers take."""
        return sum(_aligned(math.prod(shape) * dtype.itemsize) for _, dtype, shape in _fields(capacity))

    def fill(self, system: System, conditions: Conditions | None = None) -> None:
        """Replace the structures; nothing waits for the device.

        Args:
            system: on the device of the buffers.
            conditions: as the model's backend has admitted them; None for models that read none.

        Raises:
            StructureError: more structures or atoms than the capacity.
        """
        atoms, systems = system.num_atoms, system.num_systems
        if atoms > self.capacity.atoms or systems > self.capacity.systems:
            raise StructureError(
                f"{systems} structures with {atoms} atoms in a buffer for {self.capacity.systems} with "
                f"{self.capacity.atoms}; make a larger buffer"
            )
        self.positions[:atoms] = system.positions
        self.atomic_numbers[:atoms] = system.atomic_numbers
        self.system_index[:atoms] = system.system_index
        self.system_index[atoms:] = self.capacity.systems
        # Where each structure begins; a count of each would wait for the device.
        bounds = torch.arange(systems + 1, device=self.positions.device)
        self.system_ptr.fill_(atoms)
        self.system_ptr[: systems + 1] = torch.searchsorted(system.system_index, bounds)
        self.cell[:systems] = system.cell
        self.pbc[:systems] = system.pbc
        if conditions is not None:
            self.conditions[:, :systems] = torch.from_numpy(conditions.values)


def _fields(capacity: Capacity) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Name, type and shape of every buffer of a `SystemBuffers`."""
    systems, atoms = capacity.systems, capacity.atoms
    return [
        ("positions", torch.float64, (atoms, 3)),
        ("cell", torch.float64, (systems, 3, 3)),
        ("atomic_numbers", torch.int32, (atoms,)),
        ("system_index", torch.int32, (atoms,)),
        ("system_ptr", torch.int32, (systems + 1,)),
        ("pbc", torch.int32, (systems, 3)),
        ("conditions", torch.int32, (len(CONDITIONS), systems)),
    ]


def _aligned(size: int) -> int:
    """Bytes up to the next buffer, which kernels may read in words of 16."""
    return -(-size // 64) * 64


@dataclass(frozen=True, eq=False)
class GraphBuffers:
    """Edges in fixed buffers, in rows sorted by their center: the contents of a `Graph` in 32-bit types.

    A search may number the atoms anew, so that neighbors in space are neighbors in memory: row n, `neighbors` and
    `atomic_numbers` count in that order, and `order` leads back. Atoms of one structure stay together and structures stay in
    their order, so `system_ptr` holds for both.

    Attributes:
        row_ptr: (N̂ + 1,) int32.
        neighbors: (Ê,) int32.
        shifts: (Ê,) int32, three components of 10 bits (`pack_shifts`), for the positions as given.
        vectors: (Ê, 3) float32, Å, neighbor minus center.
        reverse: (Ê,) int32, the edge from neighbor to center with the opposite shift; (0,) in buffers for graphs with a halo,
            where that of an edge to a ghost is with another process.
        atomic_numbers: (N̂,) int32.
        order: (N̂,) int32: row n is atom order[n] of the `SystemBuffers`.
        system_ptr: (Ŝ + 1,) int32; ghosts, which stand behind all others, are of no structure.
        owned: (1,) int32, rows that have edges; whatever is in use beyond them are ghosts. A search leaves none.
        status: (1,) int32, `Status` bits: a search writes what it found, whatever follows in an evaluation adds to that.
        needed_edges: (1,) int64: with Status.EDGES, a capacity Ê that will do; else the edges there are.
        capacity: host values.
    """

    row_ptr: Tensor
    neighbors: Tensor
    shifts: Tensor
    vectors: Tensor
    reverse: Tensor
    atomic_numbers: Tensor
    order: Tensor
    system_ptr: Tensor
    owned: Tensor
    status: Tensor
    needed_edges: Tensor
    capacity: Capacity

    @classmethod
    def empty(
        cls, capacity: Capacity, device: torch.device | str, dtype: torch.dtype = torch.float32, ghosts: bool = False
    ) -> GraphBuffers:
        """Buffers of this capacity, holding no edges; `dtype` is that of the vectors, `ghosts` whether for graphs with a halo."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        system_ptr = zeros(capacity.systems + 1)
        return cls(
            row_ptr=zeros(capacity.atoms + 1),
            neighbors=zeros(capacity.edges),
            shifts=zeros(capacity.edges),
            vectors=zeros(capacity.edges, 3, dtype=dtype),
            reverse=zeros(0 if ghosts else capacity.edges),
            atomic_numbers=zeros(capacity.atoms),
            order=torch.arange(capacity.atoms, dtype=torch.int32, device=device),
            system_ptr=system_ptr,
            owned=system_ptr[-1:],  # all atoms in use
            status=zeros(1),
            needed_edges=zeros(1, dtype=torch.int64),
            capacity=capacity,
        )

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        capacity: Capacity | None = None,
        dtype: torch.dtype = torch.float32,
        ghosts: bool = False,
    ) -> GraphBuffers:
        """Fixed buffers that hold a graph: exactly large enough, or as large as `capacity` says; `dtype` and `ghosts` see `empty`.

        Where there are none one edge fits, and with `ghosts` one atom: kernels read the first of a row before they know that it has
        none.

        Raises:
            StructureError: see `fill`.
        """
        counts = torch.bincount(graph.system_index, minlength=graph.num_systems)
        largest = int(counts.max()) if graph.num_systems else 0
        atoms = max(graph.num_atoms, int(ghosts))
        capacity = capacity or Capacity(graph.num_systems, atoms, max(graph.num_edges, 1), largest)
        padded = cls.empty(capacity, graph.vectors.device, dtype, ghosts)
        padded.fill(graph)
        return padded

    @property
    def has_ghosts(self) -> bool:
        """Whether these are buffers for graphs with a halo, which know no reverse edges."""
        return len(self.reverse) < len(self.neighbors)

    def fill(self, graph: Graph) -> None:
        """Put other edges in; with a halo nothing waits for the device.

        Raises:
            StructureError: atoms without rows, and no halo that knows them, or buffers for graphs without: nothing says which edge
                undoes one that leads there.
        """
        ghosts = graph.num_atoms - graph.num_owned
        if ghosts and graph.halo is None:
            raise StructureError(
                f"{ghosts} of {graph.num_atoms} atoms are ghosts, which have no rows; buffers of fixed size hold whole structures: "
                "give a graph of all atoms, or use a backend that exchanges rows"
            )
        owned, edges = graph.num_owned, graph.num_edges
        self.row_ptr.fill_(edges)
        self.row_ptr[: owned + 1] = graph.row_ptr
        self.neighbors[:edges] = graph.neighbors
        self.shifts[:edges] = pack_shifts(graph.shifts)
        self.vectors[:edges] = graph.vectors
        if not self.has_ghosts:
            self.reverse[:edges] = graph.reverse
        self.atomic_numbers[: graph.num_atoms] = graph.atomic_numbers
        bounds = torch.arange(graph.num_systems + 1, device=self.system_ptr.device)
        self.system_ptr.fill_(owned)  # whose last is `owned`
        self.system_ptr[: graph.num_systems + 1] = torch.searchsorted(graph.system_index[:owned], bounds)
        self.status.zero_()
        self.needed_edges.fill_(edges)


def pack_shifts(shifts: Tensor) -> Tensor:
    """(E, 3) whole numbers within ± SHIFT_LIMIT to (E,) int32; the packed zero shift is 0, and -p packs the opposite shift."""
    base = 1 << SHIFT_BITS
    return ((shifts[:, 0] * base + shifts[:, 1]) * base + shifts[:, 2]).to(torch.int32)


def unpack_shifts(packed: Tensor) -> Tensor:
    """(E,) int32 to (E, 3) int64."""
    base, half = 1 << SHIFT_BITS, 1 << (SHIFT_BITS - 1)
    rest = packed.long()
    parts = []
    for _ in range(3):
        last = (rest + half) % base - half
        parts.append(last)
        rest = (rest - last) // base
    return torch.stack(parts[::-1], dim=1)
