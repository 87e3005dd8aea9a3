"""Neighbour search on the CPU through vesin (cell lists; any cell, mixed periodic directions, several images of one atom)."""

from __future__ import annotations

import numpy as np
import torch
import vesin
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.neighbors.brute_force import assemble, complete_cells, image_reach
from atomjet.neighbors.occupied_cells import Pairs, pairs_within

MARGIN = 1e-6
"""Distance, Å, by which the search goes beyond the cutoff, to test again with the definition's own arithmetic at the cutoff."""

MOST_CELLS = 90_000
"""Cells of a structure, empty ones included, up to which vesin searches: with more it makes them larger, along thin directions so
much larger that none is left, and divides by zero.
"""

FEW_CELLS, PER_ATOM = 100, 4
"""Cells up to which vesin searches, at most `MOST_CELLS`: FEW_CELLS, and PER_ATOM more for each atom of the structure. It looks at
every empty cell, which takes seconds where most are empty."""


FLAT = 10
"""Structures this much thinner than the cutoff are searched in a periodic box: in an open one vesin walks through as many cells
as the atoms' extent goes into the cutoff, in each direction."""


def search(system: System, cutoff: float) -> Graph:
    """Find the same edges as `brute_force` does, in time linear in the atoms."""
    x, pbc = system.positions.detach().double(), system.pbc
    if bool(pbc.any()):
        cells = complete_cells(system).detach()
        inverse = torch.linalg.inv(cells)
        image_reach(system, inverse, cutoff)  # refuses cells too thin for the cutoff
        planes = 1 / inverse.norm(dim=1)
        fractions = torch.einsum("nk,nka->na", x, inverse[system.system_index])
        outside = torch.where(pbc[system.system_index], fractions.floor(), 0.0)
        wrapped = x - torch.einsum("nk,nka->na", outside, cells[system.system_index])
    else:
        cells = torch.eye(3, dtype=torch.float64).expand(system.num_systems, 3, 3)
        planes, fractions, wrapped, outside = cells[:, 0], x, x, None
    # Far outside, wrapping rounds by more than the margin.
    rounding = 32 * torch.finfo(torch.float64).eps * float(x.abs().max()) if len(x) else 0.0
    radius = cutoff + MARGIN + rounding
    widths = _widths(system, planes, fractions)
    most = (FEW_CELLS + PER_ATOM * system.counts()).clamp(max=MOST_CELLS)
    sparse = (widths / radius).floor().clamp(min=1).prod(1) > most
    finder = vesin.NeighborList(cutoff=radius, full_list=True)
    # With some directions open, or where atoms lie much closer than the cutoff, it may take hours. With rows that no neighbor
    # reaches across, periodic in all, it does not.
    boxes = torch.where(pbc[:, :, None], cells, cells * (widths + 2 * radius)[:, :, None]).numpy()
    positions, periodic, far = wrapped.numpy(), pbc.numpy(), sparse.tolist()
    everywhere = (pbc.any(1) | (FLAT * widths.amin(1) < radius)).tolist()
    stops = np.cumsum(system.counts().numpy())
    found = []
    for structure, stop in enumerate(stops):
        start = stops[structure - 1] if structure else 0
        if stop == start:
            continue
        own = positions[start:stop]
        if far[structure]:
            i, j, shift = pairs_within(own, cells[structure].numpy(), periodic[structure], radius)
        else:
            i, j, shift, vector = finder.compute(own, boxes[structure], everywhere[structure], "ijSD")
            near = np.einsum("ea,ea->e", vector, vector) < radius**2
            i, j, shift = i[near].astype(np.int64), j[near].astype(np.int64), shift[near].astype(np.int64)
        found.append((i + start, j + start, shift))
    return _exact(system, found, None if outside is None else outside.long().numpy(), cutoff)


def _widths(system: System, planes: Tensor, fractions: Tensor) -> Tensor:
    """(S, 3) Å: between the planes of the periodic cell; along open directions, those between which all atoms lie."""
    if system.num_systems == 1 and len(fractions):
        spread = (fractions.amax(0) - fractions.amin(0))[None]
    else:
        index = system.system_index[:, None].expand_as(fractions)
        low, high = torch.zeros_like(planes), torch.zeros_like(planes)
        low.scatter_reduce_(0, index, fractions, "amin", include_self=False)
        high.scatter_reduce_(0, index, fractions, "amax", include_self=False)
        spread = high - low
    return torch.where(system.pbc, planes, spread)


def _exact(system: System, found: list[Pairs], outside: np.ndarray | None, cutoff: float) -> Graph:
    """Join the structures' edges, for positions as given; put them in canonical order; test the cutoff as the definition does."""
    if found:
        i, j, shift = (np.concatenate(part) for part in zip(*found, strict=True))
    else:
        i, j, shift = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    if outside is not None:
        shift = shift + outside[i] - outside[j]
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
