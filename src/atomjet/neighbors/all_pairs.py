# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Small structures: every pair of atoms with every image that could lie within the cutoff. No grid, any cell, any batch.

Along axis a the fractions of atom j minus those of i, plus the shift S_a, must lie within the reach t_a = cutoff / (distance of
lattice planes). So for each pair S_a takes at most K_a = floor(2 t_a) + 1 values from ceil(-t_a - d_a) on: one, for cells wider
than two cutoffs. Candidates of an atom are numbered c = neighbor * K + image and tested in words of 32; a word of the pool
holds the bits of those within the cutoff, and how many lie in the words before. Rows then follow from counting bits, in
canonical order, and so does the place of each reverse edge. Arithmetic in float64 without fused products: the same numbers
whichever kernel computes them, and opposite numbers for opposite edges.

Rows of large structures come in pieces, runs of words that different programs count; a row is its pieces one after the other.
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
    SLACK,
    add_shift,
    build_frame,
    find_bit,
    find_last,
    fraction,
    is_finite,
    join,
    load_lattice,
    pack,
    popcount,
    popcount_below,
)
from atomjet.neighbors.rows import add_to_blocks

# Whole numbers kept of each structure: images along b, along c, in all; words of a piece of a row.
COUNTS = tl.constexpr(4)
MOST_CANDIDATES = tl.constexpr(2**30)


@triton.jit
def count_tile(s, tile, part, given, kept, counters, pool_size, ROWS: tl.constexpr, PIECES: tl.constexpr):
    """Test the candidates of some rows of structure s: one piece of PIECES."""
    positions, system_ptr, cell, pbc, cutoff = given
    frames, counts, pool, degrees, word_ptr = kept
    used, sums, found = counters
    begin = tl.load(system_ptr + s)
    end = tl.load(system_ptr + s + 1)
    first = begin + tile * ROWS
    if first < end:
        radius = tl.load(cutoff)
        frame, bad = build_frame(cell, pbc, s, radius, frames, (tile == 0) & (part == 0))
        ta, tb, tc = frame[9], frame[10], frame[11]
        periodic = ta + tb + tc > 0
        ka, kb, kc = images_along(ta), images_along(tb), images_along(tc)
        atoms = end - begin
        candidates = ka * kb * kc * atoms
        bad = tl.where((bad == 0) & (candidates > MOST_CANDIDATES), IMAGES, bad)
        total = tl.where(bad == 0, candidates, 0).to(tl.int32)
        kb = tl.where(bad == 0, kb, 1).to(tl.int32)
        kc = tl.where(bad == 0, kc, 1).to(tl.int32)
        images = tl.where(bad == 0, ka, 1).to(tl.int32) * kb * kc
        words = ((total + 31) // 32 + PIECES - 1) // PIECES  # of a piece
        if (tile == 0) & (part == 0):
            tl.store(counts + s * COUNTS, kb)
            tl.store(counts + s * COUNTS + 1, kc)
            tl.store(counts + s * COUNTS + 2, images)
            tl.store(counts + s * COUNTS + 3, words)
        last = tl.minimum(first + ROWS, end)
        room = (last - first).to(tl.int64) * words
        at = tl.atomic_add(used, room, sem="relaxed")
        fits = at + room <= pool_size
        row = tl.arange(0, ROWS)
        i = first + row
        live = i < last
        from_i = positions + i.to(tl.int64) * 3
        xi = tl.load(from_i, live, 0)
        yi = tl.load(from_i + 1, live, 0)
        zi = tl.load(from_i + 2, live, 0)
        good_i = is_finite(xi, yi, zi)
        bad = tl.where(tl.max((live & (good_i == 0)).to(tl.int32), 0) > 0, bad | NOT_FINITE, bad)
        if bad != 0:
            tl.atomic_or(found, bad, sem="relaxed")
        good_i = good_i & live
        xi, yi, zi = tl.where(good_i, xi, 0.0), tl.where(good_i, yi, 0.0), tl.where(good_i, zi, 0.0)
        to = at + row.to(tl.int64) * words
        piece = i * PIECES + part
        tl.store(word_ptr + piece, to.to(tl.int32), live & fits)
        nowhere = radius * 0
        za, zb, zc = first_image(nowhere, nowhere, nowhere, frame)
        itself = (i - begin) * images + (-za * kb - zb).to(tl.int32) * kc - zc.to(tl.int32)
        lattice = load_lattice(cell + s.to(tl.int64) * 9)
        lane = tl.arange(0, 32)
        one = lane * 0 + 1
        degree = tl.zeros([ROWS], tl.int32)
        # Candidates stand in the registers of a thread, rows beside each other: bits are joined without leaving the thread.
        for number in range(words):
            word = part * words + number
            c = word * 32 + lane
            local = c // images
            there = c < total
            from_j = positions + (begin + local).to(tl.int64) * 3
            xj = tl.load(from_j, there, 0)
            yj = tl.load(from_j + 1, there, 0)
            zj = tl.load(from_j + 2, there, 0)
            good_j = is_finite(xj, yj, zj) & there
            x = tl.where(good_j, xj, 0.0)[:, None] - xi[None, :]
            y = tl.where(good_j, yj, 0.0)[:, None] - yi[None, :]
            z = tl.where(good_j, zj, 0.0)[:, None] - zi[None, :]
            if periodic:
                image = c - local * images
                ia = image // (kb * kc)
                ib = image // kc - ia * kb
                ic = image - (ia * kb + ib) * kc
                sa, sb, sc = first_image(x, y, z, frame)
                sa += ia[:, None]
                sb += ib[:, None]
                sc += ic[:, None]
                x, y, z = add_shift(x, y, z, sa, sb, sc, lattice)
            near = x * x + y * y + z * z < radius * radius
            bits = tl.sum(tl.where(near, (one << lane)[:, None], 0), 0)
            bits = bits & tl.sum(tl.where(good_j, one << lane, 0), 0)
            bits = tl.where((itself >> 5) == word, bits & ~((itself * 0 + 1) << (itself & 31)), bits)
            bits = tl.where(good_i, bits, 0)
            tl.store(pool + to + number, join(degree, bits), live & fits)
            degree += popcount(bits)
        tl.store(degrees + piece, degree, live)
        add_to_blocks(sums, piece, degree, live, first * PIECES + part, (last - 1) * PIECES + part)


@triton.jit
def images_along(reach):
    """How many shifts along an axis may bring a neighbor within reach, at most."""
    return tl.floor(2 * (reach + reach * SLACK + SLACK)) + 1


@triton.jit
def first_image(x, y, z, frame):
    """The lowest shifts at which a neighbor at (x, y, z) from its center may lie within reach."""
    dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc = frame
    sa = tl.ceil(-(ta + ta * SLACK + SLACK) - fraction(x, y, z, dax, day, daz))
    sb = tl.ceil(-(tb + tb * SLACK + SLACK) - fraction(x, y, z, dbx, dby, dbz))
    sc = tl.ceil(-(tc + tc * SLACK + SLACK) - fraction(x, y, z, dcx, dcy, dcz))
    return tl.where(ta > 0, sa, 0.0), tl.where(tb > 0, sb, 0.0), tl.where(tc > 0, sc, 0.0)


@triton.jit
def fill_rows(
    group, atoms, given, kept, edges, numbers_out, status, ROWS: tl.constexpr, SLOTS: tl.constexpr, PIECES: tl.constexpr
):
    """Write the edges of some pieces of rows; with one piece a row, `piece_ptr` is `row_ptr`."""
    positions, numbers, system_index, system_ptr, cell = given
    frames, counts, pool, word_ptr, piece_ptr = kept
    neighbors, shifts, vectors, reverse = edges
    piece = group * ROWS + tl.arange(0, ROWS)
    i = piece // PIECES
    part = piece - i * PIECES
    live = i < atoms
    tl.store(numbers_out + i, tl.load(numbers + i, live, 0), live & (part == 0))
    start = tl.load(piece_ptr + piece, live, 0)
    degree = tl.load(piece_ptr + piece + 1, live, 0) - start
    most = tl.max(degree, 0)
    if most > 0:
        s = tl.load(system_index + i, live, 0)
        begin = tl.load(system_ptr + s, live, 0)[:, None]
        kb = tl.load(counts + s * COUNTS, live, 1)[:, None]
        kc = tl.load(counts + s * COUNTS + 1, live, 1)[:, None]
        images = tl.load(counts + s * COUNTS + 2, live, 1)[:, None]
        words = tl.maximum(tl.load(counts + s * COUNTS + 3, live, 0), 1)
        most_words = tl.max(words, 0)
        skipped = (part * words * 32)[:, None]
        words = words[:, None]
        at = tl.load(word_ptr + piece, live, 0).to(tl.int64)[:, None]
        to_frame = frames + s.to(tl.int64) * FRAME
        ta = tl.load(to_frame + 9, live, 0)[:, None]
        tb = tl.load(to_frame + 10, live, 0)[:, None]
        tc = tl.load(to_frame + 11, live, 0)[:, None]
        periodic = tl.max(ta + tb + tc) > 0
        from_i = positions + i.to(tl.int64) * 3
        xi = tl.load(from_i, live, 0)[:, None]
        yi = tl.load(from_i + 1, live, 0)[:, None]
        zi = tl.load(from_i + 2, live, 0)[:, None]
        for first in range(0, most, SLOTS):
            slot = first + tl.arange(0, SLOTS)[None, :] + i[:, None] * 0
            inside = slot < degree[:, None]
            word = find_last(pool, at, words, slot, most_words, inside, True)
            found = tl.load(pool + at + word, inside, 0)
            c = skipped + word * 32 + find_bit(found.to(tl.int32), slot - (found >> 32).to(tl.int32))
            local = c // images
            j = begin + local
            from_j = positions + j.to(tl.int64) * 3
            x = tl.load(from_j, inside, 0) - xi
            y = tl.load(from_j + 1, inside, 0) - yi
            z = tl.load(from_j + 2, inside, 0) - zi
            shift = slot * 0
            back = shift + (i[:, None] - begin) * images
            if periodic:
                dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz = load_lattice(to_frame[:, None])
                frame = dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc
                image = c - local * images
                ia = image // (kb * kc)
                ib = image // kc - ia * kb
                ic = image - (ia * kb + ib) * kc
                sa, sb, sc = first_image(x, y, z, frame)
                sa += ia
                sb += ib
                sc += ic
                za, zb, zc = first_image(-x, -y, -z, frame)
                back += tl.where(inside, ((-sa - za) * kb + (-sb - zb)) * kc + (-sc - zc), 0).to(tl.int32)
                x, y, z = add_shift(x, y, z, sa, sb, sc, load_lattice(cell + s.to(tl.int64)[:, None] * 9))
                far = inside & (tl.maximum(tl.maximum(tl.abs(sa), tl.abs(sb)), tl.abs(sc)) > MOST_SHIFT)
                if tl.max(far.to(tl.int32)) > 0:
                    tl.atomic_or(status, SHIFTS, sem="relaxed")
                safe = inside & (far == 0)
                sa, sb, sc = tl.where(safe, sa, 0.0), tl.where(safe, sb, 0.0), tl.where(safe, sc, 0.0)
                shift = pack(sa.to(tl.int32), sb.to(tl.int32), sc.to(tl.int32))
            other_word = back >> 5
            other = j
            if PIECES > 1:
                other_part = other_word // words
                other_word -= other_part * words
                other = j * PIECES + other_part
            found = tl.load(pool + tl.load(word_ptr + other, inside, 0).to(tl.int64) + other_word, inside, 0)
            opposite = tl.load(piece_ptr + other, inside, 0) + (found >> 32).to(tl.int32)
            opposite += popcount_below(found.to(tl.int32), back & 31)
            e = (start[:, None] + slot).to(tl.int64)
            tl.store(neighbors + e, j, inside)
            tl.store(shifts + e, shift, inside)
            tl.store(reverse + e, opposite, inside)
            tl.store(vectors + e * 3, x.to(tl.float32), inside)
            tl.store(vectors + e * 3 + 1, y.to(tl.float32), inside)
            tl.store(vectors + e * 3 + 2, z.to(tl.float32), inside)


@triton.jit(do_not_specialize=["tiles", "pool_size"])
def all_pairs_count_kernel(
    positions,
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
    tiles,
    pool_size,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """A piece of some rows of one structure a program; of a large one in a batch of small ones, some more."""
    program = tl.program_id(0) // PIECES
    s = program // tiles
    number = (tl.load(system_ptr + s + 1) - tl.load(system_ptr + s) + ROWS - 1) // ROWS
    for tile in range(program % tiles, number, tiles):
        count_tile(
            s,
            program * 0 + tile,
            tl.program_id(0) % PIECES,
            (positions, system_ptr, cell, pbc, cutoff),
            (frames, counts, pool, degrees, word_ptr),
            (used, sums, found),
            pool_size,
            ROWS,
            PIECES,
        )


@triton.jit(do_not_specialize=["systems", "blocks"])
def all_pairs_fill_kernel(
    positions,
    numbers,
    system_index,
    system_ptr,
    cell,
    frames,
    counts,
    pool,
    word_ptr,
    piece_ptr,
    neighbors,
    shifts,
    vectors,
    reverse,
    numbers_out,
    status,
    used,
    sums,
    systems,
    blocks,
    ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    PIECES: tl.constexpr,
):
    """Some pieces of rows a program; leaves the counters at zero for the next launch."""
    group = tl.program_id(0)
    if group == 0:
        tl.store(used, tl.zeros([], tl.int64))
    if group < blocks:
        tl.store(sums + group, tl.zeros([], tl.int64))
    fill_rows(
        group,
        tl.load(system_ptr + systems),
        (positions, numbers, system_index, system_ptr, cell),
        (frames, counts, pool, word_ptr, piece_ptr),
        (neighbors, shifts, vectors, reverse),
        numbers_out,
        status,
        ROWS,
        SLOTS,
        PIECES,
    )
