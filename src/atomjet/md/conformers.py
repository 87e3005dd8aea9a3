"""Conformers of a molecule: many geometries relaxed together, those that are the same counted once, ranked by energy.

Two geometries are the same conformer when their energies and all distances between atoms agree, whichever equivalent atoms stand
where (the three hydrogen atoms of a methyl group) and whichever hand they have: mirror images are one conformer. In its weight it
counts as often as there are arrangements of it: gauche butane twice for once anti, for its two hands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from atomjet.adapters.smiles import Embedded
from atomjet.adapters.structures import bonds
from atomjet.engine import Engine
from atomjet.errors import SimulationError, StructureError
from atomjet.md.relax_many import relax_many
from atomjet.units import BOLTZMANN, KCAL_PER_MOL

SAME_ENERGY = 0.1 * KCAL_PER_MOL
"""eV; relaxed to 0.01 eV/Å, the same conformer comes out within a tenth of this."""

SAME_DISTANCES = 0.4
"""Å, of the distance that differs most. Soft torsions are found to within that; another torsion moves atoms by 1 Å and more."""

NEARLY = 5
"""Times the largest force allowed, up to which a relaxation that does not end counts all the same: near a kink of a network
(docs/concepts/vibrations.md) some do not end."""

SAME_PLACES = 0.1
"""Å, root mean square over atoms, between a conformer and itself turned, or its mirror image, below which they are the same."""

ALIKE = 0.1
"""Relative difference of moments below which principal axes say nothing about how a molecule lies."""

TURNS = 200
"""Random orientations that are tried where principal axes say nothing."""

MOST_MATCHINGS = 20
"""Turns of matching and fitting; they settle in two or three."""


@dataclass(frozen=True)
class Conformer:
    """One conformer.

    Attributes:
        atoms: relaxed; `info` holds its place in the ranking, energy, weight and degeneracy.
        energy: eV.
        relative: kcal/mol above the lowest.
        weight: share at the temperature, of all conformers in the window; from energies alone.
        degeneracy: how many arrangements of equivalent atoms it stands for, relative to the others: twice as many where its mirror
            image is another one of the same molecule, half as many where a rotation exchanges equivalent atoms.
        starts: geometries that led to it.
    """

    atoms: Atoms
    energy: float
    relative: float
    weight: float
    degeneracy: int
    starts: tuple[int, ...]


def find_conformers(
    engine: Engine,
    embedded: Embedded,
    window: float = 10.0,
    temperature: float = 298.15,
    fmax: float = 0.01,
    steps: int = 500,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Conformer], dict[int, str]]:
    """Relax, compare, rank.

    Args:
        engine: computes.
        embedded: geometries to start from.
        window: kcal/mol above the lowest; higher conformers are left out.
        temperature: K, of the weights.
        fmax, steps: eV/Å and most steps of each relaxation.
        advance: called after each relaxation.

    Returns:
        Conformers, the lowest first, and for each start that led to none the reason.

    Raises:
        SimulationError: no start led to a conformer.
        StructureError: several molecules, whose places towards each other no bonds hold.
    """
    if embedded.molecules > 1:
        raise StructureError(
            f"{embedded.molecules} molecules that no bond joins: conformers are those of one; give each by itself"
        )
    relaxed: list[tuple[float, int, Atoms]] = []
    left_out: dict[int, str] = {}
    for result in relax_many(engine, embedded.frames, fmax, steps):
        advance()
        reason = result.error or _changed_bonds(embedded.frames[result.index], result.atoms)
        if reason is None and not result.fmax < NEARLY * fmax:
            reason = f"not converged after {result.steps} steps, largest force {result.fmax:.3g} eV/Å"
        if reason is None:
            relaxed.append((result.energy, result.index, result.atoms))
        else:
            left_out[result.index] = reason
    if not relaxed:
        first = min(left_out)
        raise SimulationError(f"none of {len(left_out)} starts led to a conformer; start {first}: {left_out[first]}")
    relaxed.sort(key=lambda one: one[:2])
    groups = _grouped(relaxed, embedded.equivalent, relaxed[0][0] + window * KCAL_PER_MOL)
    return _ranked(relaxed, groups, embedded, temperature), dict(sorted(left_out.items()))


def _ranked(
    relaxed: list[tuple[float, int, Atoms]], groups: list[list[int]], embedded: Embedded, temperature: float
) -> list[Conformer]:
    lowest = relaxed[0][0]
    chosen = [relaxed[group[0]] for group in groups]
    degeneracies = _degeneracies([atoms.positions for _, _, atoms in chosen], embedded)
    weights = np.array(degeneracies) * np.exp(
        [(lowest - energy) / (BOLTZMANN * temperature) for energy, _, _ in chosen]
    )
    weights /= weights.sum()
    found = []
    for rank, ((energy, _, atoms), group) in enumerate(zip(chosen, groups, strict=True)):
        relative, weight = (energy - lowest) / KCAL_PER_MOL, float(weights[rank])
        atoms.info |= {"conformer": rank, "kcal_per_mol": relative, "weight": weight, "degeneracy": degeneracies[rank]}
        starts = tuple(sorted(relaxed[k][1] for k in group))
        found.append(Conformer(atoms, energy, relative, weight, degeneracies[rank], starts))
    return found


def _degeneracies(geometries: list[np.ndarray], embedded: Embedded) -> list[int]:
    """How many arrangements of equivalent atoms are each conformer, relative to the others."""
    hands, numbers = [], []
    for positions in geometries:
        numbers.append(max(1, len(symmetries(positions, embedded.equivalent))))
        handed = embedded.own_mirror_image and not symmetries(positions, embedded.equivalent, mirrored=True)
        hands.append(2 if handed else 1)
    counts = [hand * math.lcm(*numbers) // number for hand, number in zip(hands, numbers, strict=True)]
    return [count // math.gcd(*counts) for count in counts]


def _changed_bonds(before: Atoms, after: Atoms) -> str | None:
    """Which bonds are others than before, if any."""
    old, new = ({(int(i), int(j)) for i, j in bonds(atoms)} for atoms in (before, after))
    if old == new:
        return None
    changes = []
    for name, pairs in (("broken", old - new), ("formed", new - old)):
        named = [f"{before.symbols[i]}{i}-{before.symbols[j]}{j}" for i, j in sorted(pairs)]
        if named:
            changes.append(f"{name} {', '.join(named[:3])}" + (f" and {len(named) - 3} more" * (len(named) > 3)))
    return f"its bonds changed: {'; '.join(changes)}"


def _grouped(relaxed: list[tuple[float, int, Atoms]], equivalent: np.ndarray, highest: float) -> list[list[int]]:
    """Places in `relaxed`, which is sorted by energy, of those that are the same conformer."""
    groups: list[list[int]] = []
    seen: list[np.ndarray] = []
    for place, (energy, _, atoms) in enumerate(relaxed):
        if energy > highest:
            break
        distances = sorted_distances(atoms.positions, equivalent)
        for group, other in zip(reversed(groups), reversed(seen), strict=True):
            if energy - relaxed[group[0]][0] > SAME_ENERGY:
                continue
            if np.abs(distances - other).max(initial=0.0) < SAME_DISTANCES:
                group.append(place)
                break
        else:
            groups.append([place])
            seen.append(distances)
    return groups


def sorted_distances(positions: np.ndarray, equivalent: np.ndarray) -> np.ndarray:
    """(N (N - 1) / 2,) Å: sorted within each pair of classes, so that equivalent atoms may change places."""
    first, second = np.triu_indices(len(positions), 1)
    distances = np.linalg.norm(positions[first] - positions[second], axis=1)
    low, high = np.minimum(equivalent[first], equivalent[second]), np.maximum(equivalent[first], equivalent[second])
    return distances[np.lexsort((distances, high, low))]


def symmetries(positions: np.ndarray, equivalent: np.ndarray, mirrored: bool = False) -> set[tuple[int, ...]]:
    """Exchanges of equivalent atoms that a rotation undoes: those of the geometry itself, or from it to its mirror image.

    There are as many of its own as the symmetry number says, and none to the mirror image where it has a hand.

    The principal axes of both are laid upon each other, in the four ways there are; atoms are then matched to the nearest of their
    class and turned to fit best, again and again until the matching stays.
    """
    here = positions - positions.mean(0)
    _, axes = np.linalg.eigh(here.T @ here)
    here = here @ axes
    there = here * [1.0, 1.0, -1.0] if mirrored else here
    turns = [np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    moments = (here**2).sum(0)
    if (np.diff(moments) < ALIKE * moments[1:]).any():
        turns = [*turns, *Rotation.random(TURNS, rng=np.random.default_rng(0)).as_matrix()]
    found = (_matched(here, there @ turn, equivalent) for turn in turns)
    return {tuple(matching.tolist()) for matching, misfit in found if misfit < SAME_PLACES}


def _matched(fixed: np.ndarray, moving: np.ndarray, equivalent: np.ndarray) -> tuple[np.ndarray, float]:
    """(N,) which moving atom stands where each fixed one is, and the root mean square distance of all, Å."""
    classes = [np.flatnonzero(equivalent == kind) for kind in np.unique(equivalent)]
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
