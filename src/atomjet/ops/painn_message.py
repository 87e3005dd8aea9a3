# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false, reportUnboundVariable=false
"""PaiNN's message and its derivative, fused: geometry, filter, products and sums over rows in one kernel each.

N atoms, E edges in rows by center, F channels. For an edge e of center i with neighbor j, r the vector, d = |r|, u = r / d, and the
filter W(d) ∈ R^3F, cutoff included, from a table (`radial_table.py`):

    (a, b, g) = split(c_j ⊙ W)
    q_i += Σ_e a,      μ_i += Σ_e (b ⊗ u + g ⊙ μ_j)

Backwards, X̄ = dE/dX. The list holds every edge both ways, so what i *sent* is found in i's own row, each edge read backwards: its
neighbor k received, its direction is -u. All sums are over rows, in a fixed order, without atomic additions:

    ā = q̄_k,   b̄ = -Σ_xyz μ̄_k u,   ḡ = Σ_xyz μ̄_k μ_i
    c̄_i = Σ_e [ā, b̄, ḡ] ⊙ W,   μ̄_i += Σ_e c_i^g W^g ⊙ μ̄_k
    d̄ = Σ_3F [ā, b̄, ḡ] ⊙ c_i ⊙ W',   ū = Σ_F c_i^b W^b ⊙ μ̄_k
    dE/d(-r) = -u d̄ + (ū - u (u · ū)) / d

Per edge nothing is kept but the last line. A program is one row and some of its channels; those of the same channels run together,
so that their part of the table stays in the first-level cache. Schütt, Unke, Gastegger, ICML 2021; derivation:
docs/concepts/analytic_forces.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomjet.ops import radial_table
from atomjet.ops.pdl import pdl_wait
from atomjet.ops.radial_table import RadialTable
from atomjet.ops.segment_sum import segment_sum
from atomjet.ops.zbl import COULOMB
from atomjet.ops.zbl_gpu import zbl


class Edges(NamedTuple):
    """Edges in rows by center, in buffers of N̂ rows and Ê edges: row_ptr (N̂ + 1,), neighbors (Ê,) and kinds (N̂,), the element of
    each row, int32; vectors (Ê, 3) float32; num_rows (1,) int32, how many rows are in use.
    """

    row_ptr: Tensor
    neighbors: Tensor
    vectors: Tensor
    kinds: Tensor
    num_rows: Tensor


class Nuclei(NamedTuple):
    """What repels nuclei (`zbl.py`), by their elements.

    Attributes:
        table: (Z, 3) float32: charge, its part of the inverse screening length in 1/Å, and radius in Å, by element.
        start, end: of the switch, in sums of two radii.
        reach: Å, the end of the switch for the largest sum of two radii there is; larger sums count as that one.
    """

    table: Tensor
    start: float
    end: float
    reach: float


class Tiles(NamedTuple):
    """How the kernels are cut: edges and channels taken together, warps, and registers a thread has at most (0: the compiler's)."""

    edges: int = 8
    channels: int = 32
    warps: int = 1
    registers: int = 0


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


NOTHING = tl.constexpr(radial_table.NOTHING)
NO_VALUE, NO_SLOPE = tl.constexpr(radial_table.NO_VALUE), tl.constexpr(radial_table.NO_SLOPE)
HALF_COULOMB = tl.constexpr(0.5 * COULOMB)


@triton.jit
def _read(neighbors, vectors, e, stop):
    """Neighbor and vector of some edges of a row.

    Beyond its end a program goes on with its last edge, whose filter is then zero: that costs less than to mask every read, and
    keeps a NaN within its structure.
    """
    e = tl.minimum(e, stop - 1)
    vector = vectors + 3 * e.to(tl.int64)
    return tl.load(neighbors + e).to(tl.int64), tl.load(vector), tl.load(vector + 1), tl.load(vector + 2)


@triton.jit
def _place(x, y, z, inside, per_length, spacing):
    """Direction, inverse length, knot and distance from it."""
    square = x * x + y * y + z * z
    inverse = tl.rsqrt(square)
    length = square * inverse
    knot = (length * per_length + 0.5).to(tl.int32)
    offset = tl.where(inside, length - knot.to(tl.float32) * spacing, 0.0)
    knot = tl.where(inside, knot, NOTHING)
    return x * inverse, y * inverse, z * inverse, inverse, knot, offset


@triton.jit
def _gather(pointer):
    return tl.load(pointer).to(tl.float32)


@triton.jit
def _halves(word, gain):
    """The two numbers in words of a narrow table, as floats that stand a little above 1 and a little above the gain.

    The gain is a power of two: all there is of it is its exponent.
    """
    word = word.to(tl.uint32, bitcast=True)
    value = ((word >> 8) + 0x3F000000).to(tl.float32, bitcast=True)
    slope = ((word & 0xFFFF) | gain.to(tl.uint32, bitcast=True)).to(tl.float32, bitcast=True)
    return value, slope


@triton.jit
def _filter(value, rows, offset, gain, F: tl.constexpr):
    """W of one of the three parts."""
    if value.dtype.element_ty == tl.int32:
        high, low = _halves(tl.load(value), gain)
        return high + offset * low - (NO_VALUE + offset * (gain * NO_SLOPE))
    return tl.load(value) + offset * (tl.load(value + 3 * F) + 0.5 * offset * tl.load(rows))


@triton.jit
def _filter_and_slope(value, rows, offset, gain, F: tl.constexpr):
    """W and W' of one of the three parts."""
    second = tl.load(rows).to(tl.float32)
    if value.dtype.element_ty == tl.int32:
        high, low = _halves(tl.load(value), gain)
        w = high + offset * low - (NO_VALUE + offset * (gain * NO_SLOPE))
        return w, low - gain * NO_SLOPE + offset * second
    slope = tl.load(value + 3 * F)
    w = tl.load(value) + offset * (slope + 0.5 * offset * second)
    return w, slope + offset * (second + offset * tl.load(rows + 3 * F))


@triton.jit
def _in_fours(x):
    """Sums of four channels that stand side by side, within a thread: (e, c) to (e, c / 4)."""
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // 4, 4)), 2)


@triton.jit
def _along_axes(axis, x, y, z):
    """x, y, z and a zero on the four places of an axis."""
    return tl.where(axis == 0, x, tl.where(axis == 1, y, tl.where(axis == 2, z, 0.0)))


@triton.jit
def _repulsion(table, own, other, length, start, end, reach):
    """Half of what two nuclei have, and half its derivative by their distance, for elements by their rows in the table."""
    radii = tl.minimum(tl.load(table + 3 * own + 2) + tl.load(table + 3 * other + 2), reach / end)
    strength = HALF_COULOMB * tl.load(table + 3 * own) * tl.load(table + 3 * other)
    screening = tl.load(table + 3 * own + 1) + tl.load(table + 3 * other + 1)
    return zbl(length, strength, screening, start * radii, end * radii)


@triton.jit
def _start(q, mu, embedding, kind, channel, F: tl.constexpr, FIRST: tl.constexpr):
    """What the sums are added to."""
    if FIRST:
        start = tl.load(embedding + tl.load(kind).to(tl.int64) * F + channel)
        nothing = tl.zeros_like(start)
        return start, nothing, nothing, nothing
    return tl.load(q), tl.load(mu), tl.load(mu + F), tl.load(mu + 2 * F)


@triton.jit(do_not_specialize=["num_rows"])
def painn_message_fwd_kernel(
    row_ptr,
    neighbors,
    vectors,
    num_rows,
    kinds,
    values,
    coefficients,
    gain,
    per_length,
    embedding,
    context,
    mu_sent,
    q,
    mu,
    F: tl.constexpr,
    WORDS: tl.constexpr,
    FIRST: tl.constexpr,
    PDL: tl.constexpr,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """In the first layer context goes by element, q by embedding, and μ is zero."""
    i = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pdl_wait(PDL)
    count = tl.load(num_rows)
    first = tl.load(row_ptr + i)
    stop = tl.load(row_ptr + i + 1)
    if i >= count:
        return
    gain = tl.zeros((), tl.float32) + gain  # a tensor for the interpreter too
    spacing = 1.0 / per_length
    WIDTH: tl.constexpr = 2 * F if FIRST else 3 * F
    sum_q = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_x = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_y = tl.zeros((EDGES, CHANNELS), tl.float32)
    sum_z = tl.zeros((EDGES, CHANNELS), tl.float32)
    own_q = q + i * F + channel
    own_mu = mu + i * (3 * F) + channel
    if EDGES > 1:  # with one, registers are what decides how many programs run at a time
        total_q, total_x, total_y, total_z = _start(own_q, own_mu, embedding, kinds + i, channel, F, FIRST)
    # The next edges are read while those before them are worked on.
    e = first + tl.arange(0, EDGES)
    next_j, next_x, next_y, next_z = _read(neighbors, vectors, e, tl.maximum(stop, 1))
    for _ in range(first, stop, EDGES):
        inside = e < stop if EDGES > 1 else tl.full((EDGES,), True, tl.int1)
        j = next_j
        x, y, z, _, knot, offset = _place(next_x, next_y, next_z, inside, per_length, spacing)
        e += EDGES
        next_j, next_x, next_y, next_z = _read(neighbors, vectors, e, stop)
        sender = tl.load(kinds + j).to(tl.int64) if FIRST else j
        sent = context + sender[:, None] * WIDTH + channel[None, :]
        value = values + knot[:, None] * (WORDS * 3 * F) + channel[None, :]
        rows = coefficients + knot[:, None] * (WORDS * 3 * F) + channel[None, :]
        offset = offset[:, None]
        sum_q += _filter(value, rows, offset, gain, F) * _gather(sent)
        b = _filter(value + F, rows + F, offset, gain, F) * _gather(sent + F)
        sum_x += b * x[:, None]
        sum_y += b * y[:, None]
        sum_z += b * z[:, None]
        if not FIRST:
            g = _filter(value + 2 * F, rows + 2 * F, offset, gain, F) * _gather(sent + 2 * F)
            vector = mu_sent + j[:, None] * (3 * F) + channel[None, :]
            sum_x += g * _gather(vector)
            sum_y += g * _gather(vector + F)
            sum_z += g * _gather(vector + 2 * F)

    if EDGES == 1:
        total_q, total_x, total_y, total_z = _start(own_q, own_mu, embedding, kinds + i, channel, F, FIRST)
    total_q += tl.sum(sum_q, 0)
    total_x += tl.sum(sum_x, 0)
    total_y += tl.sum(sum_y, 0)
    total_z += tl.sum(sum_z, 0)
    tl.store(own_q, total_q)
    tl.store(own_mu, total_x)
    tl.store(own_mu + F, total_y)
    tl.store(own_mu + 2 * F, total_z)


@triton.jit(do_not_specialize=["num_rows", "num_edges"])
def painn_message_bwd_kernel(
    row_ptr,
    neighbors,
    vectors,
    num_rows,
    kinds,
    values,
    coefficients,
    gain,
    per_length,
    context,
    mu_sent,
    q_bar,
    mu_bar,
    mu_bar_sum,
    gradients,
    num_edges,
    scale,
    energies,
    table,
    start,
    end,
    reach,
    F: tl.constexpr,
    WORDS: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    ZBL: tl.constexpr,
    PDL: tl.constexpr,
    EDGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """c̄ overwrites c, of which only the own row is needed here.

    LAST is the layer whose derivative comes first: it starts the edges' sums, the others add to them. With ZBL, which comes with
    the first layer, the programs of the first channels add the repulsion of nuclei to energies and derivatives.
    """
    i = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pdl_wait(PDL)
    count = tl.load(num_rows)
    first = tl.load(row_ptr + i)
    stop = tl.load(row_ptr + i + 1)
    if i >= count:
        return
    gain = tl.zeros((), tl.float32) + gain  # a tensor for the interpreter too
    spacing = 1.0 / per_length
    WIDTH: tl.constexpr = 2 * F if FIRST else 3 * F
    own_row = tl.load(kinds + i).to(tl.int64) if FIRST else i
    own = context + own_row * WIDTH + channel
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
    if ZBL:
        sum_repulsion = tl.zeros((EDGES,), tl.float32)

    # The first four of a tile's columns hold an edge's derivative and a zero, so that it is one word of 16 bytes.
    axis = tl.arange(0, 4)[None, None, :]
    place = 4 * tl.arange(0, CHANNELS // 4)[None, :, None] + axis
    e = first + tl.arange(0, EDGES)
    next_k, next_x, next_y, next_z = _read(neighbors, vectors, e, tl.maximum(stop, 1))
    for _ in range(first, stop, EDGES):
        inside = e < stop if EDGES > 1 else tl.full((EDGES,), True, tl.int1)
        k = next_k
        x, y, z, inverse, knot, offset = _place(next_x, next_y, next_z, inside, per_length, spacing)
        p = gradients + (part * num_edges + e)[:, None, None] * 4 + place
        here = inside[:, None, None] & (place < 4)
        if not LAST:
            before = tl.load(p, here, 0.0)
        e += EDGES
        next_k, next_x, next_y, next_z = _read(neighbors, vectors, e, stop)
        value = values + knot[:, None] * (WORDS * 3 * F) + channel[None, :]
        rows = coefficients + knot[:, None] * (WORDS * 3 * F) + channel[None, :]
        offset = offset[:, None]
        if ZBL:
            length = 1.0 / inverse
        x = x[:, None]
        y = y[:, None]
        z = z[:, None]
        bar = _gather(q_bar + k[:, None] * F + channel[None, :])
        w, w_slope = _filter_and_slope(value, rows, offset, gain, F)
        if not FIRST:
            sum_a += bar * w
        along = bar * c_a * w_slope
        received = mu_bar + k[:, None] * (3 * F) + channel[None, :]
        r_x = _gather(received)
        r_y = _gather(received + F)
        r_z = _gather(received + 2 * F)
        across = r_x * x + r_y * y + r_z * z
        w, w_slope = _filter_and_slope(value + F, rows + F, offset, gain, F)
        if not FIRST:
            sum_b -= across * w
        along -= across * c_b * w_slope
        turned = w * c_b
        turned_x = _in_fours(turned * r_x)
        turned_y = _in_fours(turned * r_y)
        turned_z = _in_fours(turned * r_z)
        if not FIRST:
            bar = r_x * mu_x + r_y * mu_y + r_z * mu_z
            w, w_slope = _filter_and_slope(value + 2 * F, rows + 2 * F, offset, gain, F)
            sum_g += bar * w
            along += bar * c_g * w_slope
            w *= c_g
            sum_x += w * r_x
            sum_y += w * r_y
            sum_z += w * r_z
        # What stands in the last line above, linear in ū and d̄, of the four channels that a thread has; then the sums of three
        # numbers over threads, instead of four.
        across = turned_x * x + turned_y * y + turned_z * z
        inverse = inverse[:, None]
        along = _in_fours(along) + inverse * across
        p_x = tl.sum(inverse * turned_x - along * x, 1, keep_dims=True)
        p_y = tl.sum(inverse * turned_y - along * y, 1, keep_dims=True)
        p_z = tl.sum(inverse * turned_z - along * z, 1, keep_dims=True)
        p_x = p_x[:, :, None]
        p_y = p_y[:, :, None]
        p_z = p_z[:, :, None]
        total = scale * _along_axes(axis, p_x, p_y, p_z)
        if ZBL:
            # Nearly all edges are longer than any switch reaches.
            near = inside & (length < reach)
            if (part == 0) & (tl.max(near.to(tl.int32), 0) > 0):
                energy, slope = _repulsion(table, own_row, tl.load(kinds + k).to(tl.int64), length, start, end, reach)
                sum_repulsion += tl.where(near, energy, 0.0)
                # Of the reverse edge, as all that stands here: its direction is -u.
                slope = tl.where(near, -slope, 0.0)[:, None, None]
                total += slope * _along_axes(axis, x[:, :, None], y[:, :, None], z[:, :, None])
        if not LAST:
            total += before
        tl.store(p, total, here)

    if ZBL:  # noqa: SIM102 (it is known to the compiler, the other is not)
        if part == 0:
            tl.store(energies + i, tl.load(energies + i) + tl.sum(sum_repulsion, 0))
    if not FIRST:
        tl.store(own, tl.sum(sum_a, 0))
        tl.store(own + F, tl.sum(sum_b, 0))
        tl.store(own + 2 * F, tl.sum(sum_g, 0))
        total = mu_bar_sum + i * (3 * F) + channel
        tl.store(total, tl.load(total) + tl.sum(sum_x, 0))
        tl.store(total + F, tl.load(total + F) + tl.sum(sum_y, 0))
        tl.store(total + 2 * F, tl.load(total + 2 * F) + tl.sum(sum_z, 0))


# ------------------------------------------------------------------------------------------------------------------- launch


def launch_fwd(
    edges: Edges,
    table: RadialTable,
    embedding: Tensor,
    context: Tensor,
    mu_sent: Tensor | None,
    q: Tensor,
    mu: Tensor,
    tiles: Tiles,
    pdl: bool,
) -> None:
    """Enqueue: adds to q (N̂, F) and μ (N̂, 3, F); in the first layer (mu_sent is None) fills them."""
    features = q.shape[1]
    channels = min(tiles.channels, features)
    painn_message_fwd_kernel[(edges.kinds.shape[0], features // channels)](
        row_ptr=edges.row_ptr,
        neighbors=edges.neighbors,
        vectors=edges.vectors,
        num_rows=edges.num_rows,
        kinds=edges.kinds,
        values=table.values,
        coefficients=table.rows,
        gain=table.gain,
        per_length=table.per_length,
        embedding=embedding,
        context=context,
        mu_sent=context if mu_sent is None else mu_sent,
        q=q,
        mu=mu,
        F=features,
        WORDS=table.values.shape[1],
        FIRST=mu_sent is None,
        PDL=pdl,
        EDGES=tiles.edges,
        CHANNELS=channels,
        num_warps=tiles.warps,
        maxnreg=tiles.registers or None,
        launch_pdl=pdl,
    )


def launch_bwd(
    edges: Edges,
    table: RadialTable,
    context: Tensor,
    mu_sent: Tensor | None,
    q_bar: Tensor,
    mu_bar: Tensor,
    mu_bar_sum: Tensor,
    gradients: Tensor,
    last: bool,
    scale: float,
    tiles: Tiles,
    pdl: bool,
    nuclei: Nuclei | None,
    energies: Tensor,
) -> None:
    """Enqueue: c̄ into `context` (not in the first layer), adds to mu_bar_sum (N̂, 3, F), and to gradients (parts, Ê, 4) or, in the
    last layer, fills them, times `scale`. In the first layer also adds the repulsion of nuclei, if there are any, to
    gradients and to energies (N̂,) float32.
    """
    features = q_bar.shape[1]
    repelled = nuclei or Nuclei(gradients, 0.0, 0.0, 0.0)
    painn_message_bwd_kernel[(edges.kinds.shape[0], gradients.shape[0])](
        row_ptr=edges.row_ptr,
        neighbors=edges.neighbors,
        vectors=edges.vectors,
        num_rows=edges.num_rows,
        kinds=edges.kinds,
        values=table.values,
        coefficients=table.rows,
        gain=table.gain,
        per_length=table.per_length,
        context=context,
        mu_sent=context if mu_sent is None else mu_sent,
        q_bar=q_bar,
        mu_bar=mu_bar,
        mu_bar_sum=mu_bar_sum,
        gradients=gradients,
        num_edges=gradients.shape[1],
        scale=scale,
        energies=energies,
        table=repelled.table,
        start=repelled.start,
        end=repelled.end,
        reach=repelled.reach,
        F=features,
        WORDS=table.values.shape[1],
        FIRST=mu_sent is None,
        LAST=last,
        ZBL=nuclei is not None,
        PDL=pdl,
        EDGES=tiles.edges,
        CHANNELS=features // gradients.shape[0],
        num_warps=tiles.warps,
        maxnreg=tiles.registers or None,
        launch_pdl=pdl,
    )
