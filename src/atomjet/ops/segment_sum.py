"""Sum consecutive rows: out[n] = sum of values[e] for e in row_ptr[n] ... row_ptr[n + 1] - 1.

values (E, ...), row_ptr (N + 1,), out (N, ...). Deterministic: no atomic additions on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def segment_sum(values: Tensor, row_ptr: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Sum each segment; `rows` (E,) is the segment of every value (the same knowledge as `row_ptr`, both at hand).

    `out`, if given, is where the sums go, whatever was there.
    """
    segments = row_ptr.shape[0] - 1
    if out is not None and values.is_cuda:
        return out.copy_(segment_sum(values, row_ptr, rows))
    if values.is_cuda and segments == 1:
        # PyTorch gives each segment to one thread.
        return values.sum(0, keepdim=True)
    if values.is_cuda:
        # index_add would add atomically there, in an order that changes from run to run.
        flat = values.flatten(1)
        return torch.segment_reduce(flat, "sum", offsets=row_ptr).reshape(segments, *values.shape[1:])
    out = values.new_zeros(segments, *values.shape[1:]) if out is None else out.zero_()
    return out.index_add_(0, rows, values)


def scatter_sum(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum values (E, ...) into out (rows, ...): out[n] = sum of values[e] for index[e] == n, in the order of e on any device."""
    if not values.is_cuda:
        return values.new_zeros(rows, *values.shape[1:]).index_add_(0, index, values)
    order = torch.argsort(index, stable=True)
    counts = torch.bincount(index, minlength=rows)
    row_ptr = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
    return segment_sum(values.index_select(0, order), row_ptr, index)


def scatter_add_(out: Tensor, values: Tensor, index: Tensor) -> None:
    """Add values (E, ...) to the rows of out (rows, ...) that index (E,) names, in the order of e on any device."""
    if values.is_cuda:
        out.add_(scatter_sum(values, index, out.shape[0]))
    else:
        out.index_add_(0, index, values)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index], with a derivative summed in the order of the index on any device (autograd's own adds atomically on a GPU)."""
    return _Gather.apply(x, index)  # type: ignore[return-value]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return scatter_sum(bars[0], index, ctx.rows), None
