# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""From the degrees of atoms to rows of edges: what all routes share.

A row of a `GraphBuffers` starts where the degrees before it end. Degrees were added up by blocks of `BLOCK` rows while they were
counted (whole numbers: the order does not matter), so each program here adds the blocks before its own, and no program waits
for another. When something does not fit, every row becomes empty: later kernels find nothing to do and stay in bounds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.lattice import EDGES, add_shift, load_lattice, load_row, unpack
from atomjet.ops.chaining import await_previous

BLOCK = tl.constexpr(1024)
EDGES_PER_WORD = tl.constexpr(2)  # the pool has a word more for so many edges
EDGES_PER_NUMBER = tl.constexpr(4)  # and the tables of the cell list a number


@triton.jit
def add_to_blocks(sums, piece, degree, live, first, last):
    """Add the degrees of pieces between first and last (not more than a block) to the sums of the blocks they lie in."""
    block = first // BLOCK
    mine = live & (piece // BLOCK == block)
    tl.atomic_add(sums + block, tl.sum(tl.where(mine, degree, 0), 0).to(tl.int64), sem="relaxed")
    if last // BLOCK > block:
        tl.atomic_add(sums + block + 1, tl.sum(tl.where(live & (mine == 0), degree, 0), 0).to(tl.int64), sem="relaxed")


@triton.jit
def place_rows(
    piece,
    degree,
    before,
    total,
    wanted,
    bad,
    atoms,
    piece_ptr,
    row_ptr,
    needed_edges,
    status,
    max_edges,
    is_first,
    PIECES: tl.constexpr,
):
    """Write where the next piece starts, and the next row; the first program also what is needed, and as status what is `bad`."""
    needed = tl.maximum(total, wanted)
    fits = needed <= max_edges
    end = tl.where(fits, before + tl.cumsum(degree.to(tl.int64), 0), 0).to(tl.int32)
    i = piece // PIECES
    tl.store(row_ptr + i + 1, end, (i < atoms) & (piece - i * PIECES == PIECES - 1))
    if PIECES > 1:
        tl.store(piece_ptr + piece + 1, end, i < atoms)
    if is_first:
        tl.store(row_ptr, 0)
        if PIECES > 1:
            tl.store(piece_ptr, 0)
        tl.store(needed_edges, needed)
        tl.store(status, tl.where(fits, bad, bad | EDGES))


@triton.jit
def wanted_edges(used, size, free, per_edge):
    """With how many edges a buffer of `free` elements, and one more for so many edges each, would have been large enough."""
    taken = tl.load(used)
    return tl.where(taken > size, (taken - free) * per_edge, 0)


@triton.jit(
    do_not_specialize=["blocks", "systems", "atoms", "max_edges", "pool_size", "pool_free", "table_size", "table_free"]
)
def rows_kernel(
    degrees,
    sums,
    used,
    found,
    system_ptr,
    piece_ptr,
    row_ptr,
    needed_edges,
    status,
    system_ptr_out,
    blocks,
    systems,
    atoms,
    max_edges,
    pool_size,
    pool_free,
    table_size,
    table_free,
    PIECES: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One block of rows, or of PIECES of each, a program; the first moves what kernels before found to the status."""
    await_previous(CHAINED)
    block = tl.program_id(0)
    bad = tl.load(found, block == 0, 0)
    number = tl.arange(0, BLOCK)
    before = tl.zeros([], tl.int64)
    total = tl.zeros([], tl.int64)
    for start in range(0, blocks, BLOCK):
        b = start + number
        part = tl.load(sums + b, b < blocks, 0)
        total += tl.sum(part, 0)
        before += tl.sum(tl.where(b < block, part, 0), 0)
    piece = block * BLOCK + number
    degree = tl.load(degrees + piece, piece < tl.load(system_ptr + systems) * PIECES, 0)
    wanted = wanted_edges(used, pool_size, pool_free, EDGES_PER_WORD)
    wanted = tl.maximum(wanted, wanted_edges(used + 1, table_size, table_free, EDGES_PER_NUMBER))
    place_rows(
        piece,
        degree,
        before,
        total,
        wanted,
        bad,
        atoms,
        piece_ptr,
        row_ptr,
        needed_edges,
        status,
        max_edges,
        block == 0,
        PIECES,
    )
    if block == 0:
        tl.debug_barrier()  # all threads have read it
        tl.store(found, 0)
    for start in range(block * BLOCK, systems + 1, tl.num_programs(0) * BLOCK):
        s = start + number
        tl.store(system_ptr_out + s, tl.load(system_ptr + s, s <= systems, 0), s <= systems)


@triton.jit
def canonical_kernel(
    row_ptr,
    neighbors,
    shifts,
    order,
    inverse,
    positions,
    cell,
    system_index,
    new_ptr,
    centers_out,
    neighbors_out,
    shifts_out,
    vectors_out,
    SLOTS: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """A row of a `Graph` a program: atoms numbered as given, edges by neighbor, then shift; each counts those before it."""
    i = tl.program_id(0)
    row = tl.load(inverse + i)
    begin = tl.load(row_ptr + row)
    end = tl.load(row_ptr + row + 1)
    to = tl.load(new_ptr + i)
    at = positions + i.to(tl.int64) * 3
    xi, yi, zi = load_row(at)
    lattice = load_lattice(cell + tl.load(system_index + i).to(tl.int64) * 9)
    for first in range(begin, end, SLOTS):
        e = first + tl.arange(0, SLOTS)
        inside = e < end
        j = tl.load(order + tl.load(neighbors + e, inside, 0), inside, 0)
        packed = tl.load(shifts + e, inside, 0)
        key = (j.to(tl.int64) << 31) + packed
        rank = tl.zeros([SLOTS], tl.int32)
        for start in range(begin, end, OTHERS):
            o = start + tl.arange(0, OTHERS)
            other = tl.load(order + tl.load(neighbors + o, o < end, 0), o < end, 0)
            other_key = (other.to(tl.int64) << 31) + tl.load(shifts + o, o < end, 0)
            lower = (other_key[None, :] < key[:, None]) & (o < end)[None, :]
            rank += tl.sum(lower.to(tl.int32), 1)
        place = to + rank
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
