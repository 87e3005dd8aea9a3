# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""The first features of eSCN-MD's atoms from elements, structures and edge degrees; and from all derivatives to those of edges.

    x_n = [element_n + structure_n in l = 0] + Σ over the edges of row n of f_e D_eᵀ [W_0 W_1 W_2](d_e) / 5

with W_l, C numbers each, for the row m = 0 of degree l. With x̄ = dE/dx and t = D_e x̄_center(e):

    f̄_e += Σ W_l t_l0 / 5      along_e += f_e Σ W'_l t_l0 / 5      torque_e += f_e Σ L [W] tᵀ / 5

and then, with the rows (R_x, e, R_z) of the frame,

    dE/dr_e = (along_e + f̄_e f'(d)) e + (torque_z R_x - torque_x R_z) / d
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.edge_frames import ROOT, load_radial, radial_factor, radial_factor_and_slope, radial_row
from atomjet.ops.radial_pages import words_of

WIDTH = tl.constexpr(36)


@triton.jit
def edge_degrees_fwd_kernel(
    frames,
    row_ptr,
    pages,
    knots,
    num_atoms,
    words,
    elements,
    atomic_numbers,
    structures,
    system_index,
    slots,
    x,
    rows,
    share,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """One atom and some channels a program."""
    OUTPUTS: tl.constexpr = 3 * C
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    slot = tl.load(slots + tl.load(system_index + n)).to(tl.int64)
    number = tl.load(atomic_numbers + n).to(tl.int64)
    a0 = tl.load(elements + number * C + c) + tl.load(structures + slot * C + c)
    a1 = tl.zeros((CHANNELS,), tl.float32)
    a2 = tl.zeros((CHANNELS,), tl.float32)
    a3 = tl.zeros((CHANNELS,), tl.float32)
    a4 = tl.zeros((CHANNELS,), tl.float32)
    a5 = tl.zeros((CHANNELS,), tl.float32)
    a6 = tl.zeros((CHANNELS,), tl.float32)
    a7 = tl.zeros((CHANNELS,), tl.float32)
    a8 = tl.zeros((CHANNELS,), tl.float32)
    for at in range(tl.load(row_ptr + n), tl.load(row_ptr + n + 1)):
        e = tl.full((), at, tl.int64)
        p = frames + e * WIDTH
        f = tl.load(p + 34) * share
        offset = tl.load(p + 35)
        row = radial_row(tl.load(pages + 2 * e), tl.load(knots + e), 0, e, rows, OUTPUTS, SINGLE)
        v1 = radial_factor(words, row, C + c, offset, OUTPUTS, SINGLE) * f
        v2 = radial_factor(words, row, 2 * C + c, offset, OUTPUTS, SINGLE) * f
        a0 += radial_factor(words, row, c, offset, OUTPUTS, SINGLE) * f
        a1 += tl.load(p + 3) * v1
        a2 += tl.load(p + 4) * v1
        a3 += tl.load(p + 5) * v1
        a4 += tl.load(p + 19) * v2
        a5 += tl.load(p + 20) * v2
        a6 += tl.load(p + 21) * v2
        a7 += tl.load(p + 22) * v2
        a8 += tl.load(p + 23) * v2
    out = x + n * (9 * C) + c
    tl.store(out, a0)
    tl.store(out + C, a1)
    tl.store(out + 2 * C, a2)
    tl.store(out + 3 * C, a3)
    tl.store(out + 4 * C, a4)
    tl.store(out + 5 * C, a5)
    tl.store(out + 6 * C, a6)
    tl.store(out + 7 * C, a7)
    tl.store(out + 8 * C, a8)


@triton.jit(do_not_specialize=["num_atoms", "edges"])
def edge_degrees_bwd_kernel(
    x_bar,
    frames,
    row_ptr,
    pages,
    knots,
    num_atoms,
    words,
    rests,
    vectors,
    weights,
    gathered,
    gradients,
    status,
    rows,
    share,
    cutoff,
    edges,
    BIT: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    C: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Some edges of one atom a program."""
    OUTPUTS: tl.constexpr = 3 * C
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.arange(0, C)
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
    for at in range(tl.load(row_ptr + n) + tl.program_id(1), tl.load(row_ptr + n + 1), tl.num_programs(1)):
        e = tl.full((), at, tl.int64)
        p = frames + e * WIDTH
        offset = tl.load(p + 35)
        row = radial_row(tl.load(pages + 2 * e), tl.load(knots + e), 0, e, rows, OUTPUTS, SINGLE)
        k0 = load_radial(words, rests, row, c, OUTPUTS, SINGLE)
        k1 = load_radial(words, rests, row, C + c, OUTPUTS, SINGLE)
        k2 = load_radial(words, rests, row, 2 * C + c, OUTPUTS, SINGLE)
        r0, s0 = radial_factor_and_slope(k0, offset, SINGLE)
        r1, s1 = radial_factor_and_slope(k1, offset, SINGLE)
        r2, s2 = radial_factor_and_slope(k2, offset, SINGLE)
        r_xx = tl.load(p)
        r_xy = tl.load(p + 1)
        r_xz = tl.load(p + 2)
        r_yx = tl.load(p + 3)
        r_yy = tl.load(p + 4)
        r_yz = tl.load(p + 5)
        r_zx = tl.load(p + 6)
        r_zy = tl.load(p + 7)
        r_zz = tl.load(p + 8)
        t1 = r_yx * x1 + r_yy * x2 + r_yz * x3
        t3 = r_zx * x1 + r_zy * x2 + r_zz * x3
        t5 = r_xx * x1 + r_xy * x2 + r_xz * x3
        t2 = tl.load(p + 19) * x4 + tl.load(p + 20) * x5 + tl.load(p + 21) * x6 + tl.load(p + 22) * x7
        t2 += tl.load(p + 23) * x8
        t4 = tl.load(p + 24) * x4 + tl.load(p + 25) * x5 + tl.load(p + 26) * x6 + tl.load(p + 27) * x7
        t4 += tl.load(p + 28) * x8
        t6 = tl.load(p + 14) * x4 + tl.load(p + 15) * x5 + tl.load(p + 16) * x6 + tl.load(p + 17) * x7
        t6 += tl.load(p + 18) * x8
        slope = x0 * s0 + t1 * s1 + t2 * s2
        f = tl.load(p + 34) * share
        along = f * tl.sum(slope, 0)
        by_envelope = share * tl.sum(r0 * x0 + r1 * t1 + r2 * t2, 0)
        about_x = -f * tl.sum(r1 * t3 + (r2 * t4) * ROOT, 0)
        about_z = f * tl.sum(r1 * t5 + (r2 * t6) * ROOT, 0)
        for part in tl.static_range(PARTS):
            g = gathered + (tl.full((), part, tl.int64) * edges + e) * 4
            along += tl.load(g)
            about_x += tl.load(g + 1)
            about_z += tl.load(g + 2)
            by_envelope += tl.load(g + 3)
        v_x = tl.load(vectors + 3 * e)
        v_y = tl.load(vectors + 3 * e + 1)
        v_z = tl.load(vectors + 3 * e + 2)
        d = tl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z)
        u = d / cutoff
        slope_of_envelope = tl.where(u < 1.0, -105.0 * u * u * u * u * (1.0 - u) * (1.0 - u) / cutoff, 0.0)
        if WEIGHTED:
            slope_of_envelope *= tl.load(weights + e)
        along += by_envelope * slope_of_envelope
        about_x /= d
        about_z /= d
        out = gradients + e * 4
        tl.store(out, along * r_yx + about_z * r_xx - about_x * r_zx)
        tl.store(out + 1, along * r_yy + about_z * r_xy - about_x * r_zy)
        tl.store(out + 2, along * r_yz + about_z * r_xz - about_x * r_zz)
        tl.store(out + 3, 0.0)
        all_of_it = along + about_x + about_z
        if all_of_it - all_of_it != 0.0:  # infinite or NaN
            tl.atomic_or(status, BIT, sem="relaxed")


def launch_fwd(
    *,
    frames: Tensor,
    row_ptr: Tensor,
    pages: Tensor,
    knots: Tensor,
    num_atoms: Tensor,
    tables: Tensor,
    elements: Tensor,
    atomic_numbers: Tensor,
    structures: Tensor,
    system_index: Tensor,
    slots: Tensor,
    x: Tensor,
    rescale: float,
    rows: int = 0,
    channels: int = 128,
) -> None:
    """Enqueue.

    Args:
        frames, pages, knots: of `edge_frames`. row_ptr, num_atoms: rows of edges, and how many are in use.
        tables: of the first pair of elements; this network's rows come first in them.
        elements: (Z, C) float32. atomic_numbers: (N̂,).
        structures: (slots, C) float32. system_index: (N̂,). slots: (Ŝ,) the row of `structures` of each.
        x: (N̂, 9, C) float32, filled.
        rescale: by which the sum is divided. rows: where edges' own rows begin, in words of 32 bits from `tables`; 0 for none.
    """
    width = x.shape[2]
    block = min(channels, width)
    edge_degrees_fwd_kernel[(x.shape[0], width // block)](
        frames=frames,
        row_ptr=row_ptr,
        pages=pages,
        knots=knots,
        num_atoms=num_atoms,
        words=words_of(tables),
        elements=elements,
        atomic_numbers=atomic_numbers,
        structures=structures,
        system_index=system_index,
        slots=slots,
        x=x,
        rows=rows,
        share=1.0 / rescale,
        C=width,
        CHANNELS=block,
        SINGLE=tables.dtype == torch.float32,
        num_warps=1,
    )


def launch_bwd(
    *,
    x_bar: Tensor,
    frames: Tensor,
    row_ptr: Tensor,
    pages: Tensor,
    knots: Tensor,
    num_atoms: Tensor,
    tables: Tensor,
    vectors: Tensor,
    weights: Tensor | None,
    gathered: Tensor,
    gradients: Tensor,
    status: Tensor,
    bit: int,
    rescale: float,
    cutoff: float,
    rows: int = 0,
    split: int = 1,
) -> None:
    """Enqueue.

    Args:
        x_bar: (N̂, 9, C) float32.
        gathered: (parts, Ê, 4) float32 of all layers: along, torques about x and z, f̄.
        vectors: (Ê, 3) float32, Å. weights: as in `edge_frames`.
        gradients: (1, Ê, 4) float32, filled: dE/dr and a zero.
        status: (1,) int32, where `bit` is set if a gradient is not finite.
        split: programs that share the edges of an atom.
        For the rest see `launch_fwd`.
    """
    edge_degrees_bwd_kernel[(x_bar.shape[0], split)](
        x_bar=x_bar,
        frames=frames,
        row_ptr=row_ptr,
        pages=pages,
        knots=knots,
        num_atoms=num_atoms,
        words=words_of(tables),
        rests=tables,
        vectors=vectors,
        weights=frames if weights is None else weights,
        gathered=gathered,
        gradients=gradients,
        status=status,
        rows=rows,
        share=1.0 / rescale,
        cutoff=cutoff,
        edges=gathered.shape[1],
        BIT=bit,
        PARTS=gathered.shape[0],
        WEIGHTED=weights is not None,
        C=x_bar.shape[2],
        SINGLE=tables.dtype == torch.float32,
        num_warps=1,
    )
