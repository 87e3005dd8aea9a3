"""`Graph`: the edges of a `System` within a cutoff, in rows sorted by their center (compressed sparse rows)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from atomjet.data.halo import Halo
from atomjet.errors import StructureError

MOST = 2**63 - 1
"""Pairs of atoms, and their images, are numbered in 64 bits."""


@dataclass(frozen=True, eq=False)
class Graph:
    """All pairs closer than the cutoff, each in both directions; the only thing a model sees.

    N atoms, E edges, S structures. Edges stand in one canonical order: by center, then neighbor, then shift; so that equal
    structures give equal sums whatever found the edges, and the list of reverse edges is a sort away.

    Attributes:
        centers: (E,) int64, the atom i that receives.
        neighbors: (E,) int64, the atom j that sends.
        shifts: (E, 3) int64, whole cell vectors added to the neighbor, for the positions as given.
        vectors: (E, 3) Å, x[neighbors] - x[centers] + shifts @ cell. The only thing differentiated.
        row_ptr: (N + 1,) int64; the edges of center i are row_ptr[i] ... row_ptr[i + 1] - 1.
        atomic_numbers: (N,) int64.
        system_index: (N,) int64.
        charge, spin: (S,) int64, as in `System`.
        cutoff: Å.
        task: S names, as in `System`.
        charge_given, spin_given: S bools, as in `System`; empty where nobody says, so that zeros count as left open.
        halo: who owns the other atoms of a structure that several processes share; None where all is here. With one, owned atoms
            are numbered first, then ghosts: `row_ptr` is (owned + 1,), centers are owned, neighbors may be ghosts.
    """

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    vectors: Tensor
    row_ptr: Tensor
    atomic_numbers: Tensor
    system_index: Tensor
    charge: Tensor
    spin: Tensor
    cutoff: float
    task: tuple[str, ...] = ()
    charge_given: tuple[bool, ...] = ()
    spin_given: tuple[bool, ...] = ()
    halo: Halo | None = None

    @property
    def num_atoms(self) -> int:
        """N, ghosts included."""
        return self.atomic_numbers.shape[0]

    @property
    def num_owned(self) -> int:
        """Atoms that have rows: all but ghosts."""
        return self.row_ptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """E."""
        return self.centers.shape[0]

    @property
    def num_systems(self) -> int:
        """S."""
        return self.charge.shape[0]

    @cached_property
    def lengths(self) -> Tensor:
        """(E,) |vectors|, Å."""
        return torch.linalg.vector_norm(self.vectors, dim=1)

    @cached_property
    def longest_row(self) -> int:
        """Neighbours of the atom that has most of them. Waits for the device, once for all graphs with these edges."""
        return int((self.row_ptr[1:] - self.row_ptr[:-1]).max()) if self.num_owned else 0

    @cached_property
    def reverse(self) -> Tensor:
        """(E,) int64: the edge from j to i that undoes each edge from i to j; its own inverse.

        A full list holds every edge in both directions. Sorted by (j, i, -shift), the edges stand in the order of their reverses,
        so the sort itself is the map. Shifts need no place in the key: those of one pair stand side by side and rise, so that the
        last of them undoes the first of the opposite pair.

        Raises:
            StructureError: an edge without its reverse, as where there are rows of some atoms only; or edges in another
                order. A graph with ghosts, whose rows, and so the reverses of edges to them, are with other processes.
        """
        if self.halo is not None:
            raise StructureError(
                "the reverse of an edge to a ghost is with the process that owns the ghost; use a backend that exchanges rows"
            )
        pairs = self.centers * self.num_atoms + self.neighbors
        opposite = self.neighbors * self.num_atoms + self.centers
        again = pairs[1:] == pairs[:-1]  # another image of the same pair
        images = 1
        if bool(again.any()):
            place = torch.arange(self.num_edges, device=pairs.device)
            rank = place - torch.where(pad(~again, (1, 0), value=True), place, 0).cummax(0).values
            images = int(rank.max()) + 1
            if self.num_atoms**2 * images > MOST:
                raise StructureError(
                    f"pairs of {self.num_atoms} atoms with up to {images} images are more than can be numbered in 64 bits; "
                    "take fewer structures at once"
                )
            opposite = opposite * images + (images - 1 - rank)
        found, reverse = torch.sort(opposite)
        # In any other order, or where the opposite of a pair is missing, some pair meets another.
        matched = torch.equal(found if images == 1 else found // images, pairs)
        if not (matched and torch.equal(self.shifts.index_select(0, reverse), -self.shifts)):
            raise self._without_reverse(reverse)
        return reverse

    def check_rows(self) -> None:
        """Refuse rows that are not those of the edges. On the CPU only: a GPU would be waited for.

        Raises:
            StructureError: rows that end elsewhere than the edges, as where there are edges of some atoms only.
        """
        if self.row_ptr.device.type == "cpu" and int(self.row_ptr[-1]) != self.num_edges:
            raise StructureError(
                f"row_ptr ends at {int(self.row_ptr[-1])}, but there are {self.num_edges} edges: the graph lacks rows of some "
                "atoms; take it from atomjet.neighbor_list, of all atoms"
            )

    def _without_reverse(self, reverse: Tensor) -> StructureError:
        """Name an edge that the map does not lead to its opposite."""
        undone = (self.centers[reverse] == self.neighbors) & (self.neighbors[reverse] == self.centers)
        edge = int((~undone | (self.shifts[reverse] != -self.shifts).any(1)).nonzero()[0])
        i, j, shift = int(self.centers[edge]), int(self.neighbors[edge]), self.shifts[edge].tolist()
        return StructureError(
            f"edge {edge}, from atom {i} to atom {j} with shift {shift}, has no reverse where it should stand: the graph lacks "
            "rows of some atoms, or its edges are not sorted by center, neighbor and shift; take it from "
            "atomjet.neighbor_list, of all atoms"
        )

    def to(self, device: torch.device | str) -> Graph:
        """Return the same graph on another device."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: x.to(device) for name, x in given.items() if isinstance(x, Tensor)}
        return replace(self, **moved)

    def with_vectors(self, vectors: Tensor) -> Graph:
        """Return the same edges, with their cached properties, and other vectors (of another type, or to be differentiated)."""
        other = replace(self, vectors=vectors)
        for name in ("reverse", "longest_row"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other
