# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""The gate between both convolutions of an eSCN-MD's edges, for lmax = 2 and mmax = 1 or 2.

    q_0 = silu(h_0),    q_r = sigmoid(gate_l(r)) h_r    for the other rows r, m-major, of degree l

h (Ê, 2 + R, H) in half or single precision: the gates of l = 1 and 2, then R = 9 or 7 rows; a bias (5, H) is added to gates and
rows of m = 0. q (Ê, R, H) as h. The derivative is linear in q̄, which may be in any unit; h is read anew, and h̄ may take its place.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["num_edges"])
def so2_gate_fwd_kernel(
    h, bias, num_edges, q, H: tl.constexpr, CHANNELS: tl.constexpr, EDGES: tl.constexpr, MMAX: tl.constexpr
):
    """A few edges and channels a program."""
    ROWS: tl.constexpr = 5 + 2 * MMAX
    kind: tl.constexpr = q.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * EDGES
    count = tl.load(num_edges)
    if first >= count:
        return
    e = (first + tl.arange(0, EDGES).to(tl.int64))[:, None]
    inside = e < count
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    p = h + e * ((ROWS + 2) * H) + c
    out = q + e * (ROWS * H) + c
    g1 = tl.sigmoid(tl.load(p, inside, 0.0).to(tl.float32) + tl.load(bias + c))
    g2 = tl.sigmoid(tl.load(p + H, inside, 0.0).to(tl.float32) + tl.load(bias + H + c))
    h0 = tl.load(p + 2 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 2 * H + c)
    h1 = tl.load(p + 3 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 3 * H + c)
    h2 = tl.load(p + 4 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 4 * H + c)
    h3 = tl.load(p + 5 * H, inside, 0.0).to(tl.float32)
    h4 = tl.load(p + 6 * H, inside, 0.0).to(tl.float32)
    h5 = tl.load(p + 7 * H, inside, 0.0).to(tl.float32)
    h6 = tl.load(p + 8 * H, inside, 0.0).to(tl.float32)
    if MMAX == 2:
        h7 = tl.load(p + 9 * H, inside, 0.0).to(tl.float32)
        h8 = tl.load(p + 10 * H, inside, 0.0).to(tl.float32)
        tl.store(out + 7 * H, (h7 * g2).to(kind), inside)
        tl.store(out + 8 * H, (h8 * g2).to(kind), inside)
    tl.store(out, (h0 * tl.sigmoid(h0)).to(kind), inside)
    tl.store(out + H, (h1 * g1).to(kind), inside)
    tl.store(out + 2 * H, (h2 * g2).to(kind), inside)
    tl.store(out + 3 * H, (h3 * g1).to(kind), inside)
    tl.store(out + 4 * H, (h4 * g2).to(kind), inside)
    tl.store(out + 5 * H, (h5 * g1).to(kind), inside)
    tl.store(out + 6 * H, (h6 * g2).to(kind), inside)


@triton.jit(do_not_specialize=["num_edges"])
def so2_gate_bwd_kernel(
    q_bar, h, bias, num_edges, h_bar, H: tl.constexpr, CHANNELS: tl.constexpr, EDGES: tl.constexpr, MMAX: tl.constexpr
):
    """A few edges and channels a program."""
    ROWS: tl.constexpr = 5 + 2 * MMAX
    kind: tl.constexpr = h_bar.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * EDGES
    count = tl.load(num_edges)
    if first >= count:
        return
    e = (first + tl.arange(0, EDGES).to(tl.int64))[:, None]
    inside = e < count
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    p = h + e * ((ROWS + 2) * H) + c
    b = q_bar + e * (ROWS * H) + c
    out = h_bar + e * ((ROWS + 2) * H) + c
    g1 = tl.sigmoid(tl.load(p, inside, 0.0).to(tl.float32) + tl.load(bias + c))
    g2 = tl.sigmoid(tl.load(p + H, inside, 0.0).to(tl.float32) + tl.load(bias + H + c))
    h0 = tl.load(p + 2 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 2 * H + c)
    h1 = tl.load(p + 3 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 3 * H + c)
    h2 = tl.load(p + 4 * H, inside, 0.0).to(tl.float32) + tl.load(bias + 4 * H + c)
    h3 = tl.load(p + 5 * H, inside, 0.0).to(tl.float32)
    h4 = tl.load(p + 6 * H, inside, 0.0).to(tl.float32)
    h5 = tl.load(p + 7 * H, inside, 0.0).to(tl.float32)
    h6 = tl.load(p + 8 * H, inside, 0.0).to(tl.float32)
    b0 = tl.load(b, inside, 0.0).to(tl.float32)
    b1 = tl.load(b + H, inside, 0.0).to(tl.float32)
    b2 = tl.load(b + 2 * H, inside, 0.0).to(tl.float32)
    b3 = tl.load(b + 3 * H, inside, 0.0).to(tl.float32)
    b4 = tl.load(b + 4 * H, inside, 0.0).to(tl.float32)
    b5 = tl.load(b + 5 * H, inside, 0.0).to(tl.float32)
    b6 = tl.load(b + 6 * H, inside, 0.0).to(tl.float32)
    by_1 = b1 * h1 + b3 * h3 + b5 * h5
    by_2 = b2 * h2 + b4 * h4 + b6 * h6
    if MMAX == 2:
        h7 = tl.load(p + 9 * H, inside, 0.0).to(tl.float32)
        h8 = tl.load(p + 10 * H, inside, 0.0).to(tl.float32)
        b7 = tl.load(b + 7 * H, inside, 0.0).to(tl.float32)
        b8 = tl.load(b + 8 * H, inside, 0.0).to(tl.float32)
        by_2 += b7 * h7 + b8 * h8
        tl.store(out + 9 * H, (b7 * g2).to(kind), inside)
        tl.store(out + 10 * H, (b8 * g2).to(kind), inside)
    s = tl.sigmoid(h0)
    tl.store(out, (by_1 * g1 * (1.0 - g1)).to(kind), inside)
    tl.store(out + H, (by_2 * g2 * (1.0 - g2)).to(kind), inside)
    tl.store(out + 2 * H, (b0 * s * (1.0 + h0 * (1.0 - s))).to(kind), inside)
    tl.store(out + 3 * H, (b1 * g1).to(kind), inside)
    tl.store(out + 4 * H, (b2 * g2).to(kind), inside)
    tl.store(out + 5 * H, (b3 * g1).to(kind), inside)
    tl.store(out + 6 * H, (b4 * g2).to(kind), inside)
    tl.store(out + 7 * H, (b5 * g1).to(kind), inside)
    tl.store(out + 8 * H, (b6 * g2).to(kind), inside)


def launch_fwd(
    *, h: Tensor, bias: Tensor, num_edges: Tensor, q: Tensor, mmax: int, edges: int = 4, channels: int = 128
) -> None:
    """Enqueue: h (Ê, 2 + R, H), bias (5, H) float32, num_edges (1,) in use; q (Ê, R, H) is filled."""
    width = h.shape[2]
    block = min(channels, width)
    so2_gate_fwd_kernel[(triton.cdiv(h.shape[0], edges), width // block)](
        h=h, bias=bias, num_edges=num_edges, q=q, H=width, CHANNELS=block, EDGES=edges, MMAX=mmax, num_warps=4
    )


def launch_bwd(
    *,
    q_bar: Tensor,
    h: Tensor,
    bias: Tensor,
    num_edges: Tensor,
    h_bar: Tensor,
    mmax: int,
    edges: int = 4,
    channels: int = 128,
) -> None:
    """Enqueue: q̄ (Ê, R, H) to h̄ (Ê, 2 + R, H), which may be h; the rest as in `launch_fwd`."""
    width = h.shape[2]
    block = min(channels, width)
    so2_gate_bwd_kernel[(triton.cdiv(h.shape[0], edges), width // block)](
        q_bar=q_bar,
        h=h,
        bias=bias,
        num_edges=num_edges,
        h_bar=h_bar,
        H=width,
        CHANNELS=block,
        EDGES=edges,
        MMAX=mmax,
        num_warps=4,
    )
