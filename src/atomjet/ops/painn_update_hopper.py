# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false, reportFunctionMemberAccess=false
# pyright: reportAssignmentType=false
"""The kernels of `painn_update.py` for Hopper GPUs in half precision, written in Gluon, where Triton lets one place data by hand.

A program takes some rows through a chain of 7 to 14 products with F x F matrices, each of which needs the one before. What takes
time then is to bring matrices to the tensor cores, so here

- arrays lie across: channels are the rows of a tile and atoms its columns, X^T = W^T Y^T, so that matrices are the left operand of
  wgmma, whose 64 rows are always full, and the number of atoms can be as small as 8;
- matrices stream from global memory into a ring of buffers in shared memory, past the registers, in the order in which they are
  used; the first ones arrive while the kernel before still runs;
- what follows from a product stays in the registers it was left in; only operands of the next product go to shared memory, narrow.
  Much later needed V and U share a word, and so do their places in memory;
- global memory is read and written in words of 16 bytes. A product leaves each thread single numbers of rows far apart: what
  goes to rows in memory takes the way through shared memory, narrow, and what is added to float32 numbers is added there.

Numbers are those of `painn_update.py` up to that rounding; sums within a product run in another order.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
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
from atomjet.ops.painn_update import Saved, Tiles

# Triton has renamed both: the barrier of a program's threads with 3.7, the copy by the copy engine with 3.8.
_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared

ROWS = (8, 16, 32)
"""Atoms a program: as few as make one program for each processor, since fewer are done sooner; where there are more atoms, as many
as registers hold, since each program reads all matrices. Buffers have whole tiles of them: no access is masked, and what stands in
rows that are not in use stays in them.
"""

KNOWN = ("3.6", "3.7", "3.8", "3.9")
"""Releases of Triton that compile the kernels. Gluon is experimental: any other is tried first."""

CHANNELS = (128,)
"""Numbers of channels served. More would not fit; 64 compile, but were not yet measured."""


class Chain(NamedTuple):
    """The matrices of `painn_update.Chain` in the order in which they are used, (n F, F), each as the left operand.

    Attributes:
        there: of `launch_fwd`; after the last layer, of `launch_last`, backward included.
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
            back = _described(m[[8, 9, 10, 7, 6, 4, 5, 3, 2, 1, 0]])
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


@functools.cache
def why_not(device: torch.device) -> str:
    """Why the kernels do not compile with this Triton, empty where they do; a release that is not known is tried, on no atoms."""
    version, channels, rows = triton.__version__, CHANNELS[0], ROWS[0]
    if version.startswith(tuple(f"{known}." for known in KNOWN)):
        return ""

    def half(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float16, device=device)

    try:
        atoms = torch.zeros(1, dtype=torch.int32, device=device)
        q, mu, energies = (half(*shape).float() for shape in ((rows, channels), (rows, 3, channels), (rows,)))
        q_bar, mu_bar, context, mu_sent = (
            half(rows, channels),
            half(rows, 3, channels),
            half(rows, 3 * channels),
            half(rows, 3, channels),
        )
        kept = Saved(half(rows, 3, 2 * channels), *(half(rows, channels) for _ in range(4)))
        for matrices, biases in ((11, 8), (7, 6)):
            m = half(matrices, channels, channels)
            chain = Chain.of(painn_update.Chain(m, m, half(biases, channels).float(), 1e-8))
            if chain.back is None:
                launch_last(atoms, chain, q, mu, energies, q_bar, mu_bar, 1.0, Tiles(), True)
                continue
            launch_fwd(atoms, chain, q, mu, kept, context, mu_sent, Tiles(), True)
            launch_bwd(atoms, chain, q, mu, kept, context, q_bar, mu_bar, Tiles(), True)
    except Exception as error:  # whatever its compiler raises
        said = " ".join(str(error).split())[:120]
        return f"Triton {version} does not compile the kernels for Hopper ({type(error).__name__}: {said}); slower ones run"
    return ""


# ------------------------------------------------------------------------------------------------------------------ kernels


@gluon.constexpr_function
def _tile(F, columns):
    """How a tile (channels, atoms) lies in registers: as wgmma leaves it, 16 channels a warp."""
    return gl.NVMMADistributedLayout([3, 0], [F // 16, 1], [16, columns, 16])


@gluon.constexpr_function
def _shared():
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@gluon.jit
def _room(HEIGHT: gl.constexpr, WIDTH: gl.constexpr):
    return gl.allocate_shared_memory(gl.float16, [1, HEIGHT, WIDTH], _shared())


@gluon.jit
def _opaque_zero():
    """Zero, which the compiler does not know. Descriptors of operands made with it are made anew for every product; else all of
    them would be made once and kept, in more registers than there are.
    """
    return gl.inline_asm_elementwise(
        "mov.b32 $0, 0;", "=r,r", [gl.program_id(0)], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _flag():
    flag = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(flag, count=1)
    return flag


@gluon.jit
def _fetch(ring, flags, weights, FIRST: gl.constexpr, END: gl.constexpr, F: gl.constexpr):
    """Start to copy matrices FIRST ... END - 1 into their slots; a flag turns when all of one is there."""
    for number in gl.static_range(FIRST, END):
        mbarrier.expect(flags[number % len(flags)], 2 * F * F)
    for number in gl.static_range(FIRST, END):
        _load(weights, [number * F, 0], flags[number % len(flags)], ring[number % len(flags)].index(0))


@gluon.jit
def _begin(weights, F: gl.constexpr, ROWS: gl.constexpr):
    """The ring, with the first matrices on their way, and room for operands. Each slot is by itself: the compiler puts a barrier
    between accesses to what it takes for the same. With 128 channels all of it is 220 or 216 KiB of 227.
    """
    if ROWS > 16:
        ring = _room(F, F), _room(F, F), _room(F, F), _room(F, F), _room(F, F)
        flags = _flag(), _flag(), _flag(), _flag(), _flag()
    else:
        ring = _room(F, F), _room(F, F), _room(F, F), _room(F, F), _room(F, F), _room(F, F)
        flags = _flag(), _flag(), _flag(), _flag(), _flag(), _flag()
    _fetch(ring, flags, weights, 0, len(flags), F)
    return ring, flags, _room(4 * ROWS, F), _room(ROWS, F), _room(ROWS, F), _room(ROWS, F)


@gluon.jit
def _arrived(flags, FIRST: gl.constexpr, COUNT: gl.constexpr):
    """Wait for COUNT matrices from FIRST on."""
    for number in gl.static_range(FIRST, FIRST + COUNT):
        mbarrier.wait(flags[number % len(flags)], number // len(flags) % 2)


@gluon.jit
def _ready(flags, FIRST: gl.constexpr, COUNT: gl.constexpr):
    """Wait for COUNT matrices from FIRST on, and for the operands that were stored."""
    fence_async_shared()
    _barrier()
    _arrived(flags, FIRST, COUNT)


@gluon.jit
def _release(ring, flags, weights, FIRST: gl.constexpr, COUNT: gl.constexpr, TOTAL: gl.constexpr, F: gl.constexpr):
    """COUNT matrices from FIRST on were used by this thread's warps: once all are done with them, the next take their slots."""
    SLOTS: gl.constexpr = len(flags)
    if FIRST + SLOTS < TOTAL:
        _barrier()
        _fetch(ring, flags, weights, FIRST + SLOTS, min(FIRST + COUNT + SLOTS, TOTAL), F)


@gluon.jit
def _store_operand(operand, x):
    """Store x, rounded to float16, as the operand of the next product."""
    operand.index(0).permute((1, 0)).store(x.to(gl.float16))


@gluon.jit
def _put_axes(operand, x, y, z):
    """Store x, y, z in float16 side by side as one operand: a matrix is then read once for all. The fourth place is unused."""
    F: gl.constexpr = x.shape[0]
    ROWS: gl.constexpr = x.shape[1]
    y = y.to(gl.float16)
    axes = gl.join(gl.join(x.to(gl.float16), z.to(gl.float16)), gl.join(y, y))
    axes = axes.permute((0, 2, 3, 1)).reshape([F, 4 * ROWS])
    operand.index(0).permute((1, 0)).store(gl.convert_layout(axes, _tile(F, 4 * ROWS), assert_trivial=True))


@gluon.jit
def _axes(product):
    """The three axes of a product with such an operand."""
    F: gl.constexpr = product.shape[0]
    ROWS: gl.constexpr = product.shape[1] // 4
    even, odd = product.reshape([F, 2, 2, ROWS]).permute((0, 3, 1, 2)).split()
    x, z = even.split()
    y, _ = odd.split()
    tile: gl.constexpr = _tile(F, ROWS)
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
    nought = _opaque_zero()
    matrix = ring[NUMBER % len(ring)].index(nought)
    return warpgroup_mma(matrix, operand.index(nought).permute((1, 0)), into, use_acc=ADD, is_async=True)


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
    """First row; where the program's rows of (N, F) stand from there."""
    first = gl.program_id(0).to(gl.int64) * ROWS
    channel = gl.arange(0, F, gl.SliceLayout(1, _tile(F, ROWS)))[:, None]
    row = gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F, ROWS)))[None, :]
    return first, row * F + channel


@gluon.constexpr_function
def _flat_layout(F, numbers):
    """A tile as one line, in words of so many numbers, one a thread, again and again."""
    return gl.BlockedLayout([numbers], [32], [F // 16], [0])


@gluon.jit
def _keep(pointer, x, NUMBER: gl.constexpr):
    """Store a tile for `_kept`, in the order of the threads that hold it: in words of 16 bytes, side by side."""
    F: gl.constexpr = x.shape[0]
    ROWS: gl.constexpr = x.shape[1]
    SIZE: gl.constexpr = F * ROWS
    GROUPS: gl.constexpr = min(32 // x.dtype.primitive_bitwidth, ROWS // 8)  # of eight columns, that share a word
    layout: gl.constexpr = _flat_layout(F, 4 * GROUPS)
    line = x.reshape([F // 16, 2, 8, ROWS // 8 // GROUPS, GROUPS, 4, 2]).permute((3, 0, 2, 5, 4, 1, 6)).reshape([SIZE])
    gl.store(pointer + NUMBER * SIZE + gl.arange(0, SIZE, layout), gl.convert_layout(line, layout, assert_trivial=True))


@gluon.jit
def _kept(pointer, NUMBER: gl.constexpr, F: gl.constexpr, ROWS: gl.constexpr):
    """What `_keep` stored."""
    SIZE: gl.constexpr = F * ROWS
    GROUPS: gl.constexpr = min(32 // pointer.dtype.element_ty.primitive_bitwidth, ROWS // 8)
    line = gl.load(pointer + NUMBER * SIZE + gl.arange(0, SIZE, _flat_layout(F, 4 * GROUPS)))
    x = line.reshape([ROWS // 8 // GROUPS, F // 16, 8, 4, GROUPS, 2, 2]).permute((1, 5, 2, 0, 4, 3, 6))
    return gl.convert_layout(x.reshape([F, ROWS]), _tile(F, ROWS), assert_trivial=True)


@gluon.jit
def _pair(v, u):
    """Both narrow in one word: by itself, each would take a register as wide as before."""
    return gl.inline_asm_elementwise(
        "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f", [v, u], dtype=gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def _unpack_half2(pair):
    """The two of `_pair`."""
    return gl.inline_asm_elementwise(
        "{ .reg .b16 v, u; mov.b32 {v, u}, $2; cvt.f32.f16 $0, v; cvt.f32.f16 $1, u; }",
        "=f,=f,r",
        [pair],
        dtype=(gl.float32, gl.float32),
        is_pure=True,
        pack=1,
    )


@gluon.constexpr_function
def _wide(F, numbers):
    """Rows across the threads, so many numbers in a word of 16 bytes."""
    return gl.BlockedLayout([1, numbers], [32 * numbers // F, F // numbers], [F // 16, 1], [1, 0])


@gluon.jit
def _copy_to_rows(pointer, operand, WIDTH: gl.constexpr):
    """Copy what was put into shared memory to rows of WIDTH: in words of 16 bytes, where a thread's own numbers lie far apart."""
    ROWS: gl.constexpr = operand.shape[1]
    F: gl.constexpr = operand.shape[2]
    layout: gl.constexpr = _wide(F, 8)
    row = gl.arange(0, ROWS, gl.SliceLayout(1, layout))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, layout))[None, :]
    gl.store(pointer + row * WIDTH + channel, operand.index(0).load(layout))


@gluon.jit
def _places(ROWS: gl.constexpr, F: gl.constexpr):
    """Where what stands in an operand of three axes stands in rows of (N, 3, F), four channels a thread; and the axis."""
    layout: gl.constexpr = _wide(F, 4)
    place = gl.arange(0, 4 * ROWS, gl.SliceLayout(1, layout))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, layout))[None, :]
    axis = place // ROWS
    return place % ROWS * (3 * F) + axis * F + channel, axis


@gluon.jit
def _copy_axes_to_rows(wide, narrow, before, at, axis, operand):
    """Three axes from an operand, added to what was there before, to memory twice: in float32 and narrow."""
    x = before + operand.index(0).load(_wide(operand.shape[2], 4)).to(gl.float32)
    gl.store(wide + at, x, axis < 3)
    gl.store(narrow + at, x.to(gl.float16), axis < 3)


@gluon.jit
def _receive(pointer, operand, WIDTH: gl.constexpr):
    """The opposite of `_copy_to_rows`: rows, narrow or not, into shared memory, narrow, as an operand."""
    ROWS: gl.constexpr = operand.shape[1]
    F: gl.constexpr = operand.shape[2]
    layout: gl.constexpr = _wide(F, 128 // pointer.dtype.element_ty.primitive_bitwidth)
    row = gl.arange(0, ROWS, gl.SliceLayout(1, layout))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, layout))[None, :]
    operand.index(0).store(gl.load(pointer + row * WIDTH + channel).to(gl.float16))


@gluon.jit
def _receive_atoms(mu, q, at, axis, axes, operand):
    """μ and q in float32 as operands; all is asked for before anything is waited for."""
    ROWS: gl.constexpr = operand.shape[1]
    F: gl.constexpr = operand.shape[2]
    layout: gl.constexpr = _wide(F, 4)
    row = gl.arange(0, ROWS, gl.SliceLayout(1, layout))[:, None]
    channel = gl.arange(0, F, gl.SliceLayout(0, layout))[None, :]
    x = gl.load(mu + at, axis < 3)
    own = gl.load(q + row * F + channel)
    axes.index(0).store(x.to(gl.float16))
    operand.index(0).store(own.to(gl.float16))


@gluon.jit
def _taken(operand):
    """The three axes of an operand."""
    F: gl.constexpr = operand.shape[2]
    x, y, z = _axes(operand.index(0).permute((1, 0)).load(_tile(F, operand.shape[1])))
    return x.to(gl.float32), y.to(gl.float32), z.to(gl.float32)


@gluon.jit
def _mixed(ring, flags, weights, bias, epsilon, axes, a, b, TOTAL: gl.constexpr):
    """Mixing up to D1, from μ in `axes` and q in `a`: pairs of V and U, Σ V U and z."""
    ROWS: gl.constexpr = a.shape[1]
    F: gl.constexpr = a.shape[2]
    _ready(flags, 0, 3)
    v = _product(ring, 0, axes, _zeros(F, 4 * ROWS), False)
    u = _product(ring, 1, axes, _zeros(F, 4 * ROWS), False)
    pre = _product(ring, 2, a, _zeros(F, ROWS), False)
    v, u, pre = warpgroup_mma_wait(0, deps=(v, u, pre))
    _release(ring, flags, weights, 0, 3, TOTAL, F)
    v_x, v_y, v_z = _axes(v)
    u_x, u_y, u_z = _axes(u)
    n = gl.sqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    _store_operand(b, n)
    _ready(flags, 3, 1)
    pre = _product(ring, 3, b, pre, True)
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    # What is needed again much later stays narrow: there are not registers enough for all of it.
    vu_x, vu_y, vu_z = _pair(v_x, u_x), _pair(v_y, u_y), _pair(v_z, u_z)
    pre = warpgroup_mma_wait(0, deps=(pre,))
    _release(ring, flags, weights, 3, 1, TOTAL, F)
    return vu_x, vu_y, vu_z, dot, pre + bias


@gluon.jit(do_not_specialize=["num_atoms"])
def painn_update_fwd_hopper_kernel(
    num_atoms,
    weights,
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
    F: gl.constexpr,
    PDL: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_fwd_kernel`. What stands in memory is read twice where registers would not hold it."""
    ring, flags, axes, a, b, c = _begin(weights, F, ROWS)
    d1 = _bias(biases, 0, F, ROWS)
    d2_s = _bias(biases, 1, F, ROWS)
    d2_w = _bias(biases, 2, F, ROWS)
    d2_t = _bias(biases, 3, F, ROWS)
    row, at = _rows(F, ROWS)
    at3, axis = _places(ROWS, F)
    q += row * F
    mu += row * (3 * F)
    vu += row * (3 * F)
    context += row * (3 * F)
    mu_sent += row * (3 * F)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    _receive_atoms(mu, q, at3, axis, axes, a)
    if row >= count:
        _arrived(flags, 0, len(flags))  # in memory that is another program's soon
        return
    vu_x, vu_y, vu_z, dot, pre = _mixed(ring, flags, weights, d1, epsilon, axes, a, b, 11)
    _store_operand(c, pre * _sigmoid(pre))
    _ready(flags, 4, 3)
    s = _product(ring, 4, c, _zeros(F, ROWS), False)
    w = _product(ring, 5, c, _zeros(F, ROWS), False)
    t = _product(ring, 6, c, _zeros(F, ROWS), False)
    # Memory takes what is finished while the tensor cores work.
    _keep(vu, vu_x, 0)
    _keep(vu, vu_y, 1)
    _keep(vu, vu_z, 2)
    _keep(z_saved + row * F, pre.to(gl.float16), 0)
    q_ = gl.load(q + at)
    s, w, t = warpgroup_mma_wait(0, deps=(s, w, t))
    _release(ring, flags, weights, 4, 3, 11, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _store_operand(a, q_)
    _ready(flags, 7, 1)
    pre = _product(ring, 7, a, _zeros(F, ROWS), False)
    t += d2_t
    c1 = _bias(biases, 4, F, ROWS)
    c2_a = _bias(biases, 5, F, ROWS)
    c2_b = _bias(biases, 6, F, ROWS)
    c2_g = _bias(biases, 7, F, ROWS)
    _keep(w_saved + row * F, w.to(gl.float16), 0)
    _keep(t_saved + row * F, t.to(gl.float16), 0)
    gl.store(q + _opaque_zero() + at, q_)
    pre = warpgroup_mma_wait(0, deps=(pre,))
    _release(ring, flags, weights, 7, 1, 11, F)
    pre += c1
    _store_operand(b, pre * _sigmoid(pre))
    _ready(flags, 8, 3)
    c_a = _product(ring, 8, b, _zeros(F, ROWS), False)
    c_b = _product(ring, 9, b, _zeros(F, ROWS), False)
    c_g = _product(ring, 10, b, _zeros(F, ROWS), False)
    _keep(y_saved + row * F, pre.to(gl.float16), 0)
    _put_axes(axes, t * _unpack_half2(vu_x)[1], t * _unpack_half2(vu_y)[1], t * _unpack_half2(vu_z)[1])
    xyz = gl.load(mu + at3, axis < 3)
    c_a, c_b, c_g = warpgroup_mma_wait(0, deps=(c_a, c_b, c_g))
    _barrier()
    _store_operand(a, c_a + c2_a)
    _store_operand(b, c_b + c2_b)
    _store_operand(c, c_g + c2_g)
    _copy_axes_to_rows(mu, mu_sent, xyz, at3, axis, axes)
    _barrier()
    _copy_to_rows(context, a, 3 * F)
    _copy_to_rows(context + F, b, 3 * F)
    _copy_to_rows(context + 2 * F, c, 3 * F)


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
    PDL: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_last_kernel`."""
    ring, flags, axes, a, b, c = _begin(weights, F, ROWS)
    d1 = _bias(biases, 0, F, ROWS)
    d2_s = _bias(biases, 1, F, ROWS)
    d2_w = _bias(biases, 2, F, ROWS)
    row, at = _rows(F, ROWS)
    at3, axis = _places(ROWS, F)
    q += row * F
    mu += row * (3 * F)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    _receive_atoms(mu, q, at3, axis, axes, a)
    if row >= count:
        _arrived(flags, 0, len(flags))
        return
    vu_x, vu_y, vu_z, dot, pre = _mixed(ring, flags, weights, d1, epsilon, axes, a, b, 14)
    _store_operand(c, pre * _sigmoid(pre))
    _ready(flags, 4, 2)
    s = _product(ring, 4, c, _zeros(F, ROWS), False)
    w = _product(ring, 5, c, _zeros(F, ROWS), False)
    r1 = _bias(biases, 3, F, ROWS)
    r2 = _bias(biases, 4, F, ROWS)
    slope = _silu_slope(pre)
    q_ = gl.load(q + at)
    s, w = warpgroup_mma_wait(0, deps=(s, w))
    _release(ring, flags, weights, 4, 2, 14, F)
    w += d2_w
    q_ += s + d2_s + w * dot
    _store_operand(a, q_)
    _ready(flags, 6, 1)
    h = warpgroup_mma_wait(0, deps=(_product(ring, 6, a, _zeros(F, ROWS), False),))
    _release(ring, flags, weights, 6, 1, 14, F)
    h += r1
    h_bar = _silu_slope(h) * r2 * seed
    _store_operand(b, h_bar)
    # All else follows from this product: what rounding took from its operand goes in too.
    _store_operand(c, h_bar - h_bar.to(gl.float16).to(gl.float32))
    _ready(flags, 7, 1)
    d_q = _product(ring, 7, b, _zeros(F, ROWS), False)
    d_q = _product(ring, 7, c, d_q, True)
    column = row + gl.arange(0, ROWS, gl.SliceLayout(0, _tile(F, ROWS)))
    gl.store(energies + column, gl.sum(h * _sigmoid(h) * r2, 0) + gl.load(biases + 5 * F))
    d_q = warpgroup_mma_wait(0, deps=(d_q,))
    _release(ring, flags, weights, 7, 1, 14, F)
    _store_operand(a, d_q)
    _store_operand(b, d_q * dot)
    _ready(flags, 8, 2)
    z_bar = _product(ring, 8, a, _zeros(F, ROWS), False)
    z_bar = _product(ring, 9, b, z_bar, True)
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _release(ring, flags, weights, 8, 2, 14, F)
    _store_operand(c, z_bar * slope)
    _ready(flags, 10, 2)
    n_bar = _product(ring, 10, c, _zeros(F, ROWS), False)
    d_q = _product(ring, 11, c, d_q, True)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    v_x, u_x = _unpack_half2(vu_x)
    v_y, u_y = _unpack_half2(vu_y)
    v_z, u_z = _unpack_half2(vu_z)
    n_bar *= gl.rsqrt(v_x * v_x + v_y * v_y + v_z * v_z + epsilon)
    _store_operand(a, d_q)
    _put_axes(axes, w * u_x + n_bar * v_x, w * u_y + n_bar * v_y, w * u_z + n_bar * v_z)
    _ready(flags, 12, 1)
    xyz = _product(ring, 12, axes, _zeros(F, 4 * ROWS), False)
    gl.store(q + at, d_q)
    _copy_to_rows(q_bar + row * F, a, F)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    _barrier()
    _put_axes(axes, w * _unpack_half2(vu_x)[0], w * _unpack_half2(vu_y)[0], w * _unpack_half2(vu_z)[0])
    _ready(flags, 13, 1)
    xyz = _product(ring, 13, axes, xyz, True)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    _barrier()
    x, y, z = _axes(xyz)
    _put_axes(axes, x, y, z)
    _barrier()
    _copy_axes_to_rows(mu, mu_bar + row * (3 * F), 0.0, at3, axis, axes)


@gluon.jit(do_not_specialize=["num_atoms"])
def painn_update_bwd_hopper_kernel(
    num_atoms,
    weights,
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
    F: gl.constexpr,
    PDL: gl.constexpr,
    ROWS: gl.constexpr,
):
    """See `painn_update.painn_update_bwd_kernel`. What stands in memory is read twice where registers would not hold it."""
    ring, flags, axes, a, b, c = _begin(weights, F, ROWS)
    row, at = _rows(F, ROWS)
    at3, axis = _places(ROWS, F)
    q += row * F
    mu += row * (3 * F)
    context_bar += row * (3 * F)
    vu += row * (3 * F)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    count = gl.load(num_atoms)
    xyz = gl.load(mu + at3, axis < 3)
    _receive(context_bar, a, 3 * F)
    _receive(context_bar + F, b, 3 * F)
    _receive(context_bar + 2 * F, c, 3 * F)
    axes.index(0).store(xyz.to(gl.float16))
    pre = _kept(y_saved + row * F, 0, F, ROWS)
    if row >= count:
        _arrived(flags, 0, len(flags))
        return
    _ready(flags, 0, 3)
    y_bar = _product(ring, 0, a, _zeros(F, ROWS), False)
    y_bar = _product(ring, 1, b, y_bar, True)
    y_bar = _product(ring, 2, c, y_bar, True)
    slope = _silu_slope(pre.to(gl.float32))
    v_x, u_x = _unpack_half2(_kept(vu, 0, F, ROWS))
    v_y, u_y = _unpack_half2(_kept(vu, 1, F, ROWS))
    v_z, u_z = _unpack_half2(_kept(vu, 2, F, ROWS))
    square = v_x * v_x + v_y * v_y + v_z * v_z + epsilon
    dot = v_x * u_x + v_y * u_y + v_z * u_z
    x, y, z = _taken(axes)
    t_bar = x * u_x + y * u_y + z * u_z
    d_q = gl.load(q + at)
    y_bar = warpgroup_mma_wait(0, deps=(y_bar,))
    _release(ring, flags, weights, 0, 3, 11, F)
    _store_operand(a, y_bar * slope)
    _store_operand(b, t_bar)
    _ready(flags, 3, 2)
    d_q = _product(ring, 3, a, d_q, True)
    z_bar = _product(ring, 4, b, _zeros(F, ROWS), False)
    pre = _kept(z_saved + row * F, 0, F, ROWS)
    w = _kept(w_saved + row * F, 0, F, ROWS).to(gl.float32)
    t = _kept(t_saved + row * F, 0, F, ROWS)
    d_q, z_bar = warpgroup_mma_wait(0, deps=(d_q, z_bar))
    _release(ring, flags, weights, 3, 2, 11, F)
    _store_operand(a, d_q)
    _store_operand(b, d_q * dot)
    _ready(flags, 5, 2)
    z_bar = _product(ring, 5, a, z_bar, True)
    z_bar = _product(ring, 6, b, z_bar, True)
    slope = _silu_slope(pre.to(gl.float32))
    w *= d_q
    z_bar = warpgroup_mma_wait(0, deps=(z_bar,))
    _release(ring, flags, weights, 5, 2, 11, F)
    _store_operand(c, z_bar * slope)
    _ready(flags, 7, 2)
    n_bar = _product(ring, 7, c, _zeros(F, ROWS), False)
    d_q = _product(ring, 8, c, d_q, True)
    vu_x = _kept(vu, 0, F, ROWS)
    vu_y = _kept(vu, 1, F, ROWS)
    vu_z = _kept(vu, 2, F, ROWS)
    n_bar, d_q = warpgroup_mma_wait(0, deps=(n_bar, d_q))
    n_bar *= gl.rsqrt(square)
    _store_operand(a, d_q)
    x, y, z = _taken(axes)
    x = w * _unpack_half2(vu_x)[0] + t * x
    y = w * _unpack_half2(vu_y)[0] + t * y
    z = w * _unpack_half2(vu_z)[0] + t * z
    _put_axes(axes, x, y, z)
    _ready(flags, 9, 1)
    xyz = _product(ring, 9, axes, _zeros(F, 4 * ROWS), False)
    gl.store(q + at, d_q)
    _copy_to_rows(q_bar + row * F, a, F)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    _barrier()
    v_x, u_x = _unpack_half2(vu_x)
    v_y, u_y = _unpack_half2(vu_y)
    v_z, u_z = _unpack_half2(vu_z)
    _put_axes(axes, w * u_x + n_bar * v_x, w * u_y + n_bar * v_y, w * u_z + n_bar * v_z)
    _ready(flags, 10, 1)
    xyz = _product(ring, 10, axes, xyz, True)
    before = gl.load(mu + at3, axis < 3)
    xyz = warpgroup_mma_wait(0, deps=(xyz,))
    _barrier()
    x, y, z = _axes(xyz)
    _put_axes(axes, x, y, z)
    _barrier()
    _copy_axes_to_rows(mu, mu_bar + row * (3 * F), before, at3, axis, axes)


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
    """Enqueue what `painn_update.launch_fwd` does."""
    rows = rows_of(q)
    painn_update_fwd_hopper_kernel[(q.shape[0] // rows,)](
        num_atoms=num_atoms,
        weights=chain.there,
        biases=chain.biases,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        vu=saved.vu.view(torch.int32),
        z_saved=saved.z,
        w_saved=saved.w,
        t_saved=saved.t,
        y_saved=saved.y,
        context=context,
        mu_sent=mu_sent,
        **_options(q.shape[1], rows, pdl),
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
    """Enqueue what `painn_update.launch_last` does."""
    rows = rows_of(q)
    painn_update_last_hopper_kernel[(q.shape[0] // rows,)](
        num_atoms=num_atoms,
        weights=chain.there,
        biases=chain.biases,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        energies=energies,
        q_bar=q_bar,
        mu_bar=mu_bar,
        seed=seed,
        **_options(q.shape[1], rows, pdl),
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
    """Enqueue what `painn_update.launch_bwd` does."""
    rows = rows_of(q)
    painn_update_bwd_hopper_kernel[(q.shape[0] // rows,)](
        num_atoms=num_atoms,
        weights=chain.back,
        epsilon=chain.epsilon,
        q=q,
        mu=mu,
        vu=saved.vu.view(torch.int32),
        z_saved=saved.z,
        w_saved=saved.w,
        t_saved=saved.t,
        y_saved=saved.y,
        context_bar=context_bar,
        q_bar=q_bar,
        mu_bar=mu_bar,
        **_options(q.shape[1], rows, pdl),
    )


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def rows_of(q: Tensor) -> int:
    """Atoms a program, for buffers of so many rows."""
    at_once = _processors(q.device)
    return next((rows for rows in ROWS if q.shape[0] <= rows * at_once), ROWS[-1])


def _options(channels: int, rows: int, pdl: bool) -> dict[str, Any]:
    """What the kernels are compiled for, and how they are launched; how many warps there are follows from the channels."""
    return {
        "F": channels,
        "PDL": pdl,
        "ROWS": rows,
        "num_warps": channels // 16,
        "launch_pdl": pdl,
    }
