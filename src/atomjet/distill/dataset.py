"""Data sets: labelled frames in HDF5 shards, and in files that ASE reads.

A shard holds the arrays of `Frames` under their names; `split`, `source`, `molecule` and `task` are stored as integers with their
names beside them. A shard is written under a temporary name and renamed: whoever sees it sees it whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from atomjet.adapters.structure_files import read_structures
from atomjet.distill.files import require_file
from atomjet.distill.frames import DTYPES, Frames, concatenate, make_frames
from atomjet.distill.splits import connectivity_key, draw_split, hold_back
from atomjet.errors import ConfigError
from atomjet.progress import track
from atomjet.writing import write_atomically

FORMAT = "atomjet-dataset"
FORMAT_VERSION = 2

READABLE = (1, 2)
"""Versions of the format; the first had neither spin nor task."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file without a user block."""

USER_BLOCK = 512
"""Bytes before a shard's HDF5 content; the smallest number that HDF5 allows."""

NAMED = ("split", "source", "molecule", "task")
"""Arrays of names that repeat."""

LONG_FILE = 5000
"""Structures from which a file that is no shard shows how far it is read."""


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

    Frames of other files have the split and molecule that `info["split"]` and `info["molecule"]` name; otherwise the split is
    drawn by a hash of `seed` and the molecule, and molecules are told apart by formula and connectivity, so that all frames
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
    """Frames of a file that ASE reads; see `read_dataset`."""
    structures = read_structures(path)
    parts = []
    names_splits = False
    with track(f"frames of {path.name}", len(structures), quiet=len(structures) < LONG_FILE) as advance:
        for number, atoms in enumerate(structures):
            results = getattr(atoms.calc, "results", {})
            if "energy" not in results or "forces" not in results:
                raise ConfigError(f"{path}, frame {number} has no energy and forces; label it first")
            molecule = str(atoms.info.get("molecule") or connectivity_key(atoms))
            names_splits = names_splits or bool(atoms.info.get("split"))
            split = str(atoms.info.get("split") or draw_split(seed, molecule, validation, test))
            part = make_frames([atoms], split, str(atoms.info.get("source") or path.name), molecule)
            part.energy[:], part.forces[:] = results["energy"], results["forces"]
            if "stress" in results and atoms.pbc.all():
                part.stress[:] = voigt_6_to_full_3x3_stress(results["stress"])
            parts.append(part)
            advance()
    frames = concatenate(parts)
    if names_splits:
        return frames
    if "train" not in frames.split:  # one system or a few, and the draw took them all: learn them nevertheless
        frames.split[:] = "train"
    if test + validation > 0:
        hold_back(frames, seed, 0.0, np.ones(len(frames), dtype=bool))
    return frames
