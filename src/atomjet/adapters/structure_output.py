"""Structures written in any format of ASE's: tried before anything is computed, whole or not at all under their name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from atomjet.errors import StructureError
from atomjet.writing import appears_whole, folder_beside

WITH_RESULTS = ("extxyz", "traj", "json", "db", "bundletrajectory", "parquet")
"""Formats, ASE's and Parquet, that keep energies and forces of any number of structures."""

RESERVED = ("Lattice", "Properties", "pbc", "energy", "free_energy", "stress", "virial", "dipole", "magmom", "forces")
"""Words of an extxyz head that mean something else than a remark of the user's."""


def is_parquet(path: str | Path | None) -> bool:
    """Whether a file's name says that it is Parquet."""
    return path is not None and Path(path).suffix.lower() == ".parquet"


def check_format(path: str | Path, frames: list[Atoms] | None = None, results: bool = False) -> None:
    """Refuse, before anything is computed, what could not be written.

    Args:
        path: of a file to be written.
        frames: structures such as will be written: they are written once, beside it, to see that format and disk take them.
        results: whether energies and forces must be kept, too.

    Raises:
        StructureError: a name whose ending says no format that ASE writes, or structures that the format does not take.
    """
    kind = _kind(path)
    if results and kind not in WITH_RESULTS:
        raise StructureError(f"{path}: format {kind} keeps no energies and forces; use .extxyz or .traj")
    if frames:
        with folder_beside(path) as folder:
            _write(folder / Path(path).name, frames, str(path))


def write_structures(path: str | Path, frames: list[Atoms]) -> None:
    """Write structures in the format that the name's ending says; the file appears whole under its name, or not at all.

    Raises:
        StructureError: a format ASE does not know or cannot write.
    """
    _kind(path)
    with appears_whole(path) as beside:
        _write(beside, frames, str(path))


def sample_of(frames: list[Atoms], most: int = 20) -> list[Atoms]:
    """A few structures in which all occurs that a format may not take: periodic directions, kinds of `info`, arrays."""
    found: dict[Any, Atoms] = {}
    for atoms in frames:
        info = tuple(sorted((str(key), type(value).__name__) for key, value in atoms.info.items()))
        found.setdefault((info, tuple(atoms.pbc), tuple(sorted(atoms.arrays))), atoms)
        if len(found) == most:
            break
    return list(found.values())


def _kind(path: str | Path) -> str:
    """The name of the format of a file to be written."""
    if is_parquet(path):
        return "parquet"
    try:
        found = ioformats[filetype(str(path), read=False)]
    except (KeyError, UnknownFileTypeError):
        found = None
    if found is None or not found.can_write:
        raise StructureError(f"{path}: ASE writes no format of that name; use .extxyz or .traj")
    return found.name


def _write(path: Path, frames: list[Atoms], name: str) -> None:
    """Let ASE write, its errors as one line that names the file that was asked for."""
    kind = _kind(path)
    if kind == "parquet":
        from atomjet.adapters import parquet  # pyarrow takes time to import

        parquet.write_structures(path, frames)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what a format leaves out
            ase.io.write(str(path), [plain(atoms) for atoms in frames] if kind == "extxyz" else frames, format=kind)
    except OSError:
        raise
    except Exception as error:  # ASE's writers raise whatever they meet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StructureError(f"{name}: ASE cannot write it ({reason}); use .extxyz or .traj") from None
    if not path.exists():
        raise StructureError(f"{name}: ASE writes nothing under that name; use .extxyz or .traj")


def plain(atoms: Atoms) -> Atoms:
    """A copy that reads back from extended XYZ as it is: texts that would read as something else, or break the line, in JSON."""
    copy = atoms.copy()
    if atoms.calc is not None and not atoms.calc.check_state(atoms):  # results of other positions are none of these
        known = {name: value for name, value in atoms.calc.results.items() if name in all_properties}
        copy.calc = SinglePointCalculator(copy, **known)
        if "forces_spread" in atoms.calc.results:  # of an ensemble
            copy.arrays["forces_spread"] = atoms.calc.results["forces_spread"]
    copy.info = {}
    for key, value in atoms.info.items():
        word = str(key)
        if word in RESERVED or not _reads_back(word, "x"):
            word = "_".join(part for part in "".join(c if c.isalnum() else " " for c in word).split()) or "info"
            word = f"info_{word}" if word in RESERVED else word
            while word in copy.info or word in atoms.info:
                word += "_"
        if _reads_back(word, value):
            copy.info[word] = value
        elif (text := _as_json(value)) is not None:
            copy.info[word] = text
    for name, values in list(copy.arrays.items()):
        if values.dtype.kind in "USO":
            words = ["".join(str(value).split()) for value in values.ravel()]
            copy.arrays[name] = np.array([word or "_" for word in words]).reshape(values.shape)
    return copy


def _reads_back(key: str, value: Any) -> bool:
    """Whether ASE reads from the head of an extended XYZ what it writes there."""
    try:
        text = key_val_dict_to_str({key: value})
        back = key_val_str_to_dict(f"{text} next=1")
        if set(back) != {key, "next"} or any(ord(char) < 32 or char in "\x7f\x85\u2028\u2029" for char in text):
            return False
        if isinstance(value, str) or isinstance(back[key], str):
            return type(back[key]) is type(value) and back[key] == value
        return bool(np.array_equal(back[key], value)) or value != value
    except Exception:  # whatever its parser meets
        return False


def _as_json(value: Any) -> str | None:
    """A text that ASE reads back as the value; None where there is none, as of objects."""
    try:
        # ASE's reader takes every backslash as an escape, its writer escapes quotes alone.
        text = ("_JSON " + json.dumps(value.tolist() if isinstance(value, np.ndarray) else value)).replace("\\", "\\\\")
        back = key_val_str_to_dict(key_val_dict_to_str({"k": text}))["k"]
        return text if np.array_equal(back, value) else None
    except (TypeError, ValueError):
        return None
