# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Large structures: candidates from the cells around (`cell_order` says which cells).

The candidates of a cell's atoms are those of the cells around, one after the other. A table of the cell holds for each cell around:
the candidates before it; what to add to a candidate's number to get the atom; the image; the candidates before ours, seen from
there; where the words of its atoms are. A list says from which cell each candidate comes. As in `all_pairs`, words of 32 bits say
which candidates are within the cutoff, rows follow from counting bits, and the reverse of an edge is found in the neighbor's own
words. The words of a cell's atoms lie beside each other, as they are needed together.

The test is made in float32 relative to one of the cell's own atoms; where a candidate is too close to the cutoff for that, in
float64 as the definition does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.neighbors.cell_order import ENTRY, GRID, SCALE
from atomjet.neighbors.lattice import find_bit, find_last, join, load_row, pack, popcount, popcount_below, unpack
from atomjet.neighbors.rows import add_to_blocks

# Numbers kept of each cell: where its table starts, where its words, how many candidates, where their list.
INFO = tl.constexpr(4)

LIST_PER_ATOM = tl.constexpr(32)  # numbers of the lists of candidates: 27 where the density is even
FAR_SQUARED = tl.constexpr(1e30)  # Å², of atoms that no other must find


@triton.jit
def wrap_axis(place, number, is_open):
    """A cell of the grid by its number along one axis, maybe outside: the number within, the image, whether there is such."""
    image = tl.where(place >= 0, place // number, -((number - 1 - place) // number))
    there = (is_open == 0) | (image == 0)
    return place - image * number, tl.where(is_open, 0, image), there


@triton.jit(do_not_specialize=["pool_size", "table_size"])
def cells_table_kernel(system_index, pbc, grid, cells_end, cell_ptr, table, info, used, pool_size, table_size):
    """Each program takes cells in turn: their candidates, and room for their words."""
    lane = tl.arange(0, 32)
    for c in range(tl.program_id(0), tl.load(cells_end), tl.num_programs(0)):
        begin = tl.load(cell_ptr + c)
        end = tl.load(cell_ptr + c + 1)
        if begin < end:
            s = tl.load(system_index + begin)
            na, nb, nc = load_row(grid + s * GRID)
            ra, rb, rc = load_row(grid + s * GRID + 3)
            base, alive = tl.load(grid + s * GRID + 6), tl.load(grid + s * GRID + 7)
            open_a, open_b, open_c = load_row(pbc + s * 3)
            open_a, open_b, open_c = open_a == 0, open_b == 0, open_c == 0
            around = tl.where(alive != 0, (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1), 0)
            size = around + 1
            room = size.to(tl.int64) * ENTRY
            at = tl.atomic_add(used + 1, room)
            has_table = at + room <= table_size
            at = tl.where(has_table, at, 0)
            here = c - base
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
                to = table + at + entry
                tl.store(to, before, written)
                tl.store(to + size, first - before, written)
                tl.store(to + size * 2, pack(qa, qb, qc), written)
                tl.store(to + size * 3, tl.where(there, other, 0), written)
                total += tl.sum(count, 0)
            tl.store(table + at + around, total, has_table)
            list_at = tl.atomic_add(used + 1, total.to(tl.int64))
            has_list = has_table & (list_at + total <= table_size)
            tl.debug_barrier()
            for start in range(0, tl.where(has_list, around, 0), 32):
                entry = start + lane
                before = tl.load(table + at + entry, entry < around, 0)
                count = tl.load(table + at + entry + 1, entry < around, 0) - before
                for number in range(0, tl.max(count, 0), 32):
                    place = number + lane[None, :] + before[:, None] * 0
                    to = table + list_at + (before[:, None] + place)
                    tl.store(to, entry[:, None] + place * 0, place < count[:, None])
            room = (end - begin).to(tl.int64) * ((total + 31) // 32)
            word_at = tl.atomic_add(used, room)
            tl.store(info + c * INFO, at.to(tl.int32))
            tl.store(info + c * INFO + 1, tl.where(word_at + room <= pool_size, word_at, -1).to(tl.int32))
            tl.store(info + c * INFO + 2, tl.where(has_list, total, 0))
            tl.store(info + c * INFO + 3, tl.where(has_list, list_at, 0).to(tl.int32))


@triton.jit(do_not_specialize=["atoms"])
def cells_count_kernel(
    system_index,
    cell,
    cutoff,
    grid,
    scale,
    cells_end,
    cell_ptr,
    given,
    wrapped,
    outside,
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
            ra, rb, rc = load_row(grid + s * GRID + 3)
            around = (2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1)
            at, word_at, total = load_row(info + c * INFO)
            list_at = tl.load(info + c * INFO + 3)
            fits = word_at >= 0
            size = around + 1
            # Only now do the cells around have theirs.
            if part == 0:
                for start in range(0, tl.where(total > 0, around, 0), 32):
                    entry = start + lane
                    to = table + at + entry
                    there = (entry < around) & (tl.load(to + 1, entry < around, 0) > tl.load(to, entry < around, 0))
                    other = info + tl.load(to + size * 3, there, 0) * INFO
                    seen = tl.load(table + tl.load(other, there, 0) + around - 1 - entry, there, 0)
                    tl.store(to + size * 3, seen, there)
                    tl.store(to + size * 4, tl.load(other + 1, there, 0), there)
            h = cell + s.to(tl.int64) * 9
            band = tl.load(scale + s * SCALE + 6).to(tl.float32)
            words = (total + 31) // 32
            own = tl.load(table + at + around // 2, total > 0, 0)
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
                xi, yi, zi, limit = -2 * xi, -2 * yi, -2 * zi, tl.where(here_i, squared - own_size, -FAR_SQUARED)
                # Candidates stand in the registers of a thread, rows beside each other, as in `all_pairs`; two words at once, so
                # that one is fetched while the other is tested.
                for word in range(0, words, 2):
                    near = load_word(word, table, at, list_at, size, total, wrapped, atoms, x0, y0, z0, h)
                    next_ = load_word(word + 1, table, at, list_at, size, total, wrapped, atoms, x0, y0, z0, h)
                    bits, unsure = test_word(near, xi, yi, zi, limit, band)
                    next_bits, next_unsure = test_word(next_, xi, yi, zi, limit, band)
                    if tl.max((unsure | next_unsure) != 0, 0) > 0:
                        bits = decide(
                            bits, unsure, word, table, at, list_at, size, total, given, outside, i, live, radius, h
                        )
                        next_bits = decide(
                            next_bits,
                            next_unsure,
                            word + 1,
                            table,
                            at,
                            list_at,
                            size,
                            total,
                            given,
                            outside,
                            i,
                            live,
                            radius,
                            h,
                        )
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
def load_word(word, table, at, list_at, size, total, wrapped, atoms, x0, y0, z0, h):
    """32 candidates: where they are relative to an atom of the cell, and the squares of their distances from it."""
    candidate = word * 32 + tl.arange(0, 32)
    there = candidate < total
    entry = at + tl.load(table + list_at + candidate, there, 0)
    j = candidate + tl.load(table + entry + size, there, 0)
    image = tl.load(table + entry + size * 2, there, 0)
    x = tl.load(wrapped + j, there, float("nan")) - x0
    y = tl.load(wrapped + atoms + j, there, 0) - y0
    z = tl.load(wrapped + 2 * atoms + j, there, 0) - z0
    there = x == x
    if tl.max((image != 0).to(tl.int32), 0) > 0:
        qa, qb, qc = unpack(image)
        hax, hay, haz = load_row(h)
        hbx, hby, hbz = load_row(h + 3)
        hcx, hcy, hcz = load_row(h + 6)
        x += qa * hax + qb * hbx + qc * hcx
        y += qa * hay + qb * hby + qc * hcy
        z += qa * haz + qb * hbz + qc * hcz
    x = tl.where(there, x, 0.0).to(tl.float32)
    y = tl.where(there, y, 0.0).to(tl.float32)
    z = tl.where(there, z, 0.0).to(tl.float32)
    return x, y, z, tl.where(there, x * x + y * y + z * z, FAR_SQUARED)


@triton.jit
def test_word(candidates, xi, yi, zi, limit, band):
    """Of which rows candidates are within the cutoff, |x_j|² - 2 x_i x_j < cutoff² - |x_i|², and of which float32 cannot tell."""
    x, y, z, square = candidates
    bit = ((tl.arange(0, 32) * 0 + 1) << tl.arange(0, 32))[:, None]
    found = tl.fma(x[:, None], xi[None, :], square[:, None] + tl.zeros_like(xi)[None, :])
    found = tl.fma(z[:, None], zi[None, :], tl.fma(y[:, None], yi[None, :], found)) - limit[None, :]
    bits = tl.sum(tl.where(found < 0, bit, 0), 0)
    unsure = bits * 0
    if tl.min(tl.abs(found)) < band:
        unsure = tl.sum(tl.where(tl.abs(found) < band, bit, 0), 0)
    return bits, unsure


@triton.jit
def decide(bits, unsure, word, table, at, list_at, size, total, given, outside, i, live, radius, h):
    """Correct the bits of candidates that are too close to the cutoff for float32, one candidate after the other."""
    hax, hay, haz = load_row(h)
    hbx, hby, hbz = load_row(h + 3)
    hcx, hcy, hcz = load_row(h + 6)
    from_i = given + i.to(tl.int64) * 3
    for lane in range(32):
        asked = ((unsure >> lane) & 1) != 0
        if tl.max(asked.to(tl.int32), 0) > 0:
            candidate = total * 0 + word * 32 + lane
            entry = at + tl.load(table + list_at + candidate, candidate < total, 0)
            j = candidate + tl.load(table + entry + size)
            shift = tl.load(table + entry + size * 2) - tl.load(outside + j) + tl.load(outside + i, live, 0)
            sa, sb, sc = unpack(shift)
            sa, sb, sc = sa.to(tl.float64), sb.to(tl.float64), sc.to(tl.float64)
            xj, yj, zj = load_row(given + j.to(tl.int64) * 3)
            x = xj - tl.load(from_i, live, 0) + (sa * hax + sb * hbx + sc * hcx)
            y = yj - tl.load(from_i + 1, live, 0) + (sa * hay + sb * hby + sc * hcy)
            z = zj - tl.load(from_i + 2, live, 0) + (sa * haz + sb * hbz + sc * hcz)
            bit = (bits * 0 + 1) << lane
            exact = tl.where(x * x + y * y + z * z < radius * radius, bits | bit, bits & ~bit)
            bits = tl.where(asked, exact, bits)
    return bits


@triton.jit(do_not_specialize=["systems", "blocks", "atoms"])
def cells_fill_kernel(
    system_index,
    system_ptr,
    cell,
    grid,
    cell_ptr,
    cell_sorted,
    wrapped,
    outside,
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
    systems,
    blocks,
    atoms,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Write the edges of some rows a program; leaves the counters at zero for the next launch."""
    group = tl.program_id(0)
    if group == 0:
        tl.store(used, tl.zeros([], tl.int64))
        tl.store(used + 1, tl.zeros([], tl.int64))
    if group < blocks:
        tl.store(sums + group, tl.zeros([], tl.int64))
    i = group * ROWS + tl.arange(0, ROWS)
    live = i < tl.load(system_ptr + systems)
    start = tl.load(row_ptr + i, live, 0)
    degree = tl.load(row_ptr + i + 1, live, 0) - start
    most = tl.max(degree, 0)
    if most > 0:
        s = tl.load(system_index + i, live, 0)
        ra, rb, rc = load_row(grid + s * GRID + 3)
        size = ((2 * ra + 1) * (2 * rb + 1) * (2 * rc + 1) + 1)[:, None]
        c = tl.load(cell_sorted + i, live, 0)
        begin = tl.load(cell_ptr + c, live, 0)
        count = (tl.load(cell_ptr + c + 1, live, 0) - begin)[:, None]
        own = (i - begin)[:, None]
        at = tl.load(info + c * INFO, live, 0)[:, None]
        word_at = tl.load(info + c * INFO + 1, live, 0)[:, None].to(tl.int64)
        words = (tl.load(info + c * INFO + 2, live, 0)[:, None] + 31) // 32
        list_at = tl.load(info + c * INFO + 3, live, 0)[:, None]
        most_words = tl.max(words)
        row_at = word_at + own.to(tl.int64) * words
        xi = tl.load(wrapped + i, live, 0)[:, None]
        yi = tl.load(wrapped + atoms + i, live, 0)[:, None]
        zi = tl.load(wrapped + 2 * atoms + i, live, 0)[:, None]
        outside_i = tl.load(outside + i, live, 0)[:, None]
        for first in range(0, most, SLOTS):
            slot = first + tl.arange(0, SLOTS)[None, :] + i[:, None] * 0
            inside = slot < degree[:, None]
            word = find_last(starts, row_at, words, slot, most_words, inside, False)
            found = tl.load(pool + word_at + word.to(tl.int64) * count + own, inside, 0)
            candidate = word * 32 + find_bit(found.to(tl.int32), slot - (found >> 32).to(tl.int32))
            entry = at + tl.load(table + list_at + candidate, inside, 0)
            before = tl.load(table + entry, inside, 0)
            there = tl.load(table + entry + 1, inside, 0) - before
            j = candidate + tl.load(table + entry + size, inside, 0)
            image = tl.load(table + entry + size * 2, inside, 0)
            back = own + tl.load(table + entry + size * 3, inside, 0)
            other_at = tl.load(table + entry + size * 4, inside, 0).to(tl.int64)
            x = tl.load(wrapped + j, inside, 0) - xi
            y = tl.load(wrapped + atoms + j, inside, 0) - yi
            z = tl.load(wrapped + 2 * atoms + j, inside, 0) - zi
            if tl.max((image != 0).to(tl.int32)) > 0:
                qa, qb, qc = unpack(image)
                h = (cell + s.to(tl.int64) * 9)[:, None]
                hax, hay, haz = load_row(h)
                hbx, hby, hbz = load_row(h + 3)
                hcx, hcy, hcz = load_row(h + 6)
                x += qa * hax + qb * hbx + qc * hcx
                y += qa * hay + qb * hby + qc * hcy
                z += qa * haz + qb * hbz + qc * hcz
            # Seen from the neighbor's cell, ours lies the other way; its atoms' words lie beside each other.
            found = tl.load(pool + other_at + (back >> 5).to(tl.int64) * there + (candidate - before), inside, 0)
            opposite = tl.load(row_ptr + j, inside, 0) + (found >> 32).to(tl.int32)
            opposite += popcount_below(found.to(tl.int32), back & 31)
            e = (start[:, None] + slot).to(tl.int64)
            tl.store(neighbors + e, j, inside)
            tl.store(shifts + e, image + outside_i - tl.load(outside + j, inside, 0), inside)
            tl.store(reverse + e, opposite, inside)
            tl.store(vectors + e * 3, x.to(tl.float32), inside)
            tl.store(vectors + e * 3 + 1, y.to(tl.float32), inside)
            tl.store(vectors + e * 3 + 2, z.to(tl.float32), inside)
