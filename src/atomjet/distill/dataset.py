"""Frames: structures of any size with their labels, as flat arrays; in memory, in HDF5 shards, from files that ASE
reads.

F frames, A atoms in all, R Hessian rows. The atoms of frame f are `ptr[f]:ptr[f + 1]`.

An HDF5 shard holds the same arrays under the same names; `split`, `source` and `molecule` are stored as integers with
their names beside them. A shard is written under a temporary name and renamed: whoever sees it sees it whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomjet.adapters.structure_files import read_structures
from atomjet.distill.conditions import NOT_SAID, Conditions, read_conditions, set_conditions
from atomjet.distill.files import require_file
from atomjet.distill.journal import Record
from atomjet.errors import ConfigError
from atomjet.models.tensor_file import write_atomically

FORMAT = "atomjet-dataset"
FORMAT_VERSION = 2
ENOUGH_TO_HOLD_BACK = 5
"""Frames of a single system from which some are held out unasked."""

READABLE = (1, 2)
"""Versions of the format; the first had neither spin nor task."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file without a user block."""

USER_BLOCK = 512
"""Bytes before a shard's HDF5 content; the smallest number that HDF5 allows."""

NAMED = ("split", "source", "molecule", "task")
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
        kinds = ("energy", "stress", "cell", "pbc", "charge", "spin", "task")
        per_frame = (*kinds, "reactive", "large", "split", "source", "molecule")
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


def require_h5py() -> ModuleType:
    """The package that reads and writes HDF5.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("reading and writing datasets needs h5py: pip install 'atomjet[distill]'") from error
    return h5py


def write_shard(path: Path, frames: Frames, about: Mapping[str, Any]) -> None:
    """Write one HDF5 file, atomically; the bytes depend on the frames and `about` (JSON-able) only."""
    h5py, content = require_h5py(), io.BytesIO()
    # In memory first: what HDF5 says of a full disk depends on when it notices, and may come too late to be raised.
    with h5py.File(content, "w", userblock_size=USER_BLOCK) as file:
        file.attrs.update({"format": FORMAT, "version": FORMAT_VERSION, "about": json.dumps(about, sort_keys=True)})
        for field in fields(Frames):
            values = getattr(frames, field.name)
            if field.name in NAMED:
                names, values = np.unique(values, return_inverse=True)
                file.create_dataset(f"{field.name}_names", data=list(names), dtype=h5py.string_dtype())
                values = values.astype(np.int32)
            packing = {"compression": "gzip", "shuffle": True} if values.size else {}
            file.create_dataset(field.name, data=values, **packing)
    body = content.getvalue()[USER_BLOCK:]
    write_atomically(path, _user_block(body) + body)


def _user_block(body: bytes | memoryview) -> bytes:
    """The first bytes of a shard, which HDF5 leaves to its user: the SHA-256 of all others."""
    return f"{FORMAT} sha256 {hashlib.sha256(body).hexdigest()}\n".encode().ljust(USER_BLOCK, b"\0")


def read_dataset(
    paths: str | Path | Sequence[str | Path], seed: int = 0, validation: float = 0.05, test: float = 0.1
) -> Frames:
    """Read shards, directories of shards, and labelled files that ASE reads (extxyz, traj ...), in any mixture.

    Frames of foreign files keep `info["split"]` and `info["molecule"]` where they have them; otherwise the split is
    drawn by a hash of `seed` and the molecule, and the molecule is told by formula and connectivity, so that all frames
    of one molecule fall into the same split. `validation` and `test` are the shares of the molecules. Where none falls into
    training, or all do, a tenth of the frames is held out for validation in distribution.

    Raises:
        ConfigError: no such file, no shard in a directory, a file that is neither, or a frame without energy and
        forces.
    """
    chosen = [paths] if isinstance(paths, str | Path) else paths
    parts: list[Frames] = []
    for path in map(Path, chosen):
        files = sorted(path.glob("*.h5")) if path.is_dir() else [path]
        if not files or not all(file.exists() for file in files):
            raise ConfigError(f"no dataset at {path}; label one first: atomjet label RECIPE.yaml")
        for file in files:
            require_file(file, "dataset")
            parts.append(
                _read_shard(file) if file.suffix in (".h5", ".hdf5") else _read_foreign(file, seed, validation, test)
            )
    return concatenate(parts)


def describe_dataset(path: str | Path) -> dict[str, Any]:
    """What a shard says of its origin: recipe, seed, teacher (calculator, version, options)."""
    with _open_shard(Path(path)) as file:
        try:
            return json.loads(file.attrs["about"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} is a damaged dataset ({_one_line(error)}); label it again") from error


def _open_shard(path: Path) -> Any:
    _check_digest(path)
    try:
        file = require_h5py().File(path, "r")
        found = (file.attrs.get("format"), file.attrs.get("version"))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is not a readable HDF5 file: {_one_line(error)}") from error
    if not isinstance(found[0], str) or found[0] != FORMAT or found[1] not in READABLE:
        file.close()
        versions = " or ".join(map(str, READABLE))
        raise ConfigError(f"{path} is not a dataset of format {FORMAT} {versions}, it says {found}")
    return file


def _check_digest(path: Path) -> None:
    """Refuse a shard that is not as it was written, before HDF5 sees it, which may loop for ever over damaged lists of texts.

    Shards that were written before, and other HDF5 files, begin with HDF5's signature and have no digest.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if content[: len(SIGNATURE)] != SIGNATURE and content[:USER_BLOCK] != _user_block(content[USER_BLOCK:]):
        raise ConfigError(
            f"{path} is not a readable HDF5 file of {FORMAT}, or does not match its SHA-256: it is damaged; label it again"
        )


def _read_shard(path: Path) -> Frames:
    with _open_shard(path) as file:
        try:
            arrays = {field.name: file[field.name][()] for field in fields(Frames) if field.name in file}
            for name in arrays.keys() & set(NAMED):
                names = np.array(file[f"{name}_names"].asstr()[()], dtype=DTYPES[name])
                arrays[name] = names[arrays[name]] if len(names) else names
            return Frames(**arrays)
        except Exception as error:  # what h5py raises depends on where the file is damaged
            raise ConfigError(f"{path} is a damaged dataset ({_one_line(error)}); label it again") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_foreign(path: Path, seed: int, validation: float, test: float) -> Frames:
    structures = read_structures(path)
    parts = []
    told = False
    for number, atoms in enumerate(structures):
        results = getattr(atoms.calc, "results", {})
        if "energy" not in results or "forces" not in results:
            raise ConfigError(f"{path}, frame {number} has no energy and forces; label it first")
        molecule = str(atoms.info.get("molecule") or connectivity_key(atoms))
        told = told or bool(atoms.info.get("split"))
        split = str(atoms.info.get("split") or draw_split(seed, molecule, validation, test))
        part = make_frames([atoms], split, str(atoms.info.get("source") or path.name), molecule)
        part.energy[:], part.forces[:] = results["energy"], results["forces"]
        if "stress" in results and atoms.pbc.all():
            part.stress[:] = voigt_6_to_full_3x3_stress(results["stress"])
        parts.append(part)
    frames = concatenate(parts)
    if (
        not told and "train" not in frames.split
    ):  # one system or a few, and the draw took them all: learn them nevertheless
        frames.split[:] = "train"
    if not told and test + validation > 0:
        hold_back(frames, seed, 0.0, np.ones(len(frames), dtype=bool))
    return frames


def hold_back(frames: Frames, seed: int, share: float, among: NDArray[np.bool_]) -> None:
    """Tag a share of the training frames among these for in-distribution validation, by their content.

    Where no frame at all is held out, as with a single system, and there are enough to learn from the others, a tenth of them is:
    without any, nobody could say how wrong the student is.
    """
    candidates = np.flatnonzero((frames.split == "train") & among)
    content = (frames.positions[frames.ptr[f] : frames.ptr[f + 1]].tobytes().hex() for f in candidates)
    drawn = np.array([draw_uniform(seed, "in_distribution", text) for text in content])
    frames.split[candidates[drawn < share]] = "in_distribution"
    if (frames.split == "train").all() and len(candidates) >= ENOUGH_TO_HOLD_BACK:
        frames.split[candidates[np.argsort(drawn, kind="stable")[: len(candidates) // 10 or 1]]] = "in_distribution"


def draw_split(seed: int, molecule: str, validation: float, test: float) -> str:
    """Split of a molecule, from the seed and its name alone: the same in every run, whatever else is sampled."""
    drawn = draw_uniform(seed, "split", molecule)
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def draw_uniform(seed: int, *parts: str) -> float:
    """A number in [0, 1) that belongs to the seed and the strings."""
    digest = hashlib.blake2b("\n".join([str(seed), *parts]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64


def connectivity_key(atoms: Atoms) -> str:
    """Formula and a digest of the bond graph that no order of the atoms changes (Weisfeiler-Lehman, 4 rounds)."""
    from ase.neighborlist import natural_cutoffs, neighbor_list

    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))  # pyright: ignore[reportArgumentType]
    colours = [str(number) for number in atoms.numbers]
    for _ in range(4):
        around: list[list[str]] = [[] for _ in colours]
        for i, j in zip(first, second, strict=True):
            around[i].append(colours[j])
        texts = (colour + "(" + ",".join(sorted(near)) + ")" for colour, near in zip(colours, around, strict=True))
        colours = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    digest = hashlib.blake2b(",".join(sorted(colours)).encode(), digest_size=6).hexdigest()
    return f"{atoms.get_chemical_formula()}-{digest}"
