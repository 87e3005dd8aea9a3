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
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from atomjet.ops import painn_update
from atomjet.ops.painn_update import Kept, Tiles

ROWS = gl.constexpr(painn_update.ALIGNED)
"""Atoms a program; more would take more registers than there are. Buffers have whole tiles of them: no access is masked, and what
stands in rows that are not in use stays in them.
"""
SLOTS = gl.constexpr(6)
"""Matrices in shared memory at a time: with 128 channels 192 KiB of 227."""

CHANNELS = (128,)
"""Numbers of channels served. More would not fit; 64 compile, but were not yet measured."""


class Chain(NamedTuple):
    """The matrices of `painn_update.Chain` in the order in which they are used, (n F, F), each as the left operand.

    Attributes:
        there: of `launch_fwd`; after the last layer, of `launch_last`, the way back included.
        back: of `launch_bwd`; nothing after the last layer.
        biases, epsilon: as there.
    """

    there: TensorDescriptor
    back: TensorDescriptor | None
    biases: Tensor
    epsilon: float

    @classmethod
    def of(cls, chain: painn_update.Chain) -> Chain:
        """Put matrices in order."""
        m, m_t = chain.matrices, chain.transposed
        if len(m) == 11:
            back = _described(m[[8, 9, 10, 7, 6, 4, 5, 3, 2, 0, 1]])
            return cls(_described(m_t), back, chain.biases, chain.epsilon)
        return cls(_described(torch.cat([m_t, m[[6, 4, 5, 3, 2, 0, 1]]])), None, chain.biases, chain.epsilon)


def _described(matrices: Tensor) -> TensorDescriptor:
    """What the copy engine needs to know of (n, F, F) matrices that it brings one by one."""
    channels = matrices.shape[1]
    return TensorDescriptor.from_tensor(
        matrices.reshape(-1, channels).contiguous(), [channels, channels], gl.NVMMASharedLayout(128, 16, 2)
    )


def serves(narrow: torch.dtype, channels: int) -> bool:
    """Whether the kernels do such numbers and so many channels, on a GPU of compute capability 9.0."""
    return narrow == torch.float16 and channels in CHANNELS


# ------------------------------------------------------------------------------------------------------------------ kernels


@gluon.constexpr_function
def _tile(F, columns=ROWS):
    """How a tile (channels, atoms) lies in registers: as wgmma leaves it, 16 channels a warp."""
    return gl.NVMMADistributedLayout([3, 0], [F // 16, 1], [16, columns, 16])


@gluon.constexpr_function
def _shared():
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@gluon.jit
def _room(HEIGHT: gl.constexpr, WIDTH: gl.constexpr):
    return gl.allocate_shared_memory(gl.float16, [HEIGHT, WIDTH], _shared())


@gluon.jit
def _flag():
    flag = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(flag, count=1)
    return flag


@gluon.jit
def _fetch(ring, flags, weights, FIRST: gl.constexpr, END: gl.constexpr, F: gl.constexpr):
    """Start to copy matrices FIRST ... END - 1 into their slots; a flag turns when all of one is there."""
    for number in gl.static_range(FIRST, END):
        mbarrier.expect(flags[number % SLOTS], 2 * F * F)
    for number in gl.static_range(FIRST, END):
        tma.async_copy_global_to_shared(weights, [number * F, 0], flags[number % SLOTS], ring[number % SLOTS])


@gluon.jit
def _begin(weights, F: gl.constexpr):
    """The ring, with the first matrices on their way. Each slot is by itself: the compiler puts a barrier between accesses to what
    it takes for the same.
    """
    ring = _room(F, F), _room(F, F), _room(F, F), _room(F, F), _room(F, F), _room(F, F)
    flags = _flag(), _flag(), _flag(), _flag(), _flag(), _flag()
    _fetch(ring, flags, weights, 0, SLOTS, F)
    return ring, flags


@gluon.constexpr_function
def _most(first, total):
    return min(first + SLOTS, total)


@gluon.jit
def _arrived(flags, FIRST: gl.constexpr, COUNT: gl.constexpr):
    """Wait for COUNT matrices from FIRST on."""
    for number in gl.static_range(FIRST, FIRST + COUNT):
        mbarrier.wait(flags[number % SLOTS], number // SLOTS % 2)


@gluon.jit
def _ready(flags, FIRST: gl.constexpr, COUNT: gl.constexpr):
    """Wait for COUNT matrices from FIRST on, and for the operands that were stored."""
    fence_async_shared()
    gl.thread_barrier()
    _arrived(flags, FIRST, COUNT)


@gluon.jit
def _release(ring, flags, weights, FIRST: gl.constexpr, COUNT: gl.constexpr, TOTAL: gl.constexpr, F: gl.constexpr):
    """COUNT matrices from FIRST on were used by this thread's warps: once all are done with them, the next take their slots."""
    if FIRST + SLOTS < TOTAL:
        gl.thread_barrier()
        _fetch(ring, flags, weights, FIRST + SLOTS, _most(FIRST + COUNT, TOTAL), F)


@gluon.jit
def _put(operand, x):
    """What the next product takes, narrow."""
    operand.permute((1, 0)).store(x.to(gl.float16))


@gluon.jit
def _put_axes(operand, x, y, z, F: gl.constexpr):
    """The same of three axes, side by side: a matrix is then read once for all. The fourth place holds anything."""
    y = y.to(gl.float16)
    axes = gl.join(gl.join(x.to(gl.float16), z.to(gl.float16)), gl.join(y, y))
    axes = axes.permute((0, 2, 3, 1)).reshape([F, 4 * ROWS])
    operand.permute((1, 0)).store(gl.convert_layout(axes, _tile(F, 4 * ROWS), assert_trivial=True))


@gluon.jit
def _axes(product, F: gl.constexpr):
    """The three axes of a product with such an operand."""
    even, odd = product.reshape([F, 2, 2, ROWS]).permute((0, 3, 1, 2)).split()
    x, z = even.split()
    y, _ = odd.split()
    tile: gl.constexpr = _tile(F)
    x = gl.convert_layout(x, tile, assert_trivial=True)
    y = gl.convert_layout(y, tile, assert_trivial=True)
    z = gl.convert_layout(z, tile, assert_trivial=True)
    return x, y, z


@gluon.jit
def _zeros(F: gl.constexpr, COLUMNS: gl.constexpr):
    return gl.zeros([F, COLUMNS], gl.float32, _tile(F, COLUMNS))


@gluon.jit
def _product(ring, NUMBER: gl.constexpr, operand, into, ADD: gl.constexpr):
    """Start matrix NUMBER times an operand."""
    return warpgroup_mma(ring[NUMBER % SLOTS], operand.permute((1, 0)), into, use_acc=ADD, is_async=True)


@gluon.jit
def _sigmoid(x):
    return 1.0 / (1.0 + gl.exp(-x))


@gluon.jit
def _silu_slope(x):
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@gluon.jit
def _bias(biases, NUMBER: gl.constexpr, F: gl.constexpr):
    channel = gl.arange(0, F, gl.SliceLayout(1, _tile(F)))
    return gl.load(biases + NUMBER * F + channel)[:, None]


@gluon.jit
def _rows(F: gl.constexpr):
    """First row; where the program's rows of (N, F) and of (N, 3, F) stand from there."""
    first = gl.program_id(0).to(gl.int64) * ROWS
    channel = gl.arange(0, F, gl.SliceLayout(1, _tile(F)))[:, None]
    row = gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F)))[None, :]
    return first, row * F + channel, row * (3 * F) + channel


@gluon.jit
def _load_axes(pointer, at3, F: gl.constexpr):
    return gl.load(pointer + at3), gl.load(pointer + at3 + F), gl.load(pointer + at3 + 2 * F)


@gluon.jit
def _store_axes(pointer, at3, x, y, z, F: gl.constexpr):
    gl.store(pointer + at3, x)
    gl.store(pointer + at3 + F, y)
    gl.store(pointer + at3 + 2 * F, z)


@gluon.constexpr_function
def _line(F):
    """A tile as one line, thread by thread."""
    return gl.BlockedLayout([ROWS // 2], [32], [F // 16], [0])


@gluon.jit
def _keep(pointer, x, NUMBER: gl.constexpr, F: gl.constexpr):
    """Store a tile for `_kept`, narrow, in the order of the threads that hold it."""
    line = x.to(gl.float16).reshape([F // 16, 2, 8, ROWS // 8, 4, 2]).permute((0, 2, 4, 3, 1, 5)).reshape([F * ROWS])
    line = gl.convert_layout(line, _line(F), assert_trivial=True)
    gl.store(pointer + NUMBER * F * ROWS + gl.arange(0, F * ROWS, _line(F)), line)


@gluon.jit
def _kept(pointer, NUMBER: gl.constexpr, F: gl.constexpr):
    """What `_keep` stored."""
    line = gl.load(pointer + NUMBER * F * ROWS + gl.arange(0, F * ROWS, _line(F)))
    x = line.reshape([F // 16, 8, 4, ROWS // 8, 2, 2]).permute((0, 4, 1, 3, 2, 5)).reshape([F, ROWS])
    return gl.convert_layout(x, _tile(F), assert_trivial=True).to(gl.float32)


@gluon.constexpr_function
def _wide(F):
    return gl.BlockedLayout([1, 8], [256 // F, F // 8], [F // 16, 1], [1, 0])


@gluon.jit
def _send(pointer, operand, WIDTH: gl.constexpr, F: gl.constexpr):
    """Copy what was put into shared memory to rows of WIDTH: in words of 16 bytes, where a thread's own numbers lie far apart."""
    row = gl.arange(0, ROWS, gl.SliceLayout(1, _wide(F)))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, _wide(F)))[None, :]
    gl.store(pointer + row * WIDTH + channel, operand.load(_wide(F)))


@gluon.jit
def _send_axes(pointer, operand, F: gl.constexpr):
    for axis in gl.static_range(3):
        _send(pointer + axis * F, operand.slice(axis * ROWS, ROWS), 3 * F, F)


@gluon.jit
def _receive(pointer, operand, WIDTH: gl.constexpr, F: gl.constexpr):
    """The opposite of `_send`: narrow rows into shared memory, as an operand."""
    row = gl.arange(0, ROWS, gl.SliceLayout(1, _wide(F)))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, _wide(F)))[None, :]
    operand.store(gl.load(pointer + row * WIDTH + channel))


@gluon.jit
def _mixed(ring, flags, weights, bias, epsilon, x, y, z, q, axes, a, b, TOTAL: gl.constexpr, F: gl.constexpr):
    """Mixing up to D1: V, U, n, Σ V U and z."""
    _put_axes(axes, x, y, z, F)
    _put(a, q)
    _ready(flags, 0, 3)
    v = _product(ring, 0, axes, _zeros(F, 4 * ROWS), False)
    u = _product(ring, 1, axes, _zeros(F, 4 * ROWS), False)
    pre = _product(ring, 2, a, _zeros(F, ROWS), False)
    v, u, pre = warpgroup_mma_wait(0, deps=(v, u, pre))
    _release(ring, flags, weights, 0, 3, TOTAL, F)
    v_x, v_y, v_z = _axes(v, F)
    u_x, u_y, u_z = _axes(u, F)
    n = gl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    _put(b, n)
    _ready(flags, 3, 1)
    pre = _product(ring, 3, b, pre, True)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    pre = warpgroup_mma_wait(0, deps=(pre,))
    _release(ring, flags, weights, 3, 1, TOTAL, F)
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
):
    """See `painn_update.painn_update_fwd_kernel`."""
    ring, flags = _begin(weights, F)
    axes, a, b, c = _room(4 * ROWS, F), _room(ROWS, F), _room(ROWS, F), _room(ROWS, F)
    d1 = _bias(biases, 0, F)
    d2_s = _bias(biases, 1, F)
    d2_w = _bias(biases, 2, F)
    d2_t = _bias(biases, 3, F)
    row, at, at3 = _rows(F)
    q += row * F
    mu += row * (3 * F)
    vu += row * (6 * F)
    context += row * (3 * F)
    mu_sent += row * (3 * F)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    x, y, z = _load_axes(mu, at3, F)
    q_ = gl.load(q + at)
    if row >= count:
        _arrived(flags, 0, SLOTS)  # in memory that is another program's soon
        return
    v_x, v_y, v_z, u_x, u_y, u_z, _, dot, pre = _mixed(
        ring, flags, weights, d1, epsilon, x, y, z, q_, axes, a, b, 11, F
    )
    _put(c, pre * _sigmoid(pre))
    _ready(flags, 4, 3)
    s = _product(ring, 4, c, _zeros(F, ROWS), False)
    w = _product(ring, 5, c, _zeros(F, ROWS), False)
    t = _product(ring, 6, c, _zeros(F, ROWS), False)
    # Memory takes what is finished while the tensor cores work.
    _keep(vu, v_x, 0, F)
    _keep(vu, u_x, 1, F)
    _keep(vu, v_y, 2, F)
    _keep(vu, u_y, 3, F)
    _keep(vu, v_z, 4, F)
    _keep(vu, u_z, 5, F)
    _keep(z_kept + row * F, pre, 0, F)
    s, w, t = warpgroup_mma_wait(0, deps=(s, w, t))
    _release(ring, flags, weights, 4, 3, 11, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _put(a, q_)
    _ready(flags, 7, 1)
    pre = _product(ring, 7, a, _zeros(F, ROWS), False)
    t += d2_t
    c1 = _bias(biases, 4, F)
    c2_a = _bias(biases, 5, F)
    c2_b = _bias(biases, 6, F)
    c2_g = _bias(biases, 7, F)
    _keep(w_kept + row * F, w, 0, F)
    _keep(t_kept + row * F, t, 0, F)
    gl.store(q + at, q_)
    pre = warpgroup_mma_wait(0, deps=(pre,))
    pre += c1
    _put(b, pre * _sigmoid(pre))
    _ready(flags, 8, 3)
    c_a = _product(ring, 8, b, _zeros(F, ROWS), False)
    c_b = _product(ring, 9, b, _zeros(F, ROWS), False)
    c_g = _product(ring, 10, b, _zeros(F, ROWS), False)
    _keep(y_kept + row * F, pre, 0, F)
    x += t * u_x
    y += t * u_y
    z += t * u_z
    _put_axes(axes, x, y, z, F)
    _store_axes(mu, at3, x, y, z, F)
    c_a, c_b, c_g = warpgroup_mma_wait(0, deps=(c_a, c_b, c_g))
    gl.thread_barrier()
    _put(a, c_a + c2_a)
    _put(b, c_b + c2_b)
    _put(c, c_g + c2_g)
    _send_axes(mu_sent, axes, F)
    gl.thread_barrier()
    _send(context, a, 3 * F, F)
    _send(context + F, b, 3 * F, F)
    _send(context + 2 * F, c, 3 * F, F)


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
):
    """See `painn_update.painn_update_last_kernel`."""
    ring, flags = _begin(weights, F)
    axes, a, b, c = _room(4 * ROWS, F), _room(ROWS, F), _room(ROWS, F), _room(ROWS, F)
    d1 = _bias(biases, 0, F)
    d2_s = _bias(biases, 1, F)
    d2_w = _bias(biases, 2, F)
    row, at, at3 = _rows(F)
    q += row * F
    mu += row * (3 * F)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    x, y, z = _load_axes(mu, at3, F)
    q_ = gl.load(q + at)
    if row >= count:
        _arrived(flags, 0, SLOTS)
        return
    v_x, v_y, v_z, u_x, u_y, u_z, n, dot, pre = _mixed(
        ring, flags, weights, d1, epsilon, x, y, z, q_, axes, a, b, 14, F
    )
    _put(c, pre * _sigmoid(pre))
    _ready(flags, 4, 2)
    s = _product(ring, 4, c, _zeros(F, ROWS), False)
    w = _product(ring, 5, c, _zeros(F, ROWS), False)
    r1 = _bias(biases, 3, F)
    r2 = _bias(biases, 4, F)
    slope = _silu_slope(pre)
    s, w = warpgroup_mma_wait(0, deps=(s, w))
    _release(ring, flags, weights, 4, 2, 14, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _put(a, q_)
    _ready(flags, 6, 1)
    h = warpgroup_mma_wait(0, deps=(_product(ring, 6, a, _zeros(F, ROWS), False),))
    _release(ring, flags, weights, 6, 1, 14, F)
    h += r1
    h_bar = _silu_slope(h) * r2 * seed
    _put(b, h_bar)
    # All else follows from this product: what rounding took from its operand goes in too.
    _put(c, h_bar - h_bar.to(gl.float16).to(gl.float32))
    _ready(flags, 7, 1)
    d_q = _product(ring, 7, b, _zeros(F, ROWS), False)
    d_q = _product(ring, 7, c, d_q, True)
    energy = h * _sigmoid(h) * r2
    d_q = warpgroup_mma_wait(0, deps=(d_q,))
    _release(ring, flags, weights, 7, 1, 14, F)
    _put(a, d_q)
    _put(b, d_q * dot)
    _ready(flags, 8, 2)
    z_bar = _product(ring, 8, a, _zeros(F, ROWS), False)
    z_bar = _product(ring, 9, b, z_bar, True)
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _put(c, z_bar * slope)
    _ready(flags, 10, 2)
    n_bar = _product(ring, 10, c, _zeros(F, ROWS), False)
    d_q = _product(ring, 11, c, d_q, True)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    n_bar /= n
    _put(a, d_q)
    _put_axes(axes, w * u_x + n_bar * v_x, w * u_y + n_bar * v_y, w * u_z + n_bar * v_z, F)
    _ready(flags, 12, 1)
    xyz = _product(ring, 12, axes, _zeros(F, 4 * ROWS), False)
    gl.store(q + at, d_q)
    _send(q_bar + row * F, a, F, F)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    gl.thread_barrier()
    _put_axes(axes, w * v_x, w * v_y, w * v_z, F)
    _ready(flags, 13, 1)
    xyz = _product(ring, 13, axes, xyz, True)
    column = row + gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F)))
    gl.store(energies + column, gl.sum(energy, 0) + gl.load(biases + 5 * F))
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    gl.thread_barrier()
    x, y, z = _axes(xyz, F)
    _put_axes(axes, x, y, z, F)
    _store_axes(mu, at3, x, y, z, F)
    gl.thread_barrier()
    _send_axes(mu_bar + row * (3 * F), axes, F)


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
):
    """See `painn_update.painn_update_bwd_kernel`."""
    ring, flags = _begin(weights, F)
    axes, a, b, c = _room(4 * ROWS, F), _room(ROWS, F), _room(ROWS, F), _room(ROWS, F)
    row, at, at3 = _rows(F)
    q += row * F
    mu += row * (3 * F)
    context_bar += row * (3 * F)
    vu += row * (6 * F)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    _receive(context_bar, a, 3 * F, F)
    _receive(context_bar + F, b, 3 * F, F)
    _receive(context_bar + 2 * F, c, 3 * F, F)
    d_q = gl.load(q + at)
    pre = _kept(y_kept + row * F, 0, F)
    if row >= count:
        _arrived(flags, 0, SLOTS)
        return
    _ready(flags, 0, 3)
    y_bar = _product(ring, 0, a, _zeros(F, ROWS), False)
    y_bar = _product(ring, 1, b, y_bar, True)
    y_bar = _product(ring, 2, c, y_bar, True)
    slope = _silu_slope(pre)
    square = _zeros(F, ROWS) + epsilon
    dot = _zeros(F, ROWS)
    t_bar = _zeros(F, ROWS)
    for axis in gl.static_range(3):
        v = _kept(vu, 2 * axis, F)
        u = _kept(vu, 2 * axis + 1, F)
        square += v * v
        dot += v * u
        t_bar += gl.load(mu + at3 + axis * F) * u
    y_bar = warpgroup_mma_wait(0, deps=(y_bar,))
    _release(ring, flags, weights, 0, 3, 11, F)
    _put(a, y_bar * slope)
    _put(b, t_bar)
    _ready(flags, 3, 2)
    d_q = _product(ring, 3, a, d_q, True)
    z_bar = _product(ring, 4, b, _zeros(F, ROWS), False)
    pre = _kept(z_kept + row * F, 0, F)
    w = _kept(w_kept + row * F, 0, F)
    t = _kept(t_kept + row * F, 0, F)
    d_q, z_bar = warpgroup_mma_wait(0, deps=(d_q, z_bar))
    _release(ring, flags, weights, 3, 2, 11, F)
    _put(a, d_q)
    _put(b, d_q * dot)
    _ready(flags, 5, 2)
    z_bar = _product(ring, 5, a, z_bar, True)
    z_bar = _product(ring, 6, b, z_bar, True)
    slope = _silu_slope(pre)
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _put(c, z_bar * slope)
    _ready(flags, 7, 2)
    n_bar = _product(ring, 7, c, _zeros(F, ROWS), False)
    d_q = _product(ring, 8, c, d_q, True)
    # V, U and μ̄ are read twice: to hold nine arrays through the products between would take more registers than there are.
    v_x = _kept(vu, 0, F)
    u_x = _kept(vu, 1, F)
    v_y = _kept(vu, 2, F)
    u_y = _kept(vu, 3, F)
    v_z = _kept(vu, 4, F)
    u_z = _kept(vu, 5, F)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    n_bar *= gl.rsqrt(square)
    _put(a, d_q)
    _put_axes(axes, w * u_x + n_bar * v_x, w * u_y + n_bar * v_y, w * u_z + n_bar * v_z, F)
    _ready(flags, 9, 1)
    xyz = _product(ring, 9, axes, _zeros(F, 4 * ROWS), False)
    b_x, b_y, b_z = _load_axes(mu, at3, F)
    gl.store(q + at, d_q)
    _send(q_bar + row * F, a, F, F)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    gl.thread_barrier()
    _put_axes(axes, w * v_x + t * b_x, w * v_y + t * b_y, w * v_z + t * b_z, F)
    _ready(flags, 10, 1)
    xyz = _product(ring, 10, axes, xyz, True)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    gl.thread_barrier()
    x, y, z = _axes(xyz, F)
    x += b_x
    y += b_y
    z += b_z
    _put_axes(axes, x, y, z, F)
    _store_axes(mu, at3, x, y, z, F)
    gl.thread_barrier()
    _send_axes(mu_bar + row * (3 * F), axes, F)


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
    painn_update_fwd_hopper_kernel[(q.shape[0] // painn_update.ALIGNED,)](
        num_atoms,
        chain.there,
        chain.biases,
        chain.epsilon,
        q,
        mu,
        *kept,
        context,
        mu_sent,
        **_options(q.shape[1], chained),
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
    painn_update_last_hopper_kernel[(q.shape[0] // painn_update.ALIGNED,)](
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
        **_options(q.shape[1], chained),
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
    painn_update_bwd_hopper_kernel[(q.shape[0] // painn_update.ALIGNED,)](
        num_atoms,
        chain.back,
        chain.epsilon,
        q,
        mu,
        *kept,
        context_bar,
        q_bar,
        mu_bar,
        **_options(q.shape[1], chained),
    )


def _options(channels: int, chained: bool) -> dict[str, Any]:
    """What the kernels are compiled for, and how they are launched; how many warps there are follows from the channels."""
    return {
        "F": channels,
        "CHAINED": chained,
        "num_warps": channels // 16,
        "launch_pdl": chained,
    }
