"""The slices of a data set, one function each: what a worker runs for one molecule, structure or pair of atoms.

Every function returns a record of unlabelled frames (`pack`) that depends on its arguments alone. Frame number f draws
from its own generator, so asking for more frames later keeps those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase.units
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.data import atomic_masses, vdw_radii
from ase.md.langevin import Langevin
from numpy.typing import NDArray

from atomjet.distill.frames import pack
from atomjet.distill.journal import Record
from atomjet.distill.molecules import Geometry, bond_change, generator
from atomjet.distill.normal_modes import displace
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.sample_config import ConformersConfig, MDConfig, NormalModesConfig, TorsionsConfig, WallsConfig
from atomjet.distill.teacher import teacher_of_worker
from atomjet.errors import TeacherError
from atomjet.units import BOLTZMANN

Array = NDArray[Any]

FRICTION = 0.02
"""Friction of Langevin runs, 1/fs: strong, since decorrelated frames are wanted rather than dynamics."""

CLASH = 0.55
"""A torsion is not turned to where atoms four or more bonds apart come closer than this share of their van der Waals
contact.
"""


def _of_molecule(smiles: str, geometry: Geometry, positions: Sequence[Array], note: str = "") -> Record:
    structures = [Atoms(geometry.numbers, frame) for frame in positions]
    changed = [bond_change(geometry.numbers, frame, geometry.bonds) is not None for frame in positions]
    return pack(structures, [smiles] * len(structures), changed, note)


def conformers(smiles: str, seed: int, geometry: Geometry, config: ConformersConfig) -> Record:
    """Conformers as the force field and as the teacher leave them."""
    return _of_molecule(smiles, geometry, [*geometry.start, *geometry.relaxed])


def displaced(geometry: Geometry, temperature: tuple[float, float], rng: np.random.Generator) -> Array:
    """(N, 3) thermal sample about a random conformer at a temperature drawn log-uniformly from a range."""
    c = rng.integers(len(geometry.relaxed))
    drawn = float(np.exp(rng.uniform(*np.log(temperature))))
    masses = atomic_masses[geometry.numbers]
    relaxed, modes = geometry.relaxed[c].astype(float), geometry.modes_of(int(c))
    return displace(relaxed, geometry.bonds, masses, *modes, drawn, rng)


def normal_modes(smiles: str, seed: int, geometry: Geometry, config: NormalModesConfig) -> Record:
    """Thermal displacements along the normal modes."""
    count = config.frames
    if config.atoms is not None:
        count = min(count, max(1, config.atoms // len(geometry.numbers)))
    rngs = (generator(seed, "normal_modes", smiles, frame) for frame in range(count))
    return _of_molecule(smiles, geometry, [displaced(geometry, config.temperature, rng) for rng in rngs])


def torsions(smiles: str, seed: int, geometry: Geometry, config: TorsionsConfig) -> Record:
    """Thermal samples with one part turned about a random rotor by a multiple of the step; clashes are left out."""
    found: list[Array] = []
    for frame in range(config.frames if len(geometry.rotors) else 0):
        rng = generator(seed, "torsions", smiles, frame)
        positions = displaced(geometry, config.temperature, rng)
        i, j = geometry.rotors[rng.integers(len(geometry.rotors))]
        angle = np.radians(config.step) * rng.integers(1, max(2, round(360 / config.step)))
        positions = turn(positions, geometry.bonds, int(i), int(j), float(angle))
        if not _clashes(geometry.numbers, positions, geometry.bonds):
            found.append(positions)
    return _of_molecule(smiles, geometry, found)


def turn(positions: Array, bonds: Array, i: int, j: int, angle: float) -> Array:
    """Positions with everything on j's side of the bond i-j rotated about it by an angle, radians."""
    moving = sorted(_reachable(bonds, j, without=i))
    axis = (positions[j] - positions[i]) / np.linalg.norm(positions[j] - positions[i])
    arms = positions[moving] - positions[j]
    along = np.outer(arms @ axis, axis)
    turned = positions.copy()
    turned[moving] = positions[j] + along + np.cos(angle) * (arms - along) + np.sin(angle) * np.cross(axis, arms)
    return turned


def _reachable(bonds: Array, start: int, without: int) -> set[int]:
    """Atoms joined to `start` by bonds that do not pass through `without`."""
    seen, front = {start}, [start]
    while front:
        atom = front.pop()
        near = {int(b) for a, b in np.concatenate([bonds, bonds[:, ::-1]]) if a == atom and b != without} - seen
        seen |= near
        front.extend(near)
    return seen


def _clashes(numbers: Array, positions: Array, bonds: Array) -> bool:
    """Whether atoms at least four bonds apart come too close."""
    joined = np.eye(len(numbers), dtype=int)
    joined[bonds[:, 0], bonds[:, 1]] = joined[bonds[:, 1], bonds[:, 0]] = 1
    far = np.linalg.matrix_power(joined, 3) == 0
    lengths = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return bool((far & (lengths < CLASH * contact_distances(numbers, numbers))).any())


def contact_distances(first: Array, second: Array) -> Array:
    """Sums of van der Waals radii of all pairs, Å; 2 Å for elements without a tabulated radius."""
    radii = np.nan_to_num(vdw_radii, nan=2.0)
    return radii[first][:, None] + radii[second]


def md(smiles: str, seed: int, geometry: Geometry, config: MDConfig, teacher: TeacherConfig) -> Record:
    """Langevin runs of the teacher, one for each temperature, each from a random conformer."""
    found: list[Array] = []
    notes = []
    for run, temperature in enumerate(config.temperatures):
        rng = generator(seed, "md", smiles, temperature)
        atoms = Atoms(geometry.numbers, geometry.relaxed[rng.integers(len(geometry.relaxed))].astype(float))
        atoms.calc = teacher_of_worker(teacher)
        count = (config.frames + run) // len(config.temperatures)
        frames, note = langevin(atoms, temperature, count, config.keep_every, config.timestep, rng)
        found.extend(frames)
        notes.append(note)
    return _of_molecule(smiles, geometry, found, " ".join(filter(None, notes)))


def langevin(
    atoms: Atoms, temperature: float, count: int, every: int, timestep: float, rng: np.random.Generator
) -> tuple[list[Array], str]:
    """`count` positions, one every `every` steps, and a note when the teacher failed on the way."""
    widths = np.sqrt(atoms.get_masses() * BOLTZMANN * temperature)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * widths[:, None])
    friction = FRICTION / ase.units.fs  # type: ignore[attr-defined]
    step = timestep * ase.units.fs  # type: ignore[attr-defined]
    dynamics = Langevin(atoms, step, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)  # type: ignore[arg-type]
    frames: list[Array] = []
    try:
        for _ in range(count):
            dynamics.run(every)
            frames.append(atoms.positions.copy())
    except CalculationFailed as error:
        if not frames:
            raise TeacherError(f"teacher failed in MD at {temperature:g} K before the first frame: {error}") from error
        return frames, f"MD at {temperature:g} K ended after {len(frames)} of {count} frames: {error}"
    return frames, ""


def walls(first: int, second: int, config: WallsConfig) -> Record:
    """Two atoms from far inside contact to separation, evenly in the logarithm of the distance."""
    distances = np.geomspace(*config.distance, config.points)
    structures = [Atoms([first, second], [[0, 0, 0], [0, 0, distance]]) for distance in distances]
    key = f"{structures[0].symbols}"
    return pack(structures, [key] * len(structures), [False] * len(structures))


def free_atoms(numbers: Sequence[int]) -> Record:
    """One isolated atom of each element."""
    structures = [Atoms([number], [[0, 0, 0]]) for number in numbers]
    return pack(structures, [str(atoms.symbols) for atoms in structures], [False] * len(structures))
