"""`Answers`: what a teacher says of structures, computed once and kept on disk, so that the next student is judged without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from atomjet.distill.journal import Journal, JournalWriter, content_key
from atomjet.distill.pool import Task, default_workers, run_tasks
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.teacher import build_teacher, describe
from atomjet.distill.teacher_labels import label_frame
from atomjet.engine.streams import ATOMS_OF_A_CALL, predicted
from atomjet.errors import AtomJetError
from atomjet.progress import track
from atomjet.validate.potential import Potential


@dataclass(frozen=True)
class Labels:
    """Energies (F,) eV, and forces (N, 3) eV/Å of each of F structures; NaN where they could not be computed."""

    energy: np.ndarray
    forces: list[np.ndarray]

    @property
    def missing(self) -> np.ndarray:
        """(F,) whether there is none."""
        return ~np.isfinite(self.energy)


class Answers:
    """A teacher with a memory.

    Args:
        teacher: see `TeacherConfig`.
        directory: where answers are kept, under a digest of structure and teacher.
        workers: processes; 1 computes in this one. Default: one for each CPU.
        quiet: no progress bar.

    Raises:
        TeacherError: the teacher cannot be built.
    """

    def __init__(
        self, teacher: TeacherConfig, directory: Path, workers: int | None = None, quiet: bool = False
    ) -> None:
        build_teacher(teacher)  # complain before anything is computed
        self.teacher, self.directory, self.quiet = teacher, directory, quiet
        self.workers = workers or default_workers()
        self.about = describe(teacher)
        self.computed = 0

    def of(self, frames: Sequence[Atoms]) -> Labels:
        """Energies and forces of structures; only those are computed that were never asked for before."""
        contents = [_content(atoms) for atoms in frames]
        keys = [content_key(self.about, *content) for content in contents]
        with Journal(self.directory) as journal:
            missing = {key: content for key, content in zip(keys, contents, strict=True) if key not in journal}
        if missing:
            self._compute([Task(key, (self.teacher, *content)) for key, content in missing.items()])
        with Journal(self.directory) as journal:
            records = [journal[key] for key in keys]
        return Labels(
            np.array([record.get("energy", np.nan) for record in records]),
            [
                np.asarray(record["forces"], float) if "forces" in record else np.full((len(atoms), 3), np.nan)
                for record, atoms in zip(records, frames, strict=True)
            ],
        )

    def _compute(self, tasks: list[Task]) -> None:
        self.computed += len(tasks)
        with track("teacher", len(tasks), quiet=self.quiet) as advance:
            if self.workers > 1:
                run_tasks(label_frame, tasks, self.directory, min(self.workers, len(tasks)), advance)
                return
            journal = JournalWriter(self.directory)
            for task in tasks:
                try:
                    record = label_frame(*task.arguments)
                except Exception as error:  # whatever a teacher raises is its answer to this structure
                    record = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
                journal.append(task.key, record)
                advance()
            journal.close()


def student_labels(potential: Potential, frames: Sequence[Atoms]) -> Labels:
    """What the student says of structures, in batches; NaN for those that it refuses."""
    energies, forces = np.full(len(frames), np.nan), [np.full((len(a), 3), np.nan) for a in frames]
    for chosen, found in predicted(potential.predict, frames, ATOMS_OF_A_CALL[potential.device.type]):
        if not isinstance(found, AtomJetError):
            energies[chosen.start : chosen.stop] = found.energy.double().cpu().numpy()
            ends = np.cumsum([len(frames[k]) for k in chosen])[:-1]
            forces[chosen.start : chosen.stop] = np.split(found.forces.double().cpu().numpy(), ends)
    return Labels(energies, forces)


def _content(atoms: Atoms) -> tuple[np.ndarray, ...]:
    """What an answer depends on; the structures here are neutral and closed-shell."""
    return (
        atoms.numbers.astype(np.int64),
        atoms.positions.astype(float),
        atoms.cell.array.astype(float),
        atoms.pbc.astype(bool),
        np.zeros(1, np.int64),
    )
