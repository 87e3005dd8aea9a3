"""Two molecules: where they rest beside each other, and what holds them apart when they are pressed together."""

from __future__ import annotations

from collections import Counter

import numpy as np
from ase import Atoms
from ase.data import vdw_radii

from atomjet.data.elements import SYMBOLS
from atomjet.units import KCAL_PER_MOL
from atomjet.validate.check import Check
from atomjet.validate.organic.answers import student_labels
from atomjet.validate.organic.sets import Judged, overlaps_allowed, random_rotation

OFFSETS = np.concatenate([np.arange(-0.7, 1.05, 0.1), [1.25, 1.5, 2.0, 2.5, 3.0, 4.0]])
"""Shifts, Å, of one molecule against the other along the line of their centres of mass, from the teacher's minimum."""

FAR = 2.5
"""Distance, Å, beyond the minimum: what is left of the attraction there is the long range."""

DEPTH, DEPTH_SHARE, DISTANCE = 0.3, 0.15, 0.1
"""Largest errors of a minimum: of its depth, kcal/mol and as a share, and of its distance, Å."""

SHARES = np.geomspace(0.65, 0.36, 7)
"""Distances as shares of the sum of the van der Waals radii of the closest pair of atoms."""

TOO_SOFT = 2.0
"""Energy, eV, below the teacher's from which a contact is too soft."""


def dimer_minima(judged: Judged) -> list[Check]:
    """Depth and distance of the minimum of each kind of dimer along a rigid scan, student against teacher."""
    checks = []
    pairs = judged.structures("dimers")
    scans = [_scan(pair) for pair in pairs]
    frames = [atoms for scan in scans for atoms in scan]
    curves = _energies(judged, frames)
    for pair, (teacher, student) in zip(
        pairs, zip(*(_interactions(energy, len(pairs)) for energy in curves), strict=True), strict=True
    ):
        checks += _compare_minima(pair, teacher, student)
    return checks


def _energies(judged: Judged, frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Teacher's and student's, eV; the student's also of what it would refuse: a curve that falls inward is to be seen."""
    with overlaps_allowed(judged.potential) as student:
        return judged.answers.of(frames).energy, student_labels(student, frames).energy


def _scan(pair: Atoms) -> list[Atoms]:
    """The two molecules alone, then the pair at each offset."""
    first, second = pair[: pair.info["first"]], pair[pair.info["first"] :]
    axis = second.get_center_of_mass() - first.get_center_of_mass()
    axis /= np.linalg.norm(axis)
    frames = [first, second]
    for offset in OFFSETS:
        moved = second.copy()
        moved.positions += offset * axis
        frames.append(first + moved)
    return frames


def _interactions(energies: np.ndarray, pairs: int) -> np.ndarray:
    """(pairs, offsets) kcal/mol."""
    each = energies.reshape(pairs, 2 + len(OFFSETS))
    return (each[:, 2:] - each[:, :2].sum(1, keepdims=True)) / KCAL_PER_MOL


def _compare_minima(pair: Atoms, teacher: np.ndarray, student: np.ndarray) -> list[Check]:
    name, first = str(pair.info["molecule"]), pair.info["first"]
    centers = [part.get_center_of_mass() for part in (pair[:first], pair[first:])]
    apart = float(np.linalg.norm(centers[1] - centers[0]))
    (there, depth), (found, made) = _minimum(teacher), _minimum(student)
    far = int(np.argmin(np.abs(OFFSETS - FAR)))
    figures = {
        "teacher / kcal/mol": depth,
        "student / kcal/mol": made,
        "teacher / Å": apart + there,
        "student / Å": apart + found,
        f"teacher {FAR:g} Å beyond / kcal/mol": float(teacher[far]),
        f"student {FAR:g} Å beyond / kcal/mol": float(student[far]),
    }
    series = {
        "distance of the centres of mass / Å": (apart + OFFSETS).tolist(),
        "teacher": teacher.tolist(),
        "student": student.tolist(),
    }
    detail = f"teacher {depth:.2f} kcal/mol at {apart + there:.2f} Å, student {made:.2f} at {apart + found:.2f} Å"
    bound = max(DEPTH, DEPTH_SHARE * abs(depth))
    source = f"{DEPTH_SHARE:.0%} of the depth or {DEPTH:g} kcal/mol"
    return [
        Check("dimer depth", name, abs(made - depth), "kcal/mol", bound, source, detail, figures, series),
        Check("dimer distance", name, abs(found - there), "Å", DISTANCE, "a tenth of an Å", detail),
    ]


def _minimum(curve: np.ndarray) -> tuple[float, float]:
    """Offset and energy of the lowest point, by a parabola through its neighbours where it has two."""
    if not np.isfinite(curve).all():
        return float("nan"), float("nan")
    k = int(np.argmin(curve))
    if k in (0, len(curve) - 1):
        return float(OFFSETS[k]), float(curve[k])
    a, b, c = np.polyfit(OFFSETS[k - 1 : k + 2] - OFFSETS[k], curve[k - 1 : k + 2], 2)
    return float(OFFSETS[k] - b / (2 * a)), float(c - b * b / (4 * a))


def compressed_contacts(judged: Judged) -> Check:
    """Random rigid dimers pressed together: how many are far softer than the teacher's, or fall inward."""
    generator, number = np.random.default_rng(judged.seed), judged.size.contacts
    pool = judged.structures("molecules")
    dimers = [squeezed(pool, generator) for _ in range(number)]
    alone = {atoms.info["molecule"]: k for k, atoms in enumerate(pool)}
    frames = [*pool, *(atoms for dimer in dimers for atoms in dimer)]
    partners = np.array([[alone[name] for name in dimer[0].info["partners"]] for dimer in dimers])
    errors = []
    for energy in _energies(judged, frames):
        errors.append(energy[len(pool) :].reshape(number, -1) - energy[partners].sum(1, keepdims=True))
    difference = errors[1] - errors[0]
    known = np.isfinite(errors[0])
    # A student that gives no number there is no better than one that is too soft.
    soft = ((~np.isfinite(difference) | (difference < -TOO_SOFT)) & known).any(1)
    refused = student_labels(judged.potential, [dimer[-1] for dimer in dimers]).missing
    kinds = Counter(dimer[0].info["closest"] for dimer in dimers)
    softer = Counter(dimer[0].info["closest"] for dimer, is_soft in zip(dimers, soft, strict=True) if is_soft)
    figures = {f"{kind}: too soft of {kinds[kind]}": float(softer[kind]) for kind in sorted(kinds)}
    lowest = np.where(known & np.isfinite(difference), difference, 0.0)
    figures |= {
        "dimers": float(number),
        "lowest error / eV": float(lowest.min()),
        "refused at the closest": float(refused.sum()),
    }
    detail = (
        f"of {number} random dimers from {SHARES[0]:g} down to {SHARES[-1]:g} of van der Waals contact; {int(refused.sum())} are "
        f"refused at the closest; {int((~known).sum())} of {known.size} points the teacher could not compute"
    )
    soft_share = ((difference < -TOO_SOFT) & known).mean(0)
    series = {
        "share of contact": SHARES.tolist(),
        "too soft": soft_share.tolist(),
    }
    source = "none may be more than 2 eV too soft: such pairs fall into each other"
    return Check(
        "compressed contacts", "random dimers", float(soft.sum()), "dimers", 0.0, source, detail, figures, series
    )


def squeezed(pool: list[Atoms], generator: np.random.Generator) -> list[Atoms]:
    """Two molecules of the pool in random orientations, at each share of contact along a random direction."""
    one, other = (pool[int(k)].copy() for k in generator.integers(len(pool), size=2))
    for atoms in (one, other):
        atoms.positions = (atoms.positions - atoms.positions.mean(0)) @ random_rotation(generator).T
    direction = generator.normal(size=3)
    direction /= np.linalg.norm(direction)
    arms = (other.positions[None] - one.positions[:, None]).reshape(-1, 3)
    radii = (vdw_radii[one.numbers][:, None] + vdw_radii[other.numbers][None]).ravel()
    along, squares = arms @ direction, (arms**2).sum(1)
    frames = []
    for share in SHARES:
        # |arm + t direction| = share * radius has its larger root at the first touch of this pair from outside.
        under = along**2 - squares + (share * radii) ** 2
        touches = np.where(under > 0, -along + np.sqrt(np.maximum(under, 0)), -np.inf)
        moved = other.copy()
        moved.positions += touches.max() * direction
        both = one + moved
        pair = divmod(int(np.argmax(touches)), len(other))
        numbers = sorted((int(one.numbers[pair[0]]), int(other.numbers[pair[1]])))
        both.info = {
            "partners": [one.info["molecule"], other.info["molecule"]],
            "closest": "-".join(SYMBOLS[z] for z in numbers),
        }
        frames.append(both)
    return frames
