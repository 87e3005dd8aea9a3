# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Products of rows with weights that the device finds: rows of one structure stand together, and take the matrices of its slot.

    forward    y_e[columns of p] = x_e[columns of p] W_pᵀ        backward    x̄_e[columns of p] = ȳ_e[columns of p] W_p

for the parts p of a convolution (m = 0, 1, 2), each with a matrix W_p (outputs, inputs) of the slot of e's structure. x (Ê, Σ
inputs), y (Ê, Σ outputs) and W in half precision, or in float32, each of whose products is three of the tensor cores'; sums in
float32. One launch does all parts and structures. Rows are taken in tiles that do not cross from one structure to the next: where
each structure's begin is a prefix sum (`launch_tiles`), made once a call.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

ALIGNED_TO = 64
"""Numbers by which the starts of matrices are divisible."""

ALIGNED = tl.constexpr(ALIGNED_TO)


@dataclass(frozen=True)
class Parts:
    """The products of a convolution.

    Attributes:
        outputs, inputs: of each of three parts; zero for one that is not there.
        start: where the first matrix begins in a slot; the others follow.
        size: numbers of a slot.
    """

    outputs: tuple[int, int, int]
    inputs: tuple[int, int, int]
    start: int
    size: int


@triton.jit(do_not_specialize=["systems", "skip"])
def grouped_product_tiles_kernel(row_ptr, system_ptr, tile_ptr, systems, skip, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """One program: tile_ptr[s] tiles stand before those of structure s."""
    before = tl.zeros((), tl.int32)
    tl.store(tile_ptr, before)
    for start in range(0, systems, BLOCK):
        s = start + tl.arange(0, BLOCK)
        inside = s < systems
        first = tl.load(row_ptr + tl.load(system_ptr + s, inside, 0).to(tl.int64))
        stop = tl.load(row_ptr + tl.load(system_ptr + s + 1, inside, 0).to(tl.int64))
        first = tl.maximum(first, skip)
        tiles = tl.where(inside & (first < stop), (stop - first + ROWS - 1) // ROWS, 0)
        tl.store(tile_ptr + 1 + s, before + tl.cumsum(tiles, 0), inside)
        before += tl.sum(tiles, 0)


@triton.jit(do_not_specialize=["systems", "start", "skip"])
def grouped_product_kernel(
    x,
    weights,
    y,
    row_ptr,
    system_ptr,
    tile_ptr,
    slots,
    systems,
    start,
    skip,
    SIZE: tl.constexpr,
    X_0: tl.constexpr,
    X_1: tl.constexpr,
    X_2: tl.constexpr,
    Y_0: tl.constexpr,
    Y_1: tl.constexpr,
    Y_2: tl.constexpr,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of rows and of columns a program; X: inputs of x of each part, Y: columns of y."""
    TILES: tl.constexpr = (Y_0 + Y_1 + Y_2) // COLUMNS
    tile = tl.program_id(0) // TILES
    column = (tl.program_id(0) % TILES) * COLUMNS
    if tile >= tl.load(tile_ptr + systems):
        return
    # The last structure whose tiles begin here or before.
    low = tl.zeros((), tl.int32)
    high = systems - 1
    while low < high:
        middle = (low + high + 1) // 2
        below = tl.load(tile_ptr + middle) <= tile
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle - 1)
    first = tl.maximum(tl.load(row_ptr + tl.load(system_ptr + low).to(tl.int64)), skip)
    stop = tl.load(row_ptr + tl.load(system_ptr + low + 1).to(tl.int64))
    begin = first + (tile - tl.load(tile_ptr + low)) * ROWS
    slot = tl.load(slots + low).to(tl.int64)

    # Selected, not branched to, so that the compiler sees by what these are divisible.
    last = column >= Y_0 + Y_1
    second = column >= Y_0
    depth = tl.where(last, X_2, tl.where(second, X_1, X_0))
    x_start = tl.where(last, X_0 + X_1, tl.where(second, X_0, 0))
    place = tl.where(last, X_0 * Y_0 + X_1 * Y_1, tl.where(second, X_0 * Y_0, 0))
    width = tl.where(last, Y_2, tl.where(second, Y_1, Y_0))
    inner = column - tl.where(last, Y_0 + Y_1, tl.where(second, Y_0, 0))
    e = begin + tl.arange(0, ROWS).to(tl.int64)
    inside = (e < stop)[:, None]
    safe = tl.where(e < stop, e, begin)
    k = tl.arange(0, DEPTH)
    c = tl.arange(0, COLUMNS)
    a = x + safe[:, None] * (X_0 + X_1 + X_2) + (x_start + k[None, :])
    w = weights + slot * SIZE + (start * ALIGNED + place)
    if BACKWARD:
        b = w + k[:, None] * width + (inner + c[None, :])
        step = DEPTH * width
    else:
        b = w + (inner + c[None, :]) * depth + k[:, None]
        step = tl.zeros((), tl.int32) + DEPTH
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(0, depth, DEPTH):
        total = tl.dot(tl.load(a), tl.load(b), total, input_precision="tf32x3")
        a += DEPTH
        b += step
    out = y + e[:, None] * (Y_0 + Y_1 + Y_2) + (column + c[None, :])
    tl.store(out, total.to(y.dtype.element_ty), inside)


def launch_tiles(*, row_ptr: Tensor, system_ptr: Tensor, tile_ptr: Tensor, rows: int, skip: int = 0) -> None:
    """Enqueue: tile_ptr (Ŝ + 1,) int32 from the rows of edges of each structure, `rows` a tile; without the first `skip` of all."""
    systems = system_ptr.shape[0] - 1
    block = min(1024, max(16, triton.next_power_of_2(systems)))
    grouped_product_tiles_kernel[(1,)](
        row_ptr=row_ptr,
        system_ptr=system_ptr,
        tile_ptr=tile_ptr,
        systems=systems,
        skip=skip,
        ROWS=rows,
        BLOCK=block,
        num_warps=max(1, block // 128),
    )


def launch(
    *,
    x: Tensor,
    weights: Tensor,
    parts: Parts,
    backward: bool,
    y: Tensor,
    row_ptr: Tensor,
    system_ptr: Tensor,
    tile_ptr: Tensor,
    slots: Tensor,
    rows: int,
    skip: int = 0,
    columns: int = 128,
    depth: int = 64,
    warps: int = 4,
    stages: int = 3,
) -> None:
    """Enqueue.

    Args:
        x: (Ê, ...) of half or single precision, rows of Σ inputs, backward Σ outputs. y: (Ê, ...), filled; any floating type.
        weights: (slots, size) as x; see `parts`.
        row_ptr, system_ptr: rows of edges, and of atoms. tile_ptr: of `launch_tiles`, for the same `rows`. slots: (Ŝ,) int32.
        rows, columns, depth, warps, stages: how the kernel is tiled. skip: rows at the beginning that are left as they are.
    """
    given, made = (parts.outputs, parts.inputs) if backward else (parts.inputs, parts.outputs)
    systems = system_ptr.shape[0] - 1
    columns = min(columns, *(width & -width for width in made if width))
    depth = min(depth, *(width & -width for width in given if width))
    tiles = triton.cdiv(x.shape[0] - skip, rows) + systems - 1
    grouped_product_kernel[(tiles * (sum(made) // columns),)](
        x=x,
        weights=weights,
        y=y,
        row_ptr=row_ptr,
        system_ptr=system_ptr,
        tile_ptr=tile_ptr,
        slots=slots,
        systems=systems,
        start=parts.start // ALIGNED_TO,
        skip=skip,
        SIZE=parts.size,
        X_0=given[0],
        X_1=given[1],
        X_2=given[2],
        Y_0=made[0],
        Y_1=made[1],
        Y_2=made[2],
        BACKWARD=backward,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=depth,
        num_warps=warps,
        num_stages=stages,
    )


def reference(x: Tensor, weights: Tensor, parts: Parts, backward: bool, slots: Tensor, edge_ptr: Tensor) -> Tensor:
    """The grouped product in the type of x, row group by row group: slots (S,), edge_ptr (S + 1,) where the rows of each structure
    begin.
    """
    given, made = (parts.outputs, parts.inputs) if backward else (parts.inputs, parts.outputs)
    y = x.new_zeros(len(x), sum(made))
    for slot, first, stop in zip(slots.tolist(), edge_ptr[:-1].tolist(), edge_ptr[1:].tolist(), strict=True):
        at, x_at, y_at = parts.start, 0, 0
        for outputs, inputs, wide, narrow in zip(parts.outputs, parts.inputs, given, made, strict=True):
            w = weights[slot, at : at + outputs * inputs].view(outputs, inputs).to(x.dtype)
            y[first:stop, y_at : y_at + narrow] = x[first:stop, x_at : x_at + wide] @ (w if backward else w.T)
            at, x_at, y_at = at + outputs * inputs, x_at + wide, y_at + narrow
    return y
