# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""`node_to_edge_wigner_permute` and the radial factors behind it, fused, for lmax = 2 and mmax = 1 or 2.

    p_e = (D_e [y_neighbor | y_center]) ⊙ [W_source | W_target](d_e)

y (N, 9, C) float32 l-major; p (Ê, R, 2C) in half precision, rows m-major, R = 9 or 7; factors of tables (`radial_pages`), the
same for m and -m. D[reverse] = S D with signs S (`edge_frames`), so an atom that turns its features into the frame of its edge
e has both its share of row e, as the center, and that of row reverse(e), as the neighbor: it is read once and nothing is
gathered.

The derivative takes p̄_e in units of its own, s_e p̄_e = dE/dp_e. For atom n and each edge e of its row, with r = reverse(e):

    q_e  = (s_e p̄_e[target] ⊙ W_target + S s_r p̄_r[source] ⊙ W_source)     rows in the frame of e
    ȳ_n  = Σ_e D_eᵀ q_e
    along_e  += Σ D_e y_n ⊙ (s_e p̄_e[target] ⊙ W'_target + S s_r p̄_r[source] ⊙ W'_source)
    torque_e += Σ L q_e (D_e y_n)ᵀ

`along` and `torque` at e are those of turning and stretching atom n's features along e: what belongs to the reverse edge's
vector is counted here as well, with the opposite sign, which neither forces nor virials feel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.edge_frames import (
    from_frame,
    load_frame,
    load_radial,
    radial_factor,
    radial_factor_and_slope,
    radial_row,
    to_frame,
    torques,
)
from atomjet.ops.radial_pages import words_of

WIDTH = tl.constexpr(36)


@triton.jit(do_not_specialize=["num_atoms", "start"])
def node_to_edge_wigner_permute_fwd_kernel(
    y,
    frames,
    row_ptr,
    reverse,
    pages,
    knots,
    num_atoms,
    words,
    packed,
    start,
    rows,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    MMAX: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Some edges of one atom and some channels a program; as many programs share an atom as the grid has in its third dimension."""
    ROWS: tl.constexpr = 5 + 2 * MMAX
    OUTPUTS: tl.constexpr = 2 * (4 + MMAX) * C
    kind: tl.constexpr = packed.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x = y + n * (9 * C) + c
    y0 = tl.load(x)
    y1 = tl.load(x + C)
    y2 = tl.load(x + 2 * C)
    y3 = tl.load(x + 3 * C)
    y4 = tl.load(x + 4 * C)
    y5 = tl.load(x + 5 * C)
    y6 = tl.load(x + 6 * C)
    y7 = tl.load(x + 7 * C)
    y8 = tl.load(x + 8 * C)
    for at in range(tl.load(row_ptr + n) + tl.program_id(2), tl.load(row_ptr + n + 1), tl.num_programs(2)):
        e = tl.full((), at, tl.int64)
        back = tl.load(reverse + e).to(tl.int64)
        knot = tl.load(knots + e)
        own = radial_row(tl.load(pages + 2 * e), knot, start, e, rows, OUTPUTS, SINGLE)
        theirs = radial_row(tl.load(pages + 2 * e + 1), knot, start, back, rows, OUTPUTS, SINGLE)
        p = frames + e * WIDTH
        offset = tl.load(p + 35)
        w = load_frame(p)
        s0 = radial_factor(words, theirs, c, offset, OUTPUTS, SINGLE)
        s1 = radial_factor(words, theirs, 2 * C + c, offset, OUTPUTS, SINGLE)
        s2 = radial_factor(words, theirs, 4 * C + c, offset, OUTPUTS, SINGLE)
        s3 = radial_factor(words, theirs, 6 * C + c, offset, OUTPUTS, SINGLE)
        s4 = radial_factor(words, theirs, 8 * C + c, offset, OUTPUTS, SINGLE)
        t0 = radial_factor(words, own, C + c, offset, OUTPUTS, SINGLE)
        t1 = radial_factor(words, own, 3 * C + c, offset, OUTPUTS, SINGLE)
        t2 = radial_factor(words, own, 5 * C + c, offset, OUTPUTS, SINGLE)
        t3 = radial_factor(words, own, 7 * C + c, offset, OUTPUTS, SINGLE)
        t4 = radial_factor(words, own, 9 * C + c, offset, OUTPUTS, SINGLE)
        x0, x1, x2, x3, x4, x5, x6, x7, x8 = to_frame(w, y0, y1, y2, y3, y4, y5, y6, y7, y8)
        there = packed + back * (ROWS * 2 * C) + c
        here = packed + e * (ROWS * 2 * C) + (C + c)
        if MMAX == 2:
            s5 = radial_factor(words, theirs, 10 * C + c, offset, OUTPUTS, SINGLE)
            t5 = radial_factor(words, own, 11 * C + c, offset, OUTPUTS, SINGLE)
            tl.store(here + 14 * C, (t5 * x7).to(kind))
            tl.store(here + 16 * C, (t5 * x8).to(kind))
            tl.store(there + 14 * C, (s5 * x7).to(kind))
            tl.store(there + 16 * C, (-s5 * x8).to(kind))
        tl.store(here, (t0 * x0).to(kind))
        tl.store(here + 2 * C, (t1 * x1).to(kind))
        tl.store(here + 4 * C, (t2 * x2).to(kind))
        tl.store(here + 6 * C, (t3 * x3).to(kind))
        tl.store(here + 8 * C, (t4 * x4).to(kind))
        tl.store(here + 10 * C, (t3 * x5).to(kind))
        tl.store(here + 12 * C, (t4 * x6).to(kind))
        tl.store(there, (s0 * x0).to(kind))
        tl.store(there + 2 * C, (-s1 * x1).to(kind))
        tl.store(there + 4 * C, (s2 * x2).to(kind))
        tl.store(there + 6 * C, (-s3 * x3).to(kind))
        tl.store(there + 8 * C, (s4 * x4).to(kind))
        tl.store(there + 10 * C, (s3 * x5).to(kind))
        tl.store(there + 12 * C, (-s4 * x6).to(kind))


@triton.jit(do_not_specialize=["num_atoms", "start", "edges", "atoms"])
def node_to_edge_wigner_permute_bwd_kernel(
    packed_bar,
    share,
    y,
    frames,
    row_ptr,
    reverse,
    pages,
    knots,
    num_atoms,
    words,
    rests,
    y_bar,
    gathered,
    start,
    rows,
    edges,
    atoms,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    MMAX: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Some edges of one atom and some channels a program; `gathered` (parts, Ê, 4) is added to.

    All that an edge needs is loaded before any of it is used, and what says where that stands one edge ahead: few programs fit on a
    multiprocessor, and each would wait for every load.
    """
    ROWS: tl.constexpr = 5 + 2 * MMAX
    OUTPUTS: tl.constexpr = 2 * (4 + MMAX) * C
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    part = tl.program_id(1)
    c = part * CHANNELS + tl.arange(0, CHANNELS)
    x = y + n * (9 * C) + c
    y0 = tl.load(x)
    y1 = tl.load(x + C)
    y2 = tl.load(x + 2 * C)
    y3 = tl.load(x + 3 * C)
    y4 = tl.load(x + 4 * C)
    y5 = tl.load(x + 5 * C)
    y6 = tl.load(x + 6 * C)
    y7 = tl.load(x + 7 * C)
    y8 = tl.load(x + 8 * C)
    a0 = tl.zeros((CHANNELS,), tl.float32)
    a1 = tl.zeros((CHANNELS,), tl.float32)
    a2 = tl.zeros((CHANNELS,), tl.float32)
    a3 = tl.zeros((CHANNELS,), tl.float32)
    a4 = tl.zeros((CHANNELS,), tl.float32)
    a5 = tl.zeros((CHANNELS,), tl.float32)
    a6 = tl.zeros((CHANNELS,), tl.float32)
    a7 = tl.zeros((CHANNELS,), tl.float32)
    a8 = tl.zeros((CHANNELS,), tl.float32)
    step = tl.num_programs(2)
    first = tl.load(row_ptr + n) + tl.program_id(2)
    stop = tl.load(row_ptr + n + 1)
    e = tl.full((), first, tl.int64)
    if first < stop:
        back = tl.load(reverse + e)
        knot = tl.load(knots + e)
        page_own = tl.load(pages + 2 * e)
        page_theirs = tl.load(pages + 2 * e + 1)
    else:
        back = tl.zeros((), tl.int32)
        knot = tl.zeros((), tl.int32)
        page_own = tl.zeros((), tl.int64)
        page_theirs = tl.zeros((), tl.int64)
    for at in range(first, stop, step):
        e = tl.full((), at, tl.int64)
        own = radial_row(page_own, knot, start, e, rows, OUTPUTS, SINGLE)
        theirs = radial_row(page_theirs, knot, start, back.to(tl.int64), rows, OUTPUTS, SINGLE)
        here = packed_bar + e * (ROWS * 2 * C) + (C + c)
        there = packed_bar + back.to(tl.int64) * (ROWS * 2 * C) + c
        p = frames + e * WIDTH
        offset = tl.load(p + 35)
        mine = tl.load(share + 2 * e)
        other = tl.load(share + 2 * e + 1)
        kt0 = load_radial(words, rests, own, C + c, OUTPUTS, SINGLE)
        ks0 = load_radial(words, rests, theirs, c, OUTPUTS, SINGLE)
        kt1 = load_radial(words, rests, own, 3 * C + c, OUTPUTS, SINGLE)
        ks1 = load_radial(words, rests, theirs, 2 * C + c, OUTPUTS, SINGLE)
        kt2 = load_radial(words, rests, own, 5 * C + c, OUTPUTS, SINGLE)
        ks2 = load_radial(words, rests, theirs, 4 * C + c, OUTPUTS, SINGLE)
        kt3 = load_radial(words, rests, own, 7 * C + c, OUTPUTS, SINGLE)
        ks3 = load_radial(words, rests, theirs, 6 * C + c, OUTPUTS, SINGLE)
        kt4 = load_radial(words, rests, own, 9 * C + c, OUTPUTS, SINGLE)
        ks4 = load_radial(words, rests, theirs, 8 * C + c, OUTPUTS, SINGLE)
        gt0 = tl.load(here)
        gs0 = tl.load(there)
        gt1 = tl.load(here + 2 * C)
        gs1 = tl.load(there + 2 * C)
        gt2 = tl.load(here + 4 * C)
        gs2 = tl.load(there + 4 * C)
        gt3 = tl.load(here + 6 * C)
        gs3 = tl.load(there + 6 * C)
        gt4 = tl.load(here + 8 * C)
        gs4 = tl.load(there + 8 * C)
        gt5 = tl.load(here + 10 * C)
        gs5 = tl.load(there + 10 * C)
        gt6 = tl.load(here + 12 * C)
        gs6 = tl.load(there + 12 * C)
        if MMAX == 2:
            kt5 = load_radial(words, rests, own, 11 * C + c, OUTPUTS, SINGLE)
            ks5 = load_radial(words, rests, theirs, 10 * C + c, OUTPUTS, SINGLE)
            gt7 = tl.load(here + 14 * C)
            gs7 = tl.load(there + 14 * C)
            gt8 = tl.load(here + 16 * C)
            gs8 = tl.load(there + 16 * C)
        g = gathered + (part.to(tl.int64) * edges + e) * 4
        g0 = tl.load(g)
        g1 = tl.load(g + 1)
        g2 = tl.load(g + 2)
        w = load_frame(p)
        ahead = tl.full((), tl.minimum(at + step, stop - 1), tl.int64)
        back = tl.load(reverse + ahead)
        knot = tl.load(knots + ahead)
        page_own = tl.load(pages + 2 * ahead)
        page_theirs = tl.load(pages + 2 * ahead + 1)
        x0, x1, x2, x3, x4, x5, x6, x7, x8 = to_frame(w, y0, y1, y2, y3, y4, y5, y6, y7, y8)

        ft, st = radial_factor_and_slope(kt0, offset, SINGLE)
        fs, ss = radial_factor_and_slope(ks0, offset, SINGLE)
        mt = gt0.to(tl.float32) * mine
        ms = gs0.to(tl.float32) * other
        q0 = mt * ft + ms * fs
        along = x0 * (mt * st + ms * ss)
        ft, st = radial_factor_and_slope(kt1, offset, SINGLE)
        fs, ss = radial_factor_and_slope(ks1, offset, SINGLE)
        mt = gt1.to(tl.float32) * mine
        ms = gs1.to(tl.float32) * (-other)
        q1 = mt * ft + ms * fs
        along += x1 * (mt * st + ms * ss)
        ft, st = radial_factor_and_slope(kt2, offset, SINGLE)
        fs, ss = radial_factor_and_slope(ks2, offset, SINGLE)
        mt = gt2.to(tl.float32) * mine
        ms = gs2.to(tl.float32) * other
        q2 = mt * ft + ms * fs
        along += x2 * (mt * st + ms * ss)
        ft, st = radial_factor_and_slope(kt3, offset, SINGLE)
        fs, ss = radial_factor_and_slope(ks3, offset, SINGLE)
        mt = gt3.to(tl.float32) * mine
        ms = gs3.to(tl.float32) * (-other)
        q3 = mt * ft + ms * fs
        along += x3 * (mt * st + ms * ss)
        mt = gt5.to(tl.float32) * mine
        ms = gs5.to(tl.float32) * other
        q5 = mt * ft + ms * fs
        along += x5 * (mt * st + ms * ss)
        ft, st = radial_factor_and_slope(kt4, offset, SINGLE)
        fs, ss = radial_factor_and_slope(ks4, offset, SINGLE)
        mt = gt4.to(tl.float32) * mine
        ms = gs4.to(tl.float32) * other
        q4 = mt * ft + ms * fs
        along += x4 * (mt * st + ms * ss)
        mt = gt6.to(tl.float32) * mine
        ms = gs6.to(tl.float32) * (-other)
        q6 = mt * ft + ms * fs
        along += x6 * (mt * st + ms * ss)
        if MMAX == 2:
            ft, st = radial_factor_and_slope(kt5, offset, SINGLE)
            fs, ss = radial_factor_and_slope(ks5, offset, SINGLE)
            mt = gt7.to(tl.float32) * mine
            ms = gs7.to(tl.float32) * other
            q7 = mt * ft + ms * fs
            along += x7 * (mt * st + ms * ss)
            mt = gt8.to(tl.float32) * mine
            ms = gs8.to(tl.float32) * (-other)
            q8 = mt * ft + ms * fs
            along += x8 * (mt * st + ms * ss)
        else:
            q7 = tl.zeros((CHANNELS,), tl.float32)
            q8 = tl.zeros((CHANNELS,), tl.float32)
        b0, b1, b2, b3, b4, b5, b6, b7, b8 = from_frame(w, q0, q1, q2, q3, q4, q5, q6, q7, q8)
        a0 += b0
        a1 += b1
        a2 += b2
        a3 += b3
        a4 += b4
        a5 += b5
        a6 += b6
        a7 += b7
        a8 += b8
        about_x, about_z = torques((q0, q1, q2, q3, q4, q5, q6, q7, q8), (x0, x1, x2, x3, x4, x5, x6, x7, x8))
        tl.store(g, g0 + tl.sum(along, 0))
        tl.store(g + 1, g1 + tl.sum(about_x, 0))
        tl.store(g + 2, g2 + tl.sum(about_z, 0))
    out = y_bar + (tl.program_id(2).to(tl.int64) * atoms + n) * (9 * C) + c
    tl.store(out, a0)
    tl.store(out + C, a1)
    tl.store(out + 2 * C, a2)
    tl.store(out + 3 * C, a3)
    tl.store(out + 4 * C, a4)
    tl.store(out + 5 * C, a5)
    tl.store(out + 6 * C, a6)
    tl.store(out + 7 * C, a7)
    tl.store(out + 8 * C, a8)


def launch_fwd(
    *,
    y: Tensor,
    frames: Tensor,
    row_ptr: Tensor,
    reverse: Tensor,
    pages: Tensor,
    knots: Tensor,
    num_atoms: Tensor,
    tables: Tensor,
    start: int,
    rows: int = 0,
    packed: Tensor,
    mmax: int,
    channels: int = 128,
    split: int = 1,
) -> None:
    """Enqueue.

    Args:
        y: (N̂, 9, C) float32.
        frames, pages, knots: of `edge_frames`. reverse: (Ê,) int32.
        row_ptr, num_atoms: rows of edges, and how many are in use.
        tables: of the first pair of elements. start: where the rows of this network begin in them, in pages. rows:
            where edges' own rows begin, in words of 32 bits from there; 0 for none.
        packed: (Ê, R, 2C) of half or single precision, filled in the rows in use.
        channels: of a program. split: programs that share the edges of an atom.
    """
    width = y.shape[2]
    block = min(channels, width)
    node_to_edge_wigner_permute_fwd_kernel[(y.shape[0], width // block, split)](
        y=y,
        frames=frames,
        row_ptr=row_ptr,
        reverse=reverse,
        pages=pages,
        knots=knots,
        num_atoms=num_atoms,
        words=words_of(tables),
        packed=packed,
        start=start,
        rows=rows,
        C=width,
        CHANNELS=block,
        MMAX=mmax,
        SINGLE=tables.dtype == torch.float32,
        num_warps=1,
    )


def launch_bwd(
    *,
    packed_bar: Tensor,
    share: Tensor,
    y: Tensor,
    frames: Tensor,
    row_ptr: Tensor,
    reverse: Tensor,
    pages: Tensor,
    knots: Tensor,
    num_atoms: Tensor,
    tables: Tensor,
    start: int,
    rows: int = 0,
    y_bar: Tensor,
    gathered: Tensor,
    mmax: int,
) -> None:
    """Enqueue.

    Args:
        packed_bar: (Ê, R, 2C) float16, in units of share (Ê, 2) float32, an edge's and its reverse's.
        row_ptr, num_atoms: rows of edges, and how many are in use.
        y_bar: (splits, N̂, 9, C) float32, filled: parts to be added, each of some of an atom's edges.
        gathered: (parts, Ê, 4) float32, along and torques about x and z, added to; each part sums C / parts channels.
        For the rest see `launch_fwd`.
    """
    width, parts = y.shape[2], gathered.shape[0]
    node_to_edge_wigner_permute_bwd_kernel[(y.shape[0], parts, y_bar.shape[0])](
        packed_bar=packed_bar,
        share=share,
        y=y,
        frames=frames,
        row_ptr=row_ptr,
        reverse=reverse,
        pages=pages,
        knots=knots,
        num_atoms=num_atoms,
        words=words_of(tables),
        rests=tables,
        y_bar=y_bar,
        gathered=gathered,
        start=start,
        rows=rows,
        edges=gathered.shape[1],
        atoms=y.shape[0],
        C=width,
        CHANNELS=width // parts,
        MMAX=mmax,
        SINGLE=tables.dtype == torch.float32,
        num_warps=1,
    )
