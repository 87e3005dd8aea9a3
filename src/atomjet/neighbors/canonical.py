# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""`GraphBuffers` to the tensors of a `Graph`: atoms numbered as given, edges by center, neighbor, shift; whole numbers in 64 bits.

Where the search numbered atoms anew, rows change places: `Starts` finds where each begins, in kernels that a CUDA graph can hold.
One more kernel then moves the rows, each to where it belongs, and works out vectors in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.data import GraphBuffers, SystemBuffers
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

    def __init__(self, graph: GraphBuffers, renumbered: bool) -> None:
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
            row_ptr=graph.row_ptr,
            order=graph.order,
            system_ptr=graph.system_ptr,
            degrees=self.degrees,
            sums=self.sums,
            systems=systems,
            num_warps=8,
        )
        starts_kernel[(self.blocks,)](
            degrees=self.degrees,
            sums=self.sums,
            system_ptr=graph.system_ptr,
            row_ptr=self.row_ptr,
            systems=systems,
            num_warps=8,
        )


class Edges(NamedTuple):
    """What a `Graph` holds of E edges: centers, neighbors (E,), shifts (E, 3), row_ptr (N + 1,) int64; vectors (E, 3) float64."""

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    vectors: Tensor
    row_ptr: Tensor

    @classmethod
    def of(cls, buffer: Tensor, max_edges: int, atoms: int, edges: int) -> Edges:
        """Views of a buffer that `move_edges` has filled: the edges in use."""
        vectors = buffer.view(torch.float64)
        return cls(
            buffer.as_strided((edges,), (1,), 0),
            buffer.as_strided((edges,), (1,), max_edges),
            buffer.as_strided((edges, 3), (3, 1), 2 * max_edges),
            vectors.as_strided((edges, 3), (3, 1), 5 * max_edges),
            buffer.as_strided((atoms + 1,), (1,), 8 * max_edges),
        )


def even(max_edges: int) -> int:
    """Edges that a buffer is allocated for: an even number, so that everything in it is aligned."""
    return max_edges + max_edges % 2


def buffer_for(atoms: int, max_edges: int, device: torch.device) -> Tensor:
    """A buffer for so many atoms and an even number of edges; one, since making tensors takes the host longer than the device."""
    return torch.empty(8 * max_edges + atoms + 1, dtype=torch.int64, device=device)


def move_edges(starts: Starts, given: SystemBuffers, buffer: Tensor, max_edges: int, atoms: int) -> None:
    """Enqueue the move of all edges into a buffer; those beyond `max_edges` are left out.

    Args:
        starts: after its `enqueue`. given: the structures that were searched. atoms: as many rows are moved, at least those in use.
    """
    graph = starts.graph
    edges_kernel[(max(1, atoms),)](
        row_ptr=graph.row_ptr,
        neighbors=graph.neighbors,
        shifts=graph.shifts,
        order=graph.order,
        new_ptr=starts.row_ptr,
        system_ptr=graph.system_ptr,
        positions=given.positions,
        cell=given.cell,
        system_index=given.system_index,
        buffer=buffer,
        room=max_edges,
        systems=graph.capacity.systems,
        RENUMBERED=starts.renumbered,
        SLOTS=32,
        OTHERS=32,
        num_warps=1,
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


@triton.jit(do_not_specialize=["room", "systems"])
def edges_kernel(
    row_ptr,
    neighbors,
    shifts,
    order,
    new_ptr,
    system_ptr,
    positions,
    cell,
    system_index,
    buffer,
    room,
    systems,
    RENUMBERED: tl.constexpr,
    SLOTS: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """A row a program. Where atoms were renumbered, each edge counts those of its row that stand before it."""
    row = tl.program_id(0)
    neighbors_out = buffer + room
    shifts_out = neighbors_out + room
    vectors_out = (shifts_out + 3 * room.to(tl.int64)).to(tl.pointer_type(tl.float64))
    row_ptr_out = shifts_out + 6 * room.to(tl.int64)
    if row == 0:
        tl.store(row_ptr_out, (row * 0).to(tl.int64))
    if row >= tl.load(system_ptr + systems):
        return
    begin = tl.load(row_ptr + row)
    end = tl.load(row_ptr + row + 1)
    i, to = row, begin
    if RENUMBERED:
        i = tl.load(order + row)
        to = tl.load(new_ptr + i)
    tl.store(row_ptr_out + i + 1, (to + end - begin).to(tl.int64))
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
                # Edges beside each other in the threads: each counts for itself.
                lower = (other_key[:, None] < key[None, :]) & (o < end)[:, None]
                place += tl.sum(lower.to(tl.int32), 0)
        inside = inside & (place < room)
        place = place.to(tl.int64)
        tl.store(buffer + place, (place * 0 + i).to(tl.int64), inside)
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
