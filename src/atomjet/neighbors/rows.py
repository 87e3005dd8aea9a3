# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""From the degrees of atoms to rows of edges: what all algorithms share.

A row of a `GraphBuffers` starts where the degrees before it end. Degrees were added up by blocks of `BLOCK` rows while they were
counted (whole numbers: the order does not matter), so each program here adds the blocks before its own, and no program waits
for another. When something does not fit, every row becomes empty: later kernels find nothing to do and stay in bounds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.lattice import EDGES
from atomjet.ops.pdl import pdl_wait

BLOCK = tl.constexpr(1024)
EDGES_PER_WORD = tl.constexpr(2)  # edges for each further word of the pool
EDGES_PER_NUMBER = tl.constexpr(4)  # edges for each further number in the tables of the cell list


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
    PDL: tl.constexpr,
):
    """One block of rows, or of PIECES of each, a program; the first moves what kernels before found to the status."""
    pdl_wait(PDL)
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
