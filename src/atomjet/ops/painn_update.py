"""What happens within an atom between two messages of PaiNN, fused by rows: mixing, the next context, the readout, and their derivatives.

N atoms, F channels. Mixing of layer l, then the context of layer l + 1, or after the last layer the readout:

    (V, U) = M μ,   n = sqrt(Σ_xyz V² + ε),   z = D1 [q; n],   (s, w, t) = D2 silu(z)
    q += s + w ⊙ Σ_xyz V ⊙ U,   μ += t ⊙ U                        (nothing reads μ after the last layer: no t there)
    y = C1 q,   c = C2 silu(y)                       |           h = R1 q,   energy = R2 silu(h)

Backwards, X̄ = dE/dX, in the opposite order:

    q̄ += C1ᵀ (silu'(y) ⊙ C2ᵀ c̄)                      |           q̄ = R1ᵀ (silu'(h) ⊙ R2ᵀ)
    s̄ = q̄,   w̄ = q̄ ⊙ Σ_xyz V ⊙ U,   t̄ = Σ_xyz μ̄ ⊙ U,   z̄ = silu'(z) ⊙ D2ᵀ [s̄; w̄; t̄],   [q̄'; n̄] = D1ᵀ z̄
    μ̄ += Mᵀ [q̄ ⊙ w ⊙ U + n̄ ⊙ V / n;   q̄ ⊙ w ⊙ V + t ⊙ μ̄],   q̄ += q̄'

Everything is a product with an F x F matrix or stays within a channel, so one program takes some rows through the whole chain. The
matrices lie one after the other in the order of their use (`Chain`), each (in, out); the way back reads them transposed.
Derivation: docs/concepts/analytic_forces.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import silu

from atomjet.ops.painn_message import precision_of


class Tiles(NamedTuple):
    """Rows taken together, and warps."""

    rows: int = 16
    warps: int = 8


class Chain(NamedTuple):
    """Matrices and biases of what stands between two messages.

    Attributes:
        matrices: (11, F, F) M_V, M_U, D1_q, D1_n, D2_s, D2_w, D2_t, C1, C2_a, C2_b, C2_g; after the last layer (7, F, F): the first
            six and R1, padded with zeros.
        biases: (8, F) float32: D1, D2_s, D2_w, D2_t, C1, C2_a, C2_b, C2_g; after the last layer (6, F): D1, D2_s, D2_w, R1, R2, and
            the bias of R2 in front of the last row.
        epsilon: under the root of the norm.
    """

    matrices: Tensor
    biases: Tensor
    epsilon: float


class Kept(NamedTuple):
    """What the way back needs of a layer that is not the last: vu (N̂, 3, 2F); z, w, t and y (N̂, F)."""

    vu: Tensor
    z: Tensor
    w: Tensor
    t: Tensor
    y: Tensor


# --------------------------------------------------------------------------------------------------------------- definition


def reference_mixing(chain: Chain, q: Tensor, mu: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Mixing alone: (N, F), (N, 3, F) to the same."""
    m = chain.matrices
    v, u = mu @ m[0], mu @ m[1]
    norm = (v.square().sum(1) + chain.epsilon).sqrt()
    a = silu(q @ m[2] + norm @ m[3] + chain.biases[0])
    q = q + a @ m[4] + chain.biases[1] + (a @ m[5] + chain.biases[2]) * (v * u).sum(1)
    return q, mu if last else mu + (a @ m[6] + chain.biases[3])[:, None] * u


def reference_context(chain: Chain, q: Tensor) -> Tensor:
    """The next layer's context: (N, F) to (N, 3F)."""
    m, b = chain.matrices, chain.biases
    h = silu(q @ m[7] + b[4])
    return torch.cat([h @ m[8 + k] + b[5 + k] for k in range(3)], dim=1)


def reference_readout(chain: Chain, q: Tensor) -> Tensor:
    """Energies: (N, F) to (N,)."""
    return silu(q @ chain.matrices[6] + chain.biases[3]) @ chain.biases[4] + chain.biases[5, 0]


# ------------------------------------------------------------------------------------------------------------------ kernels


@triton.jit
def _matrix(matrices, number, F: tl.constexpr):
    """Matrix `number`, (in, out)."""
    k = tl.arange(0, F)
    return tl.load(matrices + number * F * F + k[:, None] * F + k[None, :])


@triton.jit
def _product(x, w, PRECISION: tl.constexpr):
    return tl.dot(x.to(w.dtype), w, input_precision=PRECISION)


@triton.jit
def _back(x, w, PRECISION: tl.constexpr):
    return tl.dot(x.to(w.dtype), tl.trans(w), input_precision=PRECISION)


@triton.jit
def _silu_slope(x):
    s = tl.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def _mixed(
    matrices,
    biases,
    epsilon,
    q,
    mu,
    vu,
    z_kept,
    row,
    here,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
):
    """q, V_x ... U_z, μ, n, Σ V U and z of some rows; keeps V, U and z where they are wanted."""
    channel = tl.arange(0, F)
    at = row[:, None] * F + channel[None, :]
    at3 = row[:, None] * (3 * F) + channel[None, :]
    q_ = tl.load(q + at, here, 0.0)
    m_v = _matrix(matrices, 0, F)
    m_u = _matrix(matrices, 1, F)
    x = tl.load(mu + at3, here, 0.0)
    y = tl.load(mu + at3 + F, here, 0.0)
    z = tl.load(mu + at3 + 2 * F, here, 0.0)
    v_x = _product(x, m_v, PRECISION)
    v_y = _product(y, m_v, PRECISION)
    v_z = _product(z, m_v, PRECISION)
    d1_q = _matrix(matrices, 2, F)
    u_x = _product(x, m_u, PRECISION)
    u_y = _product(y, m_u, PRECISION)
    u_z = _product(z, m_u, PRECISION)
    d1_n = _matrix(matrices, 3, F)
    if KEEP:
        kept = vu + row[:, None] * (6 * F) + channel[None, :]
        kind = kept.dtype.element_ty
        tl.store(kept, v_x.to(kind), here)
        tl.store(kept + F, u_x.to(kind), here)
        tl.store(kept + 2 * F, v_y.to(kind), here)
        tl.store(kept + 3 * F, u_y.to(kind), here)
        tl.store(kept + 4 * F, v_z.to(kind), here)
        tl.store(kept + 5 * F, u_z.to(kind), here)
    n = tl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    z_ = _product(q_, d1_q, PRECISION) + _product(n, d1_n, PRECISION) + tl.load(biases + channel)[None, :]
    if KEEP:
        tl.store(z_kept + at, z_.to(z_kept.dtype.element_ty), here)
    return q_, v_x, v_y, v_z, u_x, u_y, u_z, x, y, z, n, dot, z_


@triton.jit
def painn_update_fwd_kernel(
    num_atoms,
    matrices,
    biases,
    epsilon,
    q,
    mu,
    vu,
    z_kept,
    w_kept,
    t_kept,
    y_kept,
    context,
    mu_sent,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Mixing of a layer and the context of the next one; q and μ in place, μ once more narrow for the next message."""
    count = tl.load(num_atoms)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= count:
        return
    here = (row < count)[:, None]
    channel = tl.arange(0, F)
    at = row[:, None] * F + channel[None, :]
    at3 = row[:, None] * (3 * F) + channel[None, :]
    narrow = context.dtype.element_ty
    q_, v_x, v_y, v_z, u_x, u_y, u_z, x, y, z, n, dot, z_ = _mixed(
        matrices, biases, epsilon, q, mu, vu, z_kept, row, here, F, PRECISION, True
    )
    d2_s = _matrix(matrices, 4, F)
    d2_w = _matrix(matrices, 5, F)
    a = z_ * tl.sigmoid(z_)
    s = _product(a, d2_s, PRECISION) + tl.load(biases + F + channel)[None, :]
    d2_t = _matrix(matrices, 6, F)
    w = _product(a, d2_w, PRECISION) + tl.load(biases + 2 * F + channel)[None, :]
    c1 = _matrix(matrices, 7, F)
    t = _product(a, d2_t, PRECISION) + tl.load(biases + 3 * F + channel)[None, :]
    c2_a = _matrix(matrices, 8, F)
    tl.store(w_kept + at, w.to(narrow), here)
    tl.store(t_kept + at, t.to(narrow), here)
    q_ += s + w * dot
    tl.store(q + at, q_, here)
    x += t * u_x
    y += t * u_y
    z += t * u_z
    tl.store(mu + at3, x, here)
    tl.store(mu + at3 + F, y, here)
    tl.store(mu + at3 + 2 * F, z, here)
    tl.store(mu_sent + at3, x.to(narrow), here)
    tl.store(mu_sent + at3 + F, y.to(narrow), here)
    tl.store(mu_sent + at3 + 2 * F, z.to(narrow), here)
    y_ = _product(q_, c1, PRECISION) + tl.load(biases + 4 * F + channel)[None, :]
    tl.store(y_kept + at, y_.to(narrow), here)
    h = y_ * tl.sigmoid(y_)
    c2_b = _matrix(matrices, 9, F)
    a = _product(h, c2_a, PRECISION) + tl.load(biases + 5 * F + channel)[None, :]
    tl.store(context + at3, a.to(narrow), here)
    c2_g = _matrix(matrices, 10, F)
    b = _product(h, c2_b, PRECISION) + tl.load(biases + 6 * F + channel)[None, :]
    tl.store(context + at3 + F, b.to(narrow), here)
    g = _product(h, c2_g, PRECISION) + tl.load(biases + 7 * F + channel)[None, :]
    tl.store(context + at3 + 2 * F, g.to(narrow), here)


@triton.jit
def painn_update_last_kernel(
    num_atoms,
    matrices,
    biases,
    epsilon,
    q,
    mu,
    energies,
    q_bar,
    mu_bar,
    seed,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Mixing of the last layer, readout, and the way back through both. q̄ takes q's place and μ̄ that of μ; both once more narrow."""
    count = tl.load(num_atoms)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= count:
        return
    here = (row < count)[:, None]
    channel = tl.arange(0, F)
    at = row[:, None] * F + channel[None, :]
    at3 = row[:, None] * (3 * F) + channel[None, :]
    narrow = q_bar.dtype.element_ty
    q_, v_x, v_y, v_z, u_x, u_y, u_z, x, y, z, n, dot, z_ = _mixed(
        matrices, biases, epsilon, q, mu, q, q, row, here, F, PRECISION, False
    )
    d2_s = _matrix(matrices, 4, F)
    d2_w = _matrix(matrices, 5, F)
    a = z_ * tl.sigmoid(z_)
    r1 = _matrix(matrices, 6, F)
    w = _product(a, d2_w, PRECISION) + tl.load(biases + 2 * F + channel)[None, :]
    q_ += _product(a, d2_s, PRECISION) + tl.load(biases + F + channel)[None, :] + w * dot
    h = _product(q_, r1, PRECISION) + tl.load(biases + 3 * F + channel)[None, :]
    r2 = tl.load(biases + 4 * F + channel)[None, :]
    energy = tl.sum(h * tl.sigmoid(h) * r2, 1) + tl.load(biases + 5 * F)
    tl.store(energies + row, energy, row < count)

    d_q = _back(_silu_slope(h) * r2 * seed, r1, PRECISION)
    z_bar = _back(d_q, d2_s, PRECISION) + _back(d_q * dot, d2_w, PRECISION)
    z_bar *= _silu_slope(z_)
    n_bar = _back(z_bar, _matrix(matrices, 3, F), PRECISION) / n
    d1_q = _matrix(matrices, 2, F)
    w *= d_q
    d_q += _back(z_bar, d1_q, PRECISION)
    tl.store(q + at, d_q, here)
    tl.store(q_bar + at, d_q.to(narrow), here)
    m_v = _matrix(matrices, 0, F)
    m_u = _matrix(matrices, 1, F)
    x = _back(w * u_x + n_bar * v_x, m_v, PRECISION) + _back(w * v_x, m_u, PRECISION)
    y = _back(w * u_y + n_bar * v_y, m_v, PRECISION) + _back(w * v_y, m_u, PRECISION)
    z = _back(w * u_z + n_bar * v_z, m_v, PRECISION) + _back(w * v_z, m_u, PRECISION)
    tl.store(mu + at3, x, here)
    tl.store(mu + at3 + F, y, here)
    tl.store(mu + at3 + 2 * F, z, here)
    tl.store(mu_bar + at3, x.to(narrow), here)
    tl.store(mu_bar + at3 + F, y.to(narrow), here)
    tl.store(mu_bar + at3 + 2 * F, z.to(narrow), here)


@triton.jit
def painn_update_bwd_kernel(
    num_atoms,
    matrices,
    epsilon,
    q,
    mu,
    vu,
    z_kept,
    w_kept,
    t_kept,
    y_kept,
    context_bar,
    q_bar,
    mu_bar,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Back through the context of the next layer and the mixing of this one; q holds q̄ and μ holds μ̄, both in place and once more
    narrow.
    """
    count = tl.load(num_atoms)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= count:
        return
    here = (row < count)[:, None]
    channel = tl.arange(0, F)
    at = row[:, None] * F + channel[None, :]
    at3 = row[:, None] * (3 * F) + channel[None, :]
    narrow = q_bar.dtype.element_ty
    c2_a = _matrix(matrices, 8, F)
    c2_b = _matrix(matrices, 9, F)
    y_bar = _back(tl.load(context_bar + at3, here, 0.0), c2_a, PRECISION)
    c2_g = _matrix(matrices, 10, F)
    y_bar += _back(tl.load(context_bar + at3 + F, here, 0.0), c2_b, PRECISION)
    c1 = _matrix(matrices, 7, F)
    y_bar += _back(tl.load(context_bar + at3 + 2 * F, here, 0.0), c2_g, PRECISION)
    y_bar *= _silu_slope(tl.load(y_kept + at, here, 0.0).to(tl.float32))
    d2_s = _matrix(matrices, 4, F)
    d_q = tl.load(q + at, here, 0.0) + _back(y_bar, c1, PRECISION)

    kept = vu + row[:, None] * (6 * F) + channel[None, :]
    v_x = tl.load(kept, here, 0.0).to(tl.float32)
    u_x = tl.load(kept + F, here, 0.0).to(tl.float32)
    v_y = tl.load(kept + 2 * F, here, 0.0).to(tl.float32)
    u_y = tl.load(kept + 3 * F, here, 0.0).to(tl.float32)
    v_z = tl.load(kept + 4 * F, here, 0.0).to(tl.float32)
    u_z = tl.load(kept + 5 * F, here, 0.0).to(tl.float32)
    x = tl.load(mu + at3, here, 0.0)
    y = tl.load(mu + at3 + F, here, 0.0)
    z = tl.load(mu + at3 + 2 * F, here, 0.0)
    n = tl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    d2_w = _matrix(matrices, 5, F)
    z_bar = _back(d_q, d2_s, PRECISION)
    d2_t = _matrix(matrices, 6, F)
    z_bar += _back(d_q * dot, d2_w, PRECISION)
    d1_n = _matrix(matrices, 3, F)
    z_bar += _back(x * u_x + y * u_y + z * u_z, d2_t, PRECISION)
    d1_q = _matrix(matrices, 2, F)
    z_bar *= _silu_slope(tl.load(z_kept + at, here, 0.0).to(tl.float32))
    m_v = _matrix(matrices, 0, F)
    n_bar = _back(z_bar, d1_n, PRECISION) / n
    w = d_q * tl.load(w_kept + at, here, 0.0).to(tl.float32)
    t = tl.load(t_kept + at, here, 0.0).to(tl.float32)
    d_q += _back(z_bar, d1_q, PRECISION)
    m_u = _matrix(matrices, 1, F)
    tl.store(q + at, d_q, here)
    tl.store(q_bar + at, d_q.to(narrow), here)
    x += _back(w * u_x + n_bar * v_x, m_v, PRECISION) + _back(w * v_x + t * x, m_u, PRECISION)
    y += _back(w * u_y + n_bar * v_y, m_v, PRECISION) + _back(w * v_y + t * y, m_u, PRECISION)
    z += _back(w * u_z + n_bar * v_z, m_v, PRECISION) + _back(w * v_z + t * z, m_u, PRECISION)
    tl.store(mu + at3, x, here)
    tl.store(mu + at3 + F, y, here)
    tl.store(mu + at3 + 2 * F, z, here)
    tl.store(mu_bar + at3, x.to(narrow), here)
    tl.store(mu_bar + at3 + F, y.to(narrow), here)
    tl.store(mu_bar + at3 + 2 * F, z.to(narrow), here)


# ------------------------------------------------------------------------------------------------------------------- launch


def launch_fwd(
    num_atoms: Tensor,
    chain: Chain,
    q: Tensor,
    mu: Tensor,
    kept: Kept,
    context: Tensor,
    mu_sent: Tensor,
    tiles: Tiles,
) -> None:
    """Enqueue: q (N̂, F), μ (N̂, 3, F) in place; fills `kept`, context (N̂, 3F) and mu_sent (N̂, 3, F)."""
    painn_update_fwd_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.matrices,
        chain.biases,
        chain.epsilon,
        q,
        mu,
        *kept,
        context,
        mu_sent,
        F=q.shape[1],
        PRECISION=precision_of(chain.matrices),
        ROWS=tiles.rows,
        num_warps=tiles.warps,
    )


def launch_last(
    num_atoms: Tensor,
    chain: Chain,
    q: Tensor,
    mu: Tensor,
    energies: Tensor,
    q_bar: Tensor,
    mu_bar: Tensor,
    seed: float,
    tiles: Tiles,
) -> None:
    """Enqueue: energies (N̂,), and dE/dq, dE/dμ before the last mixing, times `seed`, into q, μ and q_bar, mu_bar."""
    painn_update_last_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.matrices,
        chain.biases,
        chain.epsilon,
        q,
        mu,
        energies,
        q_bar,
        mu_bar,
        seed,
        F=q.shape[1],
        PRECISION=precision_of(chain.matrices),
        ROWS=tiles.rows,
        num_warps=tiles.warps,
    )


def launch_bwd(
    num_atoms: Tensor,
    chain: Chain,
    q: Tensor,
    mu: Tensor,
    kept: Kept,
    context_bar: Tensor,
    q_bar: Tensor,
    mu_bar: Tensor,
    tiles: Tiles,
) -> None:
    """Enqueue: q and μ hold dE/dq and dE/dμ after the layer, and shall hold those before its mixing; also into q_bar, mu_bar."""
    painn_update_bwd_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.matrices,
        chain.epsilon,
        q,
        mu,
        *kept,
        context_bar,
        q_bar,
        mu_bar,
        F=q.shape[1],
        PRECISION=precision_of(chain.matrices),
        ROWS=tiles.rows,
        num_warps=tiles.warps,
    )
