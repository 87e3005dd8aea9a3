"""Harmonic vibrations of a molecule or of atoms in a cell, from the Hessian.

Mass-weighted, the Hessian's eigenvalues are squares of angular frequencies. A molecule's overall translations and rotations, and a
crystal's translations, cost no energy: they are projected out. What is left are 3N - 6 vibrations, 3N - 5 of a linear molecule,
3N - 3 of a periodic structure. A negative eigenvalue is a direction in which the energy falls: its frequency is imaginary. Where
atoms are fixed (ASE's `FixAtoms`), such as a slab's below an adsorbate, the others vibrate in their field, three vibrations each.

`Engine.hessian` is exact. Differences of forces over displacements that atoms really make are often what is wanted: a network can
bend within a thousandth of an Å of a symmetric geometry in a way that no vibration feels (PaiNN's norms of vectors do).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from atomjet.data import Prediction
from atomjet.errors import StructureError
from atomjet.md.equivalence import symmetries
from atomjet.units import AMU_A2_PER_FS2, HBAR, INVERSE_CM

LINEAR = 1e-5
"""Moment of inertia relative to the largest below which a molecule counts as linear."""

DISPLACEMENT = 0.01
"""Displacement, Å, of each atom in each direction for differences of forces; about the zero-point amplitude of a stiff bond."""

SYMMETRIC = 0.05
"""Distance, Å, root mean square over atoms, between a molecule and itself turned, below which it is symmetric."""


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
        atoms: positions, masses (amu), periodic directions, fixed atoms.
        hessian: (3N, 3N) eV/Å².

    Raises:
        StructureError: a mass that is not above zero, constraints other than `FixAtoms`, no atom that moves.
    """
    masses = atoms.get_masses()
    if not (masses > 0).all():
        atom = int(np.argmin(masses > 0))
        raise StructureError(f"atom {atom}: mass {masses[atom]:g} amu; vibrations need masses above 0")
    moving = moving_atoms(atoms)
    rows = (3 * moving[:, None] + np.arange(3)).reshape(-1)
    weights = np.repeat(masses[moving], 3) ** -0.5
    # Fixed atoms hold the others in their place and direction.
    free = _free_motions(atoms, masses) if len(moving) == len(atoms) else np.zeros((len(rows), 0))
    project = np.eye(len(rows)) - free @ free.T
    weighted = hessian[np.ix_(rows, rows)] * np.outer(weights, weights)
    values, vectors = np.linalg.eigh(project @ weighted @ project)
    # Projected out, free motions have eigenvalues of zero: leave out as many vectors as lie most in their space.
    inside = ((free.T @ vectors) ** 2).sum(0)
    kept = np.sort(np.argsort(inside, kind="stable")[: len(rows) - free.shape[1]])
    frequencies = np.sign(values[kept]) * np.sqrt(np.abs(values[kept]) / AMU_A2_PER_FS2)  # 1/fs
    modes = np.zeros((len(kept), len(atoms), 3))
    modes[:, moving] = (vectors[:, kept] * weights[:, None]).T.reshape(len(kept), len(moving), 3)
    return Vibrations(HBAR * frequencies, modes, free.shape[1])


def moving_atoms(atoms: Atoms) -> np.ndarray:
    """Atoms that no `FixAtoms` holds.

    Raises:
        StructureError: other constraints, or no atom that moves.
    """
    fixed: list[int] = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise StructureError(
                f"constraint {type(constraint).__name__} has no vibrations of its own, only FixAtoms has; remove it"
            )
        fixed += constraint.index.tolist()
    moving = np.setdiff1d(np.arange(len(atoms)), fixed)
    if not len(moving):
        raise StructureError(f"all {len(atoms)} atoms are fixed; vibrations need at least one that moves")
    return moving


def hessian_by_differences(
    predict: Callable[[list[Atoms]], Prediction], atoms: Atoms, step: float = DISPLACEMENT
) -> np.ndarray:
    """(3N, 3N) eV/Å², symmetric: every coordinate moved up and down, all 6N structures in one batch.

    Fixed atoms are not moved; between two of them it is NaN.

    Args:
        predict: forces of many structures, such as `Engine.predict`; in float64 where small frequencies matter.
        atoms: one structure.
        step: Å.
    """
    rows = (3 * moving_atoms(atoms)[:, None] + np.arange(3)).reshape(-1)
    forces = predict(displaced(atoms, step)).forces.double().cpu().numpy().reshape(len(rows), 2, 3 * len(atoms))
    found = (forces[:, 1] - forces[:, 0]) / (2 * step)
    hessian = np.full((3 * len(atoms), 3 * len(atoms)), np.nan)
    hessian[rows], hessian[:, rows] = found, found.T
    hessian[np.ix_(rows, rows)] = 0.5 * (found[:, rows] + found[:, rows].T)
    return hessian


def displaced(atoms: Atoms, step: float = DISPLACEMENT) -> list[Atoms]:
    """6 structures for each atom that moves: each of its coordinates in turn moved up by `step`, Å, and down."""
    frames = []
    for atom in moving_atoms(atoms):
        for axis in range(3):
            for size in (step, -step):
                moved = atoms.copy()
                moved.positions[atom, axis] += size
                frames.append(moved)
    return frames


def symmetry_number(atoms: Atoms) -> int:
    """Rotations that turn a molecule into itself, of 0.05 Å and better; isotopes count as different."""
    isotopes = np.stack([atoms.numbers, np.round(atoms.get_masses(), 3)], axis=1)
    _, equivalent = np.unique(isotopes, axis=0, return_inverse=True)
    return max(1, len(symmetries(atoms.positions, equivalent.reshape(-1), within=SYMMETRIC)))


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
