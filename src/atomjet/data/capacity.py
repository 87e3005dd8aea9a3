"""`Capacity`: how much fits into buffers of fixed size; and how much structures are likely to take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LONG_ROW = 40
"""Edges of an atom from which on programs that take several edges at a time find enough of them."""

DENSITY = 0.12
"""Atoms per Å³ in liquids and compact molecules with their hydrogens; expected where no cell gives a density."""


@dataclass(frozen=True)
class Capacity:
    """How much fits into buffers, and what the search should be ready for.

    Attributes:
        systems, atoms, edges: of all structures together.
        atoms_per_system: bounds the atoms of any one structure.
        images: whether cells are so narrow that several images of an atom may be neighbors. Either way the search finds all of
            them; where atoms are few, choosing the algorithm by it is faster.
        recompute: whether what layers would save for their backward pass is computed again there: the same results in less memory
            and more time. Backends that have no such form take it for the usual one.
    """

    systems: int
    atoms: int
    edges: int
    atoms_per_system: int
    images: bool = False
    recompute: bool = False

    @property
    def dense(self) -> bool:
        """Whether rows are long, as in liquids and crystals; those of molecules are short."""
        return self.edges >= LONG_ROW * self.atoms


def has_images(cell: Tensor, pbc: Tensor, cutoff: float) -> Tensor:
    """Whether a periodic lattice vector of any structure is shorter than two cutoffs, as `Capacity.images` has it.

    Args:
        cell: (S, 3, 3), Å, rows.
        pbc: (S, 3), bool.
        cutoff: Å.
    """
    return ((cell.norm(dim=2) < 2 * cutoff) & pbc).any()


def likely_edges(counts: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, margin: float, spare: float = 0.0) -> Tensor:
    """Edges of each structure, (S,) float64: by the density of a cell periodic in three directions, else by DENSITY; without
    periodic directions at most all ordered pairs. Where there are more, the search runs out of capacity and counts them.

    Args:
        counts: (S,) atoms.
        cell: (S, 3, 3), Å, rows.
        pbc: (S, 3), bool.
        cutoff: Å.
        margin: factor on what a cell says, because distances fluctuate.
        spare: neighbours that are added for each atom.
    """
    a, b, c = cell.detach().double().unbind(1)
    volumes = (torch.linalg.cross(a, b) * c).sum(1).abs()  # a determinant would load a library on a GPU
    density = torch.where(pbc.all(1), margin * (counts / volumes.clamp(min=1e-3)), DENSITY)
    neighbors = 4 / 3 * math.pi * cutoff**3 * density + spare
    return (counts * torch.where(pbc.any(1), neighbors, neighbors.minimum(counts - 1.0))).ceil()
