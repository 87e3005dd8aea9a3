"""`Prediction`: what a model says of a `System`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Energies, forces and stress of S structures with N atoms in all.

    Attributes:
        energy: (S,) float64, eV.
        forces: (N, 3) eV/Å, atoms of all structures one after the other.
        stress: (S, 3, 3) eV/Å³, ASE's sign (positive under tension: dE/dstrain / volume); NaN for structures without three
            periodic directions.
        atomic_energies: (N,) float64, eV; they sum to `energy`.
        system_index: (N,) the structure of each atom.
        spread: (N,) eV/Å, how far the members of an ensemble disagree on the force of each atom; None for a single model.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    atomic_energies: Tensor
    system_index: Tensor
    spread: Tensor | None = None

    def forces_of(self, structure: int) -> Tensor:
        """Forces on the atoms of one structure, (its atoms, 3)."""
        return self.forces[self.system_index == structure]

    @classmethod
    def join(cls, parts: list[Prediction]) -> Prediction:
        """Put predictions one after the other, structures counted on."""
        before = torch.tensor([0] + [len(part.energy) for part in parts[:-1]]).cumsum(0).tolist()
        spreads = [part.spread for part in parts if part.spread is not None]
        return cls(
            energy=torch.cat([part.energy for part in parts]),
            forces=torch.cat([part.forces for part in parts]),
            stress=torch.cat([part.stress for part in parts]),
            atomic_energies=torch.cat([part.atomic_energies for part in parts]),
            system_index=torch.cat([part.system_index + first for part, first in zip(parts, before, strict=True)]),
            spread=torch.cat(spreads) if spreads else None,
        )

    def pick(self, structures: Tensor, atoms: Tensor, index: Tensor) -> Prediction:
        """Return some structures and their atoms, in another order: places of both, and the structure of each atom there."""
        return Prediction(
            energy=self.energy[structures],
            forces=self.forces[atoms],
            stress=self.stress[structures],
            atomic_energies=self.atomic_energies[atoms],
            system_index=index,
            spread=None if self.spread is None else self.spread[atoms],
        )

    def to(self, device: torch.device | str) -> Prediction:
        """Return the same on another device."""
        return Prediction(
            energy=self.energy.to(device),
            forces=self.forces.to(device),
            stress=self.stress.to(device),
            atomic_energies=self.atomic_energies.to(device),
            system_index=self.system_index.to(device),
            spread=None if self.spread is None else self.spread.to(device),
        )
