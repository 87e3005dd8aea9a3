# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""The norm of eSCN-MD's atoms for lmax = 2, with the shift of balanced channels before it and the structure's embedding behind.

    x0 -= shift of the structure;   x_c = x, less the mean over channels in l = 0
    y = x_c A_l / rms + b + structure,    rms² = mean over l of mean over m and channels of x_c² + ε        (b, structure: l = 0)

x (N̂, 9, C) float32, which is overwritten where it is shifted; A (3, C), b (C,). The derivative, with s = 1 / rms and u = A ȳ:

    x̄ = residual + s u - s³ x_c Σ (u ⊙ x_c) / (3 (2l + 1) C), less the mean over channels of l = 0
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.permute_wigner_inv_edge_to_node_gpu import power_above

EPSILON = 1e-5


@triton.jit
def inverse_rms(s0, s1, s2, C: tl.constexpr, epsilon):
    """From the sums of squares of each degree."""
    return tl.rsqrt((s0 / C + s1 / (3 * C) + s2 / (5 * C)) / 3.0 + epsilon)


@triton.jit
def degree_norm_fwd_kernel(
    x,
    shift,
    weight,
    bias,
    structures,
    system_index,
    slots,
    num_atoms,
    y,
    epsilon,
    SHIFTED: tl.constexpr,
    C: tl.constexpr,
):
    """One atom a program."""
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.arange(0, C)
    system = tl.load(system_index + n)
    slot = tl.load(slots + system).to(tl.int64)
    p = x + n * (9 * C) + c
    x0 = tl.load(p)
    if SHIFTED:
        x0 -= tl.load(shift + system.to(tl.int64) * C + c)
        tl.store(p, x0)
    x1 = tl.load(p + C)
    x2 = tl.load(p + 2 * C)
    x3 = tl.load(p + 3 * C)
    x4 = tl.load(p + 4 * C)
    x5 = tl.load(p + 5 * C)
    x6 = tl.load(p + 6 * C)
    x7 = tl.load(p + 7 * C)
    x8 = tl.load(p + 8 * C)
    x0 -= tl.sum(x0, 0) / C
    inverse = inverse_rms(
        tl.sum(x0 * x0, 0),
        tl.sum(x1 * x1 + x2 * x2 + x3 * x3, 0),
        tl.sum(x4 * x4 + x5 * x5 + x6 * x6 + x7 * x7 + x8 * x8, 0),
        C,
        epsilon,
    )
    out = y + n * (9 * C) + c
    w0 = tl.load(weight + c) * inverse
    w1 = tl.load(weight + C + c) * inverse
    w2 = tl.load(weight + 2 * C + c) * inverse
    tl.store(out, x0 * w0 + tl.load(bias + c) + tl.load(structures + slot * C + c))
    tl.store(out + C, x1 * w1)
    tl.store(out + 2 * C, x2 * w1)
    tl.store(out + 3 * C, x3 * w1)
    tl.store(out + 4 * C, x4 * w2)
    tl.store(out + 5 * C, x5 * w2)
    tl.store(out + 6 * C, x6 * w2)
    tl.store(out + 7 * C, x7 * w2)
    tl.store(out + 8 * C, x8 * w2)


@triton.jit(do_not_specialize=["atoms"])
def degree_norm_bwd_kernel(
    y_bar,
    more,
    x,
    shift,
    weight,
    residual,
    system_index,
    num_atoms,
    x_bar,
    unit,
    epsilon,
    atoms,
    SPLITS: tl.constexpr,
    SHIFTED: tl.constexpr,
    MORE: tl.constexpr,
    UNIT: tl.constexpr,
    C: tl.constexpr,
):
    """One atom a program; `more` (MORE, N̂, C) is added to ȳ of l = 0, `shift` taken from the residual."""
    n = tl.program_id(0).to(tl.int64)
    if n >= tl.load(num_atoms):
        return
    c = tl.arange(0, C)
    p = x + n * (9 * C) + c
    x0 = tl.load(p)
    x1 = tl.load(p + C)
    x2 = tl.load(p + 2 * C)
    x3 = tl.load(p + 3 * C)
    x4 = tl.load(p + 4 * C)
    x5 = tl.load(p + 5 * C)
    x6 = tl.load(p + 6 * C)
    x7 = tl.load(p + 7 * C)
    x8 = tl.load(p + 8 * C)
    x0 -= tl.sum(x0, 0) / C
    inverse = inverse_rms(
        tl.sum(x0 * x0, 0),
        tl.sum(x1 * x1 + x2 * x2 + x3 * x3, 0),
        tl.sum(x4 * x4 + x5 * x5 + x6 * x6 + x7 * x7 + x8 * x8, 0),
        C,
        epsilon,
    )
    w1 = tl.load(weight + C + c)
    w2 = tl.load(weight + 2 * C + c)
    b = y_bar + n * (9 * C) + c
    b0 = tl.load(b)
    b1 = tl.load(b + C)
    b2 = tl.load(b + 2 * C)
    b3 = tl.load(b + 3 * C)
    b4 = tl.load(b + 4 * C)
    b5 = tl.load(b + 5 * C)
    b6 = tl.load(b + 6 * C)
    b7 = tl.load(b + 7 * C)
    b8 = tl.load(b + 8 * C)
    for split in tl.static_range(1, SPLITS):
        b = y_bar + (tl.full((), split, tl.int64) * atoms + n) * (9 * C) + c
        b0 += tl.load(b)
        b1 += tl.load(b + C)
        b2 += tl.load(b + 2 * C)
        b3 += tl.load(b + 3 * C)
        b4 += tl.load(b + 4 * C)
        b5 += tl.load(b + 5 * C)
        b6 += tl.load(b + 6 * C)
        b7 += tl.load(b + 7 * C)
        b8 += tl.load(b + 8 * C)
    if MORE > 0:
        extra = more + n * (MORE * C) + c
        for k in tl.static_range(MORE):
            b0 += tl.load(extra + k * C)
    b0 *= tl.load(weight + c)
    b1 *= w1
    b2 *= w1
    b3 *= w1
    b4 *= w2
    b5 *= w2
    b6 *= w2
    b7 *= w2
    b8 *= w2
    along = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4 + b5 * x5 + b6 * x6 + b7 * x7 + b8 * x8
    along = tl.sum(along, 0) * inverse * inverse * inverse / (3 * C)
    third = along / 3.0
    fifth = along / 5.0
    b0 = b0 * inverse - along * x0
    b0 -= tl.sum(b0, 0) / C
    r = residual + n * (9 * C) + c
    b0 += tl.load(r)
    if SHIFTED:
        b0 -= tl.load(shift + tl.load(system_index + n).to(tl.int64) * C + c)
    b1 = b1 * inverse - third * x1 + tl.load(r + C)
    b2 = b2 * inverse - third * x2 + tl.load(r + 2 * C)
    b3 = b3 * inverse - third * x3 + tl.load(r + 3 * C)
    b4 = b4 * inverse - fifth * x4 + tl.load(r + 4 * C)
    b5 = b5 * inverse - fifth * x5 + tl.load(r + 5 * C)
    b6 = b6 * inverse - fifth * x6 + tl.load(r + 6 * C)
    b7 = b7 * inverse - fifth * x7 + tl.load(r + 7 * C)
    b8 = b8 * inverse - fifth * x8 + tl.load(r + 8 * C)
    out = x_bar + n * (9 * C) + c
    tl.store(out, b0)
    tl.store(out + C, b1)
    tl.store(out + 2 * C, b2)
    tl.store(out + 3 * C, b3)
    tl.store(out + 4 * C, b4)
    tl.store(out + 5 * C, b5)
    tl.store(out + 6 * C, b6)
    tl.store(out + 7 * C, b7)
    tl.store(out + 8 * C, b8)
    if UNIT:
        largest = tl.maximum(tl.abs(b0), tl.abs(b1))
        largest = tl.maximum(largest, tl.maximum(tl.abs(b2), tl.abs(b3)))
        largest = tl.maximum(largest, tl.maximum(tl.abs(b4), tl.abs(b5)))
        largest = tl.maximum(largest, tl.maximum(tl.abs(b6), tl.maximum(tl.abs(b7), tl.abs(b8))))
        above, _ = power_above(tl.max(largest, 0))
        tl.store(unit + n, above)


def launch_fwd(
    *,
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    structures: Tensor,
    system_index: Tensor,
    slots: Tensor,
    num_atoms: Tensor,
    y: Tensor,
) -> None:
    """Enqueue.

    Args:
        x: (N̂, 9, C) float32. shift: (Ŝ, C) float32, or None for none.
        weight: (3, C). bias: (C,).
        structures: (slots, C) float32. system_index: (N̂,). slots: (Ŝ,) the row of `structures` of each.
        num_atoms: (1,) in use.
        y: (N̂, 9, C) float32, filled.
    """
    degree_norm_fwd_kernel[(x.shape[0],)](
        x=x,
        shift=x if shift is None else shift,
        weight=weight,
        bias=bias,
        structures=structures,
        system_index=system_index,
        slots=slots,
        num_atoms=num_atoms,
        y=y,
        epsilon=EPSILON,
        SHIFTED=shift is not None,
        C=x.shape[2],
        num_warps=1,
    )


def launch_bwd(
    *,
    y_bar: Tensor,
    more: Tensor | None,
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    residual: Tensor,
    system_index: Tensor,
    num_atoms: Tensor,
    x_bar: Tensor,
    unit: Tensor | None,
) -> None:
    """Enqueue.

    Args:
        y_bar: (splits, N̂, 9, C) float32, parts to be added. more: (N̂, K, C), added to ȳ of l = 0, or None.
        x: (N̂, 9, C), shifted. residual: (N̂, 9, C), added, less shift (Ŝ, C) in l = 0. weight, system_index, num_atoms: as forward.
        x_bar: (N̂, 9, C) float32, filled; may be the residual.
        unit: (N̂,) float32, filled with the power of two above all of |x̄| of an atom, or None.
    """
    degree_norm_bwd_kernel[(x.shape[0],)](
        y_bar=y_bar,
        more=y_bar if more is None else more,
        x=x,
        shift=x if shift is None else shift,
        weight=weight,
        residual=residual,
        system_index=system_index,
        num_atoms=num_atoms,
        x_bar=x_bar,
        unit=x_bar if unit is None else unit,
        epsilon=EPSILON,
        atoms=x.shape[0],
        SPLITS=y_bar.shape[0],
        SHIFTED=shift is not None,
        MORE=0 if more is None else more.shape[1],
        UNIT=unit is not None,
        C=x.shape[2],
        num_warps=1,
    )
