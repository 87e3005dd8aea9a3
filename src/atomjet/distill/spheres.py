"""Spheres of whole molecules, cut out of boxes that are packed at random to a multiple of a liquid's density.

A box is filled at random and its overlaps are pressed out: atoms of different molecules closer than `APART` of their van
der Waals contact repel each other, every molecule stays rigid. No teacher is called.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import vdw_radii
from numpy.typing import NDArray

from atomjet.distill.journal import Record
from atomjet.distill.members import Member, Named, draw_members, pack_clusters, random_rotation
from atomjet.distill.molecules import generator
from atomjet.distill.sample_config import SpheresConfig
from atomjet.distill.slices import contact_distances

Array = NDArray[Any]

LIQUID = 0.57
"""Share of a molecular liquid's volume that lies within the van der Waals radii of its atoms (benzene 0.55, water 0.65)."""

APART = 0.85
"""Atoms of different molecules repel each other below this share of their van der Waals contact."""

SWEEPS = 120
"""Steps of pressing overlaps apart; at the density of a liquid few remain."""

GRID = 0.3
"""Spacing of the points that measure a molecule's volume, Å."""

BOX = 2.0
"""A box holds so many times the atoms of the largest sphere."""


def molecular_volume(numbers: Array, positions: Array) -> float:
    """Volume within the van der Waals radii of a molecule's atoms, Å³."""
    radii = np.nan_to_num(vdw_radii, nan=2.0)[numbers]
    low, high = positions.min(0) - radii.max(), positions.max(0) + radii.max()
    points = np.stack(np.meshgrid(*(np.arange(a, b, GRID) for a, b in zip(low, high, strict=True))), -1).reshape(-1, 3)
    inside = np.zeros(len(points), dtype=bool)
    for place, radius in zip(positions, radii, strict=True):
        inside |= ((points - place) ** 2).sum(1) < radius**2
    return float(inside.sum()) * GRID**3


def spheres(seed: int, index: str, named: Sequence[Named], config: SpheresConfig) -> Record:
    """Spheres around random points of one box; they are made of `named`, one after the other, until the box is full."""
    rng = generator(seed, "spheres", index)
    sizes = [len(geometry.numbers) for _, geometry in named]
    filling, count = [], 0
    while count < BOX * config.atoms[1]:
        filling.append(named[len(filling) % len(named)])
        count += sizes[(len(filling) - 1) % len(named)]
    members = draw_members(seed, index, filling, config.temperature)
    density = float(np.exp(rng.uniform(*np.log(config.density))))
    volume = sum(molecular_volume(member.numbers, member.positions) for member in members)
    edge = float((volume / (LIQUID * density)) ** (1 / 3))
    box = fill(members, edge, rng)
    return pack_clusters([_cut(box, edge, config.atoms, rng) for _ in range(config.spheres)])


def fill(members: Sequence[Member], edge: float, rng: np.random.Generator) -> list[Member]:
    """The molecules at random in a periodic cube, pressed apart."""
    positions = [
        (one.positions - one.positions.mean(0)) @ random_rotation(rng).T + rng.uniform(0, edge, 3) for one in members
    ]
    ends = np.cumsum([0, *(len(one.numbers) for one in members)])
    numbers = np.concatenate([one.numbers for one in members])
    owner = np.repeat(np.arange(len(members)), np.diff(ends))
    reach = APART * contact_distances(numbers, numbers) * (owner[:, None] != owner)
    now = np.concatenate(positions)
    for _ in range(SWEEPS):
        apart = now[:, None] - now
        apart -= edge * np.round(apart / edge)
        length = np.sqrt((apart**2).sum(-1)) + 1e-9
        overlap = np.maximum(reach - length, 0)
        if not overlap.any():
            break
        moved = now + 0.25 * (apart * (overlap / length)[..., None]).sum(1)
        for first, last in itertools.pairwise(ends):
            now[first:last] = rigid(now[first:last], moved[first:last])
    return [one.moved(now[a:b]) for one, a, b in zip(members, ends[:-1], ends[1:], strict=True)]


def rigid(before: Array, wanted: Array) -> Array:
    """`before`, moved and turned as a whole towards `wanted` (Kabsch)."""
    centre, arms = wanted.mean(0), before - before.mean(0)
    left, _, right = np.linalg.svd(arms.T @ (wanted - centre))
    left[:, 2] *= np.sign(np.linalg.det(left @ right))
    return arms @ left @ right + centre


def _cut(box: Sequence[Member], edge: float, atoms: tuple[int, int], rng: np.random.Generator) -> list[Member]:
    """Molecules nearest to a random point, as their nearest images, while they fit into a number of atoms drawn from a range."""
    point, most = rng.uniform(0, edge, 3), rng.integers(atoms[0], atoms[1] + 1)
    centres = np.array([one.positions.mean(0) for one in box])
    shifts = -edge * np.round((centres - point) / edge)
    order = np.argsort(((centres + shifts - point) ** 2).sum(1))
    taken, count = [], 0
    for i in order:
        if taken and count + len(box[i].numbers) > most:
            break
        taken.append(box[i].moved(box[i].positions + shifts[i]))
        count += len(box[i].numbers)
    return taken
