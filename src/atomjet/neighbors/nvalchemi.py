"""Neighbour search through nvalchemi-toolkit-ops (Warp kernels), in float64, on a CPU or a GPU."""

from __future__ import annotations

import torch
from nvalchemiops.neighbors.neighbor_utils import NeighborOverflowError
from nvalchemiops.torch.neighbors import neighbor_list
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.neighbors.brute_force import assemble, canonical_order, complete_cells, image_reach

MARGIN = 1e-6
"""Distance, Å, by which the search goes beyond the cutoff, to test again with the definition's own arithmetic at the cutoff."""

WIDTH = 128
"""Neighbors of an atom in the first call; doubled until they fit."""


def search(system: System, cutoff: float) -> Graph:
    """Find the same edges as `brute_force` does."""
    cell = complete_cells(system)
    image_reach(system, torch.linalg.inv(cell), cutoff)  # refuses cells too thin for the cutoff
    if not system.num_atoms:
        none = torch.zeros(0, dtype=torch.int64, device=system.device)
        return assemble(system, none, none, none.new_zeros(0, 3), cutoff)
    centers, neighbors, shifts = _found(system, cell, cutoff)
    positions = system.positions.double()
    vectors = positions[neighbors] - positions[centers]
    vectors += torch.einsum("ek,eka->ea", shifts.double(), cell[system.system_index[centers]])
    near = vectors.square().sum(1) < cutoff**2
    centers, neighbors, shifts = centers[near], neighbors[near], shifts[near]
    order = canonical_order(centers, neighbors, shifts, system.num_atoms)
    return assemble(system, centers[order], neighbors[order], shifts[order], cutoff)


def _found(system: System, cell: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centers, neighbors and shifts as the library finds them, in buffers that are doubled until they fit."""
    ends = torch.cumsum(system.counts(), 0)
    width = WIDTH
    while True:
        try:
            pairs, _, shifts = neighbor_list(
                system.positions.double(),
                cutoff + MARGIN,
                cell=cell,
                pbc=system.pbc,
                batch_idx=system.system_index.int(),
                batch_ptr=torch.cat([ends.new_zeros(1), ends]).int(),
                return_neighbor_list=True,
                method="batch_naive",
                max_neighbors=width,
            )
        except NeighborOverflowError:
            width *= 2
        else:
            return pairs[0].long(), pairs[1].long(), shifts.long()
