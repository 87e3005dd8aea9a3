"""PaiNN's message and its derivative, fused: geometry, radial basis, cutoff, filter, products and sums over rows in one kernel each.

N atoms, E edges in rows by center, F channels, K̂ basis functions (the last one in use is the cutoff itself, which carries the bias).
For an edge e of center i with neighbor j, r the vector, d = |r|, u = r / d, and W = ĝ(d) Â (`radial.py`):

    (a, b, g) = split(c_j ⊙ W)
    q_i += Σ_e a,      μ_i += Σ_e (b ⊗ u + g ⊙ μ_j)

Backwards, X̄ = dE/dX. The list holds every edge both ways, so what i *sent* is found in i's own row, each edge read backwards: its
neighbor k received, its direction is -u. All sums are over rows, in a fixed order, without atomic additions:

    ā = q̄_k,   b̄ = -Σ_xyz μ̄_k u,   ḡ = Σ_xyz μ̄_k μ_i
    c̄_i = Σ_e [ā, b̄, ḡ] ⊙ W,   μ̄_i += Σ_e c_i^g W^g ⊙ μ̄_k
    d̄ = ĝ'(d) · (Âᵀ ([ā, b̄, ḡ] ⊙ c_i)),   ū = Σ_F c_i^b W^b ⊙ μ̄_k
    dE/d(-r) = -u d̄ + (ū - u (u · ū)) / d

Per edge nothing is kept but the last line. Schütt, Unke, Gastegger, ICML 2021; derivation: docs/concepts/analytic_forces.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.data import PaddedGraph
from atomjet.ops.radial import Radial, basis_and_slope, basis_values
from atomjet.ops.segment_sum import segment_sum


class Tiles(NamedTuple):
    """How the kernels are cut: edges and channels taken together, warps, stages of the loop over edges."""

    edges: int = 16
    channels: int = 128
    warps: int = 4
    stages: int = 1


# --------------------------------------------------------------------------------------------------------------- definition


def reference(
    vectors: Tensor, row_ptr: Tensor, neighbors: Tensor, filters: Tensor, c: Tensor, mu: Tensor
) -> tuple[Tensor, Tensor]:
    """What the message adds: (E, 3), (N + 1,), (E,), W (E, 3F), (N, 3F), (N, 3, F) to (N, F), (N, 3, F)."""
    centers = torch.repeat_interleave(row_ptr.diff())
    a, b, g = (c[neighbors] * filters).chunk(3, dim=1)
    u = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    per_edge = b[:, None] * u[:, :, None] + g[:, None] * mu[neighbors]
    return segment_sum(a, row_ptr, centers), segment_sum(per_edge, row_ptr, centers)


# ------------------------------------------------------------------------------------------------------------------ kernels


@triton.jit
def _edge(neighbors, vectors, e, inside):
    """Neighbor, vector and length of edges; a harmless one where there is none."""
    j = tl.load(neighbors + e, inside, 0).to(tl.int64)
    x = tl.load(vectors + 3 * e, inside, 1.0)
    y = tl.load(vectors + 3 * e + 1, inside, 0.0)
    z = tl.load(vectors + 3 * e + 2, inside, 0.0)
    return j, x, y, z, tl.sqrt(x * x + y * y + z * z)


@triton.jit
def painn_message_fwd_kernel(
    row_ptr,
    neighbors,
    vectors,
    num_atoms,
    atomic_numbers,
    basis,
    cutoff,
    filters,
    embedding,
    context,
    mu_sent,
    q,
    mu,
    F: tl.constexpr,
    K: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    FIRST: tl.constexpr,
    PRECISION: tl.constexpr,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One row and some channels of it a program. In the first layer context goes by element, q by embedding, and μ is zero."""
    i = tl.program_id(0).to(tl.int64)
    if i >= tl.load(num_atoms):
        return
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    WIDTH: tl.constexpr = 2 * F if FIRST else 3 * F
    tap = tl.arange(0, K)
    weights = filters + tap[:, None] * (3 * F) + channel[None, :]
    w_a = tl.load(weights)
    w_b = tl.load(weights + F)
    w_g = w_b if FIRST else tl.load(weights + 2 * F)

    sum_q = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_x = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_y = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_z = tl.zeros((EDGES, CHANNELS), tl.float32)
    stop = tl.load(row_ptr + i + 1)
    for start in range(tl.load(row_ptr + i), stop, EDGES):
        e = start + tl.arange(0, EDGES).to(tl.int64)
        inside = e < stop
        j, x, y, z, d = _edge(neighbors, vectors, e, inside)
        g = basis_values(d, inside, basis, cutoff, K, GAUSSIAN).to(w_a.dtype)
        if FIRST:
            sender = tl.load(atomic_numbers + j, inside, 0).to(tl.int64)
        else:
            sender = j
        sent = context + sender[:, None] * WIDTH + channel[None, :]
        here = inside[:, None]
        a = tl.dot(g, w_a, input_precision=PRECISION) * tl.load(sent, here, 0.0).to(tl.float32)
        b = tl.dot(g, w_b, input_precision=PRECISION) * tl.load(sent + F, here, 0.0).to(tl.float32)
        sum_q += a
        b_d = b * (1.0 / d)[:, None]
        if FIRST:
            sum_x += b_d * x[:, None]
            sum_y += b_d * y[:, None]
            sum_z += b_d * z[:, None]
        else:
            g_ = tl.dot(g, w_g, input_precision=PRECISION) * tl.load(sent + 2 * F, here, 0.0).to(tl.float32)
            vector = mu_sent + j[:, None] * (3 * F) + channel[None, :]
            sum_x += b_d * x[:, None] + g_ * tl.load(vector, here, 0.0).to(tl.float32)
            sum_y += b_d * y[:, None] + g_ * tl.load(vector + F, here, 0.0).to(tl.float32)
            sum_z += b_d * z[:, None] + g_ * tl.load(vector + 2 * F, here, 0.0).to(tl.float32)

    own_q = q + i * F + channel
    own_mu = mu + i * (3 * F) + channel
    if FIRST:
        number = tl.load(atomic_numbers + i).to(tl.int64)
        tl.store(own_q, tl.load(embedding + number * F + channel) + tl.sum(sum_q, 0))
        tl.store(own_mu, tl.sum(sum_x, 0))
        tl.store(own_mu + F, tl.sum(sum_y, 0))
        tl.store(own_mu + 2 * F, tl.sum(sum_z, 0))
    else:
        tl.store(own_q, tl.load(own_q) + tl.sum(sum_q, 0))
        tl.store(own_mu, tl.load(own_mu) + tl.sum(sum_x, 0))
        tl.store(own_mu + F, tl.load(own_mu + F) + tl.sum(sum_y, 0))
        tl.store(own_mu + 2 * F, tl.load(own_mu + 2 * F) + tl.sum(sum_z, 0))


@triton.jit
def painn_message_bwd_kernel(
    row_ptr,
    neighbors,
    vectors,
    num_atoms,
    atomic_numbers,
    basis,
    cutoff,
    filters,
    context,
    mu_sent,
    q_bar,
    mu_bar,
    mu_bar_sum,
    gradients,
    edges,
    scale,
    F: tl.constexpr,
    K: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One row and some channels of it a program. c̄ overwrites c, of which only the own row is needed here.

    LAST is the layer whose derivative comes first: it starts the edges' sums, the others add to them.
    """
    i = tl.program_id(0).to(tl.int64)
    if i >= tl.load(num_atoms):
        return
    part = tl.program_id(1)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    WIDTH: tl.constexpr = 2 * F if FIRST else 3 * F
    tap = tl.arange(0, K)
    weights = filters + tap[:, None] * (3 * F) + channel[None, :]
    w_a = tl.load(weights)
    w_b = tl.load(weights + F)
    w_g = w_b if FIRST else tl.load(weights + 2 * F)
    if FIRST:
        own = context + tl.load(atomic_numbers + i).to(tl.int64) * WIDTH + channel
    else:
        own = context + i * WIDTH + channel
    c_a = tl.load(own).to(tl.float32)[None, :]
    c_b = tl.load(own + F).to(tl.float32)[None, :]
    if not FIRST:
        c_g = tl.load(own + 2 * F).to(tl.float32)[None, :]
        vector = mu_sent + i * (3 * F) + channel
        mu_x = tl.load(vector).to(tl.float32)[None, :]
        mu_y = tl.load(vector + F).to(tl.float32)[None, :]
        mu_z = tl.load(vector + 2 * F).to(tl.float32)[None, :]
        sum_a = tl.zeros((EDGES, CHANNELS), tl.float32)
        sum_b = tl.zeros((EDGES, CHANNELS), tl.float32)
        sum_g = tl.zeros((EDGES, CHANNELS), tl.float32)
        sum_x = tl.zeros((EDGES, CHANNELS), tl.float32)
        sum_y = tl.zeros((EDGES, CHANNELS), tl.float32)
        sum_z = tl.zeros((EDGES, CHANNELS), tl.float32)

    stop = tl.load(row_ptr + i + 1)
    for start in range(tl.load(row_ptr + i), stop, EDGES):
        e = start + tl.arange(0, EDGES).to(tl.int64)
        inside = e < stop
        k, x, y, z, d = _edge(neighbors, vectors, e, inside)
        inverse = 1.0 / d
        x, y, z = x * inverse, y * inverse, z * inverse
        value, slope = basis_and_slope(d, inside, basis, cutoff, K, GAUSSIAN)
        g = value.to(w_a.dtype)
        here = inside[:, None]
        a_bar = tl.load(q_bar + k[:, None] * F + channel[None, :], here, 0.0).to(tl.float32)
        received = mu_bar + k[:, None] * (3 * F) + channel[None, :]
        r_x = tl.load(received, here, 0.0).to(tl.float32)
        r_y = tl.load(received + F, here, 0.0).to(tl.float32)
        r_z = tl.load(received + 2 * F, here, 0.0).to(tl.float32)
        b_bar = -(r_x * x[:, None] + r_y * y[:, None] + r_z * z[:, None])
        filter_b = tl.dot(g, w_b, input_precision=PRECISION)
        c_filter = filter_b * c_b
        u_x = tl.sum(c_filter * r_x, 1)
        u_y = tl.sum(c_filter * r_y, 1)
        u_z = tl.sum(c_filter * r_z, 1)
        by_tap = tl.dot((a_bar * c_a).to(w_a.dtype), tl.trans(w_a), input_precision=PRECISION)
        by_tap += tl.dot((b_bar * c_b).to(w_a.dtype), tl.trans(w_b), input_precision=PRECISION)
        if not FIRST:
            g_bar = r_x * mu_x + r_y * mu_y + r_z * mu_z
            by_tap += tl.dot((g_bar * c_g).to(w_a.dtype), tl.trans(w_g), input_precision=PRECISION)
            sum_a += a_bar * tl.dot(g, w_a, input_precision=PRECISION)
            sum_b += b_bar * filter_b
            filter_g = tl.dot(g, w_g, input_precision=PRECISION)
            sum_g += g_bar * filter_g
            c_filter = filter_g * c_g
            sum_x += c_filter * r_x
            sum_y += c_filter * r_y
            sum_z += c_filter * r_z
        d_bar = tl.sum(by_tap * slope, 1)
        along = u_x * x + u_y * y + u_z * z
        p = gradients + (part * edges + e) * 3
        p_x = ((u_x - along * x) * inverse - d_bar * x) * scale
        p_y = ((u_y - along * y) * inverse - d_bar * y) * scale
        p_z = ((u_z - along * z) * inverse - d_bar * z) * scale
        if not LAST:
            p_x += tl.load(p, inside, 0.0)
            p_y += tl.load(p + 1, inside, 0.0)
            p_z += tl.load(p + 2, inside, 0.0)
        tl.store(p, p_x, inside)
        tl.store(p + 1, p_y, inside)
        tl.store(p + 2, p_z, inside)

    if not FIRST:
        tl.store(own, tl.sum(sum_a, 0).to(own.dtype.element_ty))
        tl.store(own + F, tl.sum(sum_b, 0).to(own.dtype.element_ty))
        tl.store(own + 2 * F, tl.sum(sum_g, 0).to(own.dtype.element_ty))
        total = mu_bar_sum + i * (3 * F) + channel
        tl.store(total, tl.load(total) + tl.sum(sum_x, 0))
        tl.store(total + F, tl.load(total + F) + tl.sum(sum_y, 0))
        tl.store(total + 2 * F, tl.load(total + 2 * F) + tl.sum(sum_z, 0))


# ------------------------------------------------------------------------------------------------------------------- launch


def launch_fwd(
    graph: PaddedGraph,
    radial: Radial,
    filters: Tensor,
    embedding: Tensor,
    context: Tensor,
    mu_sent: Tensor | None,
    q: Tensor,
    mu: Tensor,
    tiles: Tiles,
) -> None:
    """Enqueue: adds to q (N̂, F) and μ (N̂, 3, F); in the first layer (mu_sent is None) fills them."""
    features = q.shape[1]
    channels = min(tiles.channels, features)
    painn_message_fwd_kernel[(q.shape[0], features // channels)](
        graph.row_ptr,
        graph.neighbors,
        graph.vectors,
        graph.system_ptr[-1:],
        graph.atomic_numbers,
        radial.basis,
        radial.cutoff,
        filters,
        embedding,
        context,
        context if mu_sent is None else mu_sent,
        q,
        mu,
        F=features,
        K=radial.taps,
        GAUSSIAN=radial.gaussian,
        FIRST=mu_sent is None,
        PRECISION=precision_of(filters),
        EDGES=tiles.edges,
        CHANNELS=channels,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def launch_bwd(
    graph: PaddedGraph,
    radial: Radial,
    filters: Tensor,
    context: Tensor,
    mu_sent: Tensor | None,
    q_bar: Tensor,
    mu_bar: Tensor,
    mu_bar_sum: Tensor,
    gradients: Tensor,
    last: bool,
    scale: float,
    tiles: Tiles,
) -> None:
    """Enqueue: c̄ into `context` (not in the first layer), adds to mu_bar_sum (N̂, 3, F), and to gradients (parts, Ê, 3) or, in the
    last layer, fills them, times `scale`.
    """
    features = q_bar.shape[1]
    channels = features // gradients.shape[0]
    painn_message_bwd_kernel[(q_bar.shape[0], gradients.shape[0])](
        graph.row_ptr,
        graph.neighbors,
        graph.vectors,
        graph.system_ptr[-1:],
        graph.atomic_numbers,
        radial.basis,
        radial.cutoff,
        filters,
        context,
        context if mu_sent is None else mu_sent,
        q_bar,
        mu_bar,
        mu_bar_sum,
        gradients,
        gradients.shape[1],
        scale,
        F=features,
        K=radial.taps,
        GAUSSIAN=radial.gaussian,
        FIRST=mu_sent is None,
        LAST=last,
        PRECISION=precision_of(filters),
        EDGES=tiles.edges,
        CHANNELS=channels,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )


def precision_of(weights: Tensor) -> str:
    """How products of float32 are taken: in three TF32 products, which keep float32's digits. Half precision needs no word."""
    return "tf32x3" if weights.dtype == torch.float32 else "tf32"
