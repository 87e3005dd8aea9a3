"""`Prediction`: what a model says of a `System`."""

from __future__ import annotations

from collections.abc import Sequence
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
        spread: (N,) eV/Å, how far the M members of an ensemble disagree on the force of each atom: √(1/M Σ_k |F_k - F|²) with the
            mean force F; None for a single model.
        energy_spread: (S,) eV/atom, the members' standard deviation √(1/M Σ_k (E_k - E)²) over the number of atoms; None likewise.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    atomic_energies: Tensor
    system_index: Tensor
    spread: Tensor | None = None
    energy_spread: Tensor | None = None

    def forces_of(self, structure: int) -> Tensor:
        """Forces on the atoms of one structure, (its atoms, 3)."""
        return self.forces[self.system_index == structure]

    @classmethod
    def mean_of(cls, members: Sequence[Prediction]) -> Prediction:
        """Return the mean of an ensemble's members, with their spreads; of equal members, their own numbers and zeros."""
        first, number = members[0], len(members)

        def mean(name: str) -> tuple[Tensor, Tensor]:
            """The mean, and how far each member is from it (M, ...)."""
            start = getattr(first, name)
            apart = torch.stack([getattr(member, name) - start for member in members])
            shift = apart.sum(0) / number
            return start + shift, apart - shift

        energy, of_energy = mean("energy")
        forces, of_forces = mean("forces")
        atoms = torch.bincount(first.system_index, minlength=len(energy))
        return cls(
            energy=energy,
            forces=forces,
            stress=mean("stress")[0],
            atomic_energies=mean("atomic_energies")[0],
            system_index=first.system_index,
            spread=(of_forces.square().sum((0, 2)) / number).sqrt(),
            energy_spread=(of_energy.square().sum(0) / number).sqrt() / atoms,
        )

    @classmethod
    def join(cls, parts: list[Prediction]) -> Prediction:
        """Put predictions one after the other, structures counted on."""
        before = torch.tensor([0] + [len(part.energy) for part in parts[:-1]]).cumsum(0).tolist()

        def joined(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else torch.cat(values)

        return cls(
            energy=torch.cat([part.energy for part in parts]),
            forces=torch.cat([part.forces for part in parts]),
            stress=torch.cat([part.stress for part in parts]),
            atomic_energies=torch.cat([part.atomic_energies for part in parts]),
            system_index=torch.cat([part.system_index + first for part, first in zip(parts, before, strict=True)]),
            spread=joined("spread"),
            energy_spread=joined("energy_spread"),
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
            energy_spread=None if self.energy_spread is None else self.energy_spread[structures],
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
            energy_spread=None if self.energy_spread is None else self.energy_spread.to(device),
        )
