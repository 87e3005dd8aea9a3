"""Boxes of molecules, loose at first and squeezed in stages; and finite spheres carved from them.

A box of N atoms has molecules that are whole: an atom's position is never wrapped into the cell, so that `molecule` (N,) says what
belongs together however far it has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii, vdw_radii
from numpy.typing import NDArray

from atomjet.distill.frames import Frames
from atomjet.distill.sample import NEVER_HELD_BACK
from atomjet.distill.train_config import PackingsConfig

Array = NDArray[Any]

LIQUID = 0.92
"""Volume of a molecule in a liquid over that of its atoms' van der Waals spheres: water 1.03, ethanol 0.98, benzene 0.89."""

LOOSE = 0.25
"""Density relative to a liquid at which molecules are placed."""

CRYSTAL_SHARE = 0.3
"""Share of the boxes in which all molecules have one conformation and orientation."""

BONDED = 1.3
"""Atoms of a molecule nearer than this many sums of covalent radii are bonded."""


def library(frames: Frames, most_atoms: int) -> Array:
    """Training frames of single neutral molecules of at most so many atoms, to pack boxes from."""
    numbers = frames.counts
    single = ~np.array(["." in str(name) for name in frames.molecule], dtype=bool)
    usable = single & ~frames.pbc.any(1) & ~frames.reactive & ~frames.large & (frames.charge == 0)
    usable &= (numbers >= 2) & (numbers <= most_atoms) & ordinary(frames)
    return np.flatnonzero(usable & (frames.split == "train"))


def ordinary(frames: Frames) -> Array:
    """(F,) frames of structures in their ordinary range: neither walls nor free atoms."""
    return ~np.isin(frames.source, np.array(NEVER_HELD_BACK, dtype=frames.source.dtype))


def pack_box(
    frames: Frames, usable: Array, config: PackingsConfig, rng: np.random.Generator
) -> tuple[Atoms, Array, list[str], float]:
    """A loose box on a lattice of sites.

    Args:
        frames: where the molecules are taken from.
        usable: see `library`.
        config: sizes and densities.
        rng: draws.

    Returns:
        The box, the molecule of each atom, the name of each molecule, and the factor by which lengths are to shrink in all.
    """
    crystal = rng.uniform() < CRYSTAL_SHARE
    low, high = config.molecules
    wanted = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    species = rng.choice(usable, size=1 if crystal or rng.uniform() < 0.5 else 2)
    side = max(1, round(wanted ** (1 / 3))) if crystal else int(np.ceil(wanted ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = sites if crystal else rng.permutation(sites)[:wanted]
    placed: list[Atoms] = []
    names: list[str] = []
    for _ in sites:
        f = int(species[0] if crystal else rng.choice(species))
        if placed and sum(map(len, placed)) + int(frames.counts[f]) > config.max_atoms:
            break
        molecule = frames.atoms(f)
        molecule.calc = None
        if not crystal:
            molecule.positions = molecule.positions @ _rotation(rng)
        molecule.positions -= molecule.positions.mean(0)
        placed.append(molecule)
        names.append(str(frames.molecule[f]))
    volume = sum(liquid_volume(molecule.numbers) for molecule in placed) / LOOSE
    spacing = volume ** (1 / 3) / side
    box = Atoms(cell=np.eye(3) * side * spacing, pbc=True)
    for molecule, site in zip(placed, sites, strict=False):
        molecule.positions += spacing * (site + (0 if crystal else rng.uniform(-0.1, 0.1, size=3)))
        box += molecule
    index = np.repeat(np.arange(len(placed)), [len(molecule) for molecule in placed])
    density = float(np.exp(rng.uniform(*np.log(config.density))))
    return box, index, names, (LOOSE / density) ** (1 / 3)


def liquid_volume(numbers: Array) -> float:
    """Å³ that a molecule takes in a liquid, within some 15 %."""
    radii = np.nan_to_num(vdw_radii, nan=2.0)[numbers]
    return LIQUID * float((4 / 3 * np.pi * radii**3).sum())


def _rotation(rng: np.random.Generator) -> Array:
    """A random rotation matrix."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def squeeze(box: Atoms, molecule: Array, factor: float) -> None:
    """Shrink the cell, in place, and move each molecule as a whole with it."""
    counts = np.bincount(molecule)[:, None]
    centres = np.stack([np.bincount(molecule, box.positions[:, axis]) for axis in range(3)], 1) / counts
    box.positions += ((factor - 1) * centres)[molecule]
    box.set_cell(box.cell.array * factor, scale_atoms=False)


def carve(box: Atoms, molecule: Array, center: int, most: int) -> tuple[Array, Array]:
    """Whole molecules around an atom, nearest first, up to `most` atoms or the one molecule that it belongs to.

    Returns:
        The atoms that are in it (n,), in their order in the box, and where they are (n, 3): each molecule at its image nearest by.
    """
    apart = box.positions - box.positions[center]
    turns = np.round(apart @ np.linalg.inv(box.cell.array))
    nearest = np.linalg.norm(apart - turns @ box.cell.array, axis=1)
    order = np.lexsort((nearest, molecule))
    first = order[np.unique(molecule[order], return_index=True)[1]]  # of each molecule the atom that is nearest
    near = np.argsort(np.where(np.arange(len(first)) == molecule[center], -1.0, nearest[first]), kind="stable")
    total = np.cumsum(np.bincount(molecule)[near])
    taken = near[: max(1, int(np.searchsorted(total, most, side="right")))]
    atoms = np.flatnonzero(np.isin(molecule, taken))
    return atoms, box.positions[atoms] - (turns[first] @ box.cell.array)[molecule[atoms]]


def bonds_of(numbers: Array, positions: Array, molecule: Array | None = None) -> Array:
    """(B, 2) pairs of atoms that are bonded, of one molecule each; without periodic directions."""
    found: list[Array] = []
    for atoms in [np.arange(len(numbers))] if molecule is None else _groups(molecule):
        radii = covalent_radii[numbers[atoms]]
        lengths = np.linalg.norm(positions[atoms, None] - positions[atoms], axis=-1)
        pairs = np.argwhere(np.triu(lengths < BONDED * (radii[:, None] + radii), k=1))
        found.append(atoms[pairs])
    return np.concatenate(found) if found else np.zeros((0, 2), int)


def _groups(molecule: Array) -> Sequence[Array]:
    return np.split(np.arange(len(molecule)), np.flatnonzero(np.diff(molecule)) + 1)
