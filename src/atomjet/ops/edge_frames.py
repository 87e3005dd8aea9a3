# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""What all layers of an eSCN-MD read of an edge, written once a call: frame, envelope, place in the radial tables.

For the edge e from i to j with r = x_j - x_i, d = |r|, u = d / r_c, weight w (0 for a neighbour beyond a limit, else 1):

    R  (3, 3)   rotation with R e = y                    frame[0:9]
    D² (5, 5)   the same for degree 2, from R            frame[9:34]
    f = w (1 - 21 u⁵ + 35 u⁶ - 15 u⁷)                    frame[34]
    δ = d - d_k, with k the nearest knot                 frame[35]

Both edges of a pair take their numbers from the vector of the one that stands first, so that R[reverse] = diag(1, -1, -1) R and
equal δ hold exactly: what a kernel knows of an edge it knows of its reverse. In m-major order a turn by diag(1, -1, -1) changes the
signs of the rows `REVERSED`. With x² = x·x the rows a of D² are, for rows X, Y, Z of R,

    D²(-2) = X Z   D²(-1) = X Y   D²(0) = Y Y   D²(1) = Y Z   D²(2) = (Z Z - X X) / 2      in the basis of quadratic forms

frame (Ê, 36) float32, pages (Ê, 2) int64, knots (Ê,) int32. A page is where the tables of a pair of elements begin, see
`radial_pages`: that of the edge, and that of its reverse. Edges of pairs without tables have δ = 0.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.radial_pages import MISSING_PAGE, PAGE
from atomjet.ops.wigner import rotations_to_y, wigner_blocks

FRAME = 36
"""Numbers of an edge's frame."""

REVERSED = (1, -1, 1, -1, 1, 1, -1, 1, -1)
"""Signs of the nine rows (m-major) under the turn that leads from an edge's frame to its reverse's."""

ROOT = tl.constexpr(math.sqrt(3.0))
WORDS_OF_PAGE = tl.constexpr(PAGE // 4)
MISSING = tl.constexpr(MISSING_PAGE)
WIDTH = tl.constexpr(FRAME)


@triton.jit
def load_frame(p):
    """The 34 numbers of R and D², by pointers to the first."""
    return (
        tl.load(p),
        tl.load(p + 1),
        tl.load(p + 2),
        tl.load(p + 3),
        tl.load(p + 4),
        tl.load(p + 5),
        tl.load(p + 6),
        tl.load(p + 7),
        tl.load(p + 8),
        tl.load(p + 9),
        tl.load(p + 10),
        tl.load(p + 11),
        tl.load(p + 12),
        tl.load(p + 13),
        tl.load(p + 14),
        tl.load(p + 15),
        tl.load(p + 16),
        tl.load(p + 17),
        tl.load(p + 18),
        tl.load(p + 19),
        tl.load(p + 20),
        tl.load(p + 21),
        tl.load(p + 22),
        tl.load(p + 23),
        tl.load(p + 24),
        tl.load(p + 25),
        tl.load(p + 26),
        tl.load(p + 27),
        tl.load(p + 28),
        tl.load(p + 29),
        tl.load(p + 30),
        tl.load(p + 31),
        tl.load(p + 32),
        tl.load(p + 33),
    )


@triton.jit
def to_frame(w, x0, x1, x2, x3, x4, x5, x6, x7, x8):
    """D x: nine coefficients, l-major, to nine rows, m-major."""
    return (
        x0,
        w[3] * x1 + w[4] * x2 + w[5] * x3,
        w[19] * x4 + w[20] * x5 + w[21] * x6 + w[22] * x7 + w[23] * x8,
        w[6] * x1 + w[7] * x2 + w[8] * x3,
        w[24] * x4 + w[25] * x5 + w[26] * x6 + w[27] * x7 + w[28] * x8,
        w[0] * x1 + w[1] * x2 + w[2] * x3,
        w[14] * x4 + w[15] * x5 + w[16] * x6 + w[17] * x7 + w[18] * x8,
        w[29] * x4 + w[30] * x5 + w[31] * x6 + w[32] * x7 + w[33] * x8,
        w[9] * x4 + w[10] * x5 + w[11] * x6 + w[12] * x7 + w[13] * x8,
    )


@triton.jit
def from_frame(w, r0, r1, r2, r3, r4, r5, r6, r7, r8):
    """Dᵀ r: nine rows, m-major, to nine coefficients, l-major."""
    return (
        r0,
        w[0] * r5 + w[3] * r1 + w[6] * r3,
        w[1] * r5 + w[4] * r1 + w[7] * r3,
        w[2] * r5 + w[5] * r1 + w[8] * r3,
        w[9] * r8 + w[14] * r6 + w[19] * r2 + w[24] * r4 + w[29] * r7,
        w[10] * r8 + w[15] * r6 + w[20] * r2 + w[25] * r4 + w[30] * r7,
        w[11] * r8 + w[16] * r6 + w[21] * r2 + w[26] * r4 + w[31] * r7,
        w[12] * r8 + w[17] * r6 + w[22] * r2 + w[27] * r4 + w[32] * r7,
        w[13] * r8 + w[18] * r6 + w[23] * r2 + w[28] * r4 + w[33] * r7,
    )


@triton.jit
def torques(a, b):
    """Σ L_pq a_p b_q for the generators of turns about x and z; nine rows each."""
    about_x = a[3] * b[1] - a[1] * b[3] + (a[4] * b[2] - a[2] * b[4]) * ROOT + a[7] * b[4] - a[4] * b[7]
    about_z = a[1] * b[5] - a[5] * b[1] + (a[2] * b[6] - a[6] * b[2]) * ROOT + a[4] * b[8] - a[8] * b[4]
    return about_x + a[8] * b[6] - a[6] * b[8], about_z + a[7] * b[6] - a[6] * b[7]


@triton.jit
def _table_value(word):
    """The value in a word of a radial table."""
    bits = (word >> 3) & -1879048704  # 0x8FFFFE00: what is shifted in at the top are copies of the sign
    return bits.to(tl.float32, bitcast=True) * 5192296858534827628530496329220096.0  # 2^112


@triton.jit
def radial_row(page, knot, start, edge, rows, OUTPUTS: tl.constexpr, SINGLE: tl.constexpr):
    """Where a network's row for an edge begins, in words of 32 bits from the first pair's tables: that of a knot in its pair's, or
    the edge's own, of those that begin at `rows` (0: there are none).
    """
    ROW: tl.constexpr = 3 * OUTPUTS if SINGLE else 3 * OUTPUTS // 2
    own = rows + tl.where(rows != 0, edge, 0) * ROW
    return tl.where(page == MISSING, own, (page + start) * WORDS_OF_PAGE + knot.to(tl.int64) * ROW)


@triton.jit
def radial_factor(words, row, column, offset, OUTPUTS: tl.constexpr, SINGLE: tl.constexpr):
    """W at a distance beyond the nearest knot, from a row of a radial table (`radial_pages`)."""
    p = words + row + column
    if SINGLE:
        factor = tl.load(p) + offset * (tl.load(p + OUTPUTS) + offset * tl.load(p + 2 * OUTPUTS))
    else:
        word = tl.load(p)
        slope = (((word & 0xFFF) << 4) | 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        factor = _table_value(word) + offset * slope
    return factor


@triton.jit
def load_radial(words, rests, row, column, OUTPUTS: tl.constexpr, SINGLE: tl.constexpr):
    """What a row of a radial table says of some outputs, two numbers or three, for `radial_factor_and_slope`."""
    p = words + row + column
    if SINGLE:
        second = tl.load(p + OUTPUTS)
        third = tl.load(p + 2 * OUTPUTS)
    else:
        second = tl.load(rests + 2 * row + (2 * OUTPUTS + column))
        third = second
    return tl.load(p), second, third


@triton.jit
def radial_factor_and_slope(loaded, offset, SINGLE: tl.constexpr):
    """W and its derivative."""
    first, second, third = loaded
    if SINGLE:
        bent = offset * third
        factor = first + offset * (second + bent)
        slope = second + 2.0 * bent
    else:
        low = second.to(tl.int32)
        slope = (((first & 0xFFF) << 4) | (low & 0xF)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        curvature = (low & -16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        factor = _table_value(first) + offset * slope
        slope += offset * curvature
    return factor, slope


@triton.jit(do_not_specialize=["num_atoms", "kinds"])
def edge_frames_kernel(
    row_ptr,
    num_atoms,
    neighbors,
    reverse,
    vectors,
    atomic_numbers,
    weights,
    radial_pages,
    frames,
    pages,
    knots,
    status,
    kinds,
    cutoff,
    per_length,
    BIT: tl.constexpr,
    LAST_KNOT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Some edges of a row a program."""
    i = tl.program_id(0).to(tl.int64)
    if i >= tl.load(num_atoms):
        return
    number = tl.load(atomic_numbers + i)
    stop = tl.load(row_ptr + i + 1)
    step = tl.num_programs(1) * EDGES
    for start in range(tl.load(row_ptr + i) + tl.program_id(1) * EDGES, stop, step):
        e = start + tl.arange(0, EDGES).to(tl.int64)
        inside = e < stop
        e = tl.where(inside, e, stop - 1)
        back = tl.load(reverse + e).to(tl.int64)
        first = tl.minimum(e, back)
        x = tl.load(vectors + 3 * first)
        y = tl.load(vectors + 3 * first + 1)
        z = tl.load(vectors + 3 * first + 2)
        d = tl.sqrt_rn(x * x + y * y + z * z)
        x = x / d
        y = y / d
        z = z / d
        # The rotation of the first of the pair, and a turn by π about x for the other.
        flip = tl.where(y < 0, -1.0, 1.0)
        y = y * flip
        z = z * flip
        scale = 1.0 / (1.0 + y)
        side = -x * z * scale
        turn = tl.where(e == first, 1.0, -1.0)
        xx = 1.0 - x * x * scale
        xy = -x * flip
        xz = side * flip
        yx = x * turn
        yy = y * flip * turn
        yz = z * flip * turn
        zx = side * turn
        zy = -z * flip * turn
        zz = (1.0 - z * z * scale) * flip * turn
        p = frames + e * WIDTH
        tl.store(p, xx, inside)
        tl.store(p + 1, xy, inside)
        tl.store(p + 2, xz, inside)
        tl.store(p + 3, yx, inside)
        tl.store(p + 4, yy, inside)
        tl.store(p + 5, yz, inside)
        tl.store(p + 6, zx, inside)
        tl.store(p + 7, zy, inside)
        tl.store(p + 8, zz, inside)
        tl.store(p + 9, xx * zz + xz * zx, inside)
        tl.store(p + 10, xx * zy + xy * zx, inside)
        tl.store(p + 11, xy * ROOT * zy, inside)
        tl.store(p + 12, xy * zz + xz * zy, inside)
        tl.store(p + 13, xz * zz - xx * zx, inside)
        tl.store(p + 14, xx * yz + xz * yx, inside)
        tl.store(p + 15, xx * yy + xy * yx, inside)
        tl.store(p + 16, xy * ROOT * yy, inside)
        tl.store(p + 17, xy * yz + xz * yy, inside)
        tl.store(p + 18, xz * yz - xx * yx, inside)
        tl.store(p + 19, yx * ROOT * yz, inside)
        tl.store(p + 20, yx * ROOT * yy, inside)
        tl.store(p + 21, 1.5 * yy * yy - 0.5, inside)
        tl.store(p + 22, yy * ROOT * yz, inside)
        tl.store(p + 23, (yz * yz - yx * yx) * (0.5 * ROOT), inside)
        tl.store(p + 24, yx * zz + yz * zx, inside)
        tl.store(p + 25, yx * zy + yy * zx, inside)
        tl.store(p + 26, yy * ROOT * zy, inside)
        tl.store(p + 27, yy * zz + yz * zy, inside)
        tl.store(p + 28, yz * zz - yx * zx, inside)
        tl.store(p + 29, zx * zz - xx * xz, inside)
        tl.store(p + 30, zx * zy - xx * xy, inside)
        tl.store(p + 31, (zy * zy - xy * xy) * (0.5 * ROOT), inside)
        tl.store(p + 32, zy * zz - xy * xz, inside)
        tl.store(p + 33, 0.5 * (zz * zz - zx * zx - xz * xz + xx * xx), inside)
        u = d / cutoff
        square = u * u
        envelope = 1.0 + square * square * u * (-21.0 + u * (35.0 - 15.0 * u))
        envelope = tl.where(u < 1.0, envelope, 0.0)
        if WEIGHTED:
            envelope *= tl.load(weights + e)
        knot = tl.minimum((d * per_length + 0.5).to(tl.int32), LAST_KNOT)
        tl.store(p + 34, envelope, inside)
        tl.store(knots + e, knot, inside)
        j = tl.load(neighbors + e).to(tl.int64)
        other = tl.load(atomic_numbers + j)
        page = tl.load(radial_pages + other * kinds + number)
        tl.store(p + 35, tl.where(page == MISSING, 0.0, d - knot.to(tl.float32) / per_length), inside)
        if tl.max((page == MISSING).to(tl.int32), 0) * BIT > 0:
            tl.atomic_or(status, BIT, sem="relaxed")
        tl.store(pages + 2 * e, page, inside)
        tl.store(pages + 2 * e + 1, tl.load(radial_pages + number * kinds + other), inside)


def launch(
    *,
    row_ptr: Tensor,
    num_atoms: Tensor,
    neighbors: Tensor,
    reverse: Tensor,
    vectors: Tensor,
    atomic_numbers: Tensor,
    weights: Tensor | None,
    radial_pages: Tensor,
    cutoff: float,
    last_knot: int,
    frames: Tensor,
    pages: Tensor,
    knots: Tensor,
    status: Tensor | None = None,
    bit: int = 0,
) -> None:
    """Enqueue.

    Args:
        row_ptr, neighbors, reverse, vectors, atomic_numbers: of a graph in buffers.
        num_atoms: (1,) rows in use.
        weights: (Ê,) float32 by which the envelope is multiplied; None for ones.
        radial_pages: (Z, Z) int64 by elements of neighbor and center.
        cutoff: Å. last_knot: number of the knot at the cutoff.
        frames, pages, knots: filled.
        status: (1,) int32, where `bit` is set if there are edges of pairs without tables; None where they have rows of their own.
    """
    edge_frames_kernel[(row_ptr.shape[0] - 1, 2)](
        row_ptr=row_ptr,
        num_atoms=num_atoms,
        neighbors=neighbors,
        reverse=reverse,
        vectors=vectors,
        atomic_numbers=atomic_numbers,
        weights=frames if weights is None else weights,
        radial_pages=radial_pages,
        frames=frames,
        pages=pages,
        knots=knots,
        status=knots if status is None else status,
        kinds=radial_pages.shape[1],
        cutoff=cutoff,
        per_length=last_knot / cutoff,
        BIT=0 if status is None else bit,
        LAST_KNOT=last_knot,
        WEIGHTED=weights is not None,
        EDGES=32,
        num_warps=1,
    )


def reference(vectors: Tensor, reverse: Tensor, cutoff: float, last_knot: int) -> tuple[Tensor, Tensor]:
    """(E, 3), (E,) to frames (E, 36) and knots (E,); plain PyTorch, any dtype."""
    edges = torch.arange(len(vectors), device=vectors.device)
    first = torch.minimum(edges, reverse)
    lengths = vectors[first].norm(dim=1)
    rotations = rotations_to_y(vectors[first] / lengths[:, None])
    turn = torch.where(edges == first, 1.0, -1.0).to(vectors.dtype)
    rotations = rotations * torch.stack([torch.ones_like(turn), turn, turn], dim=1)[:, :, None]
    u = lengths / cutoff
    envelope = (1 + u**5 * (-21 + u * (35 - 15 * u))) * (u < 1)
    knots = (lengths * (last_knot / cutoff)).round().clamp(max=last_knot)
    blocks = [block.flatten(1) for block in wigner_blocks(rotations, 2)[1:]]
    offsets = lengths - knots * (cutoff / last_knot)
    return torch.cat([*blocks, envelope[:, None], offsets[:, None]], dim=1), knots.to(torch.int32)
