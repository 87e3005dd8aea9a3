"""Repulsion of nuclei as part of a model: strength, screening and switch of every pair of elements (equation: `ops/zbl.py`).

With covalent radii R and the two shares α < β of a model's configuration, V is whole below d_1 = α ρ and zero from d_2 = β ρ on,
where ρ = min(R_i + R_j, r_c / β): it never reaches beyond the model's cutoff. Each atom of a pair has half of V.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atomjet.data import Graph
from atomjet.data.elements import COVALENT_RADII
from atomjet.ops import zbl


class Pairs(NamedTuple):
    """What `ops/zbl.py` asks for of each edge, (E,)."""

    strength: Tensor
    screening: Tensor
    start: Tensor
    end: Tensor


class ZBL(nn.Module):
    """The repulsion; nothing in it is learned.

    Attributes:
        table: (max_z, 3) by atomic number: Z, Z^0.23 / (0.88534 a₀) in 1/Å, and the covalent radius in Å. It is stored with the
            weights, so that a model keeps its radii.

    Args:
        switch: α and β.
        cutoff: of the model, Å.
        max_z: rows of the table.
    """

    table: Tensor

    def __init__(self, switch: tuple[float, float], cutoff: float, max_z: int) -> None:
        super().__init__()
        self.switch, self.longest = switch, cutoff / switch[1]
        rows = [(z, z**zbl.POWER / zbl.SCREENING, _radius(z)) for z in range(max_z)]
        self.register_buffer("table", torch.tensor(rows))

    def reach(self, elements: Sequence[int]) -> float:
        """Å, beyond which there is nothing between these elements."""
        return self.switch[1] * min(self.longest, 2 * float(self.table[list(elements), 2].max()))

    def pairs(self, graph: Graph) -> Pairs:
        """Values for every edge by its two elements."""
        rows = self.table.index_select(0, graph.atomic_numbers)
        first, second = rows.index_select(0, graph.centers), rows.index_select(0, graph.neighbors)
        _, screening, radii = (first + second).unbind(1)
        strength, reach = zbl.COULOMB * (first[:, 0] * second[:, 0]), radii.clamp(max=self.longest)
        return Pairs(strength, screening, self.switch[0] * reach, self.switch[1] * reach)

    def atomic_energies(self, graph: Graph, lengths: Tensor) -> Tensor:
        """(owned,) eV, from lengths (E,) Å; differentiable."""
        shares = 0.5 * zbl.reference(lengths, *self.pairs(graph))
        return shares.new_zeros(graph.num_owned).index_add(0, graph.centers, shares)

    def shares_and_slopes(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """What each edge adds to its center's energy (E,), eV, and its derivative by the length (E,), eV/Å."""
        energy, slope = zbl.reference_grad(graph.lengths, *self.pairs(graph))
        return 0.5 * energy, 0.5 * slope


def _radius(number: int) -> float:
    """Å; of elements beyond the last that has a radius, that one's."""
    return COVALENT_RADII[min(max(number, 1), len(COVALENT_RADII)) - 1]
