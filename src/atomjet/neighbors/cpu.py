"""Neighbour search on the CPU through vesin (cell lists; any cell, mixed periodic directions, several images of one atom)."""

from __future__ import annotations

import numpy as np
import torch
import vesin

from atomjet.data import Graph, System
from atomjet.neighbors.brute_force import assemble, complete_cells, image_reach

MARGIN = 1e-6
"""Å. Search this much further than the cutoff, then test again with the definition's own arithmetic at the cutoff."""


def search(system: System, cutoff: float) -> Graph:
    """Find the same edges as `brute_force` does, in time linear in the atoms."""
    if bool(system.pbc.any()):
        cell = complete_cells(system)
        image_reach(system, torch.linalg.inv(cell), cutoff)  # refuses cells too thin for the cutoff
        cells = cell.detach().numpy()
    else:
        cells = np.broadcast_to(np.eye(3), (system.num_systems, 3, 3))
    positions, pbc = system.positions.detach().double().numpy(), system.pbc.numpy()
    finder = vesin.NeighborList(cutoff=cutoff + MARGIN, full_list=True)
    stops = np.cumsum(system.counts().numpy())
    pieces = []
    for structure, stop in enumerate(stops):
        start = stops[structure - 1] if structure else 0
        if stop > start:
            i, j, shift, vector = finder.compute(
                positions[start:stop], cells[structure], pbc[structure].tolist(), "ijSD"
            )
            near = np.einsum("ea,ea->e", vector, vector) < (cutoff + MARGIN) ** 2
            pieces.append((i[near].astype(np.int64) + start, j[near].astype(np.int64) + start, shift[near]))
    return _exact(system, pieces, cutoff)


def _exact(system: System, pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], cutoff: float) -> Graph:
    """Join the structures' edges, put them in canonical order, test the cutoff again as the definition does."""
    if pieces:
        i, j, shift = (np.concatenate(part) for part in zip(*pieces, strict=True))
    else:
        i, j, shift = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    shift = shift.astype(np.int64)
    key = i * system.num_atoms + j
    order = np.argsort(key) if not shift.any() else np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], key))
    i, j, shift = i[order], j[order], shift[order]
    x = system.positions.detach().double().numpy()
    vector = x[j] - x[i]
    if shift.any():
        cell = system.cell.detach().double().numpy()[system.system_index.numpy()[i]]
        vector = vector + np.einsum("ek,eka->ea", shift.astype(float), cell)
    near = np.einsum("ea,ea->e", vector, vector) < cutoff**2
    i, j, shift = (torch.from_numpy(array[near]) for array in (i, j, shift))
    return assemble(system, i, j, shift, cutoff)
