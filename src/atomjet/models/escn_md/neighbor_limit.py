"""The limit on an atom's neighbours that a model was trained with, as fairchem-core 2.24 applies it.

An atom with more than n neighbours inside the cutoff receives from those with d² <= d²_(n+1) + 0.01 Å², where d_(n+1) is the
distance of the (n + 1)-th nearest: a whole shell stays or goes, and somewhat more than n may stay. Atoms with n neighbours or fewer
receive from all. The rule looks at each receiving atom alone, so an edge may stay while its reverse goes: here every edge keeps its
place and gets a weight, 1 or 0, and what needs reverse edges finds them. The weight multiplies the envelope and its slope; then
an edge of weight 0 adds nothing to energies and has no derivative.

The energy jumps where a neighbour comes or goes in this way, because nothing fades it out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.data import Graph

DEGENERACY = 0.01
"""Difference of squared distances, Å², up to which they count as equal."""


def weights(graph: Graph, limit: int) -> Tensor | None:
    """(E,) 1 or 0 in the type of the vectors; None where no atom has more than `limit` neighbours. A limit of 0 is none."""
    if not limit or graph.longest_row <= limit:
        return None
    return within_limit(graph.vectors.detach(), graph.centers, graph.row_ptr, limit).to(graph.vectors.dtype)


def within_limit(vectors: Tensor, centers: Tensor, row_ptr: Tensor, limit: int) -> Tensor:
    """Which edges stay, (E,) bool, by the rule above; shapes depend on no values, so nothing waits for a device.

    Args:
        vectors: (E, 3) Å.
        centers: (E,) the receiving atom of each edge, in rows.
        row_ptr: (N + 1,) where the row of each atom begins.
        limit: n, at least 1.
    """
    squares = vectors.square().sum(1)
    if not len(squares):
        return torch.ones_like(centers, dtype=torch.bool)
    nearest_first = torch.argsort(squares)
    nearest_first = nearest_first[torch.argsort(centers[nearest_first], stable=True)]  # within each row
    beyond = (row_ptr[:-1] + limit).clamp(max=len(squares) - 1)  # the (n + 1)-th of each row, where there is one
    bound = row_ptr[1:] - row_ptr[:-1] > limit
    farthest = torch.where(bound, squares[nearest_first[beyond]] + DEGENERACY, torch.inf)
    return squares <= farthest[centers]
