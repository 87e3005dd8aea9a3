"""Frames: structures of any size with their labels, as flat arrays.

F frames, A atoms in all, R Hessian rows. The atoms of frame f are `ptr[f]:ptr[f + 1]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from atomjet.distill.conditions import NOT_SAID, Conditions, read_conditions, set_conditions
from atomjet.distill.journal import Record

DTYPES = {
    "ptr": np.int64,
    "numbers": np.uint8,
    "positions": np.float32,
    "forces": np.float32,
    "energy": np.float64,
    "cell": np.float64,
    "pbc": np.bool_,
    "charge": np.int16,
    "spin": np.int16,
    "task": np.dtypes.StringDType(),
    "reactive": np.bool_,
    "large": np.bool_,
    "split": np.dtype("<U16"),
    "source": np.dtypes.StringDType(),
    "molecule": np.dtypes.StringDType(),
    "stress": np.float64,
    "hessian_frame": np.int64,
    "hessian_atom": np.int32,
    "hessian_axis": np.int8,
    "hessian_ptr": np.int64,
    "hessian_rows": np.float32,
}

Array = NDArray[Any]


@dataclass(eq=False)
class Frames:
    """Structures with labels, as flat arrays.

    Attributes:
        ptr: (F + 1,) int64, where the atoms of each frame begin.
        numbers: (A,) uint8 atomic numbers.
        positions: (A, 3) float32, Å.
        forces: (A, 3) float32, eV/Å; NaN where not labelled.
        energy: (F,) float64, eV; NaN where not labelled.
        cell: (F, 3, 3) float64, Å, zero without periodic directions.
        pbc: (F, 3) bool.
        charge: (F,) int16, e.
        reactive: (F,) bool, the bonds differ from those of the molecule.
        large: (F,) bool, belongs to the held-out larger molecules.
        split: (F,) strings: train, validation, test, in_distribution.
        source: (F,) strings: the slice, e.g. normal_modes.
        molecule: (F,) strings: canonical SMILES, of a cluster those of its members.
        hessian_frame: (R,) frame of each Hessian row.
        hessian_atom, hessian_axis: (R,) atom within its frame and axis that was displaced.
        hessian_ptr: (R + 1,) where each row begins in `hessian_rows`.
        hessian_rows: (sum of the frames' N over the rows, 3) float32, d²E/dx_(atom, axis) dx_j, eV/Å².
        spin: (F,) int16, multiplicity 2S + 1, or -1 where it was not said. Default: not said.
        task: (F,) strings, the teacher's task, "" where it was not said. Default: not said.
        stress: (F, 3, 3) float64, eV/Å³, ASE's sign; NaN where not labelled. Default: not labelled.
    """

    ptr: Array
    numbers: Array
    positions: Array
    forces: Array
    energy: Array
    cell: Array
    pbc: Array
    charge: Array
    reactive: Array
    large: Array
    split: Array
    source: Array
    molecule: Array
    hessian_frame: Array
    hessian_atom: Array
    hessian_axis: Array
    hessian_ptr: Array
    hessian_rows: Array
    spin: Array = None  # type: ignore[assignment]
    task: Array = None  # type: ignore[assignment]
    stress: Array = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fill the defaults and bring every array to its type."""
        count = len(self.ptr) - 1
        self.spin = np.full(count, NOT_SAID) if self.spin is None else self.spin
        self.task = np.array([""] * count, dtype=DTYPES["task"]) if self.task is None else self.task
        self.stress = np.full((count, 3, 3), np.nan) if self.stress is None else self.stress
        for field in fields(self):
            setattr(self, field.name, np.asarray(getattr(self, field.name), dtype=DTYPES[field.name]))

    def __len__(self) -> int:
        """F."""
        return len(self.ptr) - 1

    @property
    def counts(self) -> Array:
        """(F,) atoms in each frame."""
        return np.diff(self.ptr)

    def select(self, chosen: Array) -> Frames:
        """Frames of a mask (F,) of bool, or of an array of indices, in the order of the indices."""
        index = np.flatnonzero(chosen) if np.asarray(chosen).dtype == bool else np.asarray(chosen, dtype=np.int64)
        rows_of = np.argsort(self.hessian_frame, kind="stable")
        begin = np.searchsorted(self.hessian_frame[rows_of], np.arange(len(self) + 1))
        rows = rows_of[ranges(begin, index)]
        atoms, hessian = ranges(self.ptr, index), ranges(self.hessian_ptr, rows)
        labels, conditions = ("energy", "stress"), ("charge", "spin", "task")
        per_frame = (*labels, "cell", "pbc", *conditions, "reactive", "large", "split", "source", "molecule")
        return Frames(
            ptr=_pointers(self.counts[index]),
            hessian_frame=np.repeat(np.arange(len(index)), np.diff(begin)[index]),
            hessian_ptr=_pointers(np.diff(self.hessian_ptr)[rows]),
            hessian_rows=self.hessian_rows[hessian],
            hessian_atom=self.hessian_atom[rows],
            hessian_axis=self.hessian_axis[rows],
            **{name: getattr(self, name)[atoms] for name in ("numbers", "positions", "forces")},
            **{name: getattr(self, name)[index] for name in per_frame},
        )

    def conditions(self, frame: int) -> Conditions:
        """Charge, spin and task of one frame."""
        return Conditions(int(self.charge[frame]), int(self.spin[frame]), str(self.task[frame]))

    def atoms(self, frame: int) -> Atoms:
        """One frame as ase.Atoms; energy and forces, where it is labelled, in its calculator."""
        part = slice(self.ptr[frame], self.ptr[frame + 1])
        info = {
            "molecule": str(self.molecule[frame]),
            "split": str(self.split[frame]),
            "source": str(self.source[frame]),
        }
        made = Atoms(
            self.numbers[part],
            self.positions[part].astype(float),
            cell=self.cell[frame],
            pbc=self.pbc[frame],
            info=info,
        )
        if (conditions := self.conditions(frame)) != Conditions():
            set_conditions(made, conditions)
        if np.isfinite(self.energy[frame]):
            forces = self.forces[part].astype(float)
            labels = {"energy": float(self.energy[frame]), "forces": forces}
            if np.isfinite(self.stress[frame]).all():
                labels["stress"] = full_3x3_to_voigt_6_stress(self.stress[frame])
            made.calc = SinglePointCalculator(made, **labels)
        return made

    def __iter__(self) -> Iterator[Atoms]:
        """Every frame as ase.Atoms."""
        return (self.atoms(frame) for frame in range(len(self)))


def make_frames(structures: Sequence[Atoms], split: str, source: str, molecule: str) -> Frames:
    """Unlabelled frames of one origin; positions are rounded to float32 here, before anything is computed from them."""
    record = pack(structures, [molecule] * len(structures), [False] * len(structures))
    return frames_from_record(record, split, source)


def pack(structures: Sequence[Atoms], molecules: Sequence[str], reactive: Sequence[bool], note: str = "") -> Record:
    """Unlabelled frames as a journal record; float32 positions from here on."""
    conditions = [read_conditions(atoms) for atoms in structures]
    return {
        "counts": np.array([len(atoms) for atoms in structures], dtype=np.int64),
        "numbers": np.concatenate([np.zeros(0, np.uint8), *(atoms.numbers.astype(np.uint8) for atoms in structures)]),
        "positions": np.concatenate([np.zeros((0, 3)), *(atoms.positions for atoms in structures)]).astype(np.float32),
        "cell": np.array([atoms.cell.array * atoms.pbc.any() for atoms in structures]).reshape(-1, 3, 3),
        "pbc": np.array([atoms.pbc for atoms in structures], dtype=bool).reshape(-1, 3),
        "charge": np.array([one.charge for one in conditions], dtype=np.int16),
        "spin": np.array([one.spin for one in conditions], dtype=np.int16),
        "task": [one.task for one in conditions],
        "reactive": np.array(reactive, dtype=bool),
        "molecule": list(molecules),
        "note": note,
    }


def frames_from_record(record: Record, split: str, source: str, large: bool = False) -> Frames:
    """Frames of a record of `pack`, all of one split and slice."""
    count, atoms = len(record["counts"]), len(record["numbers"])
    return Frames(
        ptr=_pointers(record["counts"]),
        forces=np.full((atoms, 3), np.nan),
        energy=np.full(count, np.nan),
        **{name: record[name] for name in ("spin", "task") if name in record},  # not in records of earlier versions
        large=np.full(count, large),
        split=np.array([split] * count),
        source=np.array([source] * count),
        hessian_frame=np.zeros(0),
        hessian_atom=np.zeros(0),
        hessian_axis=np.zeros(0),
        hessian_ptr=np.zeros(1),
        hessian_rows=np.zeros((0, 3)),
        **{name: record[name] for name in ("numbers", "positions", "cell", "pbc", "charge", "reactive", "molecule")},
    )


def concatenate(parts: Sequence[Frames]) -> Frames:
    """All frames one after the other."""
    if not parts:
        return make_frames([], "", "", "")
    frame_starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Frames)}
    joined["ptr"] = _pointers(np.concatenate([part.counts for part in parts]))
    joined["hessian_ptr"] = _pointers(np.concatenate([np.diff(part.hessian_ptr) for part in parts]))
    joined["hessian_frame"] = np.concatenate(
        [part.hessian_frame + start for part, start in zip(parts, frame_starts, strict=True)]
    )
    return Frames(**joined)


def _pointers(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def ranges(ptr: Array, index: Array) -> Array:
    """Positions of all elements of the chosen rows of a ragged array."""
    counts = np.diff(ptr)[index]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(ptr[:-1][index], counts) + within
