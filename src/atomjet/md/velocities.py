"""Start velocities, and the degrees of freedom that a temperature is shared among."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from atomjet.units import BOLTZMANN

LINEAR = 1e-6
"""Smallest moment of inertia relative to the largest below which a molecule counts as linear."""


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """Number of velocity components that carry the temperature.

    Where the equations of motion conserve the total momentum (nve, npt), its three components hold no heat; nor does
    the angular momentum of a free molecule in nve (three, or two where it is linear). A Langevin thermostat couples to
    each atom, so that nothing is conserved and every component counts. Fixed atoms have none, and break the
    conservation laws.
    """
    free = atoms.get_number_of_degrees_of_freedom()
    if len(atoms) == 1 and ensemble != "nvt":
        return 0
    if ensemble == "nvt" or atoms.constraints:
        return free
    return free - 3 - (_rotations(atoms) if ensemble == "nve" and not atoms.pbc.any() else 0)


def temperature(atoms: Atoms, degrees: int) -> float:
    """Instantaneous temperature, K: twice the kinetic energy over the degrees of freedom; 0 where there are none."""
    return float(2.0 * atoms.get_kinetic_energy() / (degrees * BOLTZMANN)) if degrees else 0.0


def draw_velocities(atoms: Atoms, kelvin: float, ensemble: str, generator: np.random.Generator) -> None:
    """Give the atoms Maxwell-Boltzmann velocities, at rest as a whole, at exactly the temperature asked for.

    A single atom keeps its momentum under a thermostat, and has none otherwise.
    """
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(generator.standard_normal((len(atoms), 3)) * np.sqrt(masses * BOLTZMANN * kelvin))
    if not (len(atoms) == 1 and ensemble == "nvt"):
        bring_to_rest(atoms)
    now = temperature(atoms, degrees_of_freedom(atoms, ensemble))
    atoms.set_momenta(atoms.get_momenta() * (np.sqrt(kelvin / now) if now > 0 else 0.0))


def bring_to_rest(atoms: Atoms) -> None:
    """Remove the total momentum, and for free molecules the angular momentum; nothing where atoms are fixed."""
    if atoms.constraints:
        return
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    momenta -= masses * momenta.sum(0) / masses.sum()
    if not atoms.pbc.any():
        momenta -= masses * _rotation_field(atoms, momenta)
    atoms.set_momenta(momenta)


def _rotations(atoms: Atoms) -> int:
    """Number of axes that a free molecule can rotate about: 3, or 2 where it is linear."""
    moments = np.linalg.eigvalsh(_inertia(atoms))
    return 2 if moments[0] <= LINEAR * moments[2] else 3


def _rotation_field(atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    """Velocities (N, 3) of the rigid rotation that carries the whole angular momentum."""
    centred = atoms.positions - atoms.get_center_of_mass()
    # The pseudo-inverse leaves the axis of a linear molecule alone, about which nothing can rotate.
    spin = np.linalg.pinv(_inertia(atoms), rcond=LINEAR, hermitian=True) @ np.cross(centred, momenta).sum(0)
    return np.cross(spin, centred)


def _inertia(atoms: Atoms) -> np.ndarray:
    """Tensor of inertia about the centre of mass, (3, 3), amu Å²."""
    centred = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    return (masses * (centred**2).sum(1)).sum() * np.eye(3) - np.einsum("n,na,nb->ab", masses, centred, centred)
