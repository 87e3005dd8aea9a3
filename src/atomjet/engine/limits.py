"""What a model serves: which elements, and how near to each other their atoms may be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.data.elements import SYMBOLS
from atomjet.engine.settings import BELOW_TRAINING, CLOSEST, OnOverlap
from atomjet.errors import StructureError


class Limits:
    """The elements and distances of one model.

    Args:
        elements: atomic numbers that it serves.
        card: may say the shortest distances of the training data.
        on_overlap: see `Settings`.
        device: of the tables.

    Attributes:
        served: (119,) whether each atomic number is served.
        closest: (119, 119) Å by atomic numbers: atoms nearer to each other are refused.
    """

    def __init__(
        self, elements: Sequence[int], card: dict[str, Any], on_overlap: OnOverlap, device: torch.device
    ) -> None:
        self.elements, self.on_overlap = tuple(elements), on_overlap
        self.served = torch.zeros(len(SYMBOLS), dtype=torch.bool, device=device)
        self.served[list(elements)] = True
        self.closest = _closest(card, device)

    def check_system(self, system: System) -> None:
        """Refuse what has no atoms, or atoms of an element that the model does not know.

        Raises:
            StructureError: names structure and atom.
        """
        if not system.num_systems:
            raise StructureError("no structures given; give at least one")
        empty = system.counts() == 0
        if bool(empty.any()):
            raise StructureError(f"{system.name(int(empty.nonzero()[0]))} has no atoms; leave it out")
        served = self.served[system.atomic_numbers.clamp(max=len(SYMBOLS) - 1)]
        if not bool(served.all()):
            atom = int((~served).nonzero()[0])
            number = int(system.atomic_numbers[atom])
            symbol = SYMBOLS[number] if number < len(SYMBOLS) else "?"
            known = " ".join(SYMBOLS[z] for z in self.elements[:20]) + (" ..." if len(self.elements) > 20 else "")
            raise StructureError(
                f"{system.place(atom)}: element {symbol} (Z = {number}) is unknown to this model; it knows {known}"
            )

    def check_graph(self, system: System, graph: Graph) -> None:
        """Refuse atoms nearer than allowed; with `on_overlap="warn"` warn of them, unless one lies upon another.

        Raises:
            StructureError: names both atoms.
        """
        z = system.atomic_numbers
        limits = self.closest[z[graph.centers], z[graph.neighbors]]
        near = graph.lengths < limits
        if not bool(near.any()):
            return
        edge = int(near.nonzero()[0])
        i, j = int(graph.centers[edge]), int(graph.neighbors[edge])
        first = int((system.system_index < system.system_index[i]).sum())
        length, limit = float(graph.lengths[edge]), float(limits[edge])
        image = " (a periodic image)" if bool((graph.shifts[edge] != 0).any()) else ""
        pair = f"{SYMBOLS[int(z[i])]}-{SYMBOLS[int(z[j])]}"
        why = (
            f"{CLOSEST} Å"
            if limit <= CLOSEST
            else f"{limit:.3f} Å, {BELOW_TRAINING} of the shortest {pair} in the model's training data"
        )
        message = f"{system.place(i)} and atom {j - first}{image} are {length:.3f} Å apart, nearer than {why}"
        if self.on_overlap == "error" or length == 0.0:
            raise StructureError(f"{message}; repair the structure, or pass on_overlap='warn' for distances above zero")
        warnings.warn(f"{message}; the result means little", stacklevel=3)


def _closest(card: dict[str, Any], device: torch.device) -> Tensor:
    """Shortest distance allowed for each pair of elements, Å: a little under that of the training data, if the card says it."""
    limits = torch.full((len(SYMBOLS), len(SYMBOLS)), CLOSEST, dtype=torch.float64, device="cpu")
    numbers = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    for pair, length in card.get("shortest_distances", {}).items():
        a, b = (numbers[symbol] for symbol in pair.split("-"))
        limits[a, b] = limits[b, a] = max(CLOSEST, BELOW_TRAINING * float(length))
    return limits.to(device)
