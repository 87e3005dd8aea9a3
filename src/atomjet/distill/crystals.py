"""Structures from files, for training: supercells of two sizes, rattled, strained, and moved by the teacher.

In a small periodic cell an atom and its images within the cutoff move together, so that a student sees only a part of what it
meets in a crystal: students of 8-atom cells were four times as wrong in cells of 64. So a crystal is repeated: the small cell
until no atom sees an image of its own, the large one until no atom sees two images of any other. Small cells are cheap to label;
large ones have the waves that small ones cannot have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from atomjet.distill.frames import pack
from atomjet.distill.journal import Record
from atomjet.distill.molecules import generator
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.sample_config import StructureMDConfig, StructuresConfig, SupercellsConfig
from atomjet.distill.slices import langevin
from atomjet.distill.teacher import teacher_of_worker

RELAXED = 0.02
"""eV/Å, to which the teacher relaxes a structure."""

RELAX_STEPS = 300

MOST_REPEATS = 64
"""Repetitions along one direction at most: what is thinner is no structure."""

Array = NDArray[np.float64]
Repeats = tuple[int, int, int]


def supercells(atoms: Atoms, cutoff: float, config: SupercellsConfig | None) -> list[Repeats]:
    """How often to repeat a structure along its periodic directions: once for each size, the small one first.

    A size is the smallest whose heights (distances of opposite faces) reach its multiple of the cutoff. Where the given cell
    is large enough for both, the large one is twice the small one along its shortest height. A size of more atoms than
    `max_atoms` is shrunk until it fits, where it is longest first; sizes that come out alike are one.
    """
    if config is None or not atoms.pbc.any():
        return [(1, 1, 1)]
    heights = np.where(atoms.pbc, _heights(atoms), np.inf)
    small, large = (np.clip(np.ceil(factor * cutoff / heights - 1e-9), 1, MOST_REPEATS) for factor in config.heights)
    if (small == large).all():
        large[np.argmin(large * heights)] *= 2
    found: list[Repeats] = []
    for wanted in (small, large):
        while wanted.prod() * len(atoms) > config.max_atoms and wanted.max() > 1:
            wanted[np.argmax(np.where(wanted > 1, wanted * np.where(atoms.pbc, heights, 0.0), -1.0))] -= 1
        one, two, three = (int(count) for count in wanted)
        if (one, two, three) not in found:
            found.append((one, two, three))
    return found


def _heights(atoms: Atoms) -> Array:
    """(3,) Å, distances of opposite faces of the cell."""
    cell = atoms.cell.complete().array
    areas = np.linalg.norm(np.cross(np.roll(cell, -1, 0), np.roll(cell, -2, 0)), axis=1)
    return abs(np.linalg.det(cell)) / areas


def repeated(atoms: Atoms, repeats: Repeats) -> Atoms:
    """A supercell, asked for at the same conditions; the total charge grows with the number of cells."""
    whole = atoms.repeat(repeats)
    whole.info = {name: atoms.info[name] for name in ("charge", "spin", "task") if name in atoms.info}
    if charge := whole.info.get("charge"):
        whole.info["charge"] = int(charge) * int(np.prod(repeats))
    return whole


def relaxation(atoms: Atoms, teacher: TeacherConfig) -> Record:
    """Task of a worker: positions (N, 3) and cell (3, 3), Å, relaxed by the teacher; the cell only of fully periodic structures.

    The note says what is left where the steps ran out.
    """
    moved = atoms.copy()
    moved.calc = teacher_of_worker(teacher)
    target = FrechetCellFilter(moved) if moved.pbc.all() else moved
    done = FIRE(target, logfile=None).run(fmax=RELAXED, steps=RELAX_STEPS)  # type: ignore[arg-type]
    left = float(np.linalg.norm(moved.get_forces(), axis=1).max())
    note = "" if done else f"not relaxed after {RELAX_STEPS} steps: largest force {left:.3f} eV/Å"
    return {"positions": moved.positions, "cell": moved.cell.array, "note": note}


def rattled(key: str, seed: int, atoms: Atoms, config: StructuresConfig) -> Record:
    """A structure as it is, then displaced (Gaussian, random width) and strained (symmetric) at random."""
    found = [atoms]
    for frame in range(1, config.frames):
        rng = generator(seed, "structures", key, len(atoms), frame)
        moved = atoms.copy()
        if atoms.pbc.any():
            random = rng.uniform(-config.strain, config.strain, size=(3, 3))
            _strain(moved, (random + random.T) / 2)
        moved.positions += rng.normal(size=(len(atoms), 3)) * rng.uniform(0, config.displacement)
        found.append(moved)
    return _packed(key, found)


def strained(key: str, seed: int, atoms: Atoms, config: StructuresConfig) -> Record:
    """A crystal whose atoms follow its cell: every other frame a volume, evenly over their range, the others random shears."""
    found, volumes = [], (config.strained + 1) // 2
    for frame in range(config.strained):
        moved = atoms.copy()
        if frame % 2 == 0:
            low, high = config.volume
            ratio = low + (high - low) * (frame // 2 + 0.5) / volumes
            _strain(moved, (ratio ** (1 / 3) - 1) * np.eye(3))
        else:
            rng = generator(seed, "strained", key, len(atoms), frame)
            random = rng.uniform(-config.shear, config.shear, size=(3, 3))
            shear = (random + random.T) / 2
            _strain(moved, shear - np.trace(shear) / 3 * np.eye(3))
        found.append(moved)
    return _packed(key, found)


def moved_by_teacher(key: str, seed: int, atoms: Atoms, config: StructureMDConfig, teacher: TeacherConfig) -> Record:
    """Langevin runs of the teacher at constant volume, one for each temperature; the frames are shared among them."""
    found, notes = [], []
    for run, temperature in enumerate(config.temperatures):
        moving, rng = atoms.copy(), generator(seed, "structure_md", key, temperature)
        moving.calc = teacher_of_worker(teacher)
        count = (config.frames + run) // len(config.temperatures)
        frames, note = langevin(moving, temperature, count, config.keep_every, config.timestep, rng)
        for positions in frames:
            found.append(atoms.copy())
            found[-1].positions = positions
        notes.append(note)
    return _packed(key, found, " ".join(filter(None, notes)))


def _strain(atoms: Atoms, strain: Array) -> None:
    """Deform cell and positions by a symmetric strain (3, 3)."""
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)


def _packed(key: str, structures: Sequence[Atoms], note: str = "") -> Record:
    return pack(structures, [key] * len(structures), [False] * len(structures), note)
