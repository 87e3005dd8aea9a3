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
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    atomic_energies: Tensor
    system_index: Tensor

    def forces_of(self, structure: int) -> Tensor:
        """Forces on the atoms of one structure, (its atoms, 3)."""
        return self.forces[self.system_index == structure]

    @classmethod
    def join(cls, parts: list[Prediction]) -> Prediction:
        """Put predictions one after the other, structures counted on."""
        fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__}
        before = torch.tensor([0] + [len(part.energy) for part in parts[:-1]]).cumsum(0).tolist()
        shifted = [part.system_index + first for part, first in zip(parts, before, strict=True)]
        return cls(**fields | {"system_index": torch.cat(shifted)})

    def to(self, device: torch.device | str) -> Prediction:
        """Return the same on another device."""
        return Prediction(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))
