# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""The kernels of `painn_update.py` for Hopper GPUs in half precision, written in Gluon, where Triton lets one place data by hand.

A program takes some rows through a chain of 7 to 14 products with F x F matrices, each of which needs the one before. What takes
time then is to bring matrices to the tensor cores, so here

- arrays lie across: channels are the rows of a tile and atoms its columns, X^T = W^T Y^T, so that matrices are the left operand of
  wgmma, whose 64 rows are always full, and the number of atoms can be as small as 16;
- matrices stream from global memory into a ring of `SLOTS` buffers in shared memory, past the registers, in the order in which they
  are used; the first ones arrive while the kernel before still runs;
- what follows from a product stays in the registers it was left in; only operands of the next product go to shared memory, narrow.

Numbers and rounding are those of `painn_update.py`; sums within a product run in another order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from atomjet.ops import painn_update
from atomjet.ops.painn_update import Kept, Tiles

ALIGNED = 32
"""Buffers have a multiple of so many rows: no access is masked, and what stands in rows that are not in use stays in them."""

CHANNELS = (64, 128)
"""Numbers of channels served: wgmma has 64 rows, and five matrices for more would not fit."""


class Chain(NamedTuple):
    """The matrices of `painn_update.Chain` in the order in which they are used, (n, F, F), each as the left operand.

    Attributes:
        there: of `launch_fwd`; after the last layer, of `launch_last`, the way back included.
        back: of `launch_bwd`; nothing after the last layer.
        biases, epsilon: as there.
    """

    there: Tensor
    back: Tensor
    biases: Tensor
    epsilon: float

    @classmethod
    def of(cls, chain: painn_update.Chain) -> Chain:
        """Put matrices in order."""
        m, m_t = chain.matrices, chain.transposed
        if len(m) == 11:
            return cls(m_t, m[[8, 9, 10, 7, 6, 4, 5, 3, 2, 0, 1]], chain.biases, chain.epsilon)
        return cls(torch.cat([m_t, m[[6, 4, 5, 3, 2, 0, 1]]]), m[:0], chain.biases, chain.epsilon)


def serves(device: torch.device, narrow: torch.dtype, channels: int) -> bool:
    """Whether the kernels run there, with such numbers and so many channels."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    return hopper and narrow == torch.float16 and channels in CHANNELS


# ------------------------------------------------------------------------------------------------------------------ kernels


@gluon.constexpr_function
def _tile(F, ROWS):
    """How a tile (channels, rows) lies in registers: as wgmma leaves it, 16 channels a warp."""
    return gl.NVMMADistributedLayout([3, 0], [F // 16, 1], [16, ROWS, 16])


@gluon.constexpr_function
def _shared():
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@gluon.jit
def _room(HEIGHT: gl.constexpr, WIDTH: gl.constexpr):
    return gl.allocate_shared_memory(gl.float16, [HEIGHT, WIDTH], _shared())


@gluon.jit
def _three(HEIGHT: gl.constexpr, WIDTH: gl.constexpr):
    """Buffers, each by itself: the compiler puts a barrier between accesses to what it takes for the same one."""
    return _room(HEIGHT, WIDTH), _room(HEIGHT, WIDTH), _room(HEIGHT, WIDTH)


@gluon.jit
def _fetch(ring, weights, NUMBER: gl.constexpr, F: gl.constexpr):
    """Start to copy a matrix into its slot."""
    SPREAD: gl.constexpr = gl.BlockedLayout([1, 8], [256 // F, F // 8], [F // 16, 1], [1, 0])
    k = gl.arange(0, F, gl.SliceLayout(1, SPREAD))
    m = gl.arange(0, F, gl.SliceLayout(0, SPREAD))
    async_copy.async_copy_global_to_shared(
        ring[NUMBER % len(ring)], weights + NUMBER * F * F + k[:, None] * F + m[None, :]
    )
    async_copy.commit_group()


@gluon.jit
def _begin(weights, F: gl.constexpr, ROWS: gl.constexpr):
    """The ring, with the first matrices on their way: six slots, or five where operands take more room."""
    ring = _three(F, F) + (_room(F, F), _room(F, F))
    if ROWS == 16:
        ring = ring + (_room(F, F),)
    for number in gl.static_range(len(ring)):
        _fetch(ring, weights, number, F)
    return ring


@gluon.constexpr_function
def _outstanding(slots, first, count, total):
    return min(total, slots + first) - first - count


@gluon.constexpr_function
def _most(slots, first, total):
    return min(first + slots, total)


@gluon.jit
def _ready(ring, FIRST: gl.constexpr, COUNT: gl.constexpr, TOTAL: gl.constexpr):
    """Wait for COUNT matrices from FIRST on, and for the operands that were stored."""
    async_copy.wait_group(_outstanding(len(ring), FIRST, COUNT, TOTAL))
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def _release(ring, weights, FIRST: gl.constexpr, COUNT: gl.constexpr, TOTAL: gl.constexpr, F: gl.constexpr):
    """COUNT matrices from FIRST on were used by this thread's warps: once all are done with them, the next ones take their slots."""
    if FIRST + len(ring) < TOTAL:
        gl.thread_barrier()
        for number in gl.static_range(FIRST + len(ring), _most(len(ring), FIRST + COUNT, TOTAL)):
            _fetch(ring, weights, number, F)


@gluon.jit
def _put(operands, AT: gl.constexpr, x):
    """An operand for the next product."""
    operands[AT].permute((1, 0)).store(x.to(gl.float16))


@gluon.jit
def _product(ring, NUMBER: gl.constexpr, operands, AT: gl.constexpr, into, ADD: gl.constexpr):
    """Start matrix NUMBER times an operand."""
    return warpgroup_mma(
        ring[NUMBER % len(ring)], operands[AT].permute((1, 0)), into, use_acc=ADD, is_async=True
    )


@gluon.jit
def _sigmoid(x):
    return 1.0 / (1.0 + gl.exp(-x))


@gluon.jit
def _silu_slope(x):
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@gluon.jit
def _bias(biases, NUMBER: gl.constexpr, F: gl.constexpr, ROWS: gl.constexpr):
    channel = gl.arange(0, F, gl.SliceLayout(1, _tile(F, ROWS)))
    return gl.load(biases + NUMBER * F + channel)[:, None]


@gluon.jit
def _rows(F: gl.constexpr, ROWS: gl.constexpr):
    """First row; where the program's rows of (N, F), of (N, 3, F) and of (N, 6, F) stand from there."""
    first = gl.program_id(0).to(gl.int64) * ROWS
    channel = gl.arange(0, F, gl.SliceLayout(1, _tile(F, ROWS)))[:, None]
    row = gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F, ROWS)))[None, :]
    return first, row * F + channel, row * (3 * F) + channel, row * (6 * F) + channel


@gluon.jit
def _narrow(pointer):
    return gl.load(pointer).to(gl.float32)


@gluon.jit
def _mixed(ring, weights, bias, epsilon, x, y, z, q, first, second, TOTAL: gl.constexpr, F: gl.constexpr, ROWS: gl.constexpr):
    """Mixing up to D1: V, U, n, Σ V U and z."""
    _put(first, 0, x)
    _put(first, 1, y)
    _put(first, 2, z)
    _put(second, 0, q)
    _ready(ring, 0, 3, TOTAL)
    none = gl.zeros([F, ROWS], gl.float32, _tile(F, ROWS))
    v_x = _product(ring, 0, first, 0, none, False)
    v_y = _product(ring, 0, first, 1, none, False)
    v_z = _product(ring, 0, first, 2, none, False)
    u_x = _product(ring, 1, first, 0, none, False)
    u_y = _product(ring, 1, first, 1, none, False)
    u_z = _product(ring, 1, first, 2, none, False)
    pre = _product(ring, 2, second, 0, none, False)
    v_x, v_y, v_z, u_x, u_y, u_z, pre = warpgroup_mma_wait(0, deps=(v_x, v_y, v_z, u_x, u_y, u_z, pre))
    _release(ring, weights, 0, 3, TOTAL, F)
    n = gl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    _put(second, 1, n)
    _ready(ring, 3, 1, TOTAL)
    pre = _product(ring, 3, second, 1, pre, True)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    pre = warpgroup_mma_wait(0, deps=(pre,))
    _release(ring, weights, 3, 1, TOTAL, F)
    return v_x, v_y, v_z, u_x, u_y, u_z, n, dot, pre + bias


@gluon.jit(do_not_specialize=["num_atoms"])
def painn_update_fwd_hopper_kernel(
    num_atoms,
    weights,
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
    F: gl.constexpr,
    CHAINED: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_fwd_kernel`."""
    ring = _begin(weights, F, ROWS)
    first = _three(ROWS, F)
    second = _three(ROWS, F)
    d1 = _bias(biases, 0, F, ROWS)
    d2_s = _bias(biases, 1, F, ROWS)
    d2_w = _bias(biases, 2, F, ROWS)
    d2_t = _bias(biases, 3, F, ROWS)
    row, at, at3, at6 = _rows(F, ROWS)
    q += row * F
    mu += row * (3 * F)
    vu += row * (6 * F)
    context += row * (3 * F)
    mu_sent += row * (3 * F)
    z_kept += row * F
    w_kept += row * F
    t_kept += row * F
    y_kept += row * F
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    x = gl.load(mu + at3)
    y = gl.load(mu + at3 + F)
    z = gl.load(mu + at3 + 2 * F)
    q_ = gl.load(q + at)
    if row >= count:
        return
    v_x, v_y, v_z, u_x, u_y, u_z, _, dot, pre = _mixed(
        ring, weights, d1, epsilon, x, y, z, q_, first, second, 11, F, ROWS
    )
    _put(first, 0, pre * _sigmoid(pre))
    _ready(ring, 4, 3, 11)
    none = gl.zeros([F, ROWS], gl.float32, _tile(F, ROWS))
    s = _product(ring, 4, first, 0, none, False)
    w = _product(ring, 5, first, 0, none, False)
    t = _product(ring, 6, first, 0, none, False)
    # Memory takes what is finished while the tensor cores work.
    gl.store(vu + at6, v_x)
    gl.store(vu + at6 + F, u_x)
    gl.store(vu + at6 + 2 * F, v_y)
    gl.store(vu + at6 + 3 * F, u_y)
    gl.store(vu + at6 + 4 * F, v_z)
    gl.store(vu + at6 + 5 * F, u_z)
    gl.store(z_kept + at, pre)
    s, w, t = warpgroup_mma_wait(0, deps=(s, w, t))
    _release(ring, weights, 4, 3, 11, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _put(second, 0, q_)
    _ready(ring, 7, 1, 11)
    pre = _product(ring, 7, second, 0, none, False)
    t += d2_t
    c1 = _bias(biases, 4, F, ROWS)
    c2_a = _bias(biases, 5, F, ROWS)
    c2_b = _bias(biases, 6, F, ROWS)
    c2_g = _bias(biases, 7, F, ROWS)
    gl.store(w_kept + at, w)
    gl.store(t_kept + at, t)
    gl.store(q + at, q_)
    pre = warpgroup_mma_wait(0, deps=(pre,))
    pre += c1
    _put(first, 1, pre * _sigmoid(pre))
    _ready(ring, 8, 3, 11)
    a = _product(ring, 8, first, 1, none, False)
    b = _product(ring, 9, first, 1, none, False)
    g = _product(ring, 10, first, 1, none, False)
    gl.store(y_kept + at, pre)
    x += t * u_x
    y += t * u_y
    z += t * u_z
    gl.store(mu + at3, x)
    gl.store(mu + at3 + F, y)
    gl.store(mu + at3 + 2 * F, z)
    gl.store(mu_sent + at3, x)
    gl.store(mu_sent + at3 + F, y)
    gl.store(mu_sent + at3 + 2 * F, z)
    a, b, g = warpgroup_mma_wait(0, deps=(a, b, g))
    gl.store(context + at3, a + c2_a)
    gl.store(context + at3 + F, b + c2_b)
    gl.store(context + at3 + 2 * F, g + c2_g)


@gluon.jit(do_not_specialize=["num_atoms"])
def painn_update_last_hopper_kernel(
    num_atoms,
    weights,
    biases,
    epsilon,
    q,
    mu,
    energies,
    q_bar,
    mu_bar,
    seed,
    F: gl.constexpr,
    CHAINED: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_last_kernel`."""
    ring = _begin(weights, F, ROWS)
    first = _three(ROWS, F)
    second = _three(ROWS, F)
    d1 = _bias(biases, 0, F, ROWS)
    d2_s = _bias(biases, 1, F, ROWS)
    d2_w = _bias(biases, 2, F, ROWS)
    row, at, at3, _ = _rows(F, ROWS)
    q += row * F
    mu += row * (3 * F)
    q_bar += row * F
    mu_bar += row * (3 * F)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    x = gl.load(mu + at3)
    y = gl.load(mu + at3 + F)
    z = gl.load(mu + at3 + 2 * F)
    q_ = gl.load(q + at)
    if row >= count:
        return
    v_x, v_y, v_z, u_x, u_y, u_z, n, dot, pre = _mixed(
        ring, weights, d1, epsilon, x, y, z, q_, first, second, 14, F, ROWS
    )
    _put(first, 0, pre * _sigmoid(pre))
    _ready(ring, 4, 2, 14)
    none = gl.zeros([F, ROWS], gl.float32, _tile(F, ROWS))
    s = _product(ring, 4, first, 0, none, False)
    w = _product(ring, 5, first, 0, none, False)
    r1 = _bias(biases, 3, F, ROWS)
    r2 = _bias(biases, 4, F, ROWS)
    slope = _silu_slope(pre)
    s, w = warpgroup_mma_wait(0, deps=(s, w))
    _release(ring, weights, 4, 2, 14, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _put(second, 0, q_)
    _ready(ring, 6, 1, 14)
    h = _product(ring, 6, second, 0, none, False)
    h = warpgroup_mma_wait(0, deps=(h,))
    _release(ring, weights, 6, 1, 14, F)
    h += r1
    h_bar = _silu_slope(h) * r2 * seed
    _put(first, 1, h_bar)
    # All else follows from this product: what rounding took from its operand goes in too.
    _put(first, 2, h_bar - h_bar.to(gl.float16).to(gl.float32))
    _ready(ring, 7, 1, 14)
    d_q = _product(ring, 7, first, 1, none, False)
    d_q = _product(ring, 7, first, 2, d_q, True)
    energy = h * _sigmoid(h) * r2
    d_q = warpgroup_mma_wait(0, deps=(d_q,))
    _release(ring, weights, 7, 1, 14, F)
    _put(second, 0, d_q)
    _put(second, 1, d_q * dot)
    _ready(ring, 8, 2, 14)
    z_bar = _product(ring, 8, second, 0, none, False)
    z_bar = _product(ring, 9, second, 1, z_bar, True)
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _release(ring, weights, 8, 2, 14, F)
    _put(first, 0, z_bar * slope)
    _ready(ring, 10, 2, 14)
    n_bar = _product(ring, 10, first, 0, none, False)
    d_q = _product(ring, 11, first, 0, d_q, True)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    n_bar /= n
    _put(second, 0, w * u_x + n_bar * v_x)
    _put(second, 1, w * u_y + n_bar * v_y)
    _put(second, 2, w * u_z + n_bar * v_z)
    _ready(ring, 12, 1, 14)
    x = _product(ring, 12, second, 0, none, False)
    y = _product(ring, 12, second, 1, none, False)
    z = _product(ring, 12, second, 2, none, False)
    gl.store(q + at, d_q)
    gl.store(q_bar + at, d_q)
    x, y, z = warpgroup_mma_wait(0, deps=(x, y, z))
    _put(first, 0, w * v_x)
    _put(first, 1, w * v_y)
    _put(first, 2, w * v_z)
    _ready(ring, 13, 1, 14)
    x = _product(ring, 13, first, 0, x, True)
    y = _product(ring, 13, first, 1, y, True)
    z = _product(ring, 13, first, 2, z, True)
    column = row + gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F, ROWS)))
    gl.store(energies + column, gl.sum(energy, 0) + gl.load(biases + 5 * F))
    x, y, z = warpgroup_mma_wait(0, deps=(x, y, z))
    gl.store(mu + at3, x)
    gl.store(mu + at3 + F, y)
    gl.store(mu + at3 + 2 * F, z)
    gl.store(mu_bar + at3, x)
    gl.store(mu_bar + at3 + F, y)
    gl.store(mu_bar + at3 + 2 * F, z)


@gluon.jit(do_not_specialize=["num_atoms"])
def painn_update_bwd_hopper_kernel(
    num_atoms,
    weights,
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
    F: gl.constexpr,
    CHAINED: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_bwd_kernel`."""
    ring = _begin(weights, F, ROWS)
    first = _three(ROWS, F)
    second = _three(ROWS, F)
    row, at, at3, at6 = _rows(F, ROWS)
    q += row * F
    mu += row * (3 * F)
    q_bar += row * F
    mu_bar += row * (3 * F)
    context_bar += row * (3 * F)
    z_kept += row * F
    w_kept += row * F
    t_kept += row * F
    y_kept += row * F
    vu += row * (6 * F)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    c_a = _narrow(context_bar + at3)
    c_b = _narrow(context_bar + at3 + F)
    c_g = _narrow(context_bar + at3 + 2 * F)
    d_q = gl.load(q + at)
    pre = _narrow(y_kept + at)
    if row >= count:
        return
    _put(first, 0, c_a)
    _put(first, 1, c_b)
    _put(first, 2, c_g)
    _ready(ring, 0, 3, 11)
    none = gl.zeros([F, ROWS], gl.float32, _tile(F, ROWS))
    y_bar = _product(ring, 0, first, 0, none, False)
    y_bar = _product(ring, 1, first, 1, y_bar, True)
    y_bar = _product(ring, 2, first, 2, y_bar, True)
    slope = _silu_slope(pre)
    square = none + epsilon
    dot = none
    t_bar = none
    for axis in gl.static_range(3):
        v = _narrow(vu + at6 + 2 * axis * F)
        u = _narrow(vu + at6 + (2 * axis + 1) * F)
        square += v * v
        dot += v * u
        t_bar += gl.load(mu + at3 + axis * F) * u
    _put(second, 1, t_bar)
    y_bar = warpgroup_mma_wait(0, deps=(y_bar,))
    _release(ring, weights, 0, 3, 11, F)
    _put(second, 0, y_bar * slope)
    _ready(ring, 3, 2, 11)
    d_q = _product(ring, 3, second, 0, d_q, True)
    z_bar = _product(ring, 4, second, 1, none, False)
    pre = _narrow(z_kept + at)
    w = _narrow(w_kept + at)
    t = _narrow(t_kept + at)
    d_q, z_bar = warpgroup_mma_wait(0, deps=(d_q, z_bar))
    _release(ring, weights, 3, 2, 11, F)
    _put(first, 0, d_q)
    _put(first, 1, d_q * dot)
    _ready(ring, 5, 2, 11)
    z_bar = _product(ring, 5, first, 0, z_bar, True)
    z_bar = _product(ring, 6, first, 1, z_bar, True)
    slope = _silu_slope(pre)
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _release(ring, weights, 5, 2, 11, F)
    _put(second, 0, z_bar * slope)
    _ready(ring, 7, 2, 11)
    n_bar = _product(ring, 7, second, 0, none, False)
    d_q = _product(ring, 8, second, 0, d_q, True)
    # V, U and μ̄ are read twice: to hold nine arrays through the products between would take more registers than there are.
    v_x = _narrow(vu + at6)
    u_x = _narrow(vu + at6 + F)
    v_y = _narrow(vu + at6 + 2 * F)
    u_y = _narrow(vu + at6 + 3 * F)
    v_z = _narrow(vu + at6 + 4 * F)
    u_z = _narrow(vu + at6 + 5 * F)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    n_bar *= gl.rsqrt(square)
    _put(first, 0, w * u_x + n_bar * v_x)
    _put(first, 1, w * u_y + n_bar * v_y)
    _put(first, 2, w * u_z + n_bar * v_z)
    _ready(ring, 9, 1, 11)
    x = _product(ring, 9, first, 0, none, False)
    y = _product(ring, 9, first, 1, none, False)
    z = _product(ring, 9, first, 2, none, False)
    b_x = gl.load(mu + at3)
    b_y = gl.load(mu + at3 + F)
    b_z = gl.load(mu + at3 + 2 * F)
    gl.store(q + at, d_q)
    gl.store(q_bar + at, d_q)
    x, y, z = warpgroup_mma_wait(0, deps=(x, y, z))
    _put(second, 0, w * v_x + t * b_x)
    _put(second, 1, w * v_y + t * b_y)
    _put(second, 2, w * v_z + t * b_z)
    _ready(ring, 10, 1, 11)
    x = _product(ring, 10, second, 0, x, True)
    y = _product(ring, 10, second, 1, y, True)
    z = _product(ring, 10, second, 2, z, True)
    x, y, z = warpgroup_mma_wait(0, deps=(x, y, z))
    x += b_x
    y += b_y
    z += b_z
    gl.store(mu + at3, x)
    gl.store(mu + at3 + F, y)
    gl.store(mu + at3 + 2 * F, z)
    gl.store(mu_bar + at3, x)
    gl.store(mu_bar + at3 + F, y)
    gl.store(mu_bar + at3 + 2 * F, z)


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
    chained: bool,
) -> None:
    """Enqueue what `painn_update.launch_fwd` does."""
    painn_update_fwd_hopper_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.there,
        chain.biases,
        chain.epsilon,
        q,
        mu,
        *kept,
        context,
        mu_sent,
        **_options(q.shape[1], tiles, chained),
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
    chained: bool,
) -> None:
    """Enqueue what `painn_update.launch_last` does."""
    painn_update_last_hopper_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.there,
        chain.biases,
        chain.epsilon,
        q,
        mu,
        energies,
        q_bar,
        mu_bar,
        seed,
        **_options(q.shape[1], tiles, chained),
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
    chained: bool,
) -> None:
    """Enqueue what `painn_update.launch_bwd` does."""
    painn_update_bwd_hopper_kernel[(triton.cdiv(q.shape[0], tiles.rows),)](
        num_atoms,
        chain.back,
        chain.epsilon,
        q,
        mu,
        *kept,
        context_bar,
        q_bar,
        mu_bar,
        **_options(q.shape[1], tiles, chained),
    )


def _options(channels: int, tiles: Tiles, chained: bool) -> dict[str, Any]:
    """What the kernels are compiled for, and how they are launched; how many warps there are follows from the channels."""
    return {
        "F": channels,
        "CHAINED": chained,
        "ROWS": tiles.rows,
        "num_warps": channels // 16,
        "launch_pdl": chained,
    }
