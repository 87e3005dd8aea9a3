"""Gather the features of both atoms of every edge and turn them into the edge's frame, m-major.

    y_e = D_e [x_neighbor(e) | x_center(e)]

x (N, M, C) l-major, wigner D (E, R, M) with rows in m-major order, y (E, R, 2C). With ȳ = dE/dy the derivatives are

    x̄_n = Σ over edges whose neighbor is n of (D_eᵀ ȳ_e)[:C]  +  Σ over edges whose center is n of (D_eᵀ ȳ_e)[C:]
    turn_e = ȳ_e y_eᵀ (R, R)

`turn` is what a small turn of the frame does: with generators L_k, dE/dw_k = Σ L_k ⊙ turn. It stands in for dE/dD, of which
only this part depends on the edge's direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.ops.segment_sum import gather, scatter_sum


def node_to_edge_wigner_permute(x: Tensor, wigner: Tensor, neighbors: Tensor, centers: Tensor) -> Tensor:
    """(N, M, C), (E, R, M), (E,), (E,) to (E, R, 2C)."""
    pairs = torch.cat([gather(x, neighbors), gather(x, centers)], dim=2)
    return torch.bmm(wigner, pairs)


def node_to_edge_wigner_permute_backward(
    y_bar: Tensor, y: Tensor, wigner: Tensor, neighbors: Tensor, centers: Tensor, nodes: int
) -> tuple[Tensor, Tensor]:
    """Return x̄ (N, M, C) and turn (E, R, R)."""
    to_neighbors, to_centers = torch.bmm(wigner.mT, y_bar).chunk(2, dim=2)
    x_bar = scatter_sum(to_neighbors, neighbors, nodes) + scatter_sum(to_centers, centers, nodes)
    return x_bar, torch.bmm(y_bar, y.mT)
