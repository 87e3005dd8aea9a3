"""What moves of many replicas on a device, in buffers of fixed size, and why a replica stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor

from atomjet.data import SystemBuffers
from atomjet.md.observables import FORCE_LIMIT
from atomjet.units import AMU_A2_PER_FS2, BOLTZMANN


class Flag(IntFlag):
    """Why a replica stands still, beside the bits of `Status`, which hold all of them at once until the host has looked."""

    NOT_FINITE = 1 << 16
    FORCE = 1 << 17
    HOT = 1 << 18
    REFUSED = 1 << 19  # by the model; found on the host


HALTED = (1 << 16) - 1
"""Mask of the bits of `Status`."""

COLUMNS = 4
"""Observables of one step: potential and kinetic energy (eV), largest force (eV/Å), trace of the stress (eV/Å³)."""


@dataclass(frozen=True, eq=False)
class Motion:
    """What moves, beside the positions, in the buffers of a `SystemBuffers`.

    Attributes:
        system: its positions are those of the atoms.
        velocities: (N̂, 3) float64, Å/fs.
        last_positions, last_velocities: (N̂, 3), before the step under way.
        inverse_masses: (N̂,) Å²/(eV fs²), so that a = F times this.
        kicks: (N̂,) Å/fs, √((1 - c²) kT / m); zero in nve.
        seeds: (Ŝ,) int64.
        flags: (Ŝ,) int32.
        steps: (Ŝ,) int64, done.
        hottest: (Ŝ,) eV, kinetic energy beyond which a replica has exploded.
        constants: (4,) float64: Δt (fs), c, 2π, FORCE_LIMIT².
        record: (rows, Ŝ, COLUMNS) float64: what step t left stands in row t modulo rows.
        langevin: nvt rather than nve.
    """

    system: SystemBuffers
    velocities: Tensor
    last_positions: Tensor
    last_velocities: Tensor
    inverse_masses: Tensor
    kicks: Tensor
    seeds: Tensor
    flags: Tensor
    steps: Tensor
    hottest: Tensor
    constants: Tensor
    record: Tensor
    langevin: bool

    @classmethod
    def start(
        cls,
        system: SystemBuffers,
        velocities: Tensor,
        masses: Tensor,
        seeds: Tensor,
        hottest: Tensor,
        timestep: float,
        thermostat: tuple[float, float] | None,
        rows: int,
    ) -> Motion:
        """At rest in time: no step done, no flag set.

        Args:
            system: filled.
            velocities, masses: (N, 3) Å/fs and (N,) amu, of the atoms in use.
            seeds, hottest: (S,).
            timestep: fs.
            thermostat: friction (1/ps) and temperature (K) for nvt, None for nve.
            rows: of the record.
        """
        device, capacity = system.positions.device, system.capacity

        def padded(values: Tensor, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
            out = torch.zeros(size, *values.shape[1:], dtype=dtype, device=device)
            out[: len(values)] = values
            return out

        inverse = 1.0 / (masses.double() * AMU_A2_PER_FS2)
        friction, kelvin = thermostat or (0.0, 0.0)
        decay = math.exp(-friction * 1e-3 * timestep)
        kicks = torch.sqrt((1.0 - decay**2) * BOLTZMANN * kelvin * inverse)
        moving = padded(velocities, capacity.atoms)
        return cls(
            system=system,
            velocities=moving,
            last_positions=torch.zeros_like(moving),
            last_velocities=torch.zeros_like(moving),
            inverse_masses=padded(inverse, capacity.atoms),
            kicks=padded(kicks, capacity.atoms),
            seeds=padded(seeds, capacity.systems, torch.int64),
            flags=torch.zeros(capacity.systems, dtype=torch.int32, device=device),
            steps=torch.zeros(capacity.systems, dtype=torch.int64, device=device),
            hottest=padded(hottest, capacity.systems),
            constants=torch.tensor(
                [timestep, decay, 2.0 * math.pi, FORCE_LIMIT**2], dtype=torch.float64, device=device
            ),
            record=torch.zeros(rows, capacity.systems, COLUMNS, dtype=torch.float64, device=device),
            langevin=thermostat is not None,
        )
