"""Starting conformers of a recipe's molecules: all that sampling needs RDKit for, kept in one small file.

`OUTPUT/conformers.h5` holds the molecules, their splits and their force-field conformers. It is read instead of the
files of SMILES as long as these and the settings are what they were, so that a machine without RDKit can go on from it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.dataset import require_h5py
from atomjet.distill.frames import ranges
from atomjet.distill.journal import Record
from atomjet.distill.left_out import Failures
from atomjet.distill.recipe import Recipe
from atomjet.errors import ConfigError
from atomjet.writing import write_atomically

SAME_CONFORMER = 0.2
"""Conformers closer than this (heavy atoms, Å) count as one: a rigid molecule is relaxed once."""

# A rotor: single, not in a ring, and something to turn on either side.
ROTOR = "[!$([D1])&!$(*#*)]-&!@[!$([D1])&!$(*#*)]"

Array = NDArray[Any]


@dataclass(frozen=True)
class Molecule:
    """One line of the molecule file; the split is drawn before anything is sampled."""

    smiles: str
    split: str
    large: bool = False


@dataclass(frozen=True)
class Embedding:
    """A molecule as the force field leaves it: C conformers of N atoms, B bonds, R rotors.

    Attributes:
        numbers: (N,).
        bonds: (B, 2).
        rotors: (R, 2) the bonds about which a part of the molecule can turn.
        start: (C, N, 3) float32, Å.
    """

    numbers: Array
    bonds: Array
    rotors: Array
    start: Array


Embedded = list[tuple[Molecule, Embedding]]
"""Molecules and their conformers."""


def rdkit() -> ModuleType:
    """RDKit's `Chem`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise ConfigError(
            "sampling molecules needs RDKit: pip install 'atomjet[distill]'; or bring the conformers.h5 that another machine "
            "wrote with atomjet sample --embed-only"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


def embed(smiles: str, seed: int, count: int) -> Record:
    """Task of a worker: conformers by ETKDGv3 and MMFF (else UFF); fields of `Embedding`."""
    chem = rdkit()
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    molecule = chem.AddHs(chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed % 2**31
    parameters.pruneRmsThresh = SAME_CONFORMER
    parameters.onlyHeavyAtomsForRMS = True
    found = rdDistGeom.EmbedMultipleConfs(molecule, count, parameters)
    if not len(found):
        parameters.useRandomCoords = True
        found = rdDistGeom.EmbedMultipleConfs(molecule, count, parameters)
    if not len(found):
        raise ConfigError(f"RDKit finds no conformer of {smiles}")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, maxIters=500)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMoleculeConfs(molecule, maxIters=500)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    rotors = molecule.GetSubstructMatches(chem.MolFromSmarts(ROTOR))
    return {
        "numbers": np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8),
        "bonds": np.array(bonds, np.int16).reshape(-1, 2),
        "rotors": np.array(rotors, np.int16).reshape(-1, 2),
        "start": np.array([molecule.GetConformer(c).GetPositions() for c in found], dtype=np.float32),
    }


def digest(recipe: Recipe) -> str:
    """What the file of conformers depends on: the content of the molecule files, and the settings that concern them."""
    peptides = recipe.sample.peptides
    files = [path for path in (recipe.molecules, peptides.molecules if peptides else None) if path is not None]
    content = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in files]
    split, walls = recipe.sample.split.model_dump(), recipe.sample.walls is not None
    parts = [content, recipe.seed, recipe.elements, recipe.sample.conformers.per_molecule, split, walls]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_embeddings(path: Path, recipe: Recipe, found: Embedded, left_out: Failures) -> None:
    """Write the molecules that have conformers, and which were left out, atomically."""
    h5py, content = require_h5py(), io.BytesIO()
    embeddings = [embedding for _, embedding in found]
    about = {
        "digest": digest(recipe),
        "molecules": [(one.smiles, one.split, one.large) for one, _ in found],
        "left_out": left_out,
    }
    with h5py.File(content, "w") as file:
        text = json.dumps(about).encode()
        file.create_dataset("about", data=np.frombuffer(text, np.uint8), compression="gzip")
        for name in ("numbers", "bonds", "rotors"):
            parts = [getattr(embedding, name) for embedding in embeddings]
            _write_ragged(file, name, parts)
        _write_ragged(file, "start", [embedding.start.reshape(-1, 3) for embedding in embeddings])
    write_atomically(path, content.getvalue())


def _write_ragged(file: Any, name: str, parts: Sequence[Array]) -> None:
    file.create_dataset(f"{name}_counts", data=np.array([len(part) for part in parts], np.int32), compression="gzip")
    file.create_dataset(name, data=np.concatenate(parts), compression="gzip", shuffle=True)


def read_embeddings(path: Path, recipe: Recipe, strict: bool = False) -> tuple[Embedded, Failures] | None:
    """What `write_embeddings` wrote; None if it belongs to another recipe, or if something was left out and that is refused."""
    if not path.is_file():
        return None
    try:
        with require_h5py().File(path, "r") as file:
            about = json.loads(file["about"][()].tobytes())
            if about["digest"] != digest(recipe) or (strict and about["left_out"]):
                return None
            arrays = {name: file[name][()] for name in file if name != "about"}
    except (OSError, KeyError, ValueError):  # damaged: made anew
        return None
    by_molecule = {}
    for name in ("numbers", "bonds", "rotors", "start"):
        pointers = np.concatenate([[0], np.cumsum(arrays[f"{name}_counts"])]).astype(np.int64)
        by_molecule[name] = [arrays[name][ranges(pointers, np.array([i]))] for i in range(len(pointers) - 1)]
    found = []
    for i, (smiles, split, large) in enumerate(about["molecules"]):
        numbers = by_molecule["numbers"][i]
        start = by_molecule["start"][i].reshape(-1, len(numbers), 3)
        found.append(
            (
                Molecule(smiles, split, large),
                Embedding(numbers, by_molecule["bonds"][i], by_molecule["rotors"][i], start),
            )
        )
    return found, about["left_out"]
