"""Start velocities, and the degrees of freedom that a temperature is shared among."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixConstraint, Hookean

from atomjet.units import BOLTZMANN

LINEAR = 1e-6
"""Smallest moment of inertia relative to the largest below which a molecule counts as linear."""


UNTOUCHED = 1e-6
"""Relative change of a motion below which constraints leave it as it is (iterative ones do so to about 1e-12)."""


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """Number of velocity components that carry the temperature: 3N, less what each constraint says that it removes, less what the
    equations of motion conserve.

    They conserve the total momentum (nve, npt) along every direction in which the constraints let all atoms move together, and the
    angular momentum of a free molecule in nve (three components, or two where it is linear). A Langevin thermostat couples to each
    atom, so that nothing is conserved and every component counts.
    """
    free = atoms.get_number_of_degrees_of_freedom()
    if ensemble == "nvt":
        return free
    turning = _rotations(atoms) if ensemble == "nve" and _turns(atoms) else 0
    return max(0, free - len(_directions(atoms)) - turning)


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
    """Remove the total momentum, and for free molecules the angular momentum, as far as constraints do not pin atoms in space."""
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    total = momenta.sum(0)
    if atoms.constraints:
        directions = _directions(atoms)
        total = directions.T @ (directions @ total)
    momenta -= masses * total / masses.sum()
    if _turns(atoms):
        momenta -= masses * _rotation_field(atoms, momenta)
    atoms.set_momenta(momenta)


def _directions(atoms: Atoms) -> np.ndarray:
    """(0 ... 3, 3) unit vectors along which the atoms may move together, so that this momentum is conserved."""
    if not atoms.constraints:
        return np.eye(3)
    if any(_tethers(constraint) for constraint in atoms.constraints):
        return np.zeros((0, 3))
    shifts = _shifts(atoms)
    return _vanishing(_constrained(atoms, shifts) - shifts)


def _turns(atoms: Atoms) -> bool:
    """Whether the atoms may turn together about their centre of mass, so that the angular momentum is conserved."""
    if atoms.pbc.any():
        return False
    if not atoms.constraints:
        return True
    held = _vanishing(_constrained(atoms, _shifts(atoms)))  # by a constraint on the centre of mass, which pins no atom
    if len(_directions(atoms)) + len(held) < 3:
        return False
    turns = np.array([np.cross(axis, _centred(atoms)) for axis in np.eye(3)]) * atoms.get_masses()[:, None]
    return len(_vanishing(_constrained(atoms, turns) - turns)) == 3


def _shifts(atoms: Atoms) -> np.ndarray:
    """(3, N, 3) momenta of the atoms moving together along x, y and z, of norm one."""
    masses = atoms.get_masses()
    return np.eye(3)[:, None, :] * (masses / np.linalg.norm(masses))[None, :, None]


def _constrained(atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    """What the constraints make of momenta (M, N, 3)."""
    trial = atoms.copy()

    def adjusted(values: np.ndarray) -> np.ndarray:
        trial.set_momenta(values)
        return trial.get_momenta()

    # An external force adds to momenta what does not depend on them; that says nothing of what is conserved.
    rest = adjusted(np.zeros((len(atoms), 3)))
    return np.array([adjusted(values) - rest for values in momenta])


def _vanishing(momenta: np.ndarray) -> np.ndarray:
    """(K, M) orthonormal combinations of momenta (M, N, 3) that are zero."""
    vectors, sizes, _ = np.linalg.svd(momenta.reshape(len(momenta), -1), full_matrices=False)
    return vectors[:, sizes < UNTOUCHED].T


def _tethers(constraint: FixConstraint) -> bool:
    """Whether a spring holds an atom to a point or a plane in space; its force alone shows it, and not at every moment."""
    if not isinstance(constraint, Hookean):
        return False
    arguments: Any = constraint.todict()["kwargs"]
    return np.ndim(arguments["a2"]) > 0


def _rotations(atoms: Atoms) -> int:
    """Number of axes that a free molecule can rotate about: 3, or 2 where it is linear."""
    moments = np.linalg.eigvalsh(_inertia(atoms))
    return 2 if moments[0] <= LINEAR * moments[2] else 3


def _rotation_field(atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    """Velocities (N, 3) of the rigid rotation that carries the whole angular momentum."""
    centred = _centred(atoms)
    # The pseudo-inverse leaves the axis of a linear molecule alone, about which nothing can rotate.
    spin = np.linalg.pinv(_inertia(atoms), rcond=LINEAR, hermitian=True) @ np.cross(centred, momenta).sum(0)
    return np.cross(spin, centred)


def _inertia(atoms: Atoms) -> np.ndarray:
    """Tensor of inertia about the centre of mass, (3, 3), amu Å²."""
    centred = _centred(atoms)
    masses = atoms.get_masses()
    return (masses * (centred**2).sum(1)).sum() * np.eye(3) - np.einsum("n,na,nb->ab", masses, centred, centred)


def _centred(atoms: Atoms) -> np.ndarray:
    """(N, 3) positions seen from the centre of mass, Å."""
    return atoms.positions - atoms.get_center_of_mass()
