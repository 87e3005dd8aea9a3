# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Large structures into cells at least a cutoff wide, and their atoms into the order of the cells.

For the vectors of edges, positions are kept as whole numbers of steps, modulo 2³²: no edge is longer than 2³¹ steps, so that its
differences are exact wherever its atoms are, and half as many bytes as in float64 are read for each. A step is the power of two
that the cutoff allows: 3.7e-9 Å for cutoffs of 4 to 7.9 Å.

Every structure has its own grid along its lattice vectors (along unit vectors and within its bounding box where it is open), with
at most one cell for eight atoms, so that any structure fits; where the lattice is thin, more than the next cells lie within
reach, the same cell with several images among them. Atoms are numbered cell by cell, by their given number within a cell:
neighbors in space are neighbors in memory, always in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.lattice import (
    FRAME,
    IMAGES,
    MOST_SHIFT,
    NOT_FINITE,
    SHIFTS,
    build_frame,
    fraction,
    is_near,
    load_frame,
    load_lattice,
    load_row,
    pack,
    unpack,
)

# Numbers kept of each structure: cells along a, b, c, how far to look along each, the first cell, whether it can be searched;
GRID = tl.constexpr(8)
# lowest fractions, cells per fraction.
SCALE = tl.constexpr(6)

ATOMS_PER_CELL = tl.constexpr(8)  # at least so many on average
ENTRY = tl.constexpr(8)  # numbers of a cell's table for each cell around
TABLE_PER_ATOM = tl.constexpr(32)  # numbers of the tables, for each atom,
ONE_TABLE = tl.constexpr(216)  # besides those of a cell with 27 cells around
FAR = tl.constexpr(2**31 - 1)
PLACE = tl.constexpr(4)  # numbers kept of an atom for its edges: position in steps, lattice cells outside
WRAP = tl.constexpr(2.0**32)


@triton.jit
def ordered(x):
    """float32 to int32 that compare alike; its own inverse, with `from_ordered`."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def from_ordered(key):
    """Back to float32."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def cells_frame_kernel(positions, system_ptr, cell, pbc, cutoff, frames, bad_out, home, box, found):
    """One structure a program: its lattice, and the whole cells its first atom lies outside; its bounding box still empty."""
    s = tl.program_id(0)
    frame, bad = build_frame(cell, pbc, s, tl.load(cutoff), frames, True)
    dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc = frame
    first = tl.load(system_ptr + s)
    some = first < tl.load(system_ptr + s + 1)
    tl.store(bad_out + s, bad)
    if some & (bad != 0):
        tl.atomic_or(found, bad, sem="relaxed")
    at = positions + tl.where(some, first, 0).to(tl.int64) * 3
    x, y, z = load_row(at)
    good = is_near(x, y, z) & some
    x, y, z = tl.where(good, x, 0.0), tl.where(good, y, 0.0), tl.where(good, z, 0.0)
    tl.store(home + s * 3, tl.where(ta > 0, tl.floor(fraction(x, y, z, dax, day, daz)), 0.0))
    tl.store(home + s * 3 + 1, tl.where(tb > 0, tl.floor(fraction(x, y, z, dbx, dby, dbz)), 0.0))
    tl.store(home + s * 3 + 2, tl.where(tc > 0, tl.floor(fraction(x, y, z, dcx, dcy, dcz)), 0.0))
    for axis in tl.static_range(3):
        tl.store(box + s * 6 + axis, FAR)
        tl.store(box + s * 6 + 3 + axis, -FAR)


@triton.jit
def extend_box(box, s, axis, x, inside, first, together):
    """Take numbers along one axis, rounded outward to float32, into the boxes of their structures."""
    slack = tl.abs(x) * 2e-7
    low = ordered((x - slack).to(tl.float32))
    high = ordered((x + slack).to(tl.float32))
    if together:
        tl.atomic_min(box + first * 6 + axis, tl.min(tl.where(inside, low, FAR), 0), sem="relaxed")
        tl.atomic_max(box + first * 6 + axis + 3, tl.max(tl.where(inside, high, -FAR), 0), sem="relaxed")
    else:
        tl.atomic_min(box + s * 6 + axis, low, inside, sem="relaxed")
        tl.atomic_max(box + s * 6 + axis + 3, high, inside, sem="relaxed")


@triton.jit(do_not_specialize=["systems"])
def cells_box_kernel(positions, system_index, system_ptr, pbc, frames, box, found, systems, LANES: tl.constexpr):
    """Bounding boxes along open directions; looks for positions that are not finite."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    atoms = tl.load(system_ptr + systems)
    live = i < atoms
    if tl.program_id(0) * LANES < atoms:
        at = positions + i.to(tl.int64) * 3
        x = tl.load(at, live, 0)
        y = tl.load(at + 1, live, 0)
        z = tl.load(at + 2, live, 0)
        good = is_near(x, y, z) & live
        if tl.max((live & (good == 0)).to(tl.int32), 0) > 0:
            tl.atomic_or(found, NOT_FINITE, sem="relaxed")
        x, y, z = tl.where(good, x, 0.0), tl.where(good, y, 0.0), tl.where(good, z, 0.0)
        s = tl.load(system_index + i, live, 0)
        first = tl.load(system_index + tl.program_id(0) * LANES)
        together = tl.max(tl.where(live, s, first), 0) == first
        for axis in tl.static_range(3):
            is_open = good & (tl.load(pbc + s * 3 + axis, live, 1) == 0)
            if tl.max(is_open.to(tl.int32), 0) > 0:
                dual = frames + s * FRAME + 3 * axis
                f = fraction(x, y, z, tl.load(dual), tl.load(dual + 1), tl.load(dual + 2))
                extend_box(box, s, axis, f, is_open, first, together)


@triton.jit
def box_of(box, is_open):
    """Lowest fraction and extent along an axis: 0 and 1 where it is periodic."""
    low = tl.load(box)
    high = tl.load(box + 3)
    some = is_open & (low <= high)
    low_f = tl.where(some, from_ordered(tl.where(some, low, 0)), 0.0).to(tl.float64)
    high_f = tl.where(some, from_ordered(tl.where(some, high, 0)), 0.0).to(tl.float64)
    return low_f, tl.where(is_open, high_f - low_f, 1.0)


@triton.jit
def cells_around(number, reach, is_open):
    """How many cells to look at each way: all that lie within reach."""
    return tl.where(is_open, tl.where(number > 1, 1.0, 0.0), tl.ceil(reach * number * (1 + 1e-7)))


@triton.jit
def coarser(number, largest):
    """Fewer cells along the axis that has most."""
    return tl.where(number == largest, tl.maximum(tl.floor(number * 0.875), 1.0), number)


@triton.jit
def steps_per_length(cutoff):
    """A power of two, so that steps become lengths without rounding."""
    most = 0.99 * WRAP / 2 / cutoff
    return (most.to(tl.int64, bitcast=True) & 0x7FF0000000000000).to(tl.float64, bitcast=True)


@triton.jit
def to_steps(x, per_length):
    """Å to whole steps, modulo 2³², whatever the size of x."""
    steps = tl.floor(x * per_length + 0.5)
    return (steps - tl.floor(steps / WRAP) * WRAP).to(tl.int64).to(tl.int32)


@triton.jit(do_not_specialize=["systems"])
def cells_grid_kernel(
    system_ptr, cell, pbc, cutoff, frames, bad_in, box, grids, scale, lattice, cells_end, found, systems
):
    """One structure a program: how many cells, how far to look, and the lattice in steps."""
    s = tl.program_id(0)
    first = tl.load(system_ptr + s)
    atoms = tl.load(system_ptr + s + 1) - first
    radius = tl.load(cutoff)
    bad = tl.load(bad_in + s)
    open_a, open_b, open_c = load_row(pbc + s * 3)
    open_a, open_b, open_c = open_a == 0, open_b == 0, open_c == 0
    ta, tb, tc = load_row(frames + s * FRAME + 9)
    low_a, wide_a = box_of(box + s * 6, open_a)
    low_b, wide_b = box_of(box + s * 6 + 1, open_b)
    low_c, wide_c = box_of(box + s * 6 + 2, open_c)
    na = tl.maximum(tl.minimum(tl.floor(wide_a / (tl.where(ta > 0, ta, radius) * (1 + 1e-6))), 1e6), 1.0)
    nb = tl.maximum(tl.minimum(tl.floor(wide_b / (tl.where(tb > 0, tb, radius) * (1 + 1e-6))), 1e6), 1.0)
    nc = tl.maximum(tl.minimum(tl.floor(wide_c / (tl.where(tc > 0, tc, radius) * (1 + 1e-6))), 1e6), 1.0)
    ra, rb, rc = cells_around(na, ta, open_a), cells_around(nb, tb, open_b), cells_around(nc, tc, open_c)
    most = (atoms // ATOMS_PER_CELL + 1).to(tl.float64)
    entries = (atoms.to(tl.float64) * TABLE_PER_ATOM + ONE_TABLE).to(tl.float64)
    cells = na * nb * nc
    table = (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1)
    while (cells > 1) & ((cells > most) | (cells * table * ENTRY > entries)):
        largest = tl.maximum(tl.maximum(na, nb), nc)
        na, nb, nc = coarser(na, largest), coarser(nb, largest), coarser(nc, largest)
        ra, rb, rc = cells_around(na, ta, open_a), cells_around(nb, tb, open_b), cells_around(nc, tc, open_c)
        cells = na * nb * nc
        table = (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1)
    if (bad == 0) & (tl.maximum(tl.maximum(ra, rb), rc) > MOST_SHIFT // 2):
        bad = IMAGES
        if atoms > 0:
            tl.atomic_or(found, bad, sem="relaxed")
    at = grids + s * GRID
    tl.store(at + 0, tl.where(bad == 0, na, 1.0).to(tl.int32))
    tl.store(at + 1, tl.where(bad == 0, nb, 1.0).to(tl.int32))
    tl.store(at + 2, tl.where(bad == 0, nc, 1.0).to(tl.int32))
    tl.store(at + 3, tl.where(bad == 0, ra, 0.0).to(tl.int32))
    tl.store(at + 4, tl.where(bad == 0, rb, 0.0).to(tl.int32))
    tl.store(at + 5, tl.where(bad == 0, rc, 0.0).to(tl.int32))
    base = first // ATOMS_PER_CELL + s
    tl.store(at + 6, base)
    tl.store(at + 7, (bad == 0).to(tl.int32))
    to = scale + s * SCALE
    tl.store(to + 0, low_a)
    tl.store(to + 1, low_b)
    tl.store(to + 2, low_c)
    tl.store(to + 3, tl.where(wide_a > 0, na / tl.where(wide_a > 0, wide_a, 1.0), 0.0))
    tl.store(to + 4, tl.where(wide_b > 0, nb / tl.where(wide_b > 0, wide_b, 1.0), 0.0))
    tl.store(to + 5, tl.where(wide_c > 0, nc / tl.where(wide_c > 0, wide_c, 1.0), 0.0))
    axis = tl.arange(0, 16)
    h = tl.load(cell + s.to(tl.int64) * 9 + axis, (axis < 9) & (bad == 0), 0)
    tl.store(lattice + s * 9 + axis, to_steps(h, steps_per_length(radius)), axis < 9)
    if s == systems - 1:
        tl.store(cells_end, base + tl.where(bad == 0, cells, 1.0).to(tl.int32))


@triton.jit
def split_axis(f, reach, low, scale, number):
    """Along one axis: whole cells of the lattice below (0 where it is open), cell of the grid."""
    whole = tl.where(reach > 0, tl.floor(f), 0.0)
    bin_ = tl.floor((f - whole - low) * scale)
    return whole, tl.minimum(tl.maximum(bin_, 0.0), number - 1.0).to(tl.int32)


@triton.jit(do_not_specialize=["systems"])
def cells_bin_kernel(
    positions,
    system_index,
    system_ptr,
    frames,
    home,
    grids,
    scale,
    counts,
    cell_of,
    ranks,
    outside,
    found,
    systems,
    LANES: tl.constexpr,
):
    """The cell of each atom, some number of its own within it, the lattice cells it lies outside its structure's first atom's."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    atoms = tl.load(system_ptr + systems)
    live = i < atoms
    if tl.program_id(0) * LANES < atoms:
        at = positions + i.to(tl.int64) * 3
        x = tl.load(at, live, 0)
        y = tl.load(at + 1, live, 0)
        z = tl.load(at + 2, live, 0)
        good = is_near(x, y, z)
        x, y, z = tl.where(good, x, 0.0), tl.where(good, y, 0.0), tl.where(good, z, 0.0)
        s = tl.load(system_index + i, live, 0)
        dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc = load_frame(frames, s)
        na, nb, nc = load_row(grids + s * GRID)
        ra, rb, rc = load_row(grids + s * GRID + 3)
        low_a, low_b, low_c = load_row(scale + s * SCALE)
        scale_a, scale_b, scale_c = load_row(scale + s * SCALE + 3)
        wa, ca = split_axis(fraction(x, y, z, dax, day, daz), ta, low_a, scale_a, na)
        wb, cb = split_axis(fraction(x, y, z, dbx, dby, dbz), tb, low_b, scale_b, nb)
        wc, cc = split_axis(fraction(x, y, z, dcx, dcy, dcz), tc, low_c, scale_c, nc)
        c = tl.load(grids + s * GRID + 6) + (cc * nb + cb) * na + ca
        home_a, home_b, home_c = load_row(home + s * 3)
        wa, wb, wc = (
            tl.where(good, wa - home_a, 0.0),
            tl.where(good, wb - home_b, 0.0),
            tl.where(good, wc - home_c, 0.0),
        )
        # Any difference of two such, and the images looked at, must fit into a packed shift.
        limit = (-tl.maximum(tl.maximum(ra, rb), rc) + MOST_SHIFT) // 2
        far = live & (tl.maximum(tl.maximum(tl.abs(wa), tl.abs(wb)), tl.abs(wc)) > limit)
        if tl.max(far.to(tl.int32), 0) > 0:
            tl.atomic_or(found, SHIFTS, sem="relaxed")
        wa, wb, wc = tl.where(far, 0.0, wa), tl.where(far, 0.0, wb), tl.where(far, 0.0, wc)
        tl.store(outside + i, pack(wa.to(tl.int32), wb.to(tl.int32), wc.to(tl.int32)), live)
        tl.store(cell_of + i, c, live)
        tl.store(ranks + i, tl.atomic_add(counts + c, 1, live, sem="relaxed"), live)


@triton.jit
def cells_scan_kernel(counts, cell_ptr, cells_end, CELLS: tl.constexpr):
    """Where each cell starts; leaves the counts at zero. One program."""
    before = 0
    end = tl.load(cells_end)
    for start in range(0, end, CELLS):
        c = start + tl.arange(0, CELLS)
        count = tl.load(counts + c, c < end, 0)
        tl.store(counts + c, count * 0, c < end)
        tl.store(cell_ptr + c, before + tl.cumsum(count, 0) - count, c < end)
        before += tl.sum(count, 0)
    tl.store(cell_ptr + end, before)


@triton.jit(do_not_specialize=["systems"])
def cells_scatter_kernel(system_ptr, cell_of, ranks, cell_ptr, members, systems, LANES: tl.constexpr):
    """Atoms by cell, within a cell in whatever order they came."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    live = i < tl.load(system_ptr + systems)
    c = tl.load(cell_of + i, live, 0)
    tl.store(members + tl.load(cell_ptr + c, live, 0) + tl.load(ranks + i, live, 0), i, live)


@triton.jit(do_not_specialize=["systems", "atoms"])
def cells_order_kernel(
    positions,
    numbers,
    system_index,
    system_ptr,
    cell,
    cell_of,
    cell_ptr,
    members,
    home,
    outside,
    cutoff,
    order,
    cell_sorted,
    given,
    wrapped,
    places,
    numbers_out,
    systems,
    atoms,
    LANES: tl.constexpr,
):
    """Within each cell by given number; what the search needs of each atom, in the new order."""
    p = tl.program_id(0) * LANES + tl.arange(0, LANES)
    in_use = tl.load(system_ptr + systems)
    live = p < in_use
    if tl.program_id(0) * LANES < in_use:
        i = tl.load(members + p, live, 0)
        c = tl.load(cell_of + i, live, 0)
        begin = tl.load(cell_ptr + c, live, 0)
        size = tl.load(cell_ptr + c + 1, live, 0) - begin
        rank = i * 0
        for other in range(0, tl.max(size, 0)):
            inside = live & (other < size)
            rank += (inside & (tl.load(members + begin + other, inside, 0) < i)).to(tl.int32)
        to = begin + rank
        tl.store(order + to, i, live)
        tl.store(cell_sorted + to, c, live)
        tl.store(numbers_out + to, tl.load(numbers + i, live, 0), live)
        packed = tl.load(outside + i, live, 0)
        at = positions + i.to(tl.int64) * 3
        x = tl.load(at, live, 0)
        y = tl.load(at + 1, live, 0)
        z = tl.load(at + 2, live, 0)
        to3 = given + to.to(tl.int64) * 3
        tl.store(to3, x, live)
        tl.store(to3 + 1, y, live)
        tl.store(to3 + 2, z, live)
        good = is_near(x, y, z)
        s = tl.load(system_index + i, live, 0)
        ha, hb, hc = load_row(home + s * 3)
        wa, wb, wc = unpack(packed)
        wa, wb, wc = wa + ha, wb + hb, wc + hc
        hax, hay, haz, hbx, hby, hbz, hcx, hcy, hcz = load_lattice(cell + s.to(tl.int64) * 9)
        x, y, z = (
            x - (wa * hax + wb * hbx + wc * hcx),
            y - (wa * hay + wb * hby + wc * hcy),
            z - (wa * haz + wb * hbz + wc * hcz),
        )
        nothing = float("nan")
        tl.store(wrapped + to, tl.where(good, x, nothing), live)
        tl.store(wrapped + atoms + to, tl.where(good, y, nothing), live)
        tl.store(wrapped + 2 * atoms + to, tl.where(good, z, nothing), live)
        per_length = steps_per_length(tl.load(cutoff))
        place = places + to * PLACE
        tl.store(place, to_steps(tl.where(good, x, 0.0), per_length), live)
        tl.store(place + 1, to_steps(tl.where(good, y, 0.0), per_length), live)
        tl.store(place + 2, to_steps(tl.where(good, z, 0.0), per_length), live)
        tl.store(place + 3, packed, live)
