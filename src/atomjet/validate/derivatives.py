"""Forces and stress are derivatives of the energy: compared with differences of energies.

Four points a derivative, f'(0) = [8 (f(h) - f(-h)) - (f(2h) - f(-2h))] / 12h + O(h⁴), so that neither the step nor rounding
hides an error of 0.01 meV/Å.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from atomjet.data import System
from atomjet.engine.streams import ATOMS_OF_A_CALL
from atomjet.validate.check import Check
from atomjet.validate.potential import Potential, repeated, system_of

if TYPE_CHECKING:
    from ase import Atoms

STEP = {torch.float64: 2e-4, torch.float32: 1e-2}
"""Step of the differences, Å: float32 energies carry some 1e-6 eV of rounding, which the step must outweigh. In
float64 it is short because the third derivative of a cosine cutoff jumps: a pair that crosses the cutoff between the points
adds an error in proportion to the step."""

POINTS = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
"""Multiples of the step, and their weights."""


def force_differences(potential: Potential, atoms: Atoms, name: str, generator: np.random.Generator) -> Check:
    """Forces against differences of energies: max |F + dE/dx| over components of the force (random ones of many atoms)."""
    system = system_of(atoms, potential)
    step = STEP[potential.dtype]
    components = 36 if len(atoms) <= 30 else 12
    chosen = np.sort(generator.permutation(3 * len(atoms))[:components])
    moves = torch.zeros(len(chosen), system.num_atoms * 3, dtype=torch.float64, device=system.device)
    moves[range(len(chosen)), chosen] = step
    moves = moves.reshape(-1, system.num_atoms, 3)

    def displaced(factors: torch.Tensor, first: int, stop: int) -> System:
        applied = factors[None, :, None, None] * moves[first:stop, None]
        batch = repeated(system, 4 * (stop - first))
        return batch.with_positions(batch.positions + applied.reshape(-1, 3))

    slopes = _slopes(potential, displaced, len(moves), len(atoms)) / step
    forces = potential.predict(system).forces.double().reshape(-1)[chosen]
    error = (forces + slopes).abs().max()
    largest = float(forces.abs().max())
    scale = float((forces @ -slopes) / (slopes @ slopes).clamp(min=1e-30))
    if potential.dtype == torch.float64:
        bound, source = 1e-2, "truncation and rounding of the difference in float64 stay below 0.01 meV/Å"
    else:
        bound, source = max(1.0, 1e3 * 1e-3 * largest), "a thousandth of the largest force, or 1 meV/Å, in float32"
    detail = (
        f"{len(chosen)} components, step {step:g} Å, largest {largest:.2f} eV/Å; forces are {scale:.5f} x the slope"
    )
    return Check("forces = -dE/dx", name, 1e3 * float(error), "meV/Å", bound, source, detail, {"ratio": scale})


def stress_differences(potential: Potential, atoms: Atoms, name: str) -> Check:
    """Stress against differences of energies of strained cells: max |σ - dE/dε / V|, times V per atom."""
    system = system_of(atoms, potential)
    step = STEP[potential.dtype] / 10  # of some 10 Å
    strains = torch.zeros(6, 3, 3, dtype=torch.float64, device=system.device)
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    for k, (a, b) in enumerate(pairs):
        strains[k, a, b] += step / 2
        strains[k, b, a] += step / 2

    def strained(factors: torch.Tensor, first: int, stop: int) -> System:
        deform = (factors[None, :, None, None] * strains[first:stop, None]).flatten(0, 1)
        deform = deform + torch.eye(3, dtype=torch.float64, device=system.device)
        positions = torch.einsum("na,sab->snb", system.positions, deform).reshape(-1, 3)
        batch = repeated(system, 4 * (stop - first))
        return batch.with_positions(positions, batch.cell @ deform)

    slopes = _slopes(potential, strained, 6, len(atoms)) / step
    volume = float(torch.linalg.det(system.cell).abs())
    stress = potential.predict(system).stress[0].double() * volume / system.num_atoms
    error = max(abs(float(stress[a, b]) - float(slopes[k]) / system.num_atoms) for k, (a, b) in enumerate(pairs))
    bound = 1e-2 if potential.dtype == torch.float64 else 5.0
    source = f"truncation and rounding of the difference in {str(potential.dtype).removeprefix('torch.')}"
    detail = f"six strains, step {step:g}; virial per atom, largest {1e3 * float(stress.abs().max()):.1f} meV"
    return Check("stress = dE/dstrain / volume", name, 1e3 * error, "meV/atom", bound, source, detail)


def _slopes(potential: Potential, moved: Callable[..., System], number: int, atoms: int) -> torch.Tensor:
    """Change of the energy per step along each of `number` moves; `moved(factors, first, stop)` makes the structures."""
    factors = torch.tensor([factor for factor, _ in POINTS], dtype=torch.float64, device=potential.device)
    weights = torch.tensor([weight for _, weight in POINTS], dtype=torch.float64, device=potential.device)
    slopes, together = [], max(1, ATOMS_OF_A_CALL[potential.device.type] // (4 * atoms))
    for first in range(0, number, together):
        energies = potential.predict(moved(factors, first, min(number, first + together))).energy.reshape(-1, 4)
        # Differences of the four energies before the sum: totals are thousands of eV.
        slopes.append((energies - energies[:, :1]) @ weights)
    return torch.cat(slopes)
