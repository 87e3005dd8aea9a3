# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""What an eSCN-MD's layer does within each atom, for lmax = 2, on tensor cores: norm, two linear maps by degree, a gate between.

    z = norm(x),   u = linear_1(z),   v_0 = silu(u_0),   v_k = u_k sigmoid(silu(gate(z_0)))_l(k),   x' = x + linear_2(v)

x (N̂, 9, C) float32; linear_1 (3, C -> H) and linear_2 (3, H -> C), a matrix for each degree, biases for l = 0; gate C -> 2 H. One
coefficient k of some atoms is one program: what coefficients share (the norm, the gate of their degree) each computes for itself.

Products are of numbers in two halves, a = a_1 + a_2 in half precision each, without the product of both second halves: 21 bits, on
tensor cores. Derivatives are in units of a power of two of their own row.

The derivative gives dE/dz in two tensors, z̄ (N̂, 9, C) from linear_1 and `gate_bar` (N̂, 8, C), which belongs to l = 0 and comes from
the gate of each of the other coefficients: `degree_norm_gpu` adds them up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops.degree_norm_gpu import EPSILON, inverse_rms
from atomjet.ops.permute_wigner_inv_edge_to_node_gpu import power_above


class Weights(NamedTuple):
    """Weights of one layer: every matrix as it is and transposed, each as a sum of two float16 halves (2, ...); the rest float32.

    Attributes:
        norm: (3, C). norm_bias: (C,).
        gate: (2, C, 2H). gate_bias: (2H,). first: (2, 3, C, H). first_bias: (H,). second: (2, 3, H, C). second_bias: (C,).
        gate_back: (2, 2H, C). first_back: (2, 3, H, C). second_back: (2, 3, C, H).
    """

    norm: Tensor
    norm_bias: Tensor
    gate: Tensor
    gate_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    gate_back: Tensor
    first_back: Tensor
    second_back: Tensor


@triton.jit
def normalised_scalars(x, n, weight, bias, epsilon, C: tl.constexpr):
    """l = 0 of the norm of some atoms (n, C), one over their rms and their mean (n,)."""
    c = tl.arange(0, C)[None, :]
    p = x + n[:, None] * (9 * C) + c
    x0 = tl.load(p)
    mean = tl.sum(x0, 1) / C
    x0 -= mean[:, None]
    s0 = tl.sum(x0 * x0, 1)
    s1 = tl.zeros_like(s0)
    s2 = tl.zeros_like(s0)
    for k in tl.static_range(1, 4):
        xk = tl.load(p + k * C)
        s1 += tl.sum(xk * xk, 1)
    for k in tl.static_range(4, 9):
        xk = tl.load(p + k * C)
        s2 += tl.sum(xk * xk, 1)
    inverse = inverse_rms(s0, s1, s2, C, epsilon)
    return x0 * inverse[:, None] * tl.load(weight + c) + tl.load(bias + c), inverse


@triton.jit
def columns(p, h, ROWS: tl.constexpr, stride):
    """Some columns of a matrix."""
    return tl.load(p + tl.arange(0, ROWS)[:, None] * stride + h[None, :])


@triton.jit
def rows(p, h, COLUMNS: tl.constexpr):
    """Some rows of a matrix."""
    return tl.load(p + h[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def halved(x):
    """Two numbers of half precision that add up to x."""
    first = x.to(tl.float16)
    return first, (x - first.to(tl.float32)).to(tl.float16)


@triton.jit
def product(a, b_1, b_2, total):
    """total + a b of numbers in two halves."""
    total = tl.dot(a[1], b_1, total)
    total = tl.dot(a[0], b_2, total)
    return tl.dot(a[0], b_1, total)


@triton.jit
def atom_wise_fwd_kernel(
    x,
    norm,
    norm_bias,
    gate,
    gate_bias,
    first,
    first_bias,
    second,
    second_bias,
    num_atoms,
    out,
    epsilon,
    C: tl.constexpr,
    H: tl.constexpr,
    ATOMS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Some atoms and one coefficient a program."""
    k = tl.program_id(1)
    degree = (k > 0).to(tl.int32) + (k > 3).to(tl.int32)
    begin = tl.program_id(0).to(tl.int64) * ATOMS
    count = tl.load(num_atoms)
    if begin >= count:
        return
    n = begin + tl.arange(0, ATOMS).to(tl.int64)
    inside = (n < count)[:, None]
    n = tl.where(n < count, n, begin)
    c = tl.arange(0, C)[None, :]
    z0, inverse = normalised_scalars(x, n, norm, norm_bias, epsilon, C)
    xk = tl.load(x + n[:, None] * (9 * C) + k * C + c)
    z = xk * inverse[:, None] * tl.load(norm + degree * C + c)
    if k == 0:
        z = z0
    o = tl.zeros((ATOMS, C), tl.float32)
    zero = tl.zeros((ATOMS, WIDTH), tl.float32)
    z = halved(z)
    z0 = halved(z0)
    for start in range(0, H, WIDTH):
        h = start + tl.arange(0, WIDTH)
        w = first + degree * C * H
        u = product(z, columns(w, h, C, H), columns(w + 3 * C * H, h, C, H), zero)
        if k > 0:
            w = gate + (degree - 1) * H
            g = product(z0, columns(w, h, C, 2 * H), columns(w + 2 * C * H, h, C, 2 * H), zero)
            g += tl.load(gate_bias + (degree - 1) * H + h)[None, :]
            v = u * tl.sigmoid(g * tl.sigmoid(g))
        else:
            u += tl.load(first_bias + h)[None, :]
            v = u * tl.sigmoid(u)
        w = second + degree * C * H
        o = product(halved(v), rows(w, h, C), rows(w + 3 * C * H, h, C), o)
    if k == 0:
        o += tl.load(second_bias + c)
    tl.store(out + n[:, None] * (9 * C) + k * C + c, xk + o, inside)


@triton.jit
def atom_wise_bwd_kernel(
    x_bar,
    shift,
    system_index,
    x,
    norm,
    norm_bias,
    gate,
    gate_bias,
    first,
    first_bias,
    gate_back,
    first_back,
    second_back,
    num_atoms,
    z_bar,
    gate_bar,
    epsilon,
    SHIFTED: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    ATOMS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Some atoms and one coefficient a program."""
    k = tl.program_id(1)
    degree = (k > 0).to(tl.int32) + (k > 3).to(tl.int32)
    begin = tl.program_id(0).to(tl.int64) * ATOMS
    count = tl.load(num_atoms)
    if begin >= count:
        return
    n = begin + tl.arange(0, ATOMS).to(tl.int64)
    inside = (n < count)[:, None]
    n = tl.where(n < count, n, begin)
    c = tl.arange(0, C)[None, :]
    z0, inverse = normalised_scalars(x, n, norm, norm_bias, epsilon, C)
    place = n[:, None] * (9 * C) + k * C + c
    z = tl.load(x + place) * inverse[:, None] * tl.load(norm + degree * C + c)
    b = tl.load(x_bar + place)
    if k == 0:
        z = z0
        if SHIFTED:
            system = tl.load(system_index + n).to(tl.int64)
            b -= tl.load(shift + system[:, None] * C + c)
    above, inverse_unit = power_above(tl.max(tl.abs(b), 1))
    b = halved(b * inverse_unit[:, None])
    z = halved(z)
    z0 = halved(z0)
    found = tl.zeros((ATOMS, C), tl.float32)
    by_gate = tl.zeros((ATOMS, C), tl.float32)
    zero = tl.zeros((ATOMS, WIDTH), tl.float32)
    for start in range(0, H, WIDTH):
        h = start + tl.arange(0, WIDTH)
        w = second_back + degree * C * H
        v_bar = product(b, columns(w, h, C, H), columns(w + 3 * C * H, h, C, H), zero)
        w = first + degree * C * H
        u = product(z, columns(w, h, C, H), columns(w + 3 * C * H, h, C, H), zero)
        if k > 0:
            w = gate + (degree - 1) * H
            g = product(z0, columns(w, h, C, 2 * H), columns(w + 2 * C * H, h, C, 2 * H), zero)
            g += tl.load(gate_bias + (degree - 1) * H + h)[None, :]
            s = tl.sigmoid(g)
            slope = s * (1.0 + g * (1.0 - s))
            g = tl.sigmoid(g * s)
            before = halved(v_bar * u * g * (1.0 - g) * slope)
            w = gate_back + (degree - 1) * H * C
            by_gate = product(before, rows(w, h, C), rows(w + 2 * H * C, h, C), by_gate)
            u_bar = v_bar * g
        else:
            u += tl.load(first_bias + h)[None, :]
            s = tl.sigmoid(u)
            u_bar = v_bar * s * (1.0 + u * (1.0 - s))
        w = first_back + degree * C * H
        found = product(halved(u_bar), rows(w, h, C), rows(w + 3 * C * H, h, C), found)
    if k > 0:
        tl.store(gate_bar + n[:, None] * (8 * C) + (k - 1) * C + c, by_gate * above[:, None], inside)
    tl.store(z_bar + place, found * above[:, None], inside)


def block(hidden: int) -> int:
    """Hidden channels that a program takes at a time: what all of a matrix would take in registers spills."""
    return 32 if hidden > 32 else 16


def launch_fwd(*, x: Tensor, weights: Weights, num_atoms: Tensor, out: Tensor, atoms: int = 16, warps: int = 4) -> None:
    """Enqueue: x (N̂, 9, C) float32 to x' in `out`, another tensor; num_atoms (1,) in use; `atoms` of a program."""
    w, width = weights, x.shape[2]
    atom_wise_fwd_kernel[(triton.cdiv(x.shape[0], atoms), 9)](
        x=x,
        norm=w.norm,
        norm_bias=w.norm_bias,
        gate=w.gate,
        gate_bias=w.gate_bias,
        first=w.first,
        first_bias=w.first_bias,
        second=w.second,
        second_bias=w.second_bias,
        num_atoms=num_atoms,
        out=out,
        epsilon=EPSILON,
        C=width,
        H=w.first.shape[-1],
        ATOMS=atoms,
        WIDTH=block(w.first.shape[-1]),
        num_warps=warps,
        num_stages=2,
    )


def launch_bwd(
    *,
    x_bar: Tensor,
    shift: Tensor | None,
    system_index: Tensor,
    x: Tensor,
    weights: Weights,
    num_atoms: Tensor,
    z_bar: Tensor,
    gate_bar: Tensor,
    atoms: int = 16,
    warps: int = 4,
) -> None:
    """Enqueue.

    Args:
        x_bar: (N̂, 9, C) float32, dE/dx', from whose l = 0 shift (Ŝ, C) of the structure is taken, if there is any.
        system_index: (N̂,). x: as forward.
        z_bar: (N̂, 9, C), gate_bar: (N̂, 8, C) float32, filled.
    """
    w, width = weights, x.shape[2]
    atom_wise_bwd_kernel[(triton.cdiv(x.shape[0], atoms), 9)](
        x_bar=x_bar,
        shift=x_bar if shift is None else shift,
        system_index=system_index,
        x=x,
        norm=w.norm,
        norm_bias=w.norm_bias,
        gate=w.gate,
        gate_bias=w.gate_bias,
        first=w.first,
        first_bias=w.first_bias,
        gate_back=w.gate_back,
        first_back=w.first_back,
        second_back=w.second_back,
        num_atoms=num_atoms,
        z_bar=z_bar,
        gate_bar=gate_bar,
        epsilon=EPSILON,
        SHIFTED=shift is not None,
        C=width,
        H=w.first.shape[-1],
        ATOMS=atoms,
        WIDTH=block(w.first.shape[-1]),
        num_warps=warps,
        num_stages=2,
    )


def weights_of(norm: torch.nn.Module, step: torch.nn.Module) -> Weights:
    """From the definition's modules, `RMSNorm` and `AtomWise`."""
    gate, gate_bias, first, first_bias, second, second_bias = (w.detach().float() for w in step.weights)
    return Weights(
        norm.affine_weight.detach().float(),
        norm.affine_bias.detach().float(),
        halves(gate.T),
        gate_bias,
        halves(first.mT),
        first_bias,
        halves(second.mT),
        second_bias,
        halves(gate),
        halves(first),
        halves(second),
    )


def halves(x: Tensor) -> Tensor:
    """(2, ...) float16 that add up to x."""
    first = x.half()
    return torch.stack([first, (x - first.float()).half()]).contiguous()
