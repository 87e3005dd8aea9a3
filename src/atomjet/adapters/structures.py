"""What ASE's structures and tables know, for code that does not import ASE."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from atomjet.data import System

BOND = 1.25
"""Atoms nearer than this times the sum of their covalent radii (Cordero et al., Dalton Trans. 2008, 2832) are bonded."""


def to_ase(system: System, structure: int = 0) -> Atoms:
    """One structure of a `System` as ase.Atoms; `info` holds charge, spin and task where it has them."""
    own = system.system_index == structure
    charge, spin, info = int(system.charge[structure]), int(system.spin[structure]), {}
    if charge or system.charge_given[structure]:
        info["charge"] = charge
    if spin or system.spin_given[structure]:
        info["spin"] = spin
    if system.task[structure]:
        info["task"] = system.task[structure]
    return Atoms(
        system.atomic_numbers[own].cpu().numpy(),
        system.positions[own].double().cpu().numpy(),
        cell=system.cell[structure].double().cpu().numpy(),
        pbc=system.pbc[structure].cpu().numpy(),
        info=info,
    )


def bonds(atoms: Atoms) -> np.ndarray:
    """(B, 2) bonded atoms, i < j; periodic images are not looked at."""
    radii = covalent_radii[atoms.numbers]
    distance = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=2)
    return np.argwhere(np.triu(distance < BOND * (radii[:, None] + radii[None]), 1))
