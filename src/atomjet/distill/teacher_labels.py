"""What a teacher says of one frame: energy, forces, stress, rows of the Hessian. The tasks of the workers, and their keys."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError
from numpy.typing import NDArray

from atomjet.distill.conditions import NOT_SAID, Conditions, set_conditions
from atomjet.distill.frames import Frames
from atomjet.distill.journal import Record, content_key
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.teacher import teacher_of_worker
from atomjet.errors import TeacherError

Array = NDArray[Any]

HESSIAN_STEP = 1e-3
"""Displacement for Hessian rows, Å: truncation and the teacher's SCF noise are both small there."""


def content_of(frames: Frames, f: int) -> tuple[Any, ...]:
    """What the label of a frame depends on; spin and task only where they are given, so that other frames keep the key they had."""
    part = slice(frames.ptr[f], frames.ptr[f + 1])
    conditions = frames.conditions(f)
    spin_and_task = (frames.spin[f : f + 1], conditions.task) if conditions[1:] != Conditions()[1:] else ()
    structure = frames.numbers[part], frames.positions[part], frames.cell[f], frames.pbc[f]
    return *structure, frames.charge[f : f + 1], *spin_and_task


def hessian_key(label_key: bytes, rows: int) -> bytes:
    """Digest under which the Hessian rows of a labelled frame are remembered."""
    return content_key("hessian", rows, label_key)


def to_ase(
    numbers: Array, positions: Array, cell: Array, pbc: Array, charge: Array, spin: Array | None = None, task: str = ""
) -> Atoms:
    """A frame as `content_of` takes it apart, with its conditions in `info`."""
    atoms = Atoms(numbers, positions.astype(float), cell=cell, pbc=pbc)
    set_conditions(atoms, Conditions(int(charge[0]), NOT_SAID if spin is None else int(spin[0]), task))
    return atoms


def _evaluate(teacher: TeacherConfig, atoms: Atoms) -> tuple[float, Array]:
    """Energy and forces by a calculator made for this frame: a label must not depend on what was labelled before it."""
    atoms.calc = teacher_of_worker(teacher)
    energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise TeacherError("the teacher returned an energy or force that is not finite")
    return energy, forces


def label_frame(teacher: TeacherConfig, *content: Any) -> Record:
    """Task of a worker: energy, eV, and forces (N, 3), eV/Å, of one frame; of a fully periodic one stress (3, 3), eV/Å³, too.

    How long the processor took stands beside them.
    """
    atoms, started = to_ase(*content), time.process_time()
    energy, forces = _evaluate(teacher, atoms)
    labels = {"energy": energy, "forces": forces.astype(np.float32), **_stress(atoms)}
    return {**labels, "seconds": round(time.process_time() - started, 5)}


def _stress(atoms: Atoms) -> Record:
    """Stress, where the structure has one and the teacher computes it."""
    if not atoms.pbc.all():
        return {}
    try:
        stress = np.asarray(atoms.get_stress(voigt=False))
    except (NotImplementedError, CalculatorError):  # it has none, or not for this structure
        return {}
    return {"stress": stress} if np.isfinite(stress).all() else {}


def hessian_rows(teacher: TeacherConfig, *content: Any, count: int) -> Record:
    """Task of a worker: up to `count` random rows of the Hessian by central differences of the teacher's forces."""
    atoms = to_ase(*content)
    rng = np.random.default_rng(int.from_bytes(content_key(*content), "little"))
    chosen = np.sort(rng.permutation(3 * len(atoms))[:count])
    start, rows = atoms.positions.copy(), []
    for atom, axis in zip(*np.divmod(chosen, 3), strict=True):
        sides = []
        for sign in (HESSIAN_STEP, -HESSIAN_STEP):
            atoms.positions = start
            atoms.positions[atom, axis] += sign
            sides.append(_evaluate(teacher, atoms)[1])
        rows.append((sides[1] - sides[0]) / (2 * HESSIAN_STEP))
    return {"atom": chosen // 3, "axis": chosen % 3, "rows": np.array(rows, dtype=np.float32)}
