"""The edges of a rank's own atoms, from the positions of its atoms and of the images that LAMMPS keeps around them."""

from __future__ import annotations

import numpy as np
import torch
import vesin
from torch import Tensor

from atomjet.data import ExchangeHalo, Graph


class PairList:
    """Pairs (own atom, any atom) that may be nearer than the cutoff until atoms have moved by half the skin.

    Args:
        cutoff: of the model, Å.
        skin: Å.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff, self.skin, self.builds = cutoff, skin, 0
        self._positions = np.zeros((0, 3))
        self._owned = -1
        self._i = self._j = np.zeros(0, np.int64)

    def within_cutoff(self, positions: np.ndarray, owned: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs within the cutoff: own atom (E,), the other (E,), its position minus that of the own atom (E, 3) Å; by own atom.

        An atom that LAMMPS has put back into the box counts as moved, so a list never outlives what it was made for.
        """
        if owned != self._owned or len(positions) != len(self._positions) or self._moved(positions):
            self._build(positions, owned)
        vectors = positions[self._j] - positions[self._i]
        near = np.einsum("ea,ea->e", vectors, vectors) < self.cutoff**2
        return self._i[near], self._j[near], vectors[near]

    def _moved(self, positions: np.ndarray) -> bool:
        if not len(positions):
            return False
        step = positions - self._positions
        return bool(np.einsum("na,na->n", step, step).max() > (0.5 * self.skin) ** 2)

    def _build(self, positions: np.ndarray, owned: int) -> None:
        self._positions, self._owned = positions.copy(), owned
        self._i = self._j = np.zeros(0, np.int64)
        self.builds += 1
        if owned and len(positions) > 1:
            finder = vesin.NeighborList(cutoff=self.cutoff + self.skin, full_list=True)
            i, j = finder.compute(positions, np.eye(3), [False] * 3, "ij")
            own = i < owned
            i, j = i[own].astype(np.int64), j[own].astype(np.int64)
            order = np.lexsort((j, i))
            self._i, self._j = i[order], j[order]


class Ghosts:
    """Which atom each of a rank's images is an image of: one of its own, or a ghost, which stands for all images of one atom.

    Args:
        ids: (images and own atoms,) as LAMMPS has them, own ones first.
        owned: how many are its own.
    """

    def __init__(self, ids: np.ndarray, owned: int) -> None:
        self.ids, self.owned = ids.copy(), owned
        own = ids[:owned].astype(np.int64)
        self.ghost_ids = np.setdiff1d(ids[owned:].astype(np.int64), own)
        known = np.concatenate([own, self.ghost_ids])
        order = np.argsort(known, kind="stable")
        self.rows = order[np.searchsorted(known[order], ids)]  # (images and own atoms,) row of each in the graph
        self.all_ids = known

    def same(self, ids: np.ndarray, owned: int) -> bool:
        """Whether LAMMPS still has these, in this order."""
        return owned == self.owned and np.array_equal(ids, self.ids)


def make_graph(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    ghosts: Ghosts,
    atomic_numbers: Tensor,
    cutoff: float,
    halo: ExchangeHalo,
    device: torch.device,
) -> Graph:
    """Pairs of images to a graph of atoms; `atomic_numbers` are those of own atoms and ghosts."""
    i, j, vectors = pairs
    counts = np.bincount(i, minlength=ghosts.owned)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    graph = Graph(
        centers=torch.from_numpy(i),
        neighbors=torch.from_numpy(ghosts.rows[j]),
        shifts=torch.zeros(len(i), 3, dtype=torch.int64),
        vectors=torch.from_numpy(vectors),
        row_ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        atomic_numbers=atomic_numbers,
        system_index=torch.zeros(len(atomic_numbers), dtype=torch.int64),
        charge=zero,
        spin=zero,
        cutoff=cutoff,
        task=("",),
        halo=halo,
    )
    return graph.to(device)
