# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Pieces of the search kernels: a structure's lattice, and words of 32 bits that say which candidates are within the cutoff.

`h` are the rows of the cell with those of open directions replaced by unit vectors orthogonal to all others, the `duals` the
columns of its inverse: x · dual counts whole cells, and 1 / |dual| is the distance between lattice planes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from atomjet.data.buffers import SHIFT_LIMIT, Status
from atomjet.data.fields import SINGULAR_CELL
from atomjet.neighbors.brute_force import MAX_IMAGES, SURELY_RESOLVED

NOT_FINITE = tl.constexpr(int(Status.NOT_FINITE))
SINGULAR = tl.constexpr(int(Status.SINGULAR))
IMAGES = tl.constexpr(int(Status.IMAGES))
SHIFTS = tl.constexpr(int(Status.SHIFTS))
EDGES = tl.constexpr(int(Status.EDGES))
FARTHEST = tl.constexpr(SURELY_RESOLVED)
FLAT = tl.constexpr(SINGULAR_CELL)
MOST_IMAGES = tl.constexpr(MAX_IMAGES)
MOST_SHIFT = tl.constexpr(SHIFT_LIMIT)
FRAME = tl.constexpr(12)  # numbers kept of each structure: nine of the duals, three reaches
SLACK = tl.constexpr(1e-9)  # reaches are rounded up by this much, so that no image is missed by rounding


@triton.jit
def is_finite(x, y, z):
    """Neither NaN nor infinite, nor so far that squares overflow."""
    return tl.abs(x) + tl.abs(y) + tl.abs(z) < 1e30


@triton.jit
def is_near(x, y, z):
    """Finite, and not so far out that the slow way must say whether digits are left for a distance."""
    return tl.abs(x) + tl.abs(y) + tl.abs(z) < FARTHEST


@triton.jit
def cross(ax, ay, az, bx, by, bz):
    """a × b."""
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit
def unit(x, y, z):
    """The vector at length one; zero stays zero."""
    length = tl.sqrt(x * x + y * y + z * z)
    scale = tl.where(length > 0, 1.0 / tl.where(length > 0, length, 1.0), 0.0)
    return x * scale, y * scale, z * scale


@triton.jit
def fraction(x, y, z, dx, dy, dz):
    """Whole cells along one axis."""
    return x * dx + y * dy + z * dz


@triton.jit
def load_row(pointer):
    """Three numbers."""
    return tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2)


@triton.jit
def load_lattice(h):
    """Nine numbers: three vectors."""
    ax, ay, az = load_row(h)
    bx, by, bz = load_row(h + 3)
    cx, cy, cz = load_row(h + 6)
    return ax, ay, az, bx, by, bz, cx, cy, cz


@triton.jit
def add_shift(x, y, z, a, b, c, lattice):
    """Positions with whole lattice vectors added."""
    ax, ay, az, bx, by, bz, cx, cy, cz = lattice
    return x + (a * ax + b * bx + c * cx), y + (a * ay + b * by + c * cy), z + (a * az + b * bz + c * cz)


@triton.jit
def load_frame(frames, s):
    """A frame: nine numbers of the duals, three reaches."""
    ax, ay, az, bx, by, bz, cx, cy, cz = load_lattice(frames + s * FRAME)
    ra, rb, rc = load_row(frames + s * FRAME + 9)
    return ax, ay, az, bx, by, bz, cx, cy, cz, ra, rb, rc


@triton.jit
def build_frame(cell, pbc, s, cutoff, frames, write):
    """The frame of structure s, duals and reaches (cutoff in cells, zero along open directions); Status bits."""
    p, q, r = load_row(pbc + s.to(tl.int64) * 3)
    zero = cutoff * 0
    dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz = zero + 1, zero, zero, zero, zero + 1, zero, zero, zero, zero + 1
    reach_a, reach_b, reach_c = zero, zero, zero
    bad = p * 0
    if p + q + r != 0:
        frame = complete_frame(cell, p, q, r, s, cutoff)
        dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, reach_a, reach_b, reach_c, bad = frame
    if write:
        to = frames + s.to(tl.int64) * FRAME
        tl.store(to + 0, dax)
        tl.store(to + 1, day)
        tl.store(to + 2, daz)
        tl.store(to + 3, dbx)
        tl.store(to + 4, dby)
        tl.store(to + 5, dbz)
        tl.store(to + 6, dcx)
        tl.store(to + 7, dcy)
        tl.store(to + 8, dcz)
        tl.store(to + 9, reach_a)
        tl.store(to + 10, reach_b)
        tl.store(to + 11, reach_c)
    return (dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, reach_a, reach_b, reach_c), bad


@triton.jit
def complete_frame(cell, p, q, r, s, cutoff):
    """The frame of structure s, which is periodic along at least one direction: duals, reaches, Status bits."""
    ax, ay, az, bx, by, bz, cx, cy, cz = load_lattice(cell + s.to(tl.int64) * 9)
    finite = is_finite(ax, ay, az) & is_finite(bx, by, bz) & is_finite(cx, cy, cz)
    hax, hay, haz = tl.where(finite, ax, 0.0), tl.where(finite, ay, 0.0), tl.where(finite, az, 0.0)
    hbx, hby, hbz = tl.where(finite, bx, 0.0), tl.where(finite, by, 0.0), tl.where(finite, bz, 0.0)
    hcx, hcy, hcz = tl.where(finite, cx, 0.0), tl.where(finite, cy, 0.0), tl.where(finite, cz, 0.0)
    if p + q + r < 3:
        rows = hax, hay, haz, hbx, hby, hbz, hcx, hcy, hcz
        hax, hay, haz, hbx, hby, hbz, hcx, hcy, hcz = complete_rows(rows, p, q, r)
    long_a = tl.sqrt(hax * hax + hay * hay + haz * haz)
    long_b = tl.sqrt(hbx * hbx + hby * hby + hbz * hbz)
    long_c = tl.sqrt(hcx * hcx + hcy * hcy + hcz * hcz)
    dax, day, daz = cross(hbx, hby, hbz, hcx, hcy, hcz)
    dbx, dby, dbz = cross(hcx, hcy, hcz, hax, hay, haz)
    dcx, dcy, dcz = cross(hax, hay, haz, hbx, hby, hbz)
    volume = hax * dax + hay * day + haz * daz
    flat = tl.abs(volume) < long_a * FLAT * long_b * long_c
    flat = flat | (long_a < FLAT) | (long_b < FLAT) | (long_c < FLAT)
    bad = tl.where(finite, tl.where(flat, SINGULAR, 0), NOT_FINITE)
    scale = tl.where(bad == 0, 1.0 / tl.where(bad == 0, volume, 1.0), 0.0)
    dax, day, daz = dax * scale, day * scale, daz * scale
    dbx, dby, dbz = dbx * scale, dby * scale, dbz * scale
    dcx, dcy, dcz = dcx * scale, dcy * scale, dcz * scale
    reach_a = tl.where((p != 0) & (bad == 0), cutoff * tl.sqrt(dax * dax + day * day + daz * daz), 0.0)
    reach_b = tl.where((q != 0) & (bad == 0), cutoff * tl.sqrt(dbx * dbx + dby * dby + dbz * dbz), 0.0)
    reach_c = tl.where((r != 0) & (bad == 0), cutoff * tl.sqrt(dcx * dcx + dcy * dcy + dcz * dcz), 0.0)
    # The definition's own limit, so that it refuses the same cells.
    most = tl.where(p != 0, 2 * tl.floor(reach_a) + 3, 1.0)
    most *= tl.where(q != 0, 2 * tl.floor(reach_b) + 3, 1.0)
    most *= tl.where(r != 0, 2 * tl.floor(reach_c) + 3, 1.0)
    bad = tl.where((bad == 0) & (most > MOST_IMAGES), IMAGES, bad)
    return dax, day, daz, dbx, dby, dbz, dcx, dcy, dcz, reach_a, reach_b, reach_c, bad


@triton.jit
def complete_rows(rows, p, q, r):
    """Lattice vectors, those of open directions replaced."""
    ax, ay, az, bx, by, bz, cx, cy, cz = rows
    periodic = p + q + r
    # Two periodic: the third row stands on both. One: an arbitrary pair that stands on it and on each other.
    bcx, bcy, bcz = cross(bx, by, bz, cx, cy, cz)
    cax, cay, caz = cross(cx, cy, cz, ax, ay, az)
    abx, aby, abz = cross(ax, ay, az, bx, by, bz)
    bcx, bcy, bcz = unit(bcx, bcy, bcz)
    cax, cay, caz = unit(cax, cay, caz)
    abx, aby, abz = unit(abx, aby, abz)
    vx, vy, vz = unit(ax + bx + cx, ay + by + cy, az + bz + cz)
    small_x = (tl.abs(vx) <= tl.abs(vy)) & (tl.abs(vx) <= tl.abs(vz))
    small_y = (tl.abs(vy) <= tl.abs(vz)) & (small_x == 0)
    ex = tl.where(small_x, 1.0, 0.0).to(tl.float64)
    ey = tl.where(small_y, 1.0, 0.0).to(tl.float64)
    ux, uy, uz = cross(vx, vy, vz, ex, ey, 1.0 - ex - ey)
    ux, uy, uz = unit(ux, uy, uz)
    wx, wy, wz = cross(vx, vy, vz, ux, uy, uz)
    one, two = periodic == 1, periodic == 2
    zero = ax * 0.0
    hax = tl.where(p != 0, ax, tl.where(two, bcx, tl.where(one, tl.where(r != 0, ux, wx), zero + 1.0)))
    hay = tl.where(p != 0, ay, tl.where(two, bcy, tl.where(one, tl.where(r != 0, uy, wy), zero)))
    haz = tl.where(p != 0, az, tl.where(two, bcz, tl.where(one, tl.where(r != 0, uz, wz), zero)))
    hbx = tl.where(q != 0, bx, tl.where(two, cax, tl.where(one, tl.where(p != 0, ux, wx), zero)))
    hby = tl.where(q != 0, by, tl.where(two, cay, tl.where(one, tl.where(p != 0, uy, wy), zero + 1.0)))
    hbz = tl.where(q != 0, bz, tl.where(two, caz, tl.where(one, tl.where(p != 0, uz, wz), zero)))
    hcx = tl.where(r != 0, cx, tl.where(two, abx, tl.where(one, tl.where(q != 0, ux, wx), zero)))
    hcy = tl.where(r != 0, cy, tl.where(two, aby, tl.where(one, tl.where(q != 0, uy, wy), zero)))
    hcz = tl.where(r != 0, cz, tl.where(two, abz, tl.where(one, tl.where(q != 0, uz, wz), zero + 1.0)))
    return hax, hay, haz, hbx, hby, hbz, hcx, hcy, hcz


@triton.jit
def pack(a, b, c):
    """`pack_shifts`."""
    return (a * 1024 + b) * 1024 + c


@triton.jit
def unpack(packed):
    """`unpack_shifts`."""
    c = ((packed + 512) & 1023) - 512
    rest = (packed - c) >> 10
    b = ((rest + 512) & 1023) - 512
    return (rest - b) >> 10, b, c


@triton.jit
def popcount(bits):
    """How many of 32 bits are set; written so that the compiler knows it for one instruction."""
    v = bits.to(tl.uint32)
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    return ((v * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def popcount_below(bits, place):
    """How many bits are set below a place."""
    place = place.to(tl.uint32)
    return popcount(bits.to(tl.uint32) & (((place * 0 + 1) << place) - 1))


@triton.jit
def find_bit(bits, rank):
    """The place of set bit number `rank`: down from bytes to half bytes, pairs and bits, by how many are set in each."""
    v = bits.to(tl.uint32)
    pairs = v - ((v >> 1) & 0x55555555)
    halves = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    upto = ((halves + (halves >> 4)) & 0x0F0F0F0F) * 0x01010101
    first = (upto & 255).to(tl.int32)
    second = ((upto >> 8) & 255).to(tl.int32)
    third = ((upto >> 16) & 255).to(tl.int32)
    place = tl.where(rank >= third, 24, tl.where(rank >= second, 16, tl.where(rank >= first, 8, 0)))
    rank -= tl.where(rank >= third, third, tl.where(rank >= second, second, tl.where(rank >= first, first, 0)))
    below = ((halves >> place.to(tl.uint32)) & 15).to(tl.int32)
    place += tl.where(rank >= below, 4, 0)
    rank -= tl.where(rank >= below, below, 0)
    below = ((pairs >> place.to(tl.uint32)) & 3).to(tl.int32)
    place += tl.where(rank >= below, 2, 0)
    rank -= tl.where(rank >= below, below, 0)
    return place + (rank >= ((v >> place.to(tl.uint32)) & 1).to(tl.int32)).to(tl.int32)


@triton.jit
def reciprocal(divisor):
    """What `divide` takes beside a divisor."""
    return (divisor.to(tl.uint32) * 0 + 0xFFFFFFFF) // divisor.to(tl.uint32)


@triton.jit
def divide(number, divisor, inverse):
    """number // divisor, below 2³¹: a product, which is at most one too low, and a look; devices have no division of integers."""
    quotient = tl.umulhi(number.to(tl.uint32), inverse).to(tl.int32)
    return quotient + (number - quotient * divisor >= divisor).to(tl.int32)


@triton.jit
def join(before, bits):
    """One word of a pool: how many candidates before are within the cutoff, and which of these 32."""
    return (before.to(tl.int64) << 32) | (bits.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def find_last(table, at, number, value, most, inside, HIGH: tl.constexpr):
    """The last of `number` ascending entries from table[at] on (at most `most` of them) not above the value; HIGH: of words."""
    entry = value * 0
    step = 1
    while step < most:
        step *= 2
    while step > 1:
        step = step // 2
        probe = entry + step
        fits = inside & (probe < number)
        found = tl.load(table + at + probe, fits, 0)
        if HIGH:
            found = found >> 32
        entry = tl.where(fits & (found <= value), probe, entry)
    return entry
