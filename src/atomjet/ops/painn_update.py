# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""What happens within an atom between two messages of PaiNN, fused by rows: mixing, next context, readout, and the ways back.

N atoms, F channels. Mixing of layer l, then the context of layer l + 1, or after the last layer the readout:

    (V, U) = M μ,   n = sqrt(Σ_xyz V² + ε),   z = D1 [q; n],   (s, w, t) = D2 silu(z)
    q += s + w ⊙ Σ_xyz V ⊙ U,   μ += t ⊙ U                        (nothing reads μ after the last layer: no t there)
    y = C1 q,   c = C2 silu(y)                       |           h = R1 q,   energy = R2 silu(h)

Backwards, X̄ = dE/dX, in the opposite order:

    q̄ += C1ᵀ (silu'(y) ⊙ C2ᵀ c̄)                      |           q̄ = R1ᵀ (silu'(h) ⊙ R2ᵀ)
    s̄ = q̄,   w̄ = q̄ ⊙ Σ_xyz V ⊙ U,   t̄ = Σ_xyz μ̄ ⊙ U,   z̄ = silu'(z) ⊙ D2ᵀ [s̄; w̄; t̄],   [q̄'; n̄] = D1ᵀ z̄
    μ̄ += Mᵀ [q̄ ⊙ w ⊙ U + n̄ ⊙ V / n;   q̄ ⊙ w ⊙ V + t ⊙ μ̄],   q̄ += q̄'

Everything is a product with an F x F matrix or stays within a channel, so one program takes some rows through the whole chain. The
matrices lie one after the other (`Chain`).

Tensor cores multiply half-precision numbers and add in float32. Where that is not enough, a number is the sum of two of them,
x = x₁ + 2⁻¹¹ x₂ (`halves`), and a product three: x w = x₁ w₁ + 2⁻¹¹ (x₁ w₂ + x₂ w₁), which leaves out 2⁻²² x₂ w₂, the last digit
of float32. Matrices are split once, the other operand in the kernel. What is beyond 65504 becomes NaN, never another number.
Derivation: docs/concepts/analytic_forces.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import silu

from atomjet.ops.pdl import pdl_wait

ALIGNED = 32
"""Buffers have a multiple of so many rows; kernels that take so many need no masks."""


class Tiles(NamedTuple):
    """Rows taken together, and warps."""

    rows: int = 16
    warps: int = 8


LOWER = tl.constexpr(2048.0)
"""The lower half of a number is kept so many times larger: as large as the upper one, clear of the smallest numbers there are."""


class Chain(NamedTuple):
    """Matrices and biases of what stands between two messages.

    Attributes:
        matrices: (11, F, F), each (in, out): M_V, M_U, D1_q, D1_n, D2_s, D2_w, D2_t, C1, C2_a, C2_b, C2_g; after the last
            layer (7, F, F): the first six and R1, padded with zeros. For the kernels in half precision, or all in two halves
            (`halves`).
        transposed: the same, each transposed.
        biases: (8, F) float32: D1, D2_s, D2_w, D2_t, C1, C2_a, C2_b, C2_g; after the last layer (6, F): D1, D2_s, D2_w, R1, R2, and
            the bias of R2 in front of the last row.
        epsilon: under the root of the norm.
    """

    matrices: Tensor
    transposed: Tensor
    biases: Tensor
    epsilon: float

    @property
    def split(self) -> int:
        """How many matrices have their lower halves behind them: all or none."""
        return len(self.matrices) - (11 if len(self.biases) == 8 else 7)


def halves(matrices: Tensor) -> Tensor:
    """(n, F, F) to (2n, F, F) in half precision: matrices, and what rounding took from them, `LOWER` times."""
    high = matrices.half()
    return torch.cat([high, ((matrices - high.to(matrices.dtype)) * LOWER.value).half()])


class Saved(NamedTuple):
    """What the backward pass needs of a layer that is not the last: vu (N̂, 3, 2F); z, w, t and y (N̂, F)."""

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
def _matrix(matrices, number, F: tl.constexpr, SPLIT: tl.constexpr):
    """Matrix `number`, (in, out); where matrices are split, only its place: two halves ahead are more than registers hold."""
    if SPLIT:
        return matrices + number * F * F
    else:
        return _square(matrices + number * F * F, F)


@triton.jit
def _square(at, F: tl.constexpr):
    k = tl.arange(0, F)
    return tl.load(at + k[:, None] * F + k[None, :])


@triton.jit
def _product(x, w, SPLIT: tl.constexpr):
    """x w; where matrices are split, in a loop, which keeps the compiler from having more than a half at hand."""
    if SPLIT:
        F: tl.constexpr = x.shape[1]
        x_1, x_2 = _halves(x)
        high = tl.zeros(x.shape, tl.float32)
        low = high
        for half in tl.range(2, loop_unroll_factor=1):  # the lower half of w, then the upper one
            m = _square(w + (1 - half) * (SPLIT * F * F), F)
            low = tl.dot(x_2, m, high)
            high = tl.dot(x_1, m)
        return high + low * (1.0 / LOWER)
    else:
        return tl.dot(x.to(tl.float16), w)


@triton.jit
def _products(x, y, z, w, SPLIT: tl.constexpr):
    """x w, y w and z w."""
    if SPLIT:
        F: tl.constexpr = x.shape[1]
        x_1, x_2 = _halves(x)
        y_1, y_2 = _halves(y)
        z_1, z_2 = _halves(z)
        x_high = tl.zeros(x.shape, tl.float32)
        y_high, z_high, x_low, y_low, z_low = x_high, x_high, x_high, x_high, x_high
        for half in tl.range(2, loop_unroll_factor=1):
            m = _square(w + (1 - half) * (SPLIT * F * F), F)
            x_low = tl.dot(x_2, m, x_high)
            y_low = tl.dot(y_2, m, y_high)
            z_low = tl.dot(z_2, m, z_high)
            x_high = tl.dot(x_1, m)
            y_high = tl.dot(y_1, m)
            z_high = tl.dot(z_1, m)
        return x_high + x_low * (1.0 / LOWER), y_high + y_low * (1.0 / LOWER), z_high + z_low * (1.0 / LOWER)
    else:
        return _product(x, w, SPLIT), _product(y, w, SPLIT), _product(z, w, SPLIT)


@triton.jit
def _halves(x):
    high = x.to(tl.float16)
    return high, ((x - high.to(tl.float32)) * LOWER).to(tl.float16)


@triton.jit
def _narrow(pointer, here):
    return tl.load(pointer, here, 0.0).to(tl.float32)


@triton.jit
def _silu_slope(x):
    s = tl.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def _rows(num_atoms, F: tl.constexpr, ROWS: tl.constexpr):
    """Where a program's rows of (N, F) and of (N, 3, F) stand, and which of them are in use."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, F)
    here = (row < tl.load(num_atoms))[:, None]
    return row, channel, row[:, None] * F + channel[None, :], row[:, None] * (3 * F) + channel[None, :], here


@triton.jit
def _mixed(matrices, m_v, m_u, biases, epsilon, q, mu, at, at3, here, F: tl.constexpr, SPLIT: tl.constexpr):
    """Mixing up to D1: q, V, U, n, Σ V U and z of some rows; each matrix is fetched a product before it is needed."""
    x = tl.load(mu + at3, here, 0.0)
    y = tl.load(mu + at3 + F, here, 0.0)
    z = tl.load(mu + at3 + 2 * F, here, 0.0)
    q_ = tl.load(q + at, here, 0.0)
    v_x, v_y, v_z = _products(x, y, z, m_v, SPLIT)
    d1_q = _matrix(matrices, 2, F, SPLIT)
    u_x, u_y, u_z = _products(x, y, z, m_u, SPLIT)
    d1_n = _matrix(matrices, 3, F, SPLIT)
    n = tl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    pre = _product(q_, d1_q, SPLIT) + _product(n, d1_n, SPLIT) + tl.load(biases + tl.arange(0, F))[None, :]
    return q_, v_x, v_y, v_z, u_x, u_y, u_z, n, dot, pre


@triton.jit(do_not_specialize=["num_atoms"])
def painn_update_fwd_kernel(
    num_atoms,
    matrices,
    biases,
    epsilon,
    q,
    mu,
    vu,
    z_saved,
    w_saved,
    t_saved,
    y_saved,
    context,
    mu_sent,
    F: tl.constexpr,
    SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Mixing of a layer and the context of the next one; q and μ in place, μ once more narrow for the next message."""
    m_v = _matrix(matrices, 0, F, SPLIT)
    m_u = _matrix(matrices, 1, F, SPLIT)
    pdl_wait(PDL)
    row, channel, at, at3, here = _rows(num_atoms, F, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= tl.load(num_atoms):
        return
    at6 = row[:, None] * (6 * F) + channel[None, :]
    q_, v_x, v_y, v_z, u_x, u_y, u_z, _, dot, pre = _mixed(
        matrices, m_v, m_u, biases, epsilon, q, mu, at, at3, here, F, SPLIT
    )
    d2_w = _matrix(matrices, 5, F, SPLIT)
    tl.store(vu + at6, v_x, here)
    tl.store(vu + at6 + F, u_x, here)
    tl.store(vu + at6 + 2 * F, v_y, here)
    tl.store(vu + at6 + 3 * F, u_y, here)
    tl.store(vu + at6 + 4 * F, v_z, here)
    tl.store(vu + at6 + 5 * F, u_z, here)
    d2_s = _matrix(matrices, 4, F, SPLIT)
    tl.store(z_saved + at, pre, here)
    a = pre * tl.sigmoid(pre)
    w = _product(a, d2_w, SPLIT) + tl.load(biases + 2 * F + channel)[None, :]
    d2_t = _matrix(matrices, 6, F, SPLIT)
    tl.store(w_saved + at, w, here)
    q_ += w * dot + tl.load(biases + F + channel)[None, :]
    q_ += _product(a, d2_s, SPLIT)
    c1 = _matrix(matrices, 7, F, SPLIT)
    tl.store(q + at, q_, here)
    t = _product(a, d2_t, SPLIT) + tl.load(biases + 3 * F + channel)[None, :]
    tl.store(t_saved + at, t, here)
    c2_a = _matrix(matrices, 8, F, SPLIT)
    pre = _product(q_, c1, SPLIT) + tl.load(biases + 4 * F + channel)[None, :]
    tl.store(y_saved + at, pre, here)
    h = pre * tl.sigmoid(pre)
    c2_b = _matrix(matrices, 9, F, SPLIT)
    tl.store(context + at3, _product(h, c2_a, SPLIT) + tl.load(biases + 5 * F + channel)[None, :], here)
    x = tl.load(mu + at3, here, 0.0) + t * u_x
    y = tl.load(mu + at3 + F, here, 0.0) + t * u_y
    z = tl.load(mu + at3 + 2 * F, here, 0.0) + t * u_z
    c2_g = _matrix(matrices, 10, F, SPLIT)
    tl.store(context + at3 + F, _product(h, c2_b, SPLIT) + tl.load(biases + 6 * F + channel)[None, :], here)
    tl.store(mu + at3, x, here)
    tl.store(mu + at3 + F, y, here)
    tl.store(mu + at3 + 2 * F, z, here)
    tl.store(mu_sent + at3, x, here)
    tl.store(mu_sent + at3 + F, y, here)
    tl.store(mu_sent + at3 + 2 * F, z, here)
    tl.store(context + at3 + 2 * F, _product(h, c2_g, SPLIT) + tl.load(biases + 7 * F + channel)[None, :], here)


@triton.jit(do_not_specialize=["num_atoms"])
def painn_update_last_kernel(
    num_atoms,
    matrices,
    transposed,
    biases,
    epsilon,
    q,
    mu,
    energies,
    q_bar,
    mu_bar,
    seed,
    F: tl.constexpr,
    SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Mixing of the last layer, readout, backward through both: q̄ takes q's place, μ̄ that of μ, both once more in storage type."""
    m_v = _matrix(matrices, 0, F, SPLIT)
    m_u = _matrix(matrices, 1, F, SPLIT)
    pdl_wait(PDL)
    row, channel, at, at3, here = _rows(num_atoms, F, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= tl.load(num_atoms):
        return
    q_, v_x, v_y, v_z, u_x, u_y, u_z, n, dot, pre = _mixed(
        matrices, m_v, m_u, biases, epsilon, q, mu, at, at3, here, F, SPLIT
    )
    d2_w = _matrix(matrices, 5, F, SPLIT)
    a = pre * tl.sigmoid(pre)
    d2_s = _matrix(matrices, 4, F, SPLIT)
    w = _product(a, d2_w, SPLIT) + tl.load(biases + 2 * F + channel)[None, :]
    r1 = _matrix(matrices, 6, F, SPLIT)
    q_ += w * dot + tl.load(biases + F + channel)[None, :]
    q_ += _product(a, d2_s, SPLIT)
    r1_t = _matrix(transposed, 6, F, SPLIT)
    h = _product(q_, r1, SPLIT) + tl.load(biases + 3 * F + channel)[None, :]
    r2 = tl.load(biases + 4 * F + channel)[None, :]
    energy = tl.sum(h * tl.sigmoid(h) * r2, 1) + tl.load(biases + 5 * F)

    d2_s_t = _matrix(transposed, 4, F, SPLIT)
    h_bar = _silu_slope(h) * r2 * seed
    d_q = _product(h_bar, r1_t, SPLIT)
    if not SPLIT:
        # All else follows from this product: what rounding took from its operand goes in too.
        d_q += _product(h_bar - h_bar.to(tl.float16).to(tl.float32), r1_t, SPLIT)
    d2_w_t = _matrix(transposed, 5, F, SPLIT)
    z_bar = _product(d_q, d2_s_t, SPLIT)
    d1_n_t = _matrix(transposed, 3, F, SPLIT)
    z_bar += _product(d_q * dot, d2_w_t, SPLIT)
    z_bar *= _silu_slope(pre)
    d1_q_t = _matrix(transposed, 2, F, SPLIT)
    n_bar = _product(z_bar, d1_n_t, SPLIT) / n
    m_v_t = _matrix(transposed, 0, F, SPLIT)
    w *= d_q
    d_q += _product(z_bar, d1_q_t, SPLIT)
    m_u_t = _matrix(transposed, 1, F, SPLIT)
    x, y, z = _products(w * u_x + n_bar * v_x, w * u_y + n_bar * v_y, w * u_z + n_bar * v_z, m_v_t, SPLIT)
    x_u, y_u, z_u = _products(w * v_x, w * v_y, w * v_z, m_u_t, SPLIT)
    x += x_u
    y += y_u
    z += z_u
    tl.store(energies + row, energy, row < tl.load(num_atoms))
    tl.store(q + at, d_q, here)
    tl.store(q_bar + at, d_q, here)
    tl.store(mu + at3, x, here)
    tl.store(mu + at3 + F, y, here)
    tl.store(mu + at3 + 2 * F, z, here)
    tl.store(mu_bar + at3, x, here)
    tl.store(mu_bar + at3 + F, y, here)
    tl.store(mu_bar + at3 + 2 * F, z, here)


@triton.jit(do_not_specialize=["num_atoms"])
def painn_update_bwd_kernel(
    num_atoms,
    transposed,
    epsilon,
    q,
    mu,
    vu,
    z_saved,
    w_saved,
    t_saved,
    y_saved,
    context_bar,
    q_bar,
    mu_bar,
    F: tl.constexpr,
    SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Back through the context of the next layer and the mixing of this one; q holds q̄ and μ holds μ̄, both in place and once more
    narrow.
    """
    c2_a = _matrix(transposed, 8, F, SPLIT)
    c2_b = _matrix(transposed, 9, F, SPLIT)
    pdl_wait(PDL)
    row, channel, at, at3, here = _rows(num_atoms, F, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS >= tl.load(num_atoms):
        return
    c_a = tl.load(context_bar + at3, here, 0.0)
    c_b = tl.load(context_bar + at3 + F, here, 0.0)
    c_g = tl.load(context_bar + at3 + 2 * F, here, 0.0)
    d_q = tl.load(q + at, here, 0.0)
    y_bar = _product(c_a, c2_a, SPLIT)
    c2_g = _matrix(transposed, 10, F, SPLIT)
    y_bar += _product(c_b, c2_b, SPLIT)
    c1 = _matrix(transposed, 7, F, SPLIT)
    y_bar += _product(c_g, c2_g, SPLIT)
    # V, U and μ̄ are read twice: to hold nine arrays through the products between would take more registers than there are.
    kept = vu + row[:, None] * (6 * F) + channel[None, :]
    square = tl.full((ROWS, F), 0.0, tl.float32) + epsilon
    dot = tl.zeros((ROWS, F), tl.float32)
    t_bar = tl.zeros((ROWS, F), tl.float32)
    for axis in tl.static_range(3):
        v = _narrow(kept + 2 * axis * F, here)
        u = _narrow(kept + (2 * axis + 1) * F, here)
        square += v * v
        dot += v * u
        t_bar += tl.load(mu + at3 + axis * F, here, 0.0) * u
    d2_t = _matrix(transposed, 6, F, SPLIT)
    y_bar *= _silu_slope(_narrow(y_saved + at, here))
    d_q += _product(y_bar, c1, SPLIT)
    d2_s = _matrix(transposed, 4, F, SPLIT)
    z_bar = _product(t_bar, d2_t, SPLIT)
    d2_w = _matrix(transposed, 5, F, SPLIT)
    z_bar += _product(d_q, d2_s, SPLIT)
    d1_n = _matrix(transposed, 3, F, SPLIT)
    z_bar += _product(d_q * dot, d2_w, SPLIT)
    z_bar *= _silu_slope(_narrow(z_saved + at, here))
    d1_q = _matrix(transposed, 2, F, SPLIT)
    n_bar = _product(z_bar, d1_n, SPLIT) / tl.sqrt(square)
    m_v = _matrix(transposed, 0, F, SPLIT)
    w = d_q * _narrow(w_saved + at, here)
    t = _narrow(t_saved + at, here)
    d_q += _product(z_bar, d1_q, SPLIT)
    m_u = _matrix(transposed, 1, F, SPLIT)
    tl.store(q + at, d_q, here)
    tl.store(q_bar + at, d_q, here)
    for axis in tl.static_range(3):
        v = _narrow(kept + 2 * axis * F, here)
        u = _narrow(kept + (2 * axis + 1) * F, here)
        x = tl.load(mu + at3 + axis * F, here, 0.0)
        through = _product(w * u + n_bar * v, m_v, SPLIT)
        x += through + _product(w * v + t * x, m_u, SPLIT)
        tl.store(mu + at3 + axis * F, x, here)
        tl.store(mu_bar + at3 + axis * F, x, here)


# ------------------------------------------------------------------------------------------------------------------- launch


def launch_fwd(
    num_atoms: Tensor,
    chain: Chain,
    q: Tensor,
    mu: Tensor,
    saved: Saved,
    context: Tensor,
    mu_sent: Tensor,
    tiles: Tiles,
    pdl: bool,
) -> None:
    """Enqueue: q (N̂, F), μ (N̂, 3, F) in place; fills `saved`, context (N̂, 3F) and mu_sent (N̂, 3, F)."""
    painn_update_fwd_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms=num_atoms,
        matrices=chain.matrices,
        biases=chain.biases,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        vu=saved.vu,
        z_saved=saved.z,
        w_saved=saved.w,
        t_saved=saved.t,
        y_saved=saved.y,
        context=context,
        mu_sent=mu_sent,
        **_options(chain, tiles, pdl),
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
    pdl: bool,
) -> None:
    """Enqueue: energies (N̂,), and dE/dq, dE/dμ before the last mixing, times `seed`, into q, μ and q_bar, mu_bar."""
    painn_update_last_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms=num_atoms,
        matrices=chain.matrices,
        transposed=chain.transposed,
        biases=chain.biases,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        energies=energies,
        q_bar=q_bar,
        mu_bar=mu_bar,
        seed=seed,
        **_options(chain, tiles, pdl),
    )


def launch_bwd(
    num_atoms: Tensor,
    chain: Chain,
    q: Tensor,
    mu: Tensor,
    saved: Saved,
    context_bar: Tensor,
    q_bar: Tensor,
    mu_bar: Tensor,
    tiles: Tiles,
    pdl: bool,
) -> None:
    """Enqueue: q and μ hold dE/dq and dE/dμ after the layer, and shall hold those before its mixing; also into q_bar, mu_bar."""
    painn_update_bwd_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms=num_atoms,
        transposed=chain.transposed,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        vu=saved.vu,
        z_saved=saved.z,
        w_saved=saved.w,
        t_saved=saved.t,
        y_saved=saved.y,
        context_bar=context_bar,
        q_bar=q_bar,
        mu_bar=mu_bar,
        **_options(chain, tiles, pdl),
    )


def _options(chain: Chain, tiles: Tiles, pdl: bool) -> dict[str, Any]:
    """What the three kernels are compiled for, and how they are launched."""
    return {
        "F": chain.matrices.shape[1],
        "SPLIT": chain.split,
        "PDL": pdl,
        "ROWS": tiles.rows,
        "num_warps": tiles.warps,
        "launch_pdl": pdl,
    }
