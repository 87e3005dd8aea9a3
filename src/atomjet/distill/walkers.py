"""Molecular dynamics of many structures at once, to explore with: each at its own temperature, NVT or NPT, on any device.

A step is BAOAB (see `md/integrators.py`) with forces of all structures together by `Engine.predict`: on a GPU the search and the
model are replayed as CUDA graphs. Pressure is held by stochastic cell rescaling, isotropic (Bernetti and Bussi, J. Chem. Phys. 153,
114107, 2020): with ε = ln V, every n steps

    dε = -(β / τ)(P₀ - P) nΔt + √(2 kT β nΔt / (V τ)) ξ,    cell, x → e^(dε/3),   v → e^(-dε/3)

with the instantaneous pressure P, kinetic part included. (In Itô's sense: the term kT / V of the measure dV = V dε is taken back by
the noise, which falls with the volume.)

A structure stops, and stays where it is, when it diverges: the others go on. Letters: S structures, N atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from atomjet.data import System
from atomjet.distill.measure import largest, predict_each
from atomjet.engine import Engine
from atomjet.units import AMU_A2_PER_FS2, BOLTZMANN, GPA

FRICTION = 0.01
"""1/fs: strong, since decorrelated frames are wanted rather than dynamics."""

LONGEST_MOVE = 0.3
"""Å in a step. A proton at 10,000 K moves 0.1 Å in half a femtosecond."""

COMPRESSIBILITY = 1.0 / (10 * GPA)
"""β, Å³/eV; with `BAROSTAT_TIME` it sets how fast a cell follows, not where to."""

BAROSTAT_TIME, BAROSTAT_STEPS, LARGEST_RESCALING = 500.0, 10, 0.02
"""τ, fs; n; largest change of ln V at once."""

REASONS = (
    "",
    "the model refuses it",
    "an atom jumps",
    "the force passes its limit",
    "bonds fly apart",
    "the students disagree wildly",
)
"""Why a structure has stopped, by its code."""

REFUSED, JUMPED, STRONG, APART, SPREAD = range(1, len(REASONS))

FLOWN = 2.5
"""Bonds longer than this many sums of covalent radii have flown apart: a bond between carbon atoms at 3.8 Å."""


class Walkers:
    """Structures that move.

    Args:
        engine: of the student that drives.
        structures: where they start; velocities are drawn.
        kelvin: (S,) temperatures.
        npt: (S,) whether the cell changes too; of fully periodic structures only.
        bonds: (B, 2) atoms, counted over all structures, that must not fly apart.
        bond_limits: (B,) Å.
        timestep: fs.
        pressure: GPa.
        force_limit: eV/Å.
        seed: of velocities and noise.

    Attributes:
        system: where they are.
        stopped: (S,) int64, 0 or the code of a reason.
        forces: (N, 3) eV/Å.
    """

    def __init__(
        self,
        engine: Engine,
        structures: Sequence[Atoms],
        kelvin: Sequence[float],
        npt: Sequence[bool],
        bonds: Tensor,
        bond_limits: Tensor,
        timestep: float,
        pressure: float,
        force_limit: float,
        seed: int,
    ) -> None:
        """Draw velocities and compute the first forces."""
        device = engine.device
        self.engine, self.timestep, self.force_limit = engine, timestep, force_limit
        self.system = System.from_ase(list(structures), device=device, dtype=torch.float64)
        self.bonds, self.bond_limits = bonds.to(device), bond_limits.to(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.kt = BOLTZMANN * torch.tensor(kelvin, dtype=torch.float64, device=device)
        self.npt = torch.tensor(npt, dtype=torch.bool, device=device)
        self.holds_pressure = any(npt)
        self.pressure = pressure * GPA
        masses = np.concatenate([atoms.get_masses() for atoms in structures])
        self.masses = torch.as_tensor(masses, device=device)[:, None] * AMU_A2_PER_FS2  # eV fs²/Å²
        self.widths = torch.sqrt(self.kt[self.system.system_index, None] / self.masses)
        self.decay = math.exp(-FRICTION * timestep)
        self.velocities = self.widths * self._noise()
        self.stopped = torch.zeros(len(structures), dtype=torch.int64, device=device)
        self.steps = 0
        self._compute(self.system.positions)

    def run(self, steps: int) -> None:
        """Go on for so many steps, less where all have stopped."""
        for _ in range(steps):
            self._step()
            self.steps += 1
            if self.holds_pressure and self.steps % BAROSTAT_STEPS == 0:
                self._rescale()
        self._look_at_bonds()

    def stop(self, which: Tensor, reason: int) -> None:
        """Stop structures (S,) bool that have not stopped before."""
        self.stopped = torch.where((self.stopped == 0) & which, reason, self.stopped)

    def _noise(self) -> Tensor:
        shape = (self.system.num_atoms, 3)
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device=self.engine.device)

    def _step(self) -> None:
        index, half, old = self.system.system_index, 0.5 * self.timestep, self.system.positions
        v = self.velocities + half * self.forces / self.masses
        middle = half * v
        v = self.decay * v + math.sqrt(1 - self.decay**2) * self.widths * self._noise()
        move = middle + half * v
        self.stop(largest(torch.nan_to_num(move.norm(dim=1), nan=torch.inf), self.system) > LONGEST_MOVE, JUMPED)
        moves = (self.stopped == 0)[index, None]
        self.system = self.system.with_positions(torch.where(moves, old + move, old))
        self._compute(old)
        self.velocities = torch.where((self.stopped == 0)[index, None], v + half * self.forces / self.masses, 0.0)

    def _compute(self, before: Tensor) -> None:
        """Forces; what the model refuses goes back to where it was."""
        self.forces, self.stress, refused = predict_each(self.engine, self.system)
        self.stop(refused, REFUSED)
        if bool(refused.any()):
            back = refused[self.system.system_index, None]
            self.system = self.system.with_positions(torch.where(back, before, self.system.positions))
            self.forces = torch.where(back, 0.0, self.forces)
        self.stop(largest(self.forces.norm(dim=1), self.system) > self.force_limit, STRONG)

    def _rescale(self) -> None:
        """Change the cells of those that hold a pressure."""
        index, volume = self.system.system_index, torch.linalg.det(self.system.cell).abs()
        kinetic = torch.zeros_like(volume).index_add_(0, index, 0.5 * (self.masses * self.velocities.square()).sum(1))
        pressure = (2 * kinetic / volume - self.stress.diagonal(dim1=1, dim2=2).sum(1)) / 3
        rate = COMPRESSIBILITY * BAROSTAT_STEPS * self.timestep / BAROSTAT_TIME
        xi = torch.randn(len(volume), generator=self.generator, dtype=torch.float64, device=volume.device)
        change = rate * (pressure - self.pressure) + torch.sqrt(2 * self.kt * rate / volume) * xi
        change = torch.where(self.npt & (self.stopped == 0), change.clamp(-LARGEST_RESCALING, LARGEST_RESCALING), 0.0)
        scale = torch.exp(change / 3)
        each = scale[index, None]
        self.system = self.system.with_positions(self.system.positions * each, self.system.cell * scale[:, None, None])
        self.velocities = self.velocities / each

    def _look_at_bonds(self) -> None:
        """Stop those whose bonded atoms have flown apart."""
        if not len(self.bonds):
            return
        first, second = self.bonds.unbind(1)
        x = self.system.positions
        ratio = (x[first] - x[second]).norm(dim=1) / self.bond_limits
        flown = ratio.new_zeros(self.system.num_systems)
        flown.scatter_reduce_(0, self.system.system_index[first], ratio, "amax")
        self.stop(flown > 1, APART)
