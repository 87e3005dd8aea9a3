"""Labels by a model of our own on a GPU: many frames at a call, in this process, where workers would each load the model.

Results reach the disk call by call. A frame that the model refuses is labelled alone, so that only it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from atomjet.adapters.ase import AtomJetCalculator
from atomjet.distill.journal import JournalWriter, Record
from atomjet.distill.pool import Task
from atomjet.engine import Engine
from atomjet.engine.streams import predicted
from atomjet.errors import AtomJetError, TeacherError

BATCH_ATOMS = 8192
"""Atoms of a call: enough to fill a GPU. The engine itself takes them in parts where they do not fit into its memory."""

MOST_FRAMES = 1024
"""Frames of a call: what a kill may cost."""


def engine_of(teacher: Calculator) -> Engine | None:
    """The engine that labels in batches: of a model of our own on a GPU. None: frames go to workers, one by one."""
    own = isinstance(teacher, AtomJetCalculator) and teacher.engine.device.type == "cuda"
    return teacher.engine if own else None  # type: ignore[attr-defined]


def label_structures(engine: Engine, structures: Sequence[Atoms]) -> list[Record]:
    """Records of `label_frame`: energy, eV, forces, eV/Å, and stress, eV/Å³, of those with three periodic directions."""
    found = engine.predict(list(structures)).to("cpu")
    energies, stress = found.energy.double().numpy(), found.stress.double().numpy()
    forces = np.split(found.forces.double().numpy(), np.cumsum([len(atoms) for atoms in structures])[:-1])
    records: list[Record] = []
    for atoms, energy, force, strained in zip(structures, energies, forces, stress, strict=True):
        if not np.isfinite(energy) or not np.isfinite(force).all():
            raise TeacherError("the teacher returned an energy or force that is not finite")
        more = {"stress": strained} if atoms.pbc.all() and np.isfinite(strained).all() else {}
        records.append({"energy": float(energy), "forces": force.astype(np.float32), **more})
    return records


def run_batches(
    engine: Engine,
    make: Callable[..., Atoms],
    tasks: Iterable[Task],
    directory: Path,
    advance: Callable[..., None],
) -> None:
    """Label the frame of every task; each leaves a record, or {"error": reason}, in a journal of `directory`.

    Args:
        engine: the teacher.
        make: the structure of a task's arguments, without the first, which is the teacher's settings.
        tasks: of `label_frame`.
        directory: of the journal files.
        advance: called after every frame.
    """
    journal = JournalWriter(directory)
    try:
        for batch in _batches((task.key, make(*task.arguments[1:])) for task in tasks):
            for key, record in zip([key for key, _ in batch], _label(engine, [a for _, a in batch]), strict=True):
                journal.append(key, record)
                advance()
    finally:
        journal.close()


def _batches(structures: Iterable[tuple[bytes, Atoms]]) -> Iterator[list[tuple[bytes, Atoms]]]:
    """Consecutive structures, of at most so many atoms and frames together."""
    batch: list[tuple[bytes, Atoms]] = []
    for key, atoms in structures:
        if batch and (sum(len(a) for _, a in batch) + len(atoms) > BATCH_ATOMS or len(batch) == MOST_FRAMES):
            yield batch
            batch = []
        batch.append((key, atoms))
    if batch:
        yield batch


def _label(engine: Engine, structures: Sequence[Atoms]) -> list[Record]:
    """Records of a batch, of a frame that is refused with the reason."""
    records: list[Record] = []
    for _, found in predicted(partial(label_structures, engine), structures, BATCH_ATOMS):
        if isinstance(found, AtomJetError):
            records.append({"error": f"{type(found).__name__}: {' '.join(str(found).split())}"})
        else:
            records += found
    return records
