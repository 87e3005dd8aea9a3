"""Turns about a molecule's bonds: which there are, geometries turned, dihedral angles, and the curvature of the energy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from ase import Atoms

from atomjet.adapters.smiles import Torsion
from atomjet.data import Prediction

SMALL_TURN = np.radians(4.0)
"""rad, to both sides of a turn: the step of finite differences, from which its curvature follows."""

ANGLES = np.radians([120.0, 180.0, 240.0])
"""rad, by which bonds are turned."""

SAME_DIHEDRALS = np.radians(30.0)
"""rad, largest difference of any dihedral angle between two geometries that will relax to the same conformer."""


def turned(positions: np.ndarray, torsion: Torsion, angle: float) -> np.ndarray:
    """(N, 3) Å: one side turned about its bond by an angle, radians."""
    _, second, third, _ = torsion.atoms
    axis = positions[third] - positions[second]
    axis = axis / np.linalg.norm(axis)
    arms = positions[torsion.moving] - positions[third]
    along = np.outer(arms @ axis, axis)
    # Rodrigues' formula.
    found = positions.copy()
    found[torsion.moving] = (
        positions[third] + along + np.cos(angle) * (arms - along) + np.sin(angle) * np.cross(axis, arms)
    )
    return found


def dihedrals(positions: np.ndarray, torsions: Sequence[Torsion]) -> np.ndarray:
    """(T,) radians, between -π and π."""
    if not torsions:
        return np.zeros(0)
    first, second, third, fourth = positions[np.array([torsion.atoms for torsion in torsions]).T]
    axis = third - second
    left, right = np.cross(first - second, axis), np.cross(fourth - third, axis)
    sine = (np.cross(left, right) * axis).sum(1) / np.linalg.norm(axis, axis=1)
    return np.arctan2(sine, (left * right).sum(1))


def curvatures(
    predict: Callable[[list[Atoms]], Prediction], frames: Sequence[Atoms], torsions: Sequence[Torsion]
) -> list[tuple[float, np.ndarray]]:
    """How the energy curves along turns, where it curves down most: for each structure eV/rad² and (T,) the turns.

    At a stationary point a negative value says that it is no minimum: whatever else may relax only lowers the energy further.
    """
    moved = [
        Atoms(atoms.numbers, turned(atoms.positions, torsion, sign * SMALL_TURN), info=dict(atoms.info))
        for atoms in frames
        for torsion in torsions
        for sign in (1, -1)
    ]
    found = predict(moved)
    slopes = np.array([_slopes(moved[k].positions, _forces(found, k), torsions) for k in range(len(moved))])
    slopes = slopes.reshape(len(frames), len(torsions), 2, len(torsions))
    matrices = (slopes[:, :, 0] - slopes[:, :, 1]) / (2 * SMALL_TURN)
    values, vectors = np.linalg.eigh(0.5 * (matrices + matrices.transpose(0, 2, 1)))
    return [(float(values[k, 0]), vectors[k, :, 0]) for k in range(len(frames))]


def _forces(found: Prediction, k: int) -> np.ndarray:
    return found.forces_of(k).double().cpu().numpy()


def _slopes(positions: np.ndarray, forces: np.ndarray, torsions: Sequence[Torsion]) -> np.ndarray:
    """(T,) eV/rad, of the energy along each turn."""
    slopes = []
    for torsion in torsions:
        _, second, third, _ = torsion.atoms
        axis = positions[third] - positions[second]
        arms = positions[torsion.moving] - positions[third]
        slopes.append(-(forces[torsion.moving] * np.cross(axis / np.linalg.norm(axis), arms)).sum())
    return np.array(slopes)


def turn_choices(torsions: int, generator: np.random.Generator) -> Iterable[list[tuple[int, float]]]:
    """Every bond turned by every angle, then as many pairs of bonds, at random; each a list of bonds and angles."""
    singles = [[(torsion, float(angle))] for torsion in range(torsions) for angle in ANGLES]
    yield from singles
    for _ in singles if torsions > 1 else ():
        first, second = generator.choice(torsions, 2, replace=False)
        yield [(int(first), float(generator.choice(ANGLES))), (int(second), float(generator.choice(ANGLES)))]


def differs_from_all(angles: np.ndarray, others: Sequence[np.ndarray], mirrored: bool) -> bool:
    """Whether dihedral angles (T,), rad, differ from those of all other geometries, and of their mirror images if `mirrored`."""
    before = np.array(others)
    for hand in (1, -1) if mirrored else (1,):
        apart = np.abs((angles - hand * before + np.pi) % (2 * np.pi) - np.pi)
        if (apart.max(1) < SAME_DIHEDRALS).any():
            return False
    return True
