# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Energies of atoms from their features, each by the network of its structure's task, and their derivative; for lmax = 2.

    z = norm(x - shift)_0,   a = W_1 z + b_1,   b = W_2 silu(a) + b_2,   energy = scale (w_3 · silu(b) + b_3)

x (N̂, 9, C) float32; matrices (tasks, ...), biases shared by all tasks. The derivative follows at once: dE/dz, and through the norm,
which all coefficients share, dE/dx (N̂, 9, C).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.atom_wise_gpu import block, columns, halved, product, rows
from atomjet.ops.degree_norm_gpu import EPSILON, inverse_rms
from atomjet.ops.permute_wigner_inv_edge_to_node_gpu import power_above


class Weights(NamedTuple):
    """T tasks; matrices in two halves, (2, ...) float16, see `atom_wise_gpu`, the rest float32.

    Attributes:
        norm: (3, C). norm_bias: (C,).
        first: (2, T, C, H). first_bias: (H,). second: (2, T, H, H). second_bias: (H,). third: (T, H). third_bias: (1,).
        first_back: (2, T, H, C). second_back: (2, T, H, H). scales: (T,).
    """

    norm: Tensor
    norm_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    third: Tensor
    third_bias: Tensor
    first_back: Tensor
    second_back: Tensor
    scales: Tensor


@triton.jit(do_not_specialize=["tasks_known"])
def task_head_kernel(
    x,
    shift,
    system_index,
    tasks,
    norm,
    norm_bias,
    first,
    first_bias,
    second,
    second_bias,
    third,
    third_bias,
    first_back,
    second_back,
    scales,
    num_atoms,
    energies,
    x_bar,
    status,
    epsilon,
    tasks_known,
    BIT: tl.constexpr,
    SHIFTED: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    ATOMS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Some atoms a program."""
    begin = tl.program_id(0).to(tl.int64) * ATOMS
    count = tl.load(num_atoms)
    if begin >= count:
        return
    n = begin + tl.arange(0, ATOMS).to(tl.int64)
    valid = n < count
    inside = valid[:, None]
    n = tl.where(valid, n, begin)
    c = tl.arange(0, C)[None, :]
    h = tl.arange(0, H)[None, :]
    system = tl.load(system_index + n).to(tl.int64)
    task = tl.load(tasks + system)
    p = x + n[:, None] * (9 * C) + c
    x0 = tl.load(p)
    if SHIFTED:
        x0 -= tl.load(shift + system[:, None] * C + c)
    x0 -= (tl.sum(x0, 1) / C)[:, None]
    s0 = tl.sum(x0 * x0, 1)
    s1 = tl.zeros_like(s0)
    s2 = tl.zeros_like(s0)
    for k in tl.static_range(1, 4):
        xk = tl.load(p + k * C)
        s1 += tl.sum(xk * xk, 1)
    for k in tl.static_range(4, 9):
        xk = tl.load(p + k * C)
        s2 += tl.sum(xk * xk, 1)
    inverse = inverse_rms(s0, s1, s2, C, epsilon)[:, None]
    z = x0 * inverse * tl.load(norm + c) + tl.load(norm_bias + c)
    energy = tl.zeros((ATOMS,), tl.float32)
    z_bar = tl.zeros((ATOMS, C), tl.float32)
    # Mostly all atoms are of one task; those of others count nothing in its turn.
    z = halved(z)
    zero = tl.zeros((ATOMS, WIDTH), tl.float32)
    size = tasks_known * (C * H)
    square = tasks_known * (H * H)
    for t in tl.range(tl.min(task, 0), tl.max(task, 0) + 1, num_stages=1):
        at = tl.full((), t, tl.int64)
        w1 = first + at * (C * H)
        w2 = second + at * (H * H)
        back_1 = first_back + at * (C * H)
        back_2 = second_back + at * (H * H)
        b = tl.zeros((ATOMS, H), tl.float32) + tl.load(second_bias + h)
        for start in range(0, H, WIDTH):
            some = start + tl.arange(0, WIDTH)
            a = product(z, columns(w1, some, C, H), columns(w1 + size, some, C, H), zero)
            a += tl.load(first_bias + some)[None, :]
            b = product(halved(a * tl.sigmoid(a)), rows(w2, some, H), rows(w2 + square, some, H), b)
        q = tl.sigmoid(b)
        w3 = tl.load(third + at * H + h)
        scale = tl.load(scales + at)
        found = (tl.sum(b * q * w3, 1) + tl.load(third_bias)) * scale
        energy = tl.where(task == t, found, energy)
        b_bar = q * (1.0 + b * (1.0 - q)) * w3
        above, inverse_unit = power_above(tl.max(tl.abs(b_bar), 1))
        b_bar = halved(b_bar * inverse_unit[:, None])
        found_bar = tl.zeros((ATOMS, C), tl.float32)
        for start in range(0, H, WIDTH):
            some = start + tl.arange(0, WIDTH)
            a = product(z, columns(w1, some, C, H), columns(w1 + size, some, C, H), zero)
            a += tl.load(first_bias + some)[None, :]
            s = tl.sigmoid(a)
            a_bar = product(b_bar, columns(back_2, some, H, H), columns(back_2 + square, some, H, H), zero)
            a_bar *= s * (1.0 + a * (1.0 - s))
            found_bar = product(halved(a_bar), rows(back_1, some, C), rows(back_1 + size, some, C), found_bar)
        z_bar = tl.where((task == t)[:, None], found_bar * (above * scale)[:, None], z_bar)
    tl.store(energies + n, energy, valid)
    if tl.max((valid & (energy - energy != 0.0)).to(tl.int32), 0) > 0:  # infinite or NaN
        tl.atomic_or(status, BIT, sem="relaxed")
    u = z_bar * tl.load(norm + c)
    along = (tl.sum(u * x0, 1) / (3 * C))[:, None] * inverse * inverse * inverse
    b0 = u * inverse - along * x0
    b0 -= (tl.sum(b0, 1) / C)[:, None]
    out = x_bar + n[:, None] * (9 * C) + c
    tl.store(out, b0, inside)
    for k in tl.static_range(1, 4):
        tl.store(out + k * C, -along / 3.0 * tl.load(p + k * C), inside)
    for k in tl.static_range(4, 9):
        tl.store(out + k * C, -along / 5.0 * tl.load(p + k * C), inside)


def launch(
    *,
    x: Tensor,
    shift: Tensor | None,
    system_index: Tensor,
    tasks: Tensor,
    weights: Weights,
    num_atoms: Tensor,
    energies: Tensor,
    x_bar: Tensor,
    status: Tensor,
    bit: int,
    atoms: int = 16,
) -> None:
    """Enqueue.

    Args:
        x: (N̂, 9, C) float32. shift: (Ŝ, C), or None for none. system_index: (N̂,). tasks: (Ŝ,) the row of weights of each.
        num_atoms: (1,) in use.
        energies: (N̂,), x_bar: (N̂, 9, C) float32, filled.
        status: (1,) int32, where `bit` is set if an energy is not finite.
    """
    w, width = weights, x.shape[2]
    task_head_kernel[(triton.cdiv(x.shape[0], atoms),)](
        x=x,
        shift=x if shift is None else shift,
        system_index=system_index,
        tasks=tasks,
        norm=w.norm,
        norm_bias=w.norm_bias,
        first=w.first,
        first_bias=w.first_bias,
        second=w.second,
        second_bias=w.second_bias,
        third=w.third,
        third_bias=w.third_bias,
        first_back=w.first_back,
        second_back=w.second_back,
        scales=w.scales,
        num_atoms=num_atoms,
        energies=energies,
        x_bar=x_bar,
        status=status,
        epsilon=EPSILON,
        tasks_known=w.third.shape[0],
        BIT=bit,
        SHIFTED=shift is not None,
        C=width,
        H=w.first.shape[-1],
        ATOMS=atoms,
        WIDTH=block(w.first.shape[-1]),
        num_warps=4,
        num_stages=2,
    )
