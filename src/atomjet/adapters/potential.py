"""Any ASE calculator as a potential that the physics checks can judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator

from atomjet.adapters.structures import to_ase
from atomjet.data import Prediction, System


class CalculatorPotential:
    """Energies, forces and stress of an ASE calculator, one structure after the other, in float64 on the CPU.

    Args:
        calculator: gives energy and forces, and stress where periodic structures are to be checked.
        cutoff: Å, how far an atom sees; None where it is not known.
    """

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, calculator: Calculator, cutoff: float | None = None) -> None:
        self.calculator = calculator
        self.cutoff = cutoff

    def predict(self, structures: Any) -> Prediction:
        """Compute one or many structures."""
        system = System.from_ase(structures)
        energies, forces, stresses = [], [], []
        for k in range(system.num_systems):
            atoms = to_ase(system, k)
            # A calculator that goes on from its last result would make results depend on their order.
            self.calculator.reset()
            atoms.calc = self.calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            periodic = bool(system.pbc[k].all())
            stresses.append(atoms.get_stress(voigt=False) if periodic else np.full((3, 3), np.nan))
        energy = torch.tensor(energies, dtype=torch.float64)
        counts = system.counts().double()
        return Prediction(
            energy,
            torch.from_numpy(np.concatenate(forces)),
            torch.from_numpy(np.array(stresses)),
            (energy / counts)[system.system_index],
            system.system_index,
        )
