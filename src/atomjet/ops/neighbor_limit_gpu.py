# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
"""Which edges of long rows count: weights 1 or 0 by a limit n on an atom's neighbours.

    w_e = 1 where d²_e <= d²_(n + 1) + Δ, with d²_(n + 1) of the (n + 1)-th nearest neighbour of e's center; in shorter rows all 1

vectors (Ê, 3) Å, w (Ê,) float32. The (n + 1)-th is found by halving the range of float32 numbers, which stand in the order of
their bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _squares(vectors, e, inside):
    x = tl.load(vectors + 3 * e, inside, 0.0)
    y = tl.load(vectors + 3 * e + 1, inside, 0.0)
    z = tl.load(vectors + 3 * e + 2, inside, 0.0)
    return x * x + y * y + z * z


@triton.jit(do_not_specialize=["limit"])
def neighbor_limit_kernel(row_ptr, num_atoms, vectors, weights, limit, slack, EDGES: tl.constexpr):
    """One row a program."""
    i = tl.program_id(0).to(tl.int64)
    if i >= tl.load(num_atoms):
        return
    first = tl.load(row_ptr + i)
    stop = tl.load(row_ptr + i + 1)
    farthest = float("inf")
    if stop - first > limit:
        low = tl.zeros((), tl.int32)
        high = tl.full((), 0x7F800000, tl.int32)
        while low < high:
            middle = low + (high - low) // 2
            below = tl.zeros((EDGES,), tl.int32)
            for start in range(first, stop, EDGES):
                e = start + tl.arange(0, EDGES).to(tl.int64)
                inside = e < stop
                bits = _squares(vectors, e, inside).to(tl.int32, bitcast=True)
                below += (inside & (bits <= middle)).to(tl.int32)
            enough = tl.sum(below, 0) > limit
            high = tl.where(enough, middle, high)
            low = tl.where(enough, low, middle + 1)
        farthest = low.to(tl.float32, bitcast=True) + slack
    for start in range(first, stop, EDGES):
        e = start + tl.arange(0, EDGES).to(tl.int64)
        inside = e < stop
        tl.store(weights + e, (_squares(vectors, e, inside) <= farthest).to(tl.float32), inside)


def launch(*, row_ptr: Tensor, num_atoms: Tensor, vectors: Tensor, weights: Tensor, limit: int, slack: float) -> None:
    """Enqueue: rows of edges and how many are in use, vectors (Ê, 3) float32 to weights (Ê,) float32; slack is Δ, Å²."""
    neighbor_limit_kernel[(row_ptr.shape[0] - 1,)](
        row_ptr=row_ptr,
        num_atoms=num_atoms,
        vectors=vectors,
        weights=weights,
        limit=limit,
        slack=slack,
        EDGES=64,
        num_warps=1,
    )


def reference(vectors: Tensor, row_ptr: Tensor, limit: int, slack: float) -> Tensor:
    """The weights of rows that follow each other, (E,) in the type of the vectors."""
    squares = vectors.square().sum(1)
    weights = torch.ones_like(squares)
    for first, stop in zip(row_ptr[:-1].tolist(), row_ptr[1:].tolist(), strict=True):
        if stop - first > limit:
            row = squares[first:stop]
            weights[first:stop] = (row <= row.sort().values[limit] + slack).to(row.dtype)
    return weights
