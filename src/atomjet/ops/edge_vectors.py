"""Edge vectors from positions and cells, to be differentiated: r_e = x_j - x_i + S_e h, for edge e from i to j in structure s.

    ∂/∂x_n: Σ_(e: j = n) g_e - Σ_(e: i = n) g_e        ∂/∂h_s: Σ_(e of s) S_e ⊗ g_e

positions (N, 3), cell (S, 3, 3) rows, centers, neighbors, systems (E,), shifts (E, 3); r (E, 3). The map is linear, so it is the
derivative of its own derivative: any order. Sums in a fixed order on any device. Which edges there are has no derivative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from atomjet.ops.segment_sum import scatter_sum


class Edges(NamedTuple):
    """Which pairs: (E,) indices of atoms and of structures, (E, 3) whole cells."""

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    systems: Tensor


def edge_vectors(positions: Tensor, cell: Tensor, edges: Edges) -> Tensor:
    """(E, 3), in the type of the positions."""
    return _Vectors.apply(positions, cell, edges)  # type: ignore[return-value]


class _Vectors(Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, edges: Edges) -> Tensor:
        ctx.edges, ctx.sizes = edges, (positions.shape[0], cell.shape[0])
        offsets = torch.einsum("ek,eka->ea", edges.shifts.to(cell.dtype), cell[edges.systems])
        return positions[edges.neighbors] - positions[edges.centers] + offsets

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return (*_Sums.apply(gradient, ctx.edges, ctx.sizes), None)  # type: ignore[misc]


class _Sums(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, edges: Edges, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
        ctx.edges = edges
        atoms = scatter_sum(gradient, edges.neighbors, sizes[0]) - scatter_sum(gradient, edges.centers, sizes[0])
        outer = edges.shifts.to(gradient.dtype)[:, :, None] * gradient[:, None, :]
        return atoms, scatter_sum(outer, edges.systems, sizes[1])

    @staticmethod
    def backward(ctx: Any, positions: Tensor, cell: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return _Vectors.apply(positions, cell, ctx.edges), None, None
