"""What an evaluation leaves, in one buffer of fixed size; letters with a roof are capacities, as in `atomjet.data.buffers`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atomjet.data.capacity import Capacity
from atomjet.data.prediction import Prediction


@dataclass(frozen=True, eq=False)
class PredictionBuffers:
    """What an evaluation leaves, float64, in one buffer so that one copy brings it home; views of it by name.

    Status and energies come first: with a status of zero, a finite energy says that all numbers of its structure are finite.

    Attributes:
        buffer: (1 + 10 Ŝ + 4 N̂,) float64, and N̂ + Ŝ more with spreads.
        status: (1,) the `Status` bits as a number.
        energy: (Ŝ,) eV. stress: (Ŝ, 3, 3) eV/Å³. atomic_energies: (N̂,) eV. forces: (N̂, 3) eV/Å. spread: (N̂,) eV/Å or None.
            energy_spread: (Ŝ,) eV/atom or None. As in `Prediction`, atoms in the order of the `SystemBuffers`; what is not in use
            holds anything.
        capacity: host values.
        has_spread: whether the buffer holds an ensemble's spreads.
    """

    buffer: Tensor
    capacity: Capacity
    has_spread: bool = False

    @classmethod
    def empty(cls, capacity: Capacity, device: torch.device | str, has_spread: bool = False) -> PredictionBuffers:
        """A buffer of this capacity, zero."""
        count = cls.bytes_of(capacity, has_spread) // 8
        return cls(torch.zeros(count, dtype=torch.float64, device=device), capacity, has_spread)

    @staticmethod
    def bytes_of(capacity: Capacity, has_spread: bool = False) -> int:
        """Return what the buffer takes."""
        spreads = capacity.atoms + capacity.systems if has_spread else 0
        return 8 * (1 + 10 * capacity.systems + 4 * capacity.atoms + spreads)

    def like(self, buffer: Tensor) -> PredictionBuffers:
        """Views of another buffer with this one's capacity and layout."""
        return PredictionBuffers(buffer, self.capacity, self.has_spread)

    @property
    def status(self) -> Tensor:
        """(1,)."""
        return self.buffer[:1]

    @property
    def head(self) -> Tensor:
        """(1 + Ŝ,) status and energies: what the host must see of a result that stays on the device."""
        return self.buffer[: 1 + self.capacity.systems]

    @property
    def energy(self) -> Tensor:
        """(Ŝ,) eV."""
        return self.buffer[1 : 1 + self.capacity.systems]

    @property
    def stress(self) -> Tensor:
        """(Ŝ, 3, 3) eV/Å³; NaN without three periodic directions."""
        first = 1 + self.capacity.systems
        return self.buffer[first : first + 9 * self.capacity.systems].view(-1, 3, 3)

    @property
    def atomic_energies(self) -> Tensor:
        """(N̂,) eV."""
        first = 1 + 10 * self.capacity.systems
        return self.buffer[first : first + self.capacity.atoms]

    @property
    def forces(self) -> Tensor:
        """(N̂, 3) eV/Å."""
        first = 1 + 10 * self.capacity.systems + self.capacity.atoms
        return self.buffer[first : first + 3 * self.capacity.atoms].view(-1, 3)

    @property
    def spread(self) -> Tensor | None:
        """(N̂,) eV/Å, of an ensemble's forces."""
        first = 1 + 10 * self.capacity.systems + 4 * self.capacity.atoms
        return self.buffer[first : first + self.capacity.atoms] if self.has_spread else None

    @property
    def energy_spread(self) -> Tensor | None:
        """(Ŝ,) eV/atom, of an ensemble's energies."""
        return self.buffer[1 + 10 * self.capacity.systems + 5 * self.capacity.atoms :] if self.has_spread else None

    def in_use(self, systems: int, index: Tensor) -> Prediction:
        """What is in use: views of the first structures and of their atoms, which `index` (N,) numbers by structure."""
        atoms, spread, energy_spread, capacity = index.shape[0], self.spread, self.energy_spread, self.capacity
        view = self.buffer.as_strided  # a slice of a view of a slice takes the host three times as long
        energies = self.buffer.storage_offset() + 1
        stresses, atomic = energies + capacity.systems, energies + 10 * capacity.systems
        return Prediction(
            energy=view((systems,), (1,), energies),
            forces=view((atoms, 3), (3, 1), atomic + capacity.atoms),
            stress=view((systems, 3, 3), (9, 3, 1), stresses),
            atomic_energies=view((atoms,), (1,), atomic),
            system_index=index,
            spread=None if spread is None else spread[:atoms],
            energy_spread=None if energy_spread is None else energy_spread[:systems],
        )
