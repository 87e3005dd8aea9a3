"""Pairs and clusters of molecules: how they are put together, one function a slice.

As in `slices`, every function returns a record of unlabelled frames that depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from numpy.typing import NDArray

from atomjet.distill.facing import face
from atomjet.distill.frames import pack
from atomjet.distill.journal import Record
from atomjet.distill.members import (
    Member,
    Named,
    all_bonds,
    cluster_key,
    draw_member,
    draw_members,
    join,
    pack_clusters,
    random_rotation,
)
from atomjet.distill.molecules import bond_change, generator
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.sample_config import ClustersConfig, DimersConfig, OrientedConfig, PackedConfig
from atomjet.distill.slices import contact_distances, langevin
from atomjet.distill.teacher import teacher_of_worker

Array = NDArray[Any]

CLUSTER_CONTACT = (0.75, 1.0)
CLUSTER_RELAX_STEPS = 20


def place(fixed: Atoms, moving: Atoms, contact: float, rng: np.random.Generator) -> None:
    """Turn `moving` at random and push it along a random direction until its closest contact with `fixed` is `contact`.

    `contact` is relative to the sum of van der Waals radii.
    """
    rotation, direction = random_rotation(rng), rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    centred = (moving.positions - moving.positions.mean(0)) @ rotation.T + fixed.positions.mean(0)
    moving.positions = push(fixed.numbers, fixed.positions, moving.numbers, centred, direction, contact)


def push(
    fixed_numbers: Array, fixed: Array, moving_numbers: Array, moving: Array, direction: Array, contact: float
) -> Array:
    """Positions of `moving`, shifted along a unit vector u until its closest contact with `fixed` is `contact`.

    Atom pair (a, b) is at distance r where t = d·u + sqrt((d·u)² - d² + r²) with d = a - b; the largest t over the pairs leaves no
    pair closer.
    """
    apart = fixed[:, None] - moving
    along = apart @ direction
    reach = (contact * contact_distances(fixed_numbers, moving_numbers)) ** 2
    inside = along**2 - (apart**2).sum(-1) + reach
    distance = np.where(inside >= 0, along + np.sqrt(np.maximum(inside, 0)), -np.inf).max()
    return moving + direction * (distance if np.isfinite(distance) else along.max())


def dimers(seed: int, source: str, pairs: Sequence[tuple[Named, Named]], config: DimersConfig) -> Record:
    """Pairs of molecules in random orientation, contact log-uniform in the range of the recipe."""
    made = []
    for frame, pair in enumerate(pairs):
        smiles = [name for name, _ in pair]
        first, second = (
            draw_member(
                name, geometry, config.temperature, generator(seed, "member", name, source, smiles[0], frame, side)
            )
            for side, (name, geometry) in enumerate(pair)
        )
        rng = generator(seed, source, *smiles, frame)
        made.append(assemble((first, second), np.exp(rng.uniform(*np.log(config.contact), size=1)), rng))
    return pack_clusters(made)


def assemble(members: Sequence[Member], contacts: Array, rng: np.random.Generator) -> list[Member]:
    """Each member placed at random on those before it, at its contact."""
    whole, placed = Atoms(members[0].numbers, members[0].positions), [members[0]]
    for one, contact in zip(members[1:], contacts, strict=True):
        added = Atoms(one.numbers, one.positions)
        place(whole, added, float(contact), rng)
        whole += added
        placed.append(one.moved(added.positions))
    return placed


MEMBER_TEMPERATURE = (200.0, 300.0)
"""Range of the temperature at which the molecules of a cluster that is relaxed are displaced, K: one value is drawn for each."""


def clusters(seed: int, index: str, named: Sequence[Named], config: ClustersConfig, teacher: TeacherConfig) -> Record:
    """A cluster packed at random, relaxed a little by the teacher, then a short Langevin run."""
    rng = generator(seed, "clusters", index)
    drawn = rng.uniform(*CLUSTER_CONTACT, size=len(named) - 1)
    members = assemble(draw_members(seed, index, named, MEMBER_TEMPERATURE), drawn, rng)
    atoms = join(members)
    atoms.calc = teacher_of_worker(teacher)
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.05, steps=CLUSTER_RELAX_STEPS)  # type: ignore[arg-type]
    temperature = float(rng.choice(config.temperatures))
    frames, note = langevin(atoms, temperature, config.frames, config.keep_every, 0.5, rng)
    changed = [bond_change(atoms.numbers, frame, all_bonds(members)) is not None for frame in frames]
    structures = [Atoms(atoms.numbers, frame) for frame in frames]
    return pack(structures, [cluster_key(members)] * len(frames), changed, note)


def packed(seed: int, index: str, named: Sequence[Named], config: PackedConfig) -> Record:
    """A cluster packed at random: each molecule touches those before it at a contact of its own."""
    rng = generator(seed, "packed", index)
    contacts = np.exp(rng.uniform(*np.log(config.contact), size=len(named) - 1))
    return pack_clusters([assemble(draw_members(seed, index, named, config.temperature), contacts, rng)])


def oriented(seed: int, index: str, pair: tuple[Named, Named], config: OrientedConfig) -> Record:
    """A scan of one pair that faces each other in one way: points spread over the logarithm of the contact."""
    rng = generator(seed, "oriented", index)
    first, second = draw_members(seed, index, pair, config.temperature)
    second, direction = face(first, second, rng)
    edges = np.linspace(np.log(config.contact[0]), np.log(config.contact[1]), config.points + 1)
    contacts = np.exp(rng.uniform(edges[:-1], edges[1:]))
    return pack_clusters(
        [
            [
                first,
                second.moved(
                    push(first.numbers, first.positions, second.numbers, second.positions, direction, float(contact))
                ),
            ]
            for contact in contacts
        ]
    )
