# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""`PaddedGraph` to the tensors of a `Graph`: atoms numbered as given, edges by center, neighbor, shift; whole numbers in 64 bits.

Where the search numbered atoms anew, rows change places: `Starts` finds where each begins, in kernels that a CUDA graph can hold.
One more kernel then moves the rows, each to where it belongs, and works out vectors in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.data import PaddedGraph, PaddedSystem
from atomjet.neighbors.lattice import add_shift, load_lattice, load_row, unpack
from atomjet.neighbors.rows import BLOCK


class Starts:
    """Where rows begin once atoms are numbered as given.

    Attributes:
        row_ptr: (N̂ + 1,) int32; that of the graph itself where its atoms are numbered as given already.

    Args:
        graph: as a search leaves it.
        renumbered: whether that search numbers atoms anew.
    """

    def __init__(self, graph: PaddedGraph, renumbered: bool) -> None:
        self.graph, self.renumbered, self.row_ptr = graph, renumbered, graph.row_ptr
        self.blocks = -(-graph.capacity.atoms // BLOCK.value)
        if renumbered:
            self.row_ptr = torch.zeros_like(graph.row_ptr)
            self.degrees = torch.zeros_like(graph.order)
            self.sums = torch.zeros(self.blocks + 1, dtype=torch.int32, device=graph.order.device)

    def enqueue(self) -> None:
        """Find them, for what the search has left."""
        if not self.renumbered or not self.blocks:
            return
        graph, systems = self.graph, self.graph.capacity.systems
        self.sums.zero_()
        degrees_kernel[(self.blocks,)](
            graph.row_ptr, graph.order, graph.system_ptr, self.degrees, self.sums, systems, num_warps=8
        )
        starts_kernel[(self.blocks,)](self.degrees, self.sums, graph.system_ptr, self.row_ptr, systems, num_warps=8)


@dataclass(frozen=True)
class Edges:
    """What a `Graph` holds of edges, with room for at least as many as there are.

    Attributes:
        centers, neighbors: (room,) int64. shifts: (room, 3) int64. vectors: (room, 3). row_ptr: (N + 1,) int64.
    """

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    vectors: Tensor
    row_ptr: Tensor

    @classmethod
    def empty(cls, atoms: int, room: int, dtype: torch.dtype, device: torch.device) -> Edges:
        """Of their own, for what is moved there."""
        long = {"dtype": torch.int64, "device": device}
        return cls(
            torch.empty(room, **long),
            torch.empty(room, **long),
            torch.empty((room, 3), **long),
            torch.empty((room, 3), dtype=dtype, device=device),
            torch.empty(atoms + 1, **long) if atoms else torch.zeros(1, **long),
        )

    @property
    def room(self) -> int:
        """How many edges fit."""
        return self.centers.shape[0]

    def first(self, edges: int) -> Edges:
        """Those in use."""
        if edges == self.room:
            return self
        return Edges(
            self.centers[:edges], self.neighbors[:edges], self.shifts[:edges], self.vectors[:edges], self.row_ptr
        )


def move_edges(starts: Starts, given: PaddedSystem, to: Edges) -> None:
    """Enqueue the move of all edges; those beyond the room of `to` are left out.

    Args:
        starts: after its `enqueue`. given: the structures that were searched. to: as for the atoms in use.
    """
    graph, atoms = starts.graph, to.row_ptr.shape[0] - 1
    if not atoms:
        return
    edges_kernel[(atoms,)](
        graph.row_ptr,
        graph.neighbors,
        graph.shifts,
        graph.order,
        starts.row_ptr,
        given.positions,
        given.cell,
        given.system_index,
        to.row_ptr,
        to.centers,
        to.neighbors,
        to.shifts,
        to.vectors,
        to.room,
        RENUMBERED=starts.renumbered,
        SLOTS=64,
        OTHERS=32,
        num_warps=2,
        enable_fp_fusion=False,
    )


@triton.jit(do_not_specialize=["systems"])
def degrees_kernel(row_ptr, order, system_ptr, degrees, sums, systems):
    """Degrees of atoms as given, and those of each block of atoms together."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < tl.load(system_ptr + systems)
    degree = tl.load(row_ptr + row + 1, live, 0) - tl.load(row_ptr + row, live, 0)
    atom = tl.load(order + row, live, 0)
    tl.store(degrees + atom, degree, live)
    tl.atomic_add(sums + atom // BLOCK, degree, live, sem="relaxed")


@triton.jit(do_not_specialize=["systems"])
def starts_kernel(degrees, sums, system_ptr, row_ptr, systems):
    """From degrees to where rows begin: the blocks before, then the degrees before."""
    block = tl.program_id(0)
    number = tl.arange(0, BLOCK)
    before = tl.zeros([], tl.int32)
    for start in range(0, block, BLOCK):
        before += tl.sum(tl.load(sums + start + number, start + number < block, 0), 0)
    atom = block * BLOCK + number
    live = atom < tl.load(system_ptr + systems)
    end = before + tl.cumsum(tl.load(degrees + atom, live, 0), 0)
    tl.store(row_ptr + atom + 1, end, live)
    if block == 0:
        tl.store(row_ptr, 0)


@triton.jit(do_not_specialize=["room"])
def edges_kernel(
    row_ptr,
    neighbors,
    shifts,
    order,
    new_ptr,
    positions,
    cell,
    system_index,
    row_ptr_out,
    centers_out,
    neighbors_out,
    shifts_out,
    vectors_out,
    room,
    RENUMBERED: tl.constexpr,
    SLOTS: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """A row a program. Where atoms were renumbered, each edge counts those of its row that stand before it."""
    row = tl.program_id(0)
    begin = tl.load(row_ptr + row)
    end = tl.load(row_ptr + row + 1)
    i, to = row, begin
    if RENUMBERED:
        i = tl.load(order + row)
        to = tl.load(new_ptr + i)
    tl.store(row_ptr_out + i + 1, (to + end - begin).to(tl.int64))
    if row == 0:
        tl.store(row_ptr_out, (row * 0).to(tl.int64))
    at = positions + i.to(tl.int64) * 3
    xi, yi, zi = load_row(at)
    lattice = load_lattice(cell + tl.load(system_index + i).to(tl.int64) * 9)
    for first in range(begin, end, SLOTS):
        e = first + tl.arange(0, SLOTS)
        inside = e < end
        j = tl.load(neighbors + e, inside, 0)
        packed = tl.load(shifts + e, inside, 0)
        place = e
        if RENUMBERED:
            j = tl.load(order + j, inside, 0)
            key = (j.to(tl.int64) << 31) + packed
            place = e * 0 + to
            for start in range(begin, end, OTHERS):
                o = start + tl.arange(0, OTHERS)
                other = tl.load(order + tl.load(neighbors + o, o < end, 0), o < end, 0)
                other_key = (other.to(tl.int64) << 31) + tl.load(shifts + o, o < end, 0)
                lower = (other_key[None, :] < key[:, None]) & (o < end)[None, :]
                place += tl.sum(lower.to(tl.int32), 1)
        inside = inside & (place < room)
        place = place.to(tl.int64)
        tl.store(centers_out + place, (place * 0 + i).to(tl.int64), inside)
        tl.store(neighbors_out + place, j.to(tl.int64), inside)
        a, b, c = unpack(packed)
        tl.store(shifts_out + place * 3, a.to(tl.int64), inside)
        tl.store(shifts_out + place * 3 + 1, b.to(tl.int64), inside)
        tl.store(shifts_out + place * 3 + 2, c.to(tl.int64), inside)
        from_ = positions + j.to(tl.int64) * 3
        a, b, c = a.to(tl.float64), b.to(tl.float64), c.to(tl.float64)
        x = tl.load(from_, inside, 0) - xi
        y = tl.load(from_ + 1, inside, 0) - yi
        z = tl.load(from_ + 2, inside, 0) - zi
        x, y, z = add_shift(x, y, z, a, b, c, lattice)
        tl.store(vectors_out + place * 3, x, inside)
        tl.store(vectors_out + place * 3 + 1, y, inside)
        tl.store(vectors_out + place * 3 + 2, z, inside)
