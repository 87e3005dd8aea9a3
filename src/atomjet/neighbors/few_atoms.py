# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""All pairs of so few atoms that launches would take longer than the work: one kernel, a program for each row.

Where every pair has one image that could lie within the cutoff, each program tests all pairs of atoms, those of other rows as well.
So it knows where every row starts and where in its neighbors' rows the reverse edges are, without a word from the others, and
writes its own row. Tests in vain are cheaper than waiting for another program.

Where some pair has more images, or something is wrong, the first program goes through the phases of `all_pairs` alone. Both
ways give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.all_pairs import (
    COUNTS,
    along_periodic,
    count_tile,
    fill_rows,
    fractions,
    images_along,
    is_skewed,
    move,
    nearest_image,
)
from atomjet.neighbors.lattice import EDGES, MOST_SHIFT, SHIFTS, build_frame, is_near, load_lattice, pack
from atomjet.neighbors.rows import EDGES_PER_WORD, place_rows, wanted_edges
from atomjet.ops.pdl import pdl_wait

# One number counts a row's edges, those to atoms before the program's own, and those with shifts too far to be stored; a row has
# fewer than BEFORE of each.
BEFORE = tl.constexpr(2**10)
FAR = tl.constexpr(2**20)


@triton.jit
def only_image(x, y, z, cell, s, frame):
    """The vector to the one image of a neighbor that may lie within reach; its shift; whether that is too far to be stored."""
    lattice = load_lattice(cell + s.to(tl.int64) * 9)
    skewed = is_skewed(frame, lattice)
    sa, sb, sc = nearest_image(*fractions(x, y, z, frame, skewed))
    x, y, z = move(x, y, z, sa, sb, sc, lattice, skewed)
    far = tl.maximum(tl.maximum(tl.abs(sa), tl.abs(sb)), tl.abs(sc)) > MOST_SHIFT
    return x, y, z, sa, sb, sc, far


@triton.jit
def add_two(a, b, c, d):
    """Two sums at once."""
    return a + c, b + d


@triton.jit
def add_four(a, b, c, d, e, f, g, h):
    """Four sums at once."""
    return a + e, b + f, c + g, d + h


@triton.jit
def all_phases(
    given,
    kept,
    counters,
    edges,
    out,
    systems,
    atoms,
    max_edges,
    pool_size,
    pool_free,
    ALL: tl.constexpr,
    ROWS: tl.constexpr,
    FILL_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """The whole search in the first program."""
    positions, numbers, system_index, system_ptr, cell, pbc, cutoff = given
    frames, counts, pool, degrees, word_ptr = kept
    used, sums, found = counters
    row_ptr, numbers_out, system_ptr_out, needed_edges, status = out
    zero = tl.program_id(0)
    for s in range(systems):
        number = (tl.load(system_ptr + s + 1) - tl.load(system_ptr + s) + ROWS - 1) // ROWS
        for tile in range(number):
            tested = positions, system_ptr, cell, pbc, cutoff
            count_tile(zero + s, zero + tile, zero, tested, kept, counters, pool_size, ROWS, 1)
    tl.debug_barrier()
    i = tl.arange(0, ALL)
    in_use = tl.load(system_ptr + systems)
    degree = tl.load(degrees + i, i < in_use, 0)
    total = tl.load(sums)
    nothing = tl.zeros([], tl.int64)
    wanted = wanted_edges(used, pool_size, pool_free, EDGES_PER_WORD)
    bad = tl.load(found)
    place_rows(
        i, degree, nothing, total, wanted, bad, atoms, row_ptr, row_ptr, needed_edges, status, max_edges, True, 1
    )
    for start in range(0, systems + 1, ALL):
        entry = start + i
        tl.store(system_ptr_out + entry, tl.load(system_ptr + entry, entry <= systems, 0), entry <= systems)
    tl.debug_barrier()
    tl.store(sums, nothing)
    tl.store(used, nothing)
    tl.store(found, 0)
    for group in range(0, (in_use + FILL_ROWS - 1) // FILL_ROWS):
        written = positions, numbers, system_index, system_ptr, cell
        found_by = frames, counts, pool, word_ptr, row_ptr
        fill_rows(zero + group, in_use, written, found_by, edges, numbers_out, status, FILL_ROWS, SLOTS, 1)


@triton.jit(do_not_specialize=["systems", "atoms", "max_edges", "pool_size", "pool_free"])
def all_pairs_kernel(
    positions,
    numbers,
    system_index,
    system_ptr,
    cell,
    pbc,
    cutoff,
    frames,
    counts,
    pool,
    used,
    degrees,
    word_ptr,
    sums,
    found,
    row_ptr,
    neighbors,
    shifts,
    vectors,
    reverse,
    numbers_out,
    system_ptr_out,
    needed_edges,
    status,
    systems,
    atoms,
    max_edges,
    pool_size,
    pool_free,
    ALL: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    FILL_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    PDL: tl.constexpr,
):
    """A row a program, of at most ALL; the first also writes what all rows have in common."""
    pdl_wait(PDL)
    row = tl.program_id(0)
    radius = tl.load(cutoff)
    in_use = tl.load(system_ptr + systems)
    # Atoms beyond those in use are loaded too, so as not to wait for their number.
    j = tl.arange(0, ALL)
    from_j = positions + j.to(tl.int64) * 3
    x = tl.load(from_j, j < atoms, 0)
    y = tl.load(from_j + 1, j < atoms, 0)
    z = tl.load(from_j + 2, j < atoms, 0)
    from_row = positions + row.to(tl.int64) * 3
    row_x = tl.load(from_row, row < atoms, 0)
    row_y = tl.load(from_row + 1, row < atoms, 0)
    row_z = tl.load(from_row + 2, row < atoms, 0)
    number = tl.load(numbers + row, row < atoms, 0)
    simple = row * 0 + 1
    pairs = tl.zeros([ALL, COLUMNS], tl.int32)
    own = tl.zeros([ALL], tl.int32)
    shift = tl.zeros([ALL], tl.int32)
    vector_x = tl.zeros([ALL], tl.float32)
    vector_y = tl.zeros([ALL], tl.float32)
    vector_z = tl.zeros([ALL], tl.float32)
    for structure in range(systems):
        s = row * 0 + structure
        begin = tl.load(system_ptr + s)
        end = tl.load(system_ptr + s + 1)
        frame, bad = build_frame(cell, pbc, s, radius, frames, row == 0)
        ta, tb, tc = frame[9], frame[10], frame[11]
        one = (bad == 0) & (images_along(ta) * images_along(tb) * images_along(tc) == 1)
        simple = tl.where((begin < end) & (one == 0), 0, simple)
        if row == 0:
            tl.store(counts + s * COUNTS + 2, 1)
            tl.store(counts + s * COUNTS + 3, 0)  # there are no words, unless the phases make some
        if simple != 0:
            periodic = ta + tb + tc > 0
            frame = along_periodic(frame)
            inside = (j >= begin) & (j < end)
            for first in range(begin, end, COLUMNS):
                k = first + tl.arange(0, COLUMNS)
                there = k < end
                from_k = positions + k.to(tl.int64) * 3
                to_x = tl.load(from_k, there, 0)[None, :] - x[:, None]
                to_y = tl.load(from_k + 1, there, 0)[None, :] - y[:, None]
                to_z = tl.load(from_k + 2, there, 0)[None, :] - z[:, None]
                tally = tl.where(k < row, 1 + BEFORE, 1)[None, :] + pairs * 0
                if periodic:
                    to_x, to_y, to_z, sa, sb, sc, far = only_image(to_x, to_y, to_z, cell, s, frame)
                    tally += tl.where(far, FAR, 0)
                near = to_x * to_x + to_y * to_y + to_z * to_z < radius * radius
                near = near & inside[:, None] & there[None, :] & (j[:, None] != k[None, :])
                pairs += tl.where(near, tally, 0)
            if (row >= begin) & (row < end):
                to_x, to_y, to_z = x - row_x, y - row_y, z - row_z
                if periodic:
                    to_x, to_y, to_z, sa, sb, sc, far = only_image(to_x, to_y, to_z, cell, s, frame)
                    sa, sb, sc = tl.where(far, 0.0, sa), tl.where(far, 0.0, sb), tl.where(far, 0.0, sc)
                    shift = pack(sa.to(tl.int32), sb.to(tl.int32), sc.to(tl.int32))
                near = to_x * to_x + to_y * to_y + to_z * to_z < radius * radius
                own = (near & inside & (j != row)).to(tl.int32)
                vector_x, vector_y, vector_z = to_x.to(tl.float32), to_y.to(tl.float32), to_z.to(tl.float32)
    tally = tl.sum(pairs, 1)
    degree = tally % BEFORE
    before = tally // BEFORE % BEFORE
    astray = ((j < in_use) & (is_near(x, y, z) == 0)).to(tl.int32)
    total, start, far, lost = tl.reduce((degree, tl.where(j < row, degree, 0), tally // FAR, astray), 0, add_four)
    if (simple != 0) & (lost == 0):
        ends, slots = tl.associative_scan((degree, own), 0, add_two)
        fits = total <= max_edges
        tl.store(numbers_out + row, number, row < in_use)
        written = (own != 0) & fits
        e = (start + slots - own).to(tl.int64)
        tl.store(neighbors + e, j, written)
        tl.store(shifts + e, shift, written)
        tl.store(reverse + e, ends - degree + before, written)
        tl.store(vectors + e * 3, vector_x, written)
        tl.store(vectors + e * 3 + 1, vector_y, written)
        tl.store(vectors + e * 3 + 2, vector_z, written)
        if row == 0:
            tl.store(row_ptr, 0)
            tl.store(row_ptr + j + 1, tl.where(fits, ends, 0), j < atoms)
            tl.store(needed_edges, total.to(tl.int64))
            tl.store(status, tl.where(fits, tl.where(far > 0, SHIFTS, 0), EDGES))
            for entry in range(0, systems + 1, ALL):
                tl.store(
                    system_ptr_out + entry + j,
                    tl.load(system_ptr + entry + j, entry + j <= systems, 0),
                    entry + j <= systems,
                )
    elif row == 0:
        all_phases(
            (positions, numbers, system_index, system_ptr, cell, pbc, cutoff),
            (frames, counts, pool, degrees, word_ptr),
            (used, sums, found),
            (neighbors, shifts, vectors, reverse),
            (row_ptr, numbers_out, system_ptr_out, needed_edges, status),
            systems,
            atoms,
            max_edges,
            pool_size,
            pool_free,
            ALL,
            ROWS,
            FILL_ROWS,
            SLOTS,
        )
