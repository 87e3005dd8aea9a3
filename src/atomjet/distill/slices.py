"""The slices of a data set, one function each: what a worker runs for one molecule (or pair, cluster, structure).

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
from ase.optimize import BFGS
from numpy.typing import NDArray

from atomjet.distill.dataset import pack
from atomjet.distill.journal import Record
from atomjet.distill.molecules import Geometry, bond_change, generator
from atomjet.distill.normal_modes import displace
from atomjet.distill.recipe import (
    ClustersConfig,
    ConformersConfig,
    DimersConfig,
    MDConfig,
    NormalModesConfig,
    StructuresConfig,
    TeacherConfig,
    TorsionsConfig,
    WallsConfig,
)
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

CLUSTER_CONTACT = (0.75, 1.0)
CLUSTER_RELAX_STEPS = 20


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
    return displace(geometry.relaxed[c], geometry.bonds, masses, geometry.stiffness[c], geometry.modes[c], drawn, rng)


def normal_modes(smiles: str, seed: int, geometry: Geometry, config: NormalModesConfig) -> Record:
    """Thermal displacements along the normal modes."""
    rngs = (generator(seed, "normal_modes", smiles, frame) for frame in range(config.frames))
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


def place(fixed: Atoms, moving: Atoms, contact: float, rng: np.random.Generator) -> None:
    """Turn `moving` at random and push it along a random direction until its closest contact with `fixed` is `contact`.

    `contact` is relative to the sum of van der Waals radii. Along the direction u, atom pair (a, b) is at distance r
    where t = d·u + sqrt((d·u)² - d² + r²) with d = a - b; the largest t over the pairs leaves no pair closer.
    """
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    centred = (moving.positions - moving.positions.mean(0)) @ rotation.T + fixed.positions.mean(0)
    apart = fixed.positions[:, None] - centred
    along = apart @ direction
    reach = (contact * contact_distances(fixed.numbers, moving.numbers)) ** 2
    inside = along**2 - (apart**2).sum(-1) + reach
    distance = np.where(inside >= 0, along + np.sqrt(np.maximum(inside, 0)), -np.inf).max()
    moving.positions = centred + direction * (distance if np.isfinite(distance) else along.max())


Member = tuple[str, Array, Array, Array]
"""One molecule of a pair or cluster: SMILES, numbers, positions, bonds."""


def dimers(seed: int, pairs: Sequence[tuple[Member, Member]], config: DimersConfig) -> Record:
    """Pairs of molecules in random orientation, contact log-uniform in the range of the recipe."""
    structures, keys, changed = [], [], []
    for frame, (first, second) in enumerate(pairs):
        rng = generator(seed, "dimers", first[0], second[0], frame)
        structures.append(_assemble((first, second), np.exp(rng.uniform(*np.log(config.contact), size=1)), rng))
        keys.append(cluster_key((first, second)))
        changed.append(
            bond_change(structures[-1].numbers, structures[-1].positions, _bonds((first, second))) is not None
        )
    return pack(structures, keys, changed)


def _assemble(members: Sequence[Member], contacts: Array, rng: np.random.Generator) -> Atoms:
    whole = Atoms(members[0][1], members[0][2])
    for (_, numbers, positions, _), contact in zip(members[1:], contacts, strict=True):
        added = Atoms(numbers, positions)
        place(whole, added, float(contact), rng)
        whole += added
    return whole


def _bonds(members: Sequence[Member]) -> Array:
    starts = np.cumsum([0, *(len(member[1]) for member in members)])
    return np.concatenate([member[3] + start for member, start in zip(members, starts, strict=False)])


def cluster_key(members: Sequence[Member]) -> str:
    """Name of a cluster: its molecules' SMILES in alphabetical order, joined by dots."""
    return ".".join(sorted(member[0] for member in members))


def clusters(
    seed: int, index: str, members: Sequence[Member], config: ClustersConfig, teacher: TeacherConfig
) -> Record:
    """A cluster packed at random, relaxed a little by the teacher, then a short Langevin run."""
    rng = generator(seed, "clusters", index)
    atoms = _assemble(members, rng.uniform(*CLUSTER_CONTACT, size=len(members) - 1), rng)
    atoms.calc = teacher_of_worker(teacher)
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.05, steps=CLUSTER_RELAX_STEPS)  # type: ignore[arg-type]
    temperature = float(rng.choice(config.temperatures))
    frames, note = _langevin(atoms, temperature, config.frames, config.keep_every, 0.5, rng)
    changed = [bond_change(atoms.numbers, frame, _bonds(members)) is not None for frame in frames]
    structures = [Atoms(atoms.numbers, frame) for frame in frames]
    return pack(structures, [cluster_key(members)] * len(frames), changed, note)


def md(smiles: str, seed: int, geometry: Geometry, config: MDConfig, teacher: TeacherConfig) -> Record:
    """Langevin runs of the teacher, one for each temperature, each from a random conformer."""
    found: list[Array] = []
    notes = []
    for run, temperature in enumerate(config.temperatures):
        rng = generator(seed, "md", smiles, temperature)
        atoms = Atoms(geometry.numbers, geometry.relaxed[rng.integers(len(geometry.relaxed))])
        atoms.calc = teacher_of_worker(teacher)
        count = (config.frames + run) // len(config.temperatures)
        frames, note = _langevin(atoms, temperature, count, config.keep_every, config.timestep, rng)
        found.extend(frames)
        notes.append(note)
    return _of_molecule(smiles, geometry, found, " ".join(filter(None, notes)))


def _langevin(
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


def structures(key: str, seed: int, atoms: Atoms, config: StructuresConfig) -> Record:
    """A structure as it is, then displaced (Gaussian, random width) and strained (symmetric) at random."""
    found = [atoms]
    for frame in range(1, config.frames):
        rng = generator(seed, "structures", key, frame)
        moved = atoms.copy()
        if atoms.pbc.any():
            random = rng.uniform(-config.strain, config.strain, size=(3, 3))
            moved.set_cell(atoms.cell.array @ (np.eye(3) + (random + random.T) / 2), scale_atoms=True)
        moved.positions += rng.normal(size=(len(atoms), 3)) * rng.uniform(0, config.displacement)
        found.append(moved)
    return pack(found, [key] * len(found), [False] * len(found))
