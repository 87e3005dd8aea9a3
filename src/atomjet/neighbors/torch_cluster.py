"""Neighbour search through torch-cluster's `radius_graph`: open boundaries only, in float64, on any device."""

from __future__ import annotations

import torch
from torch_cluster import radius_graph

from atomjet.data import Graph, System
from atomjet.errors import BackendError
from atomjet.neighbors.brute_force import assemble

MARGIN = 1e-6
"""Distance, Å, by which the search goes beyond the cutoff, to test again with the definition's own arithmetic at the cutoff."""


def search(system: System, cutoff: float) -> Graph:
    """Find the same edges as `brute_force` does.

    Raises:
        BackendError: a structure is periodic.
    """
    periodic = system.pbc.any(1)
    if bool(periodic.any()):
        structure = int(periodic.nonzero()[0])
        raise BackendError(
            f"{system.name(structure)} is periodic; torch-cluster knows no periodic images; leave the choice to AtomJet"
        )
    positions = system.positions.double()
    largest = int(system.counts().max()) if system.num_atoms else 1
    # torch-cluster returns at most max_num_neighbors: as many as there can be.
    reach = cutoff + MARGIN
    pairs = radius_graph(positions, reach, system.system_index, max_num_neighbors=largest)  # type: ignore[operator]
    neighbors, centers = pairs
    near = (positions[neighbors] - positions[centers]).square().sum(1) < cutoff**2
    key = torch.sort((centers * system.num_atoms + neighbors)[near]).values
    centers, neighbors = key // max(system.num_atoms, 1), key % max(system.num_atoms, 1)
    return assemble(system, centers, neighbors, centers.new_zeros(len(centers), 3), cutoff)
