"""Conformers of a molecule: many geometries relaxed together, those that are the same counted once, ranked by energy.

The lowest found are turned about their bonds, one and two at a time, those of hydroxyl, amine and amide groups among them, and
relaxed again, until nothing is left to turn: embedded geometries follow crystals, where hydrogen bonds within a molecule are rare.
A geometry about whose bonds the energy curves down is no minimum, and goes down to both sides.

Two geometries are the same conformer when their energies and all distances between atoms agree, whichever equivalent atoms stand
where (the three hydrogen atoms of a methyl group) and whichever hand they have: mirror images are one conformer. In its weight it
counts as often as there are arrangements of it: gauche butane twice for once anti, for its two hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from atomjet.adapters.smiles import Embedded
from atomjet.adapters.structures import bonds
from atomjet.engine import Engine
from atomjet.errors import SimulationError, StructureError
from atomjet.md.equivalence import degeneracies_of, sorted_distances
from atomjet.md.relax_many import relax_many
from atomjet.md.torsions import curvatures, differs_from_all, dihedrals, turn_choices, turned
from atomjet.progress import track
from atomjet.units import BOLTZMANN, KCAL_PER_MOL

SAME_ENERGY = 0.1 * KCAL_PER_MOL
"""eV. Relaxed to 0.005 eV/Å, the same conformer comes out within half of this; to 0.01 eV/Å, gauche butane did not."""

ROUGH, ROUGHLY_THE_SAME = 0.1, 0.5 * KCAL_PER_MOL
"""eV/Å, to which geometries are relaxed at first; eV, within which two of them are then taken for the same. Relaxing to the end
takes several times as many steps, and is done for one geometry of each conformer."""

TURNED_PARENTS, TURNED_WINDOW = 4, 4.0
"""Conformers whose bonds are turned in one round, the lowest that have not been; how far above the lowest, kcal/mol, they are."""

TURNS_PER_START = 2
"""Turned geometries that are relaxed for each start, at most."""

CURVED_DOWN = -0.05
"""eV/rad², below which a geometry is taken for a saddle point: a methyl group on top of a barrier of 1 kJ/mol. Forces that are
left after relaxation bend by less."""

STEP_DOWN, MOST_DESCENTS = 0.35, 3
"""Radians, by which the bond that turns most is turned to either side of a saddle point; how often."""

POLISHED = 1.0
"""kcal/mol above the lowest, up to which conformers are relaxed to a third of the largest force allowed."""

SAME_DISTANCES = 0.4
"""Å, of the distance that differs most. Soft torsions are found to within that; another torsion moves atoms by 1 Å and more."""

NEARLY = 10
"""Times the largest force allowed, up to which a relaxation that does not end counts all the same: near a kink of a network
(docs/concepts/vibrations.md) some do not end."""


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
        starts: geometries, of those given, that led to it.
        turned: how many geometries that were turned about bonds led to it.
    """

    atoms: Atoms
    energy: float
    relative: float
    weight: float
    degeneracy: int
    starts: tuple[int, ...]
    turned: int


@dataclass(frozen=True)
class Search:
    """What was found, and what that took.

    Attributes:
        conformers: the lowest first.
        left_out: for each start that led to none the reason.
        relaxations: of starts, turned geometries, and conformers to the end.
        evaluations: energies and forces of one geometry.
    """

    conformers: list[Conformer]
    left_out: dict[int, str]
    relaxations: int
    evaluations: int


@dataclass
class _Geometry:
    """A relaxed geometry, and which starts and how many turned ones have come to it; energy in eV."""

    energy: float
    atoms: Atoms
    starts: list[int] = field(default_factory=list)
    turned: int = 0


def find_conformers(
    engine: Engine,
    embedded: Embedded,
    window: float = 6.0,
    temperature: float = 298.15,
    fmax: float = 0.005,
    steps: int = 1000,
    seed: int = 0,
    quiet: bool = True,
) -> Search:
    """Relax, turn, compare, rank.

    Args:
        engine: computes.
        embedded: geometries to start from.
        window: kcal/mol above the lowest; higher conformers are left out.
        temperature: K, of the weights.
        fmax, steps: eV/Å and most steps of each relaxation.
        seed: of the choice of turns.
        quiet: show no progress.

    Raises:
        SimulationError: no start led to a conformer.
        StructureError: several molecules, whose places towards each other no bonds hold.
    """
    if embedded.molecules > 1:
        raise StructureError(
            f"{embedded.molecules} molecules that no bond joins: conformers are those of one; give each by itself"
        )
    work = _Work(engine, embedded, fmax, steps, quiet)
    found = work.relaxed("relax", [(atoms, [k], 0) for k, atoms in enumerate(embedded.frames)], max(fmax, ROUGH))
    if not found:
        first = min(work.left_out)
        raise SimulationError(
            f"none of {len(work.left_out)} starts led to a conformer; start {first}: {work.left_out[first]}"
        )
    geometries = _merged(found, embedded.equivalent, ROUGHLY_THE_SAME)
    work.bonded = geometries[0].atoms
    geometries = _turn_on(work, geometries, np.random.default_rng(seed % 2**64))
    highest = geometries[0].energy + window * KCAL_PER_MOL + ROUGHLY_THE_SAME
    rest = [(one.atoms, one.starts, one.turned) for one in geometries if one.energy < highest]
    geometries = _merged(work.relaxed("finish", rest, fmax), embedded.equivalent, SAME_ENERGY)
    geometries = _polished(work, _descended(work, geometries))
    kept = [one for one in geometries if one.energy <= geometries[0].energy + window * KCAL_PER_MOL]
    ranked = _ranked(kept, embedded, temperature)
    return Search(ranked, dict(sorted(work.left_out.items())), work.relaxations, work.evaluations)


class _Work:
    """Relaxations, counted; those that come to nothing are left out.

    Attributes:
        bonded: a geometry whose bonds all must have; None while each must keep those that it started with.
    """

    def __init__(self, engine: Engine, embedded: Embedded, fmax: float, steps: int, quiet: bool) -> None:
        self.engine, self.embedded, self.fmax, self.steps, self.quiet = engine, embedded, fmax, steps, quiet
        self.bonded: Atoms | None = None
        self.left_out: dict[int, str] = {}
        self.relaxations = self.evaluations = 0

    def relaxed(self, what: str, frames: Sequence[tuple[Atoms, list[int], int]], fmax: float) -> list[_Geometry]:
        """Geometries relaxed to `fmax`, eV/Å; each comes with its starts and how many were turned."""
        found = []
        self.relaxations += len(frames)
        with track(what, len(frames), quiet=self.quiet) as advance:
            for result in relax_many(self.engine, [atoms for atoms, _, _ in frames], fmax, self.steps):
                advance()
                before, starts, number = frames[result.index]
                self.evaluations += result.steps + 1
                reason = result.error or _changed_bonds(self.bonded or before, result.atoms)
                if reason is None and not result.fmax < max(fmax, NEARLY * self.fmax):
                    reason = f"not converged after {result.steps} steps, largest force {result.fmax:.3g} eV/Å"
                if reason is None:
                    found.append(_Geometry(result.energy, result.atoms, starts, number))
                else:
                    self.left_out.update(dict.fromkeys(starts, reason))
        return found


def _turn_on(work: _Work, geometries: list[_Geometry], generator: np.random.Generator) -> list[_Geometry]:
    """Turn the lowest about their bonds and relax them, until all of the lowest have been turned, or enough geometries were."""
    torsions = [torsion for torsion in work.embedded.torsions if torsion.distinct]
    known = [dihedrals(one.atoms.positions, torsions) for one in geometries]
    left = TURNS_PER_START * len(work.embedded.frames) if torsions else 0
    done: set[int] = set()
    while left > 0:
        highest = geometries[0].energy + TURNED_WINDOW * KCAL_PER_MOL
        parents = [one for one in geometries if id(one.atoms) not in done and one.energy < highest][:TURNED_PARENTS]
        if not parents:
            break
        done.update(id(one.atoms) for one in parents)
        moved: list[tuple[Atoms, list[int], int]] = []
        for parent in parents:
            for turns in turn_choices(len(torsions), generator):
                positions = parent.atoms.positions
                for torsion, angle in turns:
                    positions = turned(positions, torsions[torsion], angle)
                angles = dihedrals(positions, torsions)
                if len(moved) < left and differs_from_all(angles, known, work.embedded.own_mirror_image):
                    known.append(angles)
                    moved.append((Atoms(parent.atoms.numbers, positions, info=dict(parent.atoms.info)), [], 1))
        left -= len(moved)
        found = work.relaxed("turn", moved, max(work.fmax, ROUGH)) if moved else []
        known += [dihedrals(one.atoms.positions, torsions) for one in found]
        geometries = _merged([*geometries, *found], work.embedded.equivalent, ROUGHLY_THE_SAME)
    return geometries


def _descended(work: _Work, geometries: list[_Geometry]) -> list[_Geometry]:
    """Geometries with those at saddle points replaced by the minima on both sides."""
    torsions = work.embedded.torsions
    for _ in range(MOST_DESCENTS if torsions else 0):
        curved = curvatures(work.engine.predict, [one.atoms for one in geometries], torsions)
        work.evaluations += 2 * len(torsions) * len(geometries)
        resting = [one for one, (value, _) in zip(geometries, curved, strict=True) if value > CURVED_DOWN]
        moved: list[tuple[Atoms, list[int], int]] = []
        for one, (value, turns) in zip(geometries, curved, strict=True):
            for side in (1, -1) if value <= CURVED_DOWN else ():
                positions = one.atoms.positions
                for torsion, turn in zip(torsions, side * STEP_DOWN * turns / np.abs(turns).max(), strict=True):
                    positions = turned(positions, torsion, turn)
                atoms = Atoms(one.atoms.numbers, positions, info=dict(one.atoms.info))
                moved.append((atoms, one.starts if side > 0 else [], one.turned if side > 0 else 0))
        if not moved:
            break
        found = work.relaxed("descend", moved, work.fmax)
        geometries = _merged([*resting, *found], work.embedded.equivalent, SAME_ENERGY)
    return geometries


def _polished(work: _Work, geometries: list[_Geometry]) -> list[_Geometry]:
    """The lowest relaxed further: along soft torsions `fmax` leaves a meV, which may be what they differ by."""
    highest = geometries[0].energy + POLISHED * KCAL_PER_MOL
    low = [(one.atoms, one.starts, one.turned) for one in geometries if one.energy < highest]
    found = work.relaxed("polish", low, work.fmax / 3)
    return _merged([*found, *geometries[len(low) :]], work.embedded.equivalent, SAME_ENERGY)


def _ranked(geometries: list[_Geometry], embedded: Embedded, temperature: float) -> list[Conformer]:
    lowest = geometries[0].energy
    degeneracies = degeneracies_of([one.atoms.positions for one in geometries], embedded)
    weights = np.array(degeneracies) * np.exp([(lowest - one.energy) / (BOLTZMANN * temperature) for one in geometries])
    weights /= weights.sum()
    found = []
    for rank, one in enumerate(geometries):
        relative, weight = (one.energy - lowest) / KCAL_PER_MOL, float(weights[rank])
        one.atoms.info |= {
            "conformer": rank,
            "kcal_per_mol": relative,
            "weight": weight,
            "degeneracy": degeneracies[rank],
        }
        starts = tuple(sorted(one.starts))
        found.append(Conformer(one.atoms, one.energy, relative, weight, degeneracies[rank], starts, one.turned))
    return found


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


def _merged(geometries: Iterable[_Geometry], equivalent: np.ndarray, same_energy: float) -> list[_Geometry]:
    """Each conformer once, the lowest first, with the starts of all geometries that are it."""
    found: list[_Geometry] = []
    seen: list[np.ndarray] = []
    for one in sorted(geometries, key=lambda one: (one.energy, one.starts)):
        distances = sorted_distances(one.atoms.positions, equivalent)
        for other, known in zip(reversed(found), reversed(seen), strict=True):
            if one.energy - other.energy > same_energy:
                continue
            if np.abs(distances - known).max(initial=0.0) < SAME_DISTANCES:
                other.starts, other.turned = other.starts + one.starts, other.turned + one.turned
                break
        else:
            found.append(one)
            seen.append(distances)
    return found
