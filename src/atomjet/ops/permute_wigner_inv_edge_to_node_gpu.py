# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""`permute_wigner_inv_edge_to_node` fused with bias and residual, for lmax = 2 and mmax = 1 or 2; and its derivative.

    x'_n = x_n + Σ over the edges of row n of f_e D_eᵀ (o_e + b)

x (N̂, 9, C) float32 l-major; o (Ê, R, C) of half or single precision, rows m-major, R = 9 or 7; b (3, C) for the rows of m = 0. With
x̄ = dE/dx', t_e = D_e x̄_center(e), and s_n a power of two above all of |x̄_n|:

    ō_e = t_e / s_center, in units of share_e = f_e s_center       f̄_e = Σ t_e ⊙ (o_e + b)       torque_e = f_e Σ L (o_e + b) t_eᵀ
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.edge_frames import load_frame, to_frame, torques

WIDTH = tl.constexpr(36)


@triton.jit
def power_above(largest):
    """The power of two above a float32 number, and one over it, within the range of both."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    exponent = tl.minimum(tl.maximum(exponent + 1, 64), 190)
    return (exponent << 23).to(tl.float32, bitcast=True), ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def permute_wigner_inv_edge_to_node_fwd_kernel(
    o,
    bias,
    frames,
    row_ptr,
    num_atoms,
    x,
    out,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    MMAX: tl.constexpr,
):
    """One atom and some channels a program: degrees 0 and 1, or degree 2."""
    ROWS: tl.constexpr = 5 + 2 * MMAX
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    start = tl.load(row_ptr + n)
    stop = tl.load(row_ptr + n + 1)
    at = n * (9 * C) + c
    if tl.program_id(2) == 0:
        b0 = tl.load(bias + c)
        b1 = tl.load(bias + C + c)
        x0 = tl.load(x + at)
        x1 = tl.load(x + at + C)
        x2 = tl.load(x + at + 2 * C)
        x3 = tl.load(x + at + 3 * C)
        for edge in range(start, stop):
            e = tl.full((), edge, tl.int64)
            p = frames + e * WIDTH
            q = o + e * (ROWS * C) + c
            f = tl.load(p + 34)
            r1 = (tl.load(q + C).to(tl.float32) + b1) * f
            r3 = tl.load(q + 3 * C).to(tl.float32) * f
            r5 = tl.load(q + 5 * C).to(tl.float32) * f
            x0 += (tl.load(q).to(tl.float32) + b0) * f
            x1 += tl.load(p) * r5 + tl.load(p + 3) * r1 + tl.load(p + 6) * r3
            x2 += tl.load(p + 1) * r5 + tl.load(p + 4) * r1 + tl.load(p + 7) * r3
            x3 += tl.load(p + 2) * r5 + tl.load(p + 5) * r1 + tl.load(p + 8) * r3
        tl.store(out + at, x0)
        tl.store(out + at + C, x1)
        tl.store(out + at + 2 * C, x2)
        tl.store(out + at + 3 * C, x3)
    else:
        b2 = tl.load(bias + 2 * C + c)
        x4 = tl.load(x + at + 4 * C)
        x5 = tl.load(x + at + 5 * C)
        x6 = tl.load(x + at + 6 * C)
        x7 = tl.load(x + at + 7 * C)
        x8 = tl.load(x + at + 8 * C)
        for edge in range(start, stop):
            e = tl.full((), edge, tl.int64)
            p = frames + e * WIDTH
            q = o + e * (ROWS * C) + c
            f = tl.load(p + 34)
            r2 = (tl.load(q + 2 * C).to(tl.float32) + b2) * f
            r4 = tl.load(q + 4 * C).to(tl.float32) * f
            r6 = tl.load(q + 6 * C).to(tl.float32) * f
            x4 += tl.load(p + 14) * r6 + tl.load(p + 19) * r2 + tl.load(p + 24) * r4
            x5 += tl.load(p + 15) * r6 + tl.load(p + 20) * r2 + tl.load(p + 25) * r4
            x6 += tl.load(p + 16) * r6 + tl.load(p + 21) * r2 + tl.load(p + 26) * r4
            x7 += tl.load(p + 17) * r6 + tl.load(p + 22) * r2 + tl.load(p + 27) * r4
            x8 += tl.load(p + 18) * r6 + tl.load(p + 23) * r2 + tl.load(p + 28) * r4
            if MMAX == 2:
                r7 = tl.load(q + 7 * C).to(tl.float32) * f
                r8 = tl.load(q + 8 * C).to(tl.float32) * f
                x4 += tl.load(p + 9) * r8 + tl.load(p + 29) * r7
                x5 += tl.load(p + 10) * r8 + tl.load(p + 30) * r7
                x6 += tl.load(p + 11) * r8 + tl.load(p + 31) * r7
                x7 += tl.load(p + 12) * r8 + tl.load(p + 32) * r7
                x8 += tl.load(p + 13) * r8 + tl.load(p + 33) * r7
        tl.store(out + at + 4 * C, x4)
        tl.store(out + at + 5 * C, x5)
        tl.store(out + at + 6 * C, x6)
        tl.store(out + at + 7 * C, x7)
        tl.store(out + at + 8 * C, x8)


@triton.jit(do_not_specialize=["num_atoms", "edges"])
def permute_wigner_inv_edge_to_node_bwd_kernel(
    x_bar,
    unit,
    o,
    bias,
    frames,
    row_ptr,
    reverse,
    num_atoms,
    o_bar,
    share,
    gathered,
    edges,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    MMAX: tl.constexpr,
):
    """Some edges of one atom and some channels a program; `gathered` (parts, Ê, 4) is added to."""
    ROWS: tl.constexpr = 5 + 2 * MMAX
    kind: tl.constexpr = o_bar.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    part = tl.program_id(1)
    c = part * CHANNELS + tl.arange(0, CHANNELS)
    x = x_bar + n * (9 * C) + c
    x0 = tl.load(x)
    x1 = tl.load(x + C)
    x2 = tl.load(x + 2 * C)
    x3 = tl.load(x + 3 * C)
    x4 = tl.load(x + 4 * C)
    x5 = tl.load(x + 5 * C)
    x6 = tl.load(x + 6 * C)
    x7 = tl.load(x + 7 * C)
    x8 = tl.load(x + 8 * C)
    b0 = tl.load(bias + c)
    b1 = tl.load(bias + C + c)
    b2 = tl.load(bias + 2 * C + c)
    s = tl.load(unit + n)
    inverse = 1.0 / s
    for at in range(tl.load(row_ptr + n) + tl.program_id(2), tl.load(row_ptr + n + 1), tl.num_programs(2)):
        e = tl.full((), at, tl.int64)
        p = frames + e * WIDTH
        f = tl.load(p + 34)
        back = tl.load(reverse + e).to(tl.int64)
        w = load_frame(p)
        q = o + e * (ROWS * C) + c
        r0 = tl.load(q).to(tl.float32) + b0
        r1 = tl.load(q + C).to(tl.float32) + b1
        r2 = tl.load(q + 2 * C).to(tl.float32) + b2
        r3 = tl.load(q + 3 * C).to(tl.float32)
        r4 = tl.load(q + 4 * C).to(tl.float32)
        r5 = tl.load(q + 5 * C).to(tl.float32)
        r6 = tl.load(q + 6 * C).to(tl.float32)
        if MMAX == 2:
            r7 = tl.load(q + 7 * C).to(tl.float32)
            r8 = tl.load(q + 8 * C).to(tl.float32)
        else:
            r7 = tl.zeros((CHANNELS,), tl.float32)
            r8 = tl.zeros((CHANNELS,), tl.float32)
        g = gathered + (part.to(tl.int64) * edges + e) * 4
        g1 = tl.load(g + 1)
        g2 = tl.load(g + 2)
        g3 = tl.load(g + 3)
        t = to_frame(w, x0, x1, x2, x3, x4, x5, x6, x7, x8)
        along = r0 * t[0] + r1 * t[1] + r2 * t[2] + r3 * t[3] + r4 * t[4] + r5 * t[5] + r6 * t[6]
        if MMAX == 2:
            along += r7 * t[7] + r8 * t[8]
        about_x, about_z = torques((r0, r1, r2, r3, r4, r5, r6, r7, r8), t)
        out = o_bar + e * (ROWS * C) + c
        tl.store(out, (t[0] * inverse).to(kind))
        tl.store(out + C, (t[1] * inverse).to(kind))
        tl.store(out + 2 * C, (t[2] * inverse).to(kind))
        tl.store(out + 3 * C, (t[3] * inverse).to(kind))
        tl.store(out + 4 * C, (t[4] * inverse).to(kind))
        tl.store(out + 5 * C, (t[5] * inverse).to(kind))
        tl.store(out + 6 * C, (t[6] * inverse).to(kind))
        if MMAX == 2:
            tl.store(out + 7 * C, (t[7] * inverse).to(kind))
            tl.store(out + 8 * C, (t[8] * inverse).to(kind))
        if part == 0:
            tl.store(share + 2 * e, f * s)
            tl.store(share + 2 * back + 1, f * s)
        tl.store(g + 1, g1 + f * tl.sum(about_x, 0))
        tl.store(g + 2, g2 + f * tl.sum(about_z, 0))
        tl.store(g + 3, g3 + tl.sum(along, 0))


def launch_fwd(
    *,
    o: Tensor,
    bias: Tensor,
    frames: Tensor,
    row_ptr: Tensor,
    num_atoms: Tensor,
    x: Tensor,
    out: Tensor,
    mmax: int,
    channels: int = 128,
) -> None:
    """Enqueue.

    Args:
        o: (Ê, R, C). bias: (3, C) float32. frames: of `edge_frames`.
        row_ptr, num_atoms: rows of edges, and how many are in use.
        x: (N̂, 9, C) float32. out: (N̂, 9, C) float32, filled; may be x.
        channels: of a program.
    """
    width = x.shape[2]
    block = min(channels, width)
    permute_wigner_inv_edge_to_node_fwd_kernel[(x.shape[0], width // block, 2)](
        o=o,
        bias=bias,
        frames=frames,
        row_ptr=row_ptr,
        num_atoms=num_atoms,
        x=x,
        out=out,
        C=width,
        CHANNELS=block,
        MMAX=mmax,
        num_warps=1,
    )


def launch_bwd(
    *,
    x_bar: Tensor,
    unit: Tensor,
    o: Tensor,
    bias: Tensor,
    frames: Tensor,
    row_ptr: Tensor,
    reverse: Tensor,
    num_atoms: Tensor,
    o_bar: Tensor,
    share: Tensor,
    gathered: Tensor,
    mmax: int,
    split: int = 1,
) -> None:
    """Enqueue.

    Args:
        x_bar: (N̂, 9, C) float32. unit: (N̂,) float32, s.
        o, bias, frames, row_ptr, num_atoms: as in `launch_fwd`. reverse: (Ê,) int32.
        o_bar: (Ê, R, C) of half or single precision, filled. share: (Ê, 2) float32, filled: of an edge and of its reverse.
        gathered: (parts, Ê, 4) float32: torques about x and z and f̄ in its last three columns, added to.
        split: programs that share the edges of an atom.
    """
    width, parts = x_bar.shape[2], gathered.shape[0]
    permute_wigner_inv_edge_to_node_bwd_kernel[(x_bar.shape[0], parts, split)](
        x_bar=x_bar,
        unit=unit,
        o=o,
        bias=bias,
        frames=frames,
        row_ptr=row_ptr,
        reverse=reverse,
        num_atoms=num_atoms,
        o_bar=o_bar,
        share=share,
        gathered=gathered,
        edges=gathered.shape[1],
        C=width,
        CHANNELS=width // parts,
        MMAX=mmax,
        num_warps=1,
    )
