"""Whether two geometries of a molecule are the same, whichever equivalent atoms stand where, and by which exchanges of those.

Atoms are equivalent when they cannot be told apart by what they are bonded to.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from atomjet.adapters.smiles import Embedded

SAME_PLACES = 0.1
"""Å, root mean square over atoms, between a conformer and itself turned, or its mirror image, below which they are the same."""

ALIKE = 0.1
"""Relative difference of moments below which principal axes say nothing about how a molecule lies."""

TURNS = 200
"""Random orientations that are tried where principal axes say nothing."""

MOST_MATCHINGS = 20
"""Turns of matching and fitting; they settle in two or three."""


def sorted_distances(positions: np.ndarray, equivalent: np.ndarray) -> np.ndarray:
    """(N (N - 1) / 2,) Å: sorted within each pair of classes, so that equivalent atoms may change places."""
    first, second = np.triu_indices(len(positions), 1)
    distances = np.linalg.norm(positions[first] - positions[second], axis=1)
    low, high = np.minimum(equivalent[first], equivalent[second]), np.maximum(equivalent[first], equivalent[second])
    return distances[np.lexsort((distances, high, low))]


def symmetries(
    positions: np.ndarray, equivalent: np.ndarray, mirrored: bool = False, within: float = SAME_PLACES
) -> set[tuple[int, ...]]:
    """Exchanges of equivalent atoms that a rotation undoes: those of the geometry itself, or from it to its mirror image.

    There are as many of its own as the symmetry number says, and none to the mirror image where it has a hand. `within`, Å, is the
    root mean square distance of what counts as the same.

    The principal axes of both are laid upon each other, in the four ways there are; atoms are then matched to the nearest of their
    class and turned to fit best, again and again until the matching stays.
    """
    here = positions - positions.mean(0)
    _, axes = np.linalg.eigh(here.T @ here)
    here = here @ axes
    there = here * [1.0, 1.0, -1.0] if mirrored else here
    found = (matched_atoms(here, there @ turn, equivalent) for turn in _turns(here))
    exchanges = {tuple(matching.tolist()) for matching, misfit in found if misfit < within}
    return exchanges if mirrored else _closed(exchanges)


def _turns(positions: np.ndarray) -> list[np.ndarray]:
    """(3, 3) rotations to begin with, of atoms whose principal axes are those of space."""
    turns = [np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    moments = (positions**2).sum(0)
    if (np.diff(moments) < ALIKE * moments[1:]).any():
        turns += list(Rotation.random(TURNS, rng=np.random.default_rng(0)).as_matrix())
    return turns


def nearest_order(fixed: np.ndarray, moving: np.ndarray, equivalent: np.ndarray) -> tuple[np.ndarray, float]:
    """(N,) which moving atom best stands where each fixed one is, free to turn in space, and the root mean square distance, Å."""
    fixed, moving = fixed - fixed.mean(0), moving - moving.mean(0)
    axes, own = (np.linalg.eigh(positions.T @ positions)[1] for positions in (fixed, moving))
    axes, own = (basis * [1.0, 1.0, np.linalg.det(basis)] for basis in (axes, own))
    aligned = moving @ own
    tried = [matched_atoms(fixed, moving, equivalent)]
    tried += [matched_atoms(fixed, aligned @ turn @ axes.T, equivalent) for turn in _turns(aligned)]
    return min(tried, key=lambda one: one[1])


def _closed(exchanges: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """All that follow one another: random turns find some of a large group, and those make the others."""
    found, waiting = set(exchanges), list(exchanges)
    while waiting:
        last = waiting.pop()
        for one in exchanges:
            both = tuple(last[atom] for atom in one)
            if both not in found:
                found.add(both)
                waiting.append(both)
    return found


def matched_atoms(fixed: np.ndarray, moving: np.ndarray, equivalent: np.ndarray) -> tuple[np.ndarray, float]:
    """(N,) which moving atom stands where each fixed one is, and the root mean square distance of all, Å."""
    classes = [np.flatnonzero(equivalent == label) for label in np.unique(equivalent)]
    matched = np.full(len(fixed), -1)
    for _ in range(MOST_MATCHINGS):
        before = matched.copy()
        for own in classes:
            squares = ((fixed[own, None] - moving[None, own]) ** 2).sum(2)
            matched[own] = own[linear_sum_assignment(squares)[1]]
        if np.array_equal(matched, before):
            break
        moving = moving @ _turn(fixed, moving[matched])
    return matched, float(np.sqrt(((fixed - moving[matched]) ** 2).sum(1).mean()))


def _turn(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by which rows of `moving` come nearest to those of `fixed` (Kabsch, Acta Cryst. A32, 922, 1976)."""
    left, _, right = np.linalg.svd(moving.T @ fixed)
    hand = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, hand]) @ right


def degeneracies_of(geometries: list[np.ndarray], embedded: Embedded) -> list[int]:
    """How many arrangements of equivalent atoms each conformer stands for, relative to the others, from its positions (N, 3) Å."""
    hands, numbers = [], []
    for positions in geometries:
        numbers.append(max(1, len(symmetries(positions, embedded.equivalent))))
        handed = embedded.own_mirror_image and not symmetries(positions, embedded.equivalent, mirrored=True)
        hands.append(2 if handed else 1)
    counts = [hand * math.lcm(*numbers) // number for hand, number in zip(hands, numbers, strict=True)]
    return [count // math.gcd(*counts) for count in counts]
