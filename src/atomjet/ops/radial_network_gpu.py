# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""A radial network of eSCN-MD and its derivative at the distance of each edge, for pairs of elements without tables.

    a = silu(norm(G(d) A + S[Z_j] + T[Z_i])),   b = silu(norm(a B + β)),   W(d) = b C + γ        and dW/dd beside it, step by step

G are K Gaussians. What belongs to elements is a table of each; A, B, C are in two halves of half precision (`atom_wise_gpu`). Each
edge gets a row as in `radial_pages`, with no curvature: its knot is the distance itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from atomjet.ops.atom_wise_gpu import columns, halved, halves, product
from atomjet.ops.radial_pages import MISSING_PAGE

SMALLEST = 16
"""Rows and columns of a product on tensor cores, at least."""

MISSING = tl.constexpr(MISSING_PAGE)


class Weights(NamedTuple):
    """Weights of one network; K and H padded to powers of two with zeros.

    Attributes:
        gaussians: (2, K, H). source, target: (Z, H) float32, the latter with the first bias.
        norms: (4, H), weight and bias of both. second: (2, H, H). second_bias: (H,). third: (2, H, W). third_bias: (W,).
        centers: (K,) Å. width: Å, of the Gaussians. channels: H before padding. epsilon: of the norms.
    """

    gaussians: Tensor
    source: Tensor
    target: Tensor
    norms: Tensor
    second: Tensor
    second_bias: Tensor
    third: Tensor
    third_bias: Tensor
    centers: Tensor
    width: float
    channels: int
    epsilon: float


@triton.jit
def _activated(h, slope, p, c, channels, epsilon, H: tl.constexpr):
    """silu(norm(h)) and its derivative along (E, H) `slope`; p: weight and bias of the norm."""
    inside = (c < channels)[None, :]
    h = tl.where(inside, h - (tl.sum(h, 1) / channels)[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(h * h, 1) / channels + epsilon)[:, None]
    h *= inverse
    along = (tl.sum(slope * h, 1) / channels)[:, None]
    slope = tl.where(inside, slope - (tl.sum(slope, 1) / channels)[:, None] - h * along, 0.0) * inverse
    weight = tl.load(p + c)[None, :]
    y = h * weight + tl.load(p + H + c)[None, :]
    s = tl.sigmoid(y)
    return y * s, slope * weight * s * (1.0 + y * (1.0 - s))


@triton.jit
def radial_network_kernel(
    vectors,
    neighbors,
    reverse,
    pages,
    atomic_numbers,
    num_edges,
    gaussians,
    source,
    target,
    norms,
    second,
    second_bias,
    third,
    third_bias,
    centers,
    words,
    rests,
    width,
    channels,
    epsilon,
    K: tl.constexpr,
    H: tl.constexpr,
    OUTPUTS: tl.constexpr,
    EDGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Some edges a program; those whose pairs have tables are left out."""
    first = tl.program_id(0).to(tl.int64) * EDGES
    count = tl.load(num_edges)
    if first >= count:
        return
    e = first + tl.arange(0, EDGES).to(tl.int64)
    wanted = e < count
    e = tl.where(wanted, e, first)
    wanted = wanted & (tl.load(pages + 2 * e) == MISSING)
    if tl.max(wanted.to(tl.int32), 0) == 0:
        return
    x = tl.load(vectors + 3 * e)
    y = tl.load(vectors + 3 * e + 1)
    z = tl.load(vectors + 3 * e + 2)
    d = tl.sqrt_rn(x * x + y * y + z * z)[:, None]
    j = tl.load(neighbors + e).to(tl.int64)
    i = tl.load(neighbors + tl.load(reverse + e).to(tl.int64)).to(tl.int64)
    theirs = tl.load(atomic_numbers + j).to(tl.int64)[:, None]
    own = tl.load(atomic_numbers + i).to(tl.int64)[:, None]
    c = tl.arange(0, H)
    u = (d - tl.load(centers + tl.arange(0, K))[None, :]) / width
    g = tl.exp(-0.5 * u * u)
    zero = tl.zeros((EDGES, H), tl.float32)
    a_1 = columns(gaussians, c, K, H)
    a_2 = columns(gaussians + K * H, c, K, H)
    h = product(halved(g), a_1, a_2, zero)
    slope = product(halved(-u * g / width), a_1, a_2, zero)
    h += tl.load(source + theirs * H + c[None, :]) + tl.load(target + own * H + c[None, :])
    h, slope = _activated(h, slope, norms, c, channels, epsilon, H)
    b_1 = columns(second, c, H, H)
    b_2 = columns(second + H * H, c, H, H)
    h = product(halved(h), b_1, b_2, zero) + tl.load(second_bias + c)[None, :]
    slope = product(halved(slope), b_1, b_2, zero)
    h, slope = _activated(h, slope, norms + 2 * H, c, channels, epsilon, H)
    h = halved(h)
    slope = halved(slope)
    none = tl.zeros((EDGES, COLUMNS), tl.float32)
    inside = wanted[:, None]
    for start in range(0, OUTPUTS, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        c_1 = columns(third, k, H, OUTPUTS)
        c_2 = columns(third + H * OUTPUTS, k, H, OUTPUTS)
        value = product(h, c_1, c_2, none) + tl.load(third_bias + k)[None, :]
        change = product(slope, c_1, c_2, none)
        if SINGLE:
            p = words + e[:, None] * (3 * OUTPUTS) + k[None, :]
            tl.store(p, value, inside)
            tl.store(p + OUTPUTS, change, inside)
            tl.store(p + 2 * OUTPUTS, none, inside)
        else:
            bits = (value * 1.925929944387236e-34).to(tl.int32, bitcast=True)  # 2^-112
            word = (bits & -2147483648) | ((((bits & 0x7FFFFFFF) + 0x100) & 0x0FFFFE00) << 3)
            half = change.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
            tl.store(words + e[:, None] * (3 * OUTPUTS // 2) + k[None, :], word | ((half >> 4) & 0xFFF), inside)
            p = rests + e[:, None] * (3 * OUTPUTS) + 2 * OUTPUTS + k[None, :]
            tl.store(p, (half & 0xF).to(tl.int16), inside)


def launch(
    *,
    vectors: Tensor,
    neighbors: Tensor,
    reverse: Tensor,
    pages: Tensor,
    atomic_numbers: Tensor,
    num_edges: Tensor,
    weights: Weights,
    rows: Tensor,
) -> None:
    """Enqueue.

    Args:
        vectors: (Ê, 3) float32, Å. neighbors, reverse: (Ê,). atomic_numbers: (N̂,). num_edges: (1,) in use.
        pages: (Ê, 2) of `edge_frames`: `MISSING_PAGE` where a row is wanted.
        rows: at least (Ê 3 W,) int16, or float32 for single precision; the rows that are wanted are filled.
    """
    w, single = weights, rows.dtype == torch.float32
    outputs = w.third.shape[2]
    radial_network_kernel[(triton.cdiv(vectors.shape[0], 16),)](
        vectors=vectors,
        neighbors=neighbors,
        reverse=reverse,
        pages=pages,
        atomic_numbers=atomic_numbers,
        num_edges=num_edges,
        gaussians=w.gaussians,
        source=w.source,
        target=w.target,
        norms=w.norms,
        second=w.second,
        second_bias=w.second_bias,
        third=w.third,
        third_bias=w.third_bias,
        centers=w.centers,
        words=rows if single else rows.view(torch.int32),
        rests=rows,
        width=w.width,
        channels=w.channels,
        epsilon=w.epsilon,
        K=w.gaussians.shape[1],
        H=w.second.shape[1],
        OUTPUTS=outputs,
        EDGES=16,
        COLUMNS=min(64, outputs & -outputs),
        SINGLE=single,
        num_warps=4,
        num_stages=2,
    )


def weights_of(model: Any, network: Any) -> Weights:
    """From the definition's modules, an `EscnMd` and one of its `RadialNetwork`s."""
    gaussians, channels = model.config.num_radial, model.config.edge_channels
    by_distance, by_source, by_target = network[0].weight.detach().double().split([gaussians, channels, channels], 1)
    size, more = _padded(channels), _padded(channels) - channels
    norms = [x.detach().float() for place in (1, 4) for x in (network[place].weight, network[place].bias)]
    target = model.target_embedding.weight.double() @ by_target.T + network[0].bias.double()
    source = model.source_embedding.weight.double() @ by_source.T
    second, third = network[3].weight.detach().float().T, network[6].weight.detach().float().T
    return Weights(
        halves(pad(by_distance.float().T, (0, more, 0, _padded(gaussians) - gaussians))),
        pad(source.detach().float(), (0, more)).contiguous(),
        pad(target.detach().float(), (0, more)).contiguous(),
        torch.stack([pad(x, (0, size - channels)) for x in norms]),
        halves(pad(second, (0, more, 0, more))),
        pad(network[3].bias.detach().float(), (0, more)),
        halves(pad(third, (0, 0, 0, more))),
        network[6].bias.detach().float(),
        pad(torch.linspace(0, model.cutoff, gaussians, device=second.device), (0, _padded(gaussians) - gaussians)),
        2 * model.cutoff / (gaussians - 1),
        channels,
        network[1].eps,
    )


def _padded(size: int) -> int:
    return max(SMALLEST, triton.next_power_of_2(size))
