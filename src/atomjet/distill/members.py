"""Molecules as they take part in a pair or cluster, and the records of such clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomjet.distill.frames import pack
from atomjet.distill.journal import Record
from atomjet.distill.molecules import Geometry, bond_change, generator
from atomjet.distill.slices import displaced

Array = NDArray[Any]

Named = tuple[str, Geometry]
"""SMILES and geometry of a molecule."""


@dataclass(frozen=True)
class Member:
    """One molecule of a pair or cluster as it takes part: SMILES, numbers (N,), positions (N, 3), bonds (B, 2)."""

    smiles: str
    numbers: Array
    positions: Array
    bonds: Array

    def moved(self, positions: Array) -> Member:
        """A copy of the molecule elsewhere."""
        return Member(self.smiles, self.numbers, positions, self.bonds)


def draw_member(smiles: str, geometry: Geometry, temperature: tuple[float, float], rng: np.random.Generator) -> Member:
    """A molecule displaced thermally."""
    return Member(smiles, geometry.numbers, displaced(geometry, temperature, rng), geometry.bonds)


def cluster_key(members: Sequence[Member]) -> str:
    """Name of a cluster: its molecules' SMILES in alphabetical order, joined by dots."""
    return ".".join(sorted(member.smiles for member in members))


def pack_clusters(clusters: Sequence[Sequence[Member]]) -> Record:
    """A record of clusters, each one frame; those in which atoms of two molecules count as bonded are reactive."""
    structures = [join(members) for members in clusters]
    changed = [
        bond_change(atoms.numbers, atoms.positions, all_bonds(members)) is not None
        for atoms, members in zip(structures, clusters, strict=True)
    ]
    return pack(structures, [cluster_key(members) for members in clusters], changed)


def all_bonds(members: Sequence[Member]) -> Array:
    """Bonds of all members, in the numbering of the whole."""
    starts = np.cumsum([0, *(len(member.numbers) for member in members)])
    return np.concatenate([member.bonds + start for member, start in zip(members, starts, strict=False)])


def join(members: Sequence[Member]) -> Atoms:
    """All members as one structure."""
    return Atoms(np.concatenate([m.numbers for m in members]), np.concatenate([m.positions for m in members]))


def random_rotation(rng: np.random.Generator) -> Array:
    """(3, 3) rotation, uniform."""
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def draw_members(seed: int, index: str, named: Sequence[Named], temperature: tuple[float, float]) -> list[Member]:
    """The molecules of a pair or cluster with this name, each displaced by random numbers of its own."""
    return [
        draw_member(smiles, geometry, temperature, generator(seed, "member", smiles, index, place))
        for place, (smiles, geometry) in enumerate(named)
    ]
