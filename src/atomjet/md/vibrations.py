"""Harmonic vibrations of a molecule or of atoms in a cell, from the Hessian.

Mass-weighted, the Hessian's eigenvalues are squares of angular frequencies. A molecule's overall translations and rotations, and a
crystal's translations, cost no energy: they are projected out. What is left are 3N - 6 vibrations, 3N - 5 of a linear molecule,
3N - 3 of a periodic structure. A negative eigenvalue is a direction in which the energy falls: its frequency is imaginary.

`Engine.hessian` is exact. Differences of forces over displacements that atoms really make are often what is wanted: a network can
bend within a thousandth of an Å of a symmetric geometry in a way that no vibration feels (PaiNN's norms of vectors do).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from atomjet.data import Prediction
from atomjet.errors import StructureError
from atomjet.units import AMU_A2_PER_FS2, HBAR, INVERSE_CM

LINEAR = 1e-5
"""Moment of inertia relative to the largest below which a molecule counts as linear."""

DISPLACEMENT = 0.01
"""Å, of each atom in each direction for differences of forces; about an amplitude of zero-point motion of a stiff bond."""


@dataclass(frozen=True)
class Vibrations:
    """Vibrations of one structure, V of them, lowest first.

    Attributes:
        energies: (V,) ħω in eV; negative for imaginary frequencies.
        modes: (V, N, 3) displacements, each of norm 1 before its masses were divided out (normal modes in Å √amu).
        free: translations and rotations that were projected out.
    """

    energies: np.ndarray
    modes: np.ndarray
    free: int

    @property
    def wavenumbers(self) -> np.ndarray:
        """(V,) cm⁻¹; negative for imaginary frequencies."""
        return self.energies / INVERSE_CM

    @property
    def imaginary(self) -> int:
        """Number of directions in which the energy falls."""
        return int((self.energies < 0).sum())

    @property
    def zero_point_energy(self) -> float:
        """Half of the sum of all real ħω, eV."""
        return float(0.5 * self.energies[self.energies > 0].sum())


def vibrations(atoms: Atoms, hessian: np.ndarray) -> Vibrations:
    """Diagonalise a Hessian.

    Args:
        atoms: positions, masses (amu) and periodic directions.
        hessian: (3N, 3N) eV/Å².

    Raises:
        StructureError: a mass that is not above zero.
    """
    masses = atoms.get_masses()
    if not (masses > 0).all():
        atom = int(np.argmin(masses > 0))
        raise StructureError(f"atom {atom}: mass {masses[atom]:g} amu; vibrations need masses above 0")
    weights = np.repeat(masses, 3) ** -0.5
    free = _free_motions(atoms, masses)
    project = np.eye(3 * len(atoms)) - free @ free.T
    values, vectors = np.linalg.eigh(project @ (hessian * np.outer(weights, weights)) @ project)
    # Projected out, free motions have eigenvalues of zero: leave out as many vectors as lie most in their space.
    inside = ((free.T @ vectors) ** 2).sum(0)
    kept = np.sort(np.argsort(inside, kind="stable")[: 3 * len(atoms) - free.shape[1]])
    frequencies = np.sign(values[kept]) * np.sqrt(np.abs(values[kept]) / AMU_A2_PER_FS2)  # 1/fs
    modes = (vectors[:, kept] * weights[:, None]).T.reshape(len(kept), len(atoms), 3)
    return Vibrations(HBAR * frequencies, modes, free.shape[1])


def hessian_by_differences(
    predict: Callable[[list[Atoms]], Prediction], atoms: Atoms, step: float = DISPLACEMENT
) -> np.ndarray:
    """(3N, 3N) eV/Å², symmetric: every coordinate moved up and down, all 6N structures in one batch.

    Args:
        predict: forces of many structures, such as `Engine.predict`; in float64 where small frequencies matter.
        atoms: one structure.
        step: Å.
    """
    components = 3 * len(atoms)
    forces = predict(displaced(atoms, step)).forces.double().cpu().numpy().reshape(components, 2, components)
    hessian = (forces[:, 1] - forces[:, 0]) / (2 * step)
    return 0.5 * (hessian + hessian.T)


def displaced(atoms: Atoms, step: float = DISPLACEMENT) -> list[Atoms]:
    """6N structures: each coordinate in turn moved up by `step`, Å, and down."""
    frames = []
    for k in range(3 * len(atoms)):
        for size in (step, -step):
            moved = atoms.copy()
            moved.positions.reshape(-1)[k] += size
            frames.append(moved)
    return frames


def is_linear(atoms: Atoms) -> bool:
    """Whether all atoms lie on a line, within rounding."""
    moments = np.sort(np.linalg.eigvalsh(_inertia(atoms.positions - atoms.get_center_of_mass(), atoms.get_masses())))
    return bool(moments[0] < LINEAR * moments[-1]) if len(atoms) > 1 else False


def _free_motions(atoms: Atoms, masses: np.ndarray) -> np.ndarray:
    """(3N, F) orthonormal mass-weighted translations, and rotations where no direction is periodic."""
    roots, number = np.sqrt(masses), len(atoms)
    motions = [np.outer(roots, axis).ravel() for axis in np.eye(3)]
    if not atoms.pbc.any() and number > 1:
        arms = atoms.positions - atoms.get_center_of_mass()
        moments, axes = np.linalg.eigh(_inertia(arms, masses))
        turning = axes.T[1:] if moments[0] < LINEAR * moments[-1] else axes.T
        motions += [(roots[:, None] * np.cross(axis, arms)).ravel() for axis in turning]
    orthonormal, _ = np.linalg.qr(np.array(motions).T)
    return orthonormal


def _inertia(arms: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """(3, 3) amu Å²."""
    squares = (masses * (arms**2).sum(1)).sum()
    return squares * np.eye(3) - np.einsum("n,na,nb->ab", masses, arms, arms)
