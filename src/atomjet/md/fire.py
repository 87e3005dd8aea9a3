"""FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) for many structures at once.

The parameters are ASE's, so that each structure takes the steps that ASE's optimiser would take with it alone.

Velocities turn towards the forces while the power F·v is positive, and are set to zero where it is not. Everything is a tensor over
all structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from atomjet.ops.segment_sum import segment_sum

TIMESTEP, LONGEST_TIMESTEP, LONGEST_MOVE = 0.1, 1.0, 0.2
FASTER, SLOWER, MIX, LESS_MIX, PATIENCE = 1.1, 0.5, 0.1, 0.99, 5
"""Parameters as in ASE: time steps in ASE's unit with masses of 1, the longest move of a whole structure in Å, factors of time step
and mixing, steps of positive power before the time step grows."""


@dataclass
class Fire:
    """State of FIRE in S structures of N atoms in all.

    Attributes:
        velocities: (N, 3). fixed: (N, 3), what is held. computed: (N, 3) Å, positions of the last step that could be computed.
        spread: (N,) eV/Å, there; NaN of a single model.
        running: (S,). timestep, mix: (S,). patience: (S,) steps of positive power. steps: (S,) taken.
        energy, largest: (S,) at the positions last computed.
    """

    velocities: Tensor
    fixed: Tensor
    computed: Tensor
    spread: Tensor
    running: Tensor
    timestep: Tensor
    mix: Tensor
    patience: Tensor
    steps: Tensor
    energy: Tensor
    largest: Tensor

    PER_ATOM = ("velocities", "fixed", "computed", "spread")

    @classmethod
    def fresh(cls, frames: Sequence[Atoms], device: torch.device) -> Fire:
        """Structures at rest, before their first step; FixAtoms and FixCartesian are kept, other constraints must not be there."""
        atoms, number = sum(len(frame) for frame in frames), len(frames)
        fixed = np.zeros((atoms, 3), dtype=bool)
        first = 0
        for frame in frames:
            for constraint in frame.constraints:
                fixed[first + constraint.index] |= getattr(constraint, "mask", True)
            first += len(frame)

        def filled(value: float) -> Tensor:
            return torch.full((number,), value, dtype=torch.float64, device=device)

        positions = np.concatenate([frame.positions for frame in frames]) if frames else np.zeros((0, 3))
        return cls(
            velocities=torch.zeros(atoms, 3, dtype=torch.float64, device=device),
            fixed=torch.from_numpy(fixed).to(device),
            computed=torch.from_numpy(positions).to(device),
            spread=torch.full((atoms,), torch.nan, dtype=torch.float64, device=device),
            running=torch.ones(number, dtype=torch.bool, device=device),
            timestep=filled(TIMESTEP),
            mix=filled(MIX),
            patience=filled(0),
            steps=filled(0),
            energy=filled(float("nan")),
            largest=filled(float("nan")),
        )

    @staticmethod
    def join(first: Fire, second: Fire) -> Fire:
        """The structures of one, then those of the other."""
        return Fire(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in Fire.__dataclass_fields__))

    def chosen(self, structures: Tensor, atoms: Tensor) -> Fire:
        """The part of the state that belongs to some structures and their atoms."""
        return Fire(
            *(getattr(self, name)[atoms if name in self.PER_ATOM else structures] for name in Fire.__dataclass_fields__)
        )

    def move(self, forces: Tensor, index: Tensor, row_ptr: Tensor) -> Tensor:
        """(N, 3) Å: advance the velocities of those that run and return where each atom goes."""

        def summed(x: Tensor) -> Tensor:
            return segment_sum(x.sum(1, keepdim=True), row_ptr, index).squeeze(1)

        power = summed(forces * self.velocities)
        ff, vv = summed(forces.square()), summed(self.velocities.square())
        moving = self.steps > 0
        downhill, uphill = moving & (power > 0), moving & (power <= 0)
        along = self.mix * torch.sqrt(vv / ff.clamp_min(1e-300))
        mixed = (1 - self.mix)[index, None] * self.velocities + along[index, None] * forces
        self.velocities = torch.where(downhill[index, None], mixed, 0.0)
        faster = downhill & (self.patience > PATIENCE)
        self.timestep = torch.where(faster, (self.timestep * FASTER).clamp_max(LONGEST_TIMESTEP), self.timestep)
        self.timestep = torch.where(uphill, self.timestep * SLOWER, self.timestep)
        self.mix = torch.where(faster, self.mix * LESS_MIX, torch.where(uphill, MIX, self.mix))
        self.patience = torch.where(uphill, 0.0, self.patience + downhill)
        self.velocities = self.velocities + self.timestep[index, None] * forces
        move = self.timestep[index, None] * self.velocities
        length = torch.sqrt(summed(move.square()))
        self.steps = self.steps + self.running
        scale = self.running * LONGEST_MOVE / length.clamp_min(LONGEST_MOVE)
        return move * scale[index, None]
