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
    build_frame,
    divide,
    find_bit,
    find_last,
    is_near,
    join,
    load_lattice,
    pack,
    popcount,
    popcount_below,
    reciprocal,
)
from atomjet.neighbors.rows import add_to_blocks
from atomjet.ops.pdl import pdl_wait

# Whole numbers kept of each structure: images along b, along c, in all; words of a piece of a row; of which kind it is: periodic,
# skewed, with several images.
COUNTS = tl.constexpr(5)
SKEWED, SEVERAL = tl.constexpr(2**10), tl.constexpr(2**20)
ROUND = tl.constexpr(1.5 * 2.0**52)  # whole numbers are all that float64 has there
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
        per_image, per_c, per_bc = reciprocals(kb, kc, images, images > 1)
        words = ((total + 31) // 32 + PIECES - 1) // PIECES  # of a piece
        lattice = load_lattice(cell + s.to(tl.int64) * 9)
        skewed = is_skewed(frame, lattice)
        if (tile == 0) & (part == 0):
            tl.store(counts + s * COUNTS, kb)
            tl.store(counts + s * COUNTS + 1, kc)
            tl.store(counts + s * COUNTS + 2, images)
            tl.store(counts + s * COUNTS + 3, words)
            kinds = tl.where(images > 1, SEVERAL, 0) + tl.where(skewed, SKEWED, 0) + tl.where(periodic, 1, 0)
            tl.store(counts + s * COUNTS + 4, kinds)
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
        good_i = is_near(xi, yi, zi)
        bad = tl.where(tl.max((live & (good_i == 0)).to(tl.int32), 0) > 0, bad | NOT_FINITE, bad)
        if bad != 0:
            tl.atomic_or(found, bad, sem="relaxed")
        good_i = good_i & live
        xi, yi, zi = tl.where(good_i, xi, 0.0), tl.where(good_i, yi, 0.0), tl.where(good_i, zi, 0.0)
        to = at + row.to(tl.int64) * words
        piece = i * PIECES + part
        tl.store(word_ptr + piece, to.to(tl.int32), live & fits)
        frame = along_periodic(frame)
        za, zb, zc = first_image(radius * 0, radius * 0, radius * 0, frame)
        itself = (i - begin) * images + (-za * kb - zb).to(tl.int32) * kc - zc.to(tl.int32)
        lane = tl.arange(0, 32)
        one = lane * 0 + 1
        degree = tl.zeros([ROWS], tl.int32)
        # Candidates stand in the registers of a thread, rows beside each other: bits are joined without leaving the thread.
        for number in range(words):
            word = part * words + number
            c = word * 32 + lane
            local = c
            if images > 1:
                local = divide(c, images, per_image)
            there = c < total
            from_j = positions + (begin + local).to(tl.int64) * 3
            x = tl.load(from_j, there, 0)[:, None] - xi[None, :]
            y = tl.load(from_j + 1, there, 0)[:, None] - yi[None, :]
            z = tl.load(from_j + 2, there, 0)[:, None] - zi[None, :]
            if periodic:
                fa, fb, fc = fractions(x, y, z, frame, skewed)
                if images > 1:
                    sa, sb, sc = first_image(fa, fb, fc, frame)
                    image = (c - local * images)[:, None]
                    sa, sb, sc = add_image(sa, sb, sc, image, kb, kc, per_c, per_bc)
                else:
                    sa, sb, sc = nearest_image(fa, fb, fc)
                x, y, z = move(x, y, z, sa, sb, sc, lattice, skewed)
            near = x * x + y * y + z * z < radius * radius
            bits = tl.sum(tl.where(near, (one << lane)[:, None], 0), 0)
            left = total - word * 32
            bits = tl.where(left < 32, bits & (((itself * 0 + 1) << tl.maximum(left, 0)) - 1), bits)
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
def is_skewed(frame, lattice):
    """Whether a lattice vector leaves its Cartesian axis: others need but a third of the products, with the same results."""
    _, day, daz, dbx, _, dbz, dcx, dcy, _, _, _, _ = frame
    _, ay, az, bx, _, bz, cx, cy, _ = lattice
    duals = tl.abs(day) + tl.abs(daz) + tl.abs(dbx) + tl.abs(dbz) + tl.abs(dcx) + tl.abs(dcy)
    return duals + tl.abs(ay) + tl.abs(az) + tl.abs(bx) + tl.abs(bz) + tl.abs(cx) + tl.abs(cy) > 0


@triton.jit
def along_periodic(frame):
    """The frame without the duals of open directions: fractions along them are zero, and so are shifts."""
    dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc = frame
    dax, day, daz = tl.where(ta > 0, dax, 0.0), tl.where(ta > 0, day, 0.0), tl.where(ta > 0, daz, 0.0)
    dbx, dby, dbz = tl.where(tb > 0, dbx, 0.0), tl.where(tb > 0, dby, 0.0), tl.where(tb > 0, dbz, 0.0)
    dcx, dcy, dcz = tl.where(tc > 0, dcx, 0.0), tl.where(tc > 0, dcy, 0.0), tl.where(tc > 0, dcz, 0.0)
    return dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc


@triton.jit
def fractions(x, y, z, frame, skewed):
    """Whole cells along each axis."""
    dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, _, _, _ = frame
    fa, fb, fc = x * dax, y * dby, z * dcz
    if skewed:
        fa, fb, fc = fa + y * day + z * daz, x * dbx + fb + z * dbz, x * dcx + y * dcy + fc
    return fa, fb, fc


@triton.jit
def first_image(fa, fb, fc, frame):
    """The lowest shifts at which a neighbor so many cells from its center may lie within reach."""
    _, _, _, _, _, _, _, _, _, ta, tb, tc = frame
    sa = tl.ceil(-(ta + ta * SLACK + SLACK) - fa)
    sb = tl.ceil(-(tb + tb * SLACK + SLACK) - fb)
    sc = tl.ceil(-(tc + tc * SLACK + SLACK) - fc)
    return sa, sb, sc


@triton.jit
def nearest_image(fa, fb, fc):
    """The shifts to the image nearest in fractions: where only one may lie within reach, that one. Adding rounds."""
    large = tl.full([], ROUND, tl.float64)
    return (large - fa) - large, (large - fb) - large, (large - fc) - large


@triton.jit
def move(x, y, z, a, b, c, lattice, skewed):
    """`add_shift`, knowing whether the lattice is skewed."""
    ax, ay, az, bx, by, bz, cx, cy, cz = lattice
    mx, my, mz = a * ax, b * by, c * cz
    if skewed:
        mx, my, mz = mx + b * bx + c * cx, a * ay + my + c * cy, a * az + b * bz + mz
    return x + mx, y + my, z + mz


@triton.jit
def reciprocals(kb, kc, images, several):
    """What divides by images in all, along c, along b and c together; where there are none to divide by, anything."""
    per_image, per_c, per_bc = images.to(tl.uint32), kc.to(tl.uint32), kb.to(tl.uint32)
    if several:
        per_image, per_c, per_bc = reciprocal(images), reciprocal(kc), reciprocal(kb * kc)
    return per_image, per_c, per_bc


@triton.jit
def add_image(sa, sb, sc, image, kb, kc, per_c, per_bc):
    """The shifts of an image, from those of the first."""
    ia = divide(image, kb * kc, per_bc)
    ib = divide(image, kc, per_c)
    return sa + ia, sb + (ib - ia * kb), sc + (image - ib * kc)


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
        to_counts = counts + s * COUNTS
        kb = tl.load(to_counts, live, 1)[:, None]
        kc = tl.load(to_counts + 1, live, 1)[:, None]
        images = tl.load(to_counts + 2, live, 1)
        words = tl.maximum(tl.load(to_counts + 3, live, 0), 1)
        most_words = tl.max(words, 0)
        skipped = (part * words * 32)[:, None]
        words = words[:, None]
        at = tl.load(word_ptr + piece, live, 0).to(tl.int64)[:, None]
        to_frame = frames + s.to(tl.int64) * FRAME
        ta = tl.load(to_frame + 9, live, 0)[:, None]
        tb = tl.load(to_frame + 10, live, 0)[:, None]
        tc = tl.load(to_frame + 11, live, 0)[:, None]
        # What holds for any row; each of the three is counted in bits of its own.
        tally = tl.sum(tl.load(to_counts + 4, live, 0), 0)
        several, skewed, periodic = tally // SEVERAL > 0, tally // SKEWED % SKEWED > 0, tally % SKEWED > 0
        images = images[:, None]
        per_image, per_c, per_bc = reciprocals(kb, kc, images, several)
        per_word = reciprocal(words)
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
            local = c
            if several:
                local = divide(c, images, per_image)
            j = begin + local
            from_j = positions + j.to(tl.int64) * 3
            x = tl.load(from_j, inside, 0) - xi
            y = tl.load(from_j + 1, inside, 0) - yi
            z = tl.load(from_j + 2, inside, 0) - zi
            shift = slot * 0
            back = shift + (i[:, None] - begin) * images
            if periodic:
                dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz = load_lattice(to_frame[:, None])
                frame = along_periodic((dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, ta, tb, tc))
                fa, fb, fc = fractions(x, y, z, frame, skewed)
                if several:
                    sa, sb, sc = first_image(fa, fb, fc, frame)
                    za, zb, zc = first_image(-fa, -fb, -fc, frame)
                    sa, sb, sc = add_image(sa, sb, sc, c - local * images, kb, kc, per_c, per_bc)
                    back += tl.where(inside, ((-sa - za) * kb + (-sb - zb)) * kc + (-sc - zc), 0).to(tl.int32)
                else:
                    sa, sb, sc = nearest_image(fa, fb, fc)
                x, y, z = move(x, y, z, sa, sb, sc, load_lattice(cell + s.to(tl.int64)[:, None] * 9), skewed)
                far = inside & (tl.maximum(tl.maximum(tl.abs(sa), tl.abs(sb)), tl.abs(sc)) > MOST_SHIFT)
                if tl.max(far.to(tl.int32)) > 0:
                    tl.atomic_or(status, SHIFTS, sem="relaxed")
                safe = inside & (far == 0)
                sa, sb, sc = tl.where(safe, sa, 0.0), tl.where(safe, sb, 0.0), tl.where(safe, sc, 0.0)
                shift = pack(sa.to(tl.int32), sb.to(tl.int32), sc.to(tl.int32))
            other_word = back >> 5
            other = j
            if PIECES > 1:
                other_part = divide(other_word, words, per_word)
                other_word -= other_part * words
                other = j * PIECES + other_part
            found = tl.load(pool + tl.load(word_ptr + other, inside, 0).to(tl.int64) + other_word, inside, 0)
            opposite = tl.load(piece_ptr + other, inside, 0) + (found >> 32).to(tl.int32)
            opposite += popcount_below(found.to(tl.int32), back & 31)
            e = (start[:, None] + slot).to(tl.int64)
            # An atom too far out has no row to point into; the status says so, and no index may lead astray.
            opposite = tl.where(((found.to(tl.int32) >> (back & 31)) & 1) != 0, opposite, e.to(tl.int32))
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
    PDL: tl.constexpr,
):
    """A piece of some rows of one structure a program; of a large one in a batch of small ones, some more."""
    pdl_wait(PDL)
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
    PDL: tl.constexpr,
):
    """Some pieces of rows a program; leaves the counters at zero for the next launch."""
    pdl_wait(PDL)
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
