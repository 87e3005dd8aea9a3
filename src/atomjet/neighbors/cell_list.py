# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Large structures: candidates from the cells around (`cell_order` says which cells).

The candidates of a cell's atoms are those of the cells around, one after the other. A table of the cell has an entry for each cell
around, its numbers beside each other, as they are read together. A list says from which entry each candidate comes. As in
`all_pairs`, words of 32 bits say which candidates are within the cutoff, rows follow from counting bits, and the reverse of an
edge is found in the neighbor's own words. The words of a cell's atoms lie beside each other, as they are needed together.

The test is made in float32 relative to one of the cell's own atoms; where a candidate is too close to the cutoff for that, in
float64 as the definition does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.cell_order import ENTRY, GRID, PLACE, steps_per_length
from atomjet.neighbors.lattice import (
    add_shift,
    find_bit,
    find_last,
    join,
    load_lattice,
    load_row,
    pack,
    popcount,
    popcount_below,
    unpack,
)
from atomjet.neighbors.rows import add_to_blocks

# Numbers kept of each cell: where its table starts, where its words, how many candidates, where their list, any images or not.
INFO = tl.constexpr(5)

# What an entry of a table holds (of its ENTRY numbers the last two are spare):
ATOM = tl.constexpr(0)  # what to add to a candidate's number to get the atom
IMAGE = tl.constexpr(1)  # packed
SEEN = tl.constexpr(2)  # how many candidates are before our cell's, seen from there
WORDS = tl.constexpr(3)  # where its atoms' words are, less the candidates before it; until those are known, the cell
COUNT = tl.constexpr(4)  # its atoms
BEFORE = tl.constexpr(5)  # the candidates before it

LIST_PER_ATOM = tl.constexpr(32)  # numbers of the lists of candidates: 27 where the density is even
FAR_SQUARED = tl.constexpr(1e30)  # Å², of atoms that no other must find

# What float32 may be off by, as a share of (2 |x_i| + cutoff)²: rounded coordinates, squares of both atoms, products and sums are
# some twelve roundings of at most 6e-8 each.
UNSURE = tl.constexpr(1e-6)


@triton.jit
def wrap_axis(place, number, is_open):
    """A cell of the grid by its number along one axis, maybe outside: the number within, the image, whether there is such."""
    image = tl.where(place >= 0, place // number, -((number - 1 - place) // number))
    there = (is_open == 0) | (image == 0)
    return place - image * number, tl.where(is_open, 0, image), there


@triton.jit(do_not_specialize=["pool_size", "table_size"])
def cells_table_kernel(system_index, pbc, grids, cells_end, cell_ptr, table, info, used, pool_size, table_size):
    """Each program takes cells in turn: their candidates, and room for their words."""
    lane = tl.arange(0, 32)
    for c in range(tl.program_id(0), tl.load(cells_end), tl.num_programs(0)):
        begin = tl.load(cell_ptr + c)
        end = tl.load(cell_ptr + c + 1)
        if begin < end:
            s = tl.load(system_index + begin)
            na, nb, nc = load_row(grids + s * GRID)
            ra, rb, rc = load_row(grids + s * GRID + 3)
            base, alive = tl.load(grids + s * GRID + 6), tl.load(grids + s * GRID + 7)
            open_a, open_b, open_c = load_row(pbc + s * 3)
            open_a, open_b, open_c = open_a == 0, open_b == 0, open_c == 0
            around = tl.where(alive != 0, (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1), 0)
            room = around.to(tl.int64) * ENTRY
            at = tl.atomic_add(used + 1, room, sem="relaxed")
            has_table = at + room <= table_size
            at = tl.where(has_table, at // ENTRY, 0)
            here = c - base
            images = 0
            ca, cb, cc = here % na, here // na % nb, here // na // nb
            total = 0
            for start in range(0, around, 32):
                entry = start + lane
                ja = entry % (2 * ra + 1) - ra
                jb = entry // (2 * ra + 1) % (2 * rb + 1) - rb
                jc = entry // (2 * ra + 1) // (2 * rb + 1) - rc
                ja, qa, in_a = wrap_axis(ca + ja, na, open_a)
                jb, qb, in_b = wrap_axis(cb + jb, nb, open_b)
                jc, qc, in_c = wrap_axis(cc + jc, nc, open_c)
                there = in_a & in_b & in_c & (entry < around)
                other = base + (jc * nb + jb) * na + ja
                first = tl.load(cell_ptr + other, there, 0)
                count = tl.load(cell_ptr + other + 1, there, 0) - first
                before = total + tl.cumsum(count, 0) - count
                written = has_table & (entry < around)
                to = table + (at + entry) * ENTRY
                tl.store(to + ATOM, first - before, written)
                tl.store(to + IMAGE, pack(qa, qb, qc), written)
                tl.store(to + WORDS, tl.where(there, other, 0), written)
                tl.store(to + COUNT, count, written)
                tl.store(to + BEFORE, before, written)
                total += tl.sum(count, 0)
                images = tl.maximum(images, tl.max((there & ((qa | qb | qc) != 0)).to(tl.int32), 0))
            length = (total + ENTRY - 1) // ENTRY * ENTRY  # tables begin at a multiple
            list_at = tl.atomic_add(used + 1, length.to(tl.int64), sem="relaxed")
            has_list = has_table & (list_at + total <= table_size)
            tl.debug_barrier()
            for start in range(0, tl.where(has_list, around, 0), 32):
                entry = start + lane
                before = tl.load(table + (at + entry) * ENTRY + BEFORE, entry < around, 0)
                count = tl.load(table + (at + entry) * ENTRY + COUNT, entry < around, 0)
                for number in range(0, tl.max(count, 0), 32):
                    place = number + lane[None, :] + before[:, None] * 0
                    to = table + list_at + (before[:, None] + place)
                    tl.store(to, entry[:, None] + place * 0, place < count[:, None])
            room = (end - begin).to(tl.int64) * ((total + 31) // 32)
            word_at = tl.atomic_add(used, room, sem="relaxed")
            tl.store(info + c * INFO, at.to(tl.int32))
            tl.store(info + c * INFO + 1, tl.where(word_at + room <= pool_size, word_at, -1).to(tl.int32))
            tl.store(info + c * INFO + 2, tl.where(has_list, total, 0))
            tl.store(info + c * INFO + 3, tl.where(has_list, list_at, 0).to(tl.int32))
            tl.store(info + c * INFO + 4, images)


@triton.jit(do_not_specialize=["atoms"])
def cells_count_kernel(
    system_index,
    cell,
    cutoff,
    grids,
    cells_end,
    cell_ptr,
    given,
    wrapped,
    places,
    table,
    info,
    pool,
    starts,
    degrees,
    sums,
    atoms,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Each program takes every SPLIT-th group of rows of a cell, one cell after the other; the first also completes the table."""
    radius = tl.load(cutoff)
    squared = (radius * radius).to(tl.float32)
    lane = tl.arange(0, 32)
    row = tl.arange(0, ROWS)
    for item in range(tl.program_id(0), tl.load(cells_end) * SPLIT, tl.num_programs(0)):
        c = item // SPLIT
        part = item - c * SPLIT
        begin = tl.load(cell_ptr + c)
        end = tl.load(cell_ptr + c + 1)
        if begin + part * ROWS < end:
            s = tl.load(system_index + begin)
            ra, rb, rc = load_row(grids + s * GRID + 3)
            around = (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1)
            at, word_at, total = load_row(info + c * INFO)
            at_list = table + tl.load(info + c * INFO + 3)
            images = tl.load(info + c * INFO + 4) != 0
            fits = word_at >= 0
            # Only now do the cells around have theirs.
            if part == 0:
                for start in range(0, tl.where(total > 0, around, 0), 32):
                    entry = start + lane
                    to = table + (at + entry) * ENTRY
                    there = (entry < around) & (tl.load(to + COUNT, entry < around, 0) > 0)
                    other = info + tl.load(to + WORDS, there, 0) * INFO
                    opposite = table + (tl.load(other, there, 0) + around - 1 - entry) * ENTRY
                    tl.store(to + SEEN, tl.load(opposite + BEFORE, there, 0), there)
                    tl.store(to + WORDS, tl.load(other + 1, there, 0) - tl.load(to + BEFORE, there, 0), there)
            h = cell + s.to(tl.int64) * 9
            words = (total + 31) // 32
            own = tl.load(table + (at + around // 2) * ENTRY + BEFORE, total > 0, 0)
            for first in range(begin + part * ROWS, end, SPLIT * ROWS):
                last = tl.minimum(first + ROWS, end)
                i = first + row
                live = i < last
                x0 = tl.load(wrapped + first)
                y0 = tl.load(wrapped + atoms + first)
                z0 = tl.load(wrapped + 2 * atoms + first)
                # An atom that is nowhere cannot be what others are measured from.
                x0, y0, z0 = tl.where(x0 == x0, x0, 0.0), tl.where(y0 == y0, y0, 0.0), tl.where(z0 == z0, z0, 0.0)
                xi = tl.load(wrapped + i, live, float("nan")) - x0
                here_i = xi == xi
                xi = tl.where(here_i, xi, 0.0).to(tl.float32)
                yi = tl.where(here_i, tl.load(wrapped + atoms + i, live, 0) - y0, 0.0).to(tl.float32)
                zi = tl.where(here_i, tl.load(wrapped + 2 * atoms + i, live, 0) - z0, 0.0).to(tl.float32)
                itself = own + i - begin
                to = pool + word_at.to(tl.int64) + (i - begin)
                to_start = starts + word_at.to(tl.int64) + (i - begin).to(tl.int64) * words
                stride = (end - begin).to(tl.int64)
                degree = tl.zeros([ROWS], tl.int32)
                own_size = xi * xi + yi * yi + zi * zi
                # A candidate at the cutoff is no farther from where coordinates are measured than its row and the cutoff.
                farthest = 2 * tl.sqrt(tl.max(own_size, 0)) + radius.to(tl.float32)
                band = farthest * farthest * UNSURE
                xi, yi, zi, limit = -2 * xi, -2 * yi, -2 * zi, tl.where(here_i, squared - own_size, -FAR_SQUARED)
                rows = xi, yi, zi, limit
                # Candidates stand in the registers of a thread, rows beside each other, as in `all_pairs`; two words at once. While
                # these are tested, the positions of the next two are on their way, the atoms of the two after, and their entries.
                source = table, at, at_list, total
                j, q = load_atoms(0, load_entries(0, source), source)
                next_j, next_q = load_atoms(1, load_entries(1, source), source)
                x, y, z = load_positions(0, j, wrapped, atoms, total)
                next_x, next_y, next_z = load_positions(1, next_j, wrapped, atoms, total)
                j2, q2 = load_atoms(2, load_entries(2, source), source)
                next_j2, next_q2 = load_atoms(3, load_entries(3, source), source)
                entry = load_entries(4, source)
                next_entry = load_entries(5, source)
                for word in range(0, words, 2):
                    near = relative(x - x0, y - y0, z - z0, q, images, h)
                    next_ = relative(next_x - x0, next_y - y0, next_z - z0, next_q, images, h)
                    x, y, z = load_positions(word + 2, j2, wrapped, atoms, total)
                    next_x, next_y, next_z = load_positions(word + 3, next_j2, wrapped, atoms, total)
                    q, next_q = q2, next_q2
                    j2, q2 = load_atoms(word + 4, entry, source)
                    next_j2, next_q2 = load_atoms(word + 5, next_entry, source)
                    entry = load_entries(word + 6, source)
                    next_entry = load_entries(word + 7, source)
                    bits, unsure = test_word(near, rows, band)
                    next_bits, next_unsure = test_word(next_, rows, band)
                    if tl.max((unsure | next_unsure) != 0, 0) > 0:
                        exactly = given, places, h, radius, i, live
                        bits = decide(bits, unsure, word, source, exactly)
                        next_bits = decide(next_bits, next_unsure, word + 1, source, exactly)
                    itself_bit = (itself * 0 + 1) << (itself & 31)
                    bits = tl.where((itself >> 5) == word, bits & ~itself_bit, bits)
                    next_bits = tl.where((itself >> 5) == word + 1, next_bits & ~itself_bit, next_bits)
                    tl.store(to + stride * word, join(degree, bits), live & fits)
                    tl.store(to_start + word, degree, live & fits)
                    degree += popcount(bits)
                    more = live & fits & (word + 1 < words)
                    tl.store(to + stride * (word + 1), join(degree, next_bits), more)
                    tl.store(to_start + word + 1, degree, more)
                    degree += popcount(next_bits)
                degree = tl.where(live, degree, 0)
                tl.store(degrees + i, degree, live)
                add_to_blocks(sums, i, degree, live, first, last - 1)


@triton.jit
def load_entries(word, source):
    """From which entries of the table a word's candidates come."""
    _, _, at_list, total = source
    candidate = word * 32 + tl.arange(0, 32)
    return tl.load(at_list + candidate, candidate < total, 0)


@triton.jit
def load_atoms(word, entry, source):
    """A word's candidates: atoms, images."""
    table, at, _, total = source
    candidate = word * 32 + tl.arange(0, 32)
    there = candidate < total
    to = table + (at + entry) * ENTRY
    return candidate + tl.load(to + ATOM, there, 0), tl.load(to + IMAGE, there, 0)


@triton.jit
def load_positions(word, j, wrapped, atoms, total):
    """Where a word's candidates are; NaN where there is none."""
    there = word * 32 + tl.arange(0, 32) < total
    x = tl.load(wrapped + j, there, float("nan"))
    return x, tl.load(wrapped + atoms + j, there, 0), tl.load(wrapped + 2 * atoms + j, there, 0)


@triton.jit
def relative(x, y, z, image, images, h):
    """Candidates relative to an atom of the cell, and the squares of their distances from it."""
    there = x == x
    if images:
        qa, qb, qc = unpack(image)
        x, y, z = add_shift(x, y, z, qa, qb, qc, load_lattice(h))
    x = tl.where(there, x, 0.0).to(tl.float32)
    y = tl.where(there, y, 0.0).to(tl.float32)
    z = tl.where(there, z, 0.0).to(tl.float32)
    return x, y, z, tl.where(there, x * x + y * y + z * z, FAR_SQUARED)


@triton.jit
def test_word(candidates, rows, band):
    """Two words for each row, with a bit for each of 32 candidates: whether it is within the cutoff,
    |x_j|² - 2 x_i x_j < cutoff² - |x_i|², and whether float32 cannot tell.
    """
    x, y, z, square = candidates
    xi, yi, zi, limit = rows
    bit = ((tl.arange(0, 32) * 0 + 1) << tl.arange(0, 32))[:, None]
    found = tl.fma(x[:, None], xi[None, :], square[:, None] + tl.zeros_like(xi)[None, :])
    found = tl.fma(z[:, None], zi[None, :], tl.fma(y[:, None], yi[None, :], found)) - limit[None, :]
    bits = tl.sum(tl.where(found < 0, bit, 0), 0)
    unsure = bits * 0
    if tl.min(tl.abs(found)) < band:
        unsure = tl.sum(tl.where(tl.abs(found) < band, bit, 0), 0)
    return bits, unsure


@triton.jit
def decide(bits, unsure, word, source, exactly):
    """Correct the bits of candidates that are too close to the cutoff for float32, one candidate after the other."""
    table, at, at_list, total = source
    given, places, h, radius, i, live = exactly
    lattice = load_lattice(h)
    from_i = given + i.to(tl.int64) * 3
    for lane in range(32):
        asked = ((unsure >> lane) & 1) != 0
        if tl.max(asked.to(tl.int32), 0) > 0:
            candidate = total * 0 + word * 32 + lane
            entry = table + (at + tl.load(at_list + candidate, candidate < total, 0)) * ENTRY
            j = candidate + tl.load(entry + ATOM)
            shift = tl.load(entry + IMAGE) - tl.load(places + j * PLACE + 3) + tl.load(places + i * PLACE + 3, live, 0)
            sa, sb, sc = unpack(shift)
            sa, sb, sc = sa.to(tl.float64), sb.to(tl.float64), sc.to(tl.float64)
            xj, yj, zj = load_row(given + j.to(tl.int64) * 3)
            x = xj - tl.load(from_i, live, 0)
            y = yj - tl.load(from_i + 1, live, 0)
            z = zj - tl.load(from_i + 2, live, 0)
            x, y, z = add_shift(x, y, z, sa, sb, sc, lattice)
            bit = (bits * 0 + 1) << lane
            exact = tl.where(x * x + y * y + z * z < radius * radius, bits | bit, bits & ~bit)
            bits = tl.where(asked, exact, bits)
    return bits


@triton.jit
def load_four(pointer):
    """The four numbers from each pointer on, in one access each."""
    four = tl.load(pointer[:, None] + tl.arange(0, 4)[None, :])
    even, odd = tl.split(tl.reshape(four, [pointer.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit(do_not_specialize=["blocks"])
def cells_fill_kernel(
    system_index,
    cutoff,
    lattice,
    cell_ptr,
    cell_sorted,
    places,
    table,
    info,
    pool,
    starts,
    row_ptr,
    neighbors,
    shifts,
    vectors,
    reverse,
    used,
    sums,
    blocks,
    SLOTS: tl.constexpr,
):
    """Write the edges of a row a program; leaves the counters at zero for the next launch."""
    i = tl.program_id(0)
    if i == 0:
        tl.store(used, tl.zeros([], tl.int64))
        tl.store(used + 1, tl.zeros([], tl.int64))
    if i < blocks:
        tl.store(sums + i, tl.zeros([], tl.int64))
    start = tl.load(row_ptr + i)
    degree = tl.load(row_ptr + i + 1) - start
    if degree > 0:
        s = tl.load(system_index + i)
        c = tl.load(cell_sorted + i)
        begin = tl.load(cell_ptr + c)
        count = tl.load(cell_ptr + c + 1) - begin
        own = i - begin
        at, word_at, total = load_row(info + c * INFO)
        at_list = table + tl.load(info + c * INFO + 3)
        images = tl.load(info + c * INFO + 4) != 0
        words = (total + 31) // 32
        to_words = pool + word_at.to(tl.int64) + own
        row_at = word_at.to(tl.int64) + own.to(tl.int64) * words
        xi, yi, zi = load_row(places + i * PLACE)
        outside_i = tl.load(places + i * PLACE + 3)
        steps = lattice + s * 9
        step = (1 / steps_per_length(tl.load(cutoff))).to(tl.float32)
        for first in range(0, degree, SLOTS):
            e = first + tl.arange(0, SLOTS)
            inside = e < degree
            # Beyond the end the last edge once more, so that all that is read is there; it is not written.
            slot = tl.minimum(e, degree - 1)
            word = find_last(starts, row_at, words, slot, words, slot >= 0, False)
            found = tl.load(to_words + word.to(tl.int64) * count)
            candidate = word * 32 + find_bit(found.to(tl.int32), slot - (found >> 32).to(tl.int32))
            entry = table + (at + tl.load(at_list + candidate)) * ENTRY
            atom, image, back, other_at = load_four(entry)  # ATOM, IMAGE, SEEN, WORDS
            there = tl.load(entry + COUNT)
            j = candidate + atom
            back += own
            # Seen from the neighbor's cell, ours lies the other way; its atoms' words lie beside each other.
            found = tl.load(pool + (back >> 5).to(tl.int64) * there + (candidate + other_at))
            opposite = tl.load(row_ptr + j) + (found >> 32).to(tl.int32)
            opposite += popcount_below(found.to(tl.int32), back & 31)
            x, y, z, outside = load_four(places + j * PLACE)
            x, y, z = x - xi, y - yi, z - zi
            if images:
                qa, qb, qc = unpack(image)
                x, y, z = add_shift(x, y, z, qa, qb, qc, load_lattice(steps))
            to = start.to(tl.int64) + e
            tl.store(neighbors + to, j, inside)
            tl.store(shifts + to, image + outside_i - outside, inside)
            tl.store(reverse + to, opposite, inside)
            tl.store(vectors + to * 3, x.to(tl.float32) * step, inside)
            tl.store(vectors + to * 3 + 1, y.to(tl.float32) * step, inside)
            tl.store(vectors + to * 3 + 2, z.to(tl.float32) * step, inside)
