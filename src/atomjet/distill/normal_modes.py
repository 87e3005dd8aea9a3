"""Normal modes of a molecule by the teacher, and thermal displacements along them.

With the mass-weighted Hessian H = M^(-1/2) K M^(-1/2) = L diag(λ) L^T, a classical oscillator of stiffness λ has the
coordinate q ~ N(0, kT/λ), and the atoms move by M^(-1/2) L q, along curves on which bonds keep their length. Modes
softer than 150 cm^-1 are treated as if they had that wavenumber: beyond it a straight line is no longer the path of a
torsion and would tear the molecule.
"""

from __future__ import annotations

from typing import Any

import ase.units
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomjet.units import BOLTZMANN

STEP = 0.005
"""Displacement of the forward differences, Å: 3N + 1 teacher calls, a bond's stiffness right to 2%, enough to sample
along.
"""

SOFTEST = 150.0
"""Wavenumber, cm^-1, below which amplitudes no longer grow."""

# hbar of an oscillator with eigenvalue 1 eV/(Å² amu), in eV: wavenumber * invcm = QUANTUM * sqrt(λ).
QUANTUM = ase.units._hbar * 1e10 / np.sqrt(ase.units._e * ase.units._amu)  # type: ignore[attr-defined]
SOFTEST_STIFFNESS = float((SOFTEST * ase.units.invcm / QUANTUM) ** 2)  # type: ignore[attr-defined]

SMALLEST = (20.0 * ase.units.invcm / QUANTUM) ** 2  # type: ignore[attr-defined]
"""Stiffness of 20 cm^-1: a mode below it is imaginary, or noise of the differences."""

SHORTEST = 0.75
"""No bond is compressed below this share of its relaxed length."""

CORRECTIONS = 4
"""Newton steps on the bond lengths; they agree to 1e-3 Å then, and a thermal sample needs no more."""

RIDGE = 1e-4
"""Keeps the solution bounded where the bonds of a ring depend on each other, 1/amu."""


def hessian(atoms: Atoms) -> NDArray[Any]:
    """(3N, 3N) second derivatives of the energy, eV/Å², by forward differences of the forces, symmetrised."""
    start, before = atoms.positions.copy(), atoms.get_forces()
    rows = []
    for index in np.ndindex(start.shape):
        atoms.positions = start
        atoms.positions[index] += STEP
        rows.append((before - atoms.get_forces()).ravel() / STEP)
    atoms.positions = start
    matrix = np.array(rows)
    return (matrix + matrix.T) / 2


def normal_modes(atoms: Atoms) -> tuple[NDArray[Any], NDArray[Any]]:
    """Stiffness (M,), eV/(Å² amu), and displacement (M, N, 3), amu^(-1/2), of every mode that is not imaginary, by the teacher."""
    return modes_of_hessian(atoms, hessian(atoms))


def modes_of_hessian(atoms: Atoms, matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The normal modes of a Hessian (3N, 3N), eV/Å²; translations and rotations are projected out first."""
    root = np.repeat(np.sqrt(atoms.get_masses()), 3)
    inside = np.eye(len(root)) - _rigid(atoms, root)
    stiffness, vectors = np.linalg.eigh(inside @ (matrix / np.outer(root, root)) @ inside)
    kept = stiffness > SMALLEST
    return stiffness[kept], (vectors[:, kept] / root[:, None]).T.reshape(-1, len(atoms), 3)


def no_modes(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Stiffness and modes of a molecule of which none are known."""
    return np.zeros(0), np.zeros((0, count, 3))


def _rigid(atoms: Atoms, root: NDArray[Any]) -> NDArray[Any]:
    """Projector (3N, 3N) on mass-weighted translations and rotations; a linear molecule has one rotation less."""
    arms = atoms.positions - atoms.get_center_of_mass()
    moves = [np.tile(axis, len(atoms)) for axis in np.eye(3)] + [np.cross(axis, arms).ravel() for axis in np.eye(3)]
    left, sizes, _ = np.linalg.svd((np.array(moves) * root).T, full_matrices=False)
    basis = left[:, sizes > 1e-6 * sizes[0]]
    return basis @ basis.T


def displace(
    relaxed: NDArray[Any],
    bonds: NDArray[Any],
    masses: NDArray[Any],
    stiffness: NDArray[Any],
    modes: NDArray[Any],
    temperature: float,
    rng: np.random.Generator,
) -> NDArray[Any]:
    """(N, 3) positions of a classical thermal sample about `relaxed`; padding (NaN) modes are skipped."""
    real = np.isfinite(stiffness)
    width = np.sqrt(BOLTZMANN * temperature / np.maximum(stiffness[real], SOFTEST_STIFFNESS))
    moves = np.tensordot(rng.normal(size=int(real.sum())) * width, modes[real], axes=1)
    return _bend(relaxed, moves, bonds, masses) if len(bonds) else relaxed + moves


def _bend(relaxed: NDArray[Any], moves: NDArray[Any], bonds: NDArray[Any], masses: NDArray[Any]) -> NDArray[Any]:
    """Positions after `moves`, with every bond as long as the moves say to first order.

    A hydrogen of a turning methyl group moves along the tangent, which stretches its bond; that stretch is an artefact
    of straight lines. It is taken out as SHAKE does: bond vectors J, correction M^-1 J^T (J M^-1 J^T)^-1 (target -
    length).
    """
    first, second = bonds.T
    before = relaxed[second] - relaxed[first]
    lengths = np.linalg.norm(before, axis=1)
    change = (before * (moves[second] - moves[first])).sum(1) / lengths
    target = np.clip(lengths + change, SHORTEST * lengths, None)
    positions = relaxed + moves
    incidence = np.zeros((len(bonds), len(masses)))
    incidence[np.arange(len(bonds)), first], incidence[np.arange(len(bonds)), second] = -1.0, 1.0
    for _ in range(CORRECTIONS):
        vectors = positions[second] - positions[first]
        now = np.linalg.norm(vectors, axis=1)
        units = vectors / now[:, None]
        coupling = (units @ units.T) * ((incidence / masses) @ incidence.T)
        tension = np.linalg.solve(coupling + RIDGE * np.eye(len(bonds)), target - now)
        positions = positions + (incidence.T @ (tension[:, None] * units)) / masses[:, None]
    return positions
