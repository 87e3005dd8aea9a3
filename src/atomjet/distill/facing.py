"""How two molecules face each other in liquids and crystals: orientations for scans of pairs.

Each function gives the second molecule's positions, and the unit vector along which it is then pushed away from the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.members import Member

Array = NDArray[Any]
Facing = tuple[Array, Array]
"""Positions of the second molecule, and the unit vector along which it is pushed away."""

ACCEPTORS, DONORS = (7, 8, 9, 16, 17), (7, 8, 9, 16, 17)

TILT = 0.25
"""Spread of a hydrogen bond about the straight line, radians."""

SLIP = 1.2
"""Spread of the sideways shift of stacked molecules, Å."""


def face(first: Member, second: Member, rng: np.random.Generator) -> tuple[Member, Array]:
    """Turn the second molecule towards the first in an orientation drawn from those that the pair allows; also where to push it."""
    orientations: list[Callable[..., Facing | None]] = [
        hydrogen_bond,
        hydrogen_bond,
        cyclic,
        stacked,
        stacked,
        edge_on_face,
    ]
    for choice in rng.permutation(len(orientations)):
        pair = (first, second) if rng.random() < 0.5 else (second, first)
        found = orientations[choice](*pair, rng)
        if found is None:
            continue
        positions, direction = found
        if pair[0] is first:
            return second.moved(positions), direction
        return _seen_from(first, second, positions, direction)
    raise AssertionError("stacked faces always")


def _seen_from(first: Member, second: Member, moved_first: Array, direction: Array) -> tuple[Member, Array]:
    """The pair with the first molecule back where it was: the second is moved along, and pushed in the opposite direction."""
    before, after = moved_first - moved_first.mean(0), first.positions - first.positions.mean(0)
    left, _, right = np.linalg.svd(before.T @ after)
    flip = np.diag([1, 1, np.linalg.det(left @ right)])
    rotation = left @ flip @ right
    positions = (second.positions - moved_first.mean(0)) @ rotation + first.positions.mean(0)
    return second.moved(positions), -direction @ rotation


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _any_normal(axis: Array, rng: np.random.Generator) -> Array:
    """A random unit vector across an axis."""
    vector = rng.normal(size=3)
    return _unit(vector - vector @ axis * axis)


def _frame(axis: Array, across: Array) -> Array:
    """(3, 3) rows: the axis, a unit vector across it in the plane of both, and their normal."""
    first = _unit(axis)
    second = _unit(across - across @ first * first)
    return np.array([first, second, np.cross(first, second)])


def _carry(positions: Array, from_frame: Array, to_frame: Array, point: Array, target: Array) -> Array:
    """Positions turned so that one frame becomes the other and a point its target."""
    return (positions - point) @ from_frame.T @ to_frame + target


def _neighbors(member: Member, atom: int) -> Array:
    pairs = np.concatenate([member.bonds, member.bonds[:, ::-1]]).reshape(-1, 2)
    return pairs[pairs[:, 0] == atom, 1].astype(int)


def _donors(member: Member) -> list[tuple[int, int]]:
    """Hydrogens (hydrogen, heavy atom) that a hydrogen bond may start from; those on carbon where there is no other."""
    found = [(int(h), int(d)) for d, h in np.concatenate([member.bonds, member.bonds[:, ::-1]]).reshape(-1, 2)]
    found = [(h, d) for h, d in found if member.numbers[h] == 1 and member.numbers[d] > 1]
    polar = [(h, d) for h, d in found if member.numbers[d] in DONORS]
    return polar or found


def _acceptors(member: Member) -> list[int]:
    """Atoms with lone pairs, as their neighbours tell: nitrogen of three bonds in a plane has none to give."""
    found = []
    for atom in np.flatnonzero(np.isin(member.numbers, ACCEPTORS)).tolist():
        around = _neighbors(member, atom)
        if member.numbers[atom] == 7 and len(around) > 2:
            arms = [_unit(member.positions[n] - member.positions[atom]) for n in around]
            if len(around) > 3 or np.linalg.norm(np.sum(arms, axis=0)) < 0.45:
                continue
        if member.numbers[atom] == 16 and len(around) > 2:
            continue
        found.append(atom)
    return found


def _lone_pair(member: Member, atom: int, rng: np.random.Generator) -> Array:
    """Direction in which an acceptor takes a hydrogen: away from its neighbours; of an end atom aside; of O and S with two
    bonds somewhat out of their plane.
    """
    around = _neighbors(member, atom)
    if not len(around):
        return _unit(rng.normal(size=3))
    arms = np.array([_unit(member.positions[n] - member.positions[atom]) for n in around])
    away = -arms.sum(0)
    if len(around) == 1:
        # In the plane of the next bonds, if there are any, 120 degrees from the bond.
        beyond = [n for n in _neighbors(member, int(around[0])) if n != atom]
        aside = member.positions[beyond[0]] - member.positions[around[0]] if beyond else rng.normal(size=3)
        aside = aside - aside @ arms[0] * arms[0]
        if np.linalg.norm(aside) < 0.1:
            aside = _any_normal(arms[0], rng)
        return _unit(away * 0.5 + rng.choice([-1, 1]) * 0.87 * _unit(aside))
    if np.linalg.norm(away) < 0.2:
        return _any_normal(arms[0], rng)
    if len(around) == 2 and member.numbers[atom] in (8, 16):
        return _unit(_unit(away) + rng.normal(scale=0.6) * _unit(np.cross(arms[0], arms[1]) + 1e-9))
    return _unit(away)


def hydrogen_bond(first: Member, second: Member, rng: np.random.Generator) -> Facing | None:
    """A hydrogen of the second points at a lone pair of the first, straight within `TILT`."""
    donors, acceptors = _donors(second), _acceptors(first)
    if not donors or not acceptors:
        return None
    hydrogen, heavy = donors[rng.integers(len(donors))]
    acceptor = acceptors[rng.integers(len(acceptors))]
    out = _lone_pair(first, acceptor, rng)
    axis = second.positions[heavy] - second.positions[hydrogen]
    tilted = _unit(out + rng.normal(scale=TILT, size=3))
    turned = _carry(
        second.positions,
        _frame(axis, _any_normal(_unit(axis), rng)),
        _frame(tilted, _any_normal(tilted, rng)),
        second.positions[hydrogen],
        first.positions[acceptor] + 2.0 * out,
    )
    return turned, out


def _bridges(member: Member) -> list[tuple[int, int, int]]:
    """Ends of D-H ... A on one side of a molecule, as in an acid or amide: (hydrogen, its heavy atom, acceptor)."""
    found = []
    for hydrogen, heavy in _donors(member):
        if member.numbers[heavy] not in (7, 8):
            continue
        for acceptor in _acceptors(member):
            length = np.linalg.norm(member.positions[hydrogen] - member.positions[acceptor])
            if member.numbers[acceptor] in (7, 8, 16) and acceptor != heavy and 1.9 < length < 3.2:
                found.append((hydrogen, heavy, acceptor))
    return found


def cyclic(first: Member, second: Member, rng: np.random.Generator) -> Facing | None:
    """Two hydrogen bonds side by side, as in the dimers of acids, amides and nucleobases."""
    ours, theirs = _bridges(first), _bridges(second)
    if not ours or not theirs:
        return None
    frames = []
    for one, bridges in ((first, ours), (second, theirs)):
        hydrogen, heavy, acceptor = bridges[rng.integers(len(bridges))]
        along = one.positions[acceptor] - one.positions[hydrogen]
        middle = (one.positions[acceptor] + one.positions[hydrogen]) / 2
        frames.append((_frame(along, one.positions[hydrogen] - one.positions[heavy]), middle))
    (ours_frame, ours_middle), (theirs_frame, theirs_middle) = frames
    # Theirs is antiparallel and faces ours.
    target = ours_frame * np.array([[-1.0], [-1.0], [1.0]])
    out = ours_frame[1]
    turned = _carry(second.positions, theirs_frame, target, theirs_middle, ours_middle + 2.0 * out)
    return turned, out


def _axes(member: Member) -> Array:
    """(3, 3) rows: principal axes, the longest extent first; the last is the normal of a flat molecule."""
    arms = member.positions - member.positions.mean(0)
    _, vectors = np.linalg.eigh(arms.T @ arms)
    axes = vectors.T[::-1]
    return axes * np.array([[1], [1], [np.linalg.det(axes)]])


def stacked(first: Member, second: Member, rng: np.random.Generator) -> Facing:
    """Parallel planes (or axes of rods), turned in the plane and slipped at random."""
    ours, theirs = _axes(first), _axes(second)
    normal = ours[2] * rng.choice([-1, 1])
    angle = rng.choice([0.0, np.pi, rng.uniform(0, 2 * np.pi)])
    along = np.cos(angle) * ours[0] + np.sin(angle) * ours[1]
    slip = rng.normal(scale=SLIP, size=2) @ ours[:2] * (rng.random() < 0.8)
    target = np.array([along, np.cross(normal, along), normal])
    return _carry(second.positions, theirs, target, second.positions.mean(0), first.positions.mean(0) + slip), normal


def edge_on_face(first: Member, second: Member, rng: np.random.Generator) -> Facing:
    """The second stands on the face (sometimes on a side) of the first: T-shaped."""
    ours, theirs = _axes(first), _axes(second)
    out = ours[rng.choice([2, 2, 2, 1, 0])] * rng.choice([-1, 1])
    angle = rng.uniform(0, 2 * np.pi)
    edge = np.cos(angle) * theirs[0] + np.sin(angle) * theirs[1]
    across = _any_normal(out, rng)
    turned = _carry(
        second.positions,
        _frame(edge, theirs[2]),
        _frame(out, across),
        second.positions.mean(0),
        first.positions.mean(0),
    )
    return turned + rng.normal(scale=0.5) * across, out
