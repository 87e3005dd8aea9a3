"""Molecules of a recipe: reading SMILES, splitting them, conformers, and their geometry by the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.optimize import BFGS
from numpy.typing import NDArray

from atomjet.distill.dataset import draw_split
from atomjet.distill.files import read_text, short
from atomjet.distill.journal import Record
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.normal_modes import normal_modes
from atomjet.distill.recipe import ConformersConfig, Recipe, TeacherConfig
from atomjet.distill.teacher import teacher_of_worker
from atomjet.errors import ConfigError, TeacherError

BROKEN = 1.5
"""A bond counts as broken beyond this multiple of the sum of covalent radii (a C-H bond: 1.6 Å)."""

FORMED = 1.15
"""Two atoms that were not bonded count as bonded below this multiple."""

SAME_CONFORMER = 0.2
"""Conformers closer than this (heavy atoms, Å) count as one: a rigid molecule is relaxed once."""

LARGEST_FILE = 100_000_000
"""Bytes of a file of SMILES."""

LONGEST_SMILES = 2000

# A rotor: single, not in a ring, and something to turn on either side.
ROTOR = "[!$([D1])&!$(*#*)]-&!@[!$([D1])&!$(*#*)]"


@dataclass(frozen=True)
class Molecule:
    """One line of the molecule file; the split is drawn before anything is sampled."""

    smiles: str
    split: str
    large: bool = False


@dataclass(frozen=True)
class Geometry:
    """A molecule as the teacher sees it: C conformers of N atoms, B bonds, R rotors, M kept modes (NaN-padded).

    Attributes:
        numbers: (N,).
        bonds: (B, 2).
        rotors: (R, 2) the bonds about which a part of the molecule can turn.
        start: (C, N, 3) conformers by the force field, Å.
        relaxed: (C, N, 3) relaxed by the teacher, Å.
        stiffness: (C, M) eigenvalues of the mass-weighted Hessian, eV/(Å² amu); NaN where there is no mode.
        modes: (C, M, N, 3) Cartesian displacement of each mode, amu^(-1/2).
    """

    numbers: NDArray[Any]
    bonds: NDArray[Any]
    rotors: NDArray[Any]
    start: NDArray[Any]
    relaxed: NDArray[Any]
    stiffness: NDArray[Any]
    modes: NDArray[Any]


def derive_seed(seed: int, *parts: Any) -> int:
    """A seed of 63 bits that belongs to the recipe's seed and the parts, whatever else is sampled and by whom."""
    text = "\n".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: Any) -> np.random.Generator:
    """Random numbers of `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *parts))


def _rdkit() -> ModuleType:
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise ConfigError("sampling molecules needs RDKit: pip install 'atomjet[distill]'") from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


def read_molecules(recipe: Recipe, left_out: Failures | None = None) -> list[Molecule]:
    """Molecules of the recipe in the order of their file, then the peptides; each with its split.

    The split is drawn by a hash, but a diatomic molecule is for training where there are walls: it is one of them.

    Args:
        recipe: names the files.
        left_out: where molecules that cannot be used are noted; without it the first of them is refused.

    Raises:
        ConfigError: no file, none of its molecules can be used; or, without `left_out`, a line that is no SMILES, a charged or
            open-shell molecule, an element that the recipe does not list, a molecule that stands twice (names file and line).
    """
    split, seen = recipe.sample.split, {}
    molecules = [
        Molecule(smiles, "train" if in_walls else draw_split(recipe.seed, smiles, split.validation, split.test))
        for smiles, in_walls in _read_smiles(recipe, recipe.molecules, seen, left_out)
    ]
    if recipe.sample.peptides is not None:
        found = _read_smiles(recipe, recipe.sample.peptides.molecules, seen, left_out)
        molecules += [Molecule(smiles, "test", large=True) for smiles, _ in found]
    return molecules


def _read_smiles(
    recipe: Recipe, path: Path | None, seen: dict[str, str], left_out: Failures | None
) -> list[tuple[str, bool]]:
    """Canonical SMILES of a file, and whether the slice of walls contains the molecule.

    One molecule a line; words after it are a comment, as is a line that begins with #.
    """
    if path is None:
        return []
    found, before = [], len(left_out or ())
    for number, line in enumerate(read_text(path, "molecules", LARGEST_FILE).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where, text = f"{path.name} line {number}", line.split()[0]
        try:
            smiles, atoms = _canonical(text, recipe.elements, where)
            if smiles in seen:
                raise ConfigError(f"{where}: {smiles} stands already in {seen[smiles]}; remove one")
        except ConfigError as error:
            leave_out(left_out, "molecules", short(text), str(error))
            continue
        seen[smiles] = where
        found.append((smiles, atoms == 2 and recipe.sample.walls is not None))
    if left_out is not None and not found and len(left_out) > before:
        raise ConfigError(f"no molecule of {path} can be used; {left_out[before]['reason']}")
    return found


def _canonical(text: str, elements: Sequence[str], where: str) -> tuple[str, int]:
    """Canonical SMILES and number of atoms."""
    if len(text) > LONGEST_SMILES:
        raise ConfigError(f"{where}: a SMILES of {len(text)} characters; the most is {LONGEST_SMILES}")
    chem = _rdkit()
    molecule = chem.MolFromSmiles(text)
    if molecule is None or not molecule.GetNumAtoms():
        raise ConfigError(f"{where}: {short(repr(text))} is no SMILES that RDKit understands")
    atoms = list(chem.AddHs(molecule).GetAtoms())
    foreign = sorted({atom.GetSymbol() for atom in atoms} - set(elements))
    if foreign:
        raise ConfigError(
            f"{where}: {short(text)} contains {foreign[0]}, not among the recipe's elements {' '.join(elements)}"
        )
    if sum(atom.GetFormalCharge() for atom in atoms) or sum(atom.GetNumRadicalElectrons() for atom in atoms):
        raise ConfigError(f"{where}: {short(text)} is charged or open-shell; give neutral closed-shell molecules")
    return chem.MolToSmiles(molecule), len(atoms)


def make_geometry(smiles: str, seed: int, conformers: ConformersConfig, teacher: TeacherConfig) -> Record:
    """Task of a worker: conformers of a molecule, relaxed, and their normal modes; fields of `Geometry`."""
    numbers, bonds, rotors, starts = embed(smiles, derive_seed(seed, "conformers", smiles), conformers.per_molecule)
    kept: list[tuple[NDArray[Any], ...]] = []
    for start in starts:
        atoms = Atoms(numbers, start)
        atoms.calc = teacher_of_worker(teacher)
        BFGS(atoms, logfile=None).run(fmax=conformers.fmax, steps=conformers.max_steps)  # type: ignore[arg-type]
        if bond_change(numbers, atoms.positions, bonds) is None:
            kept.append((start, atoms.positions.copy(), *normal_modes(atoms)))
    if not kept:
        raise TeacherError("every conformer changed its bonds when it was relaxed by the teacher")
    columns = [_stack(column) for column in zip(*kept, strict=True)]
    names = ("start", "relaxed", "stiffness", "modes")
    return {"numbers": numbers, "bonds": bonds, "rotors": rotors, **dict(zip(names, columns, strict=True))}


def _stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays whose first length may differ, padded with NaN."""
    longest = max(len(array) for array in arrays)
    stacked = np.full((len(arrays), longest, *arrays[0].shape[1:]), np.nan)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked


def embed(smiles: str, seed: int, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Conformers by ETKDGv3 and MMFF (else UFF): numbers, bonds, rotors, positions (C, N, 3)."""
    chem = _rdkit()
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
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    rotors = molecule.GetSubstructMatches(chem.MolFromSmarts(ROTOR))
    positions = np.array([molecule.GetConformer(c).GetPositions() for c in found])
    return numbers, np.array(bonds, int).reshape(-1, 2), np.array(rotors, int).reshape(-1, 2), positions


def bond_change(numbers: NDArray[Any], positions: NDArray[Any], bonds: NDArray[Any]) -> str | None:
    """Say which bond is broken or formed compared with `bonds`, or None; lengths judged by covalent radii."""
    radii = covalent_radii[numbers]
    ratio = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radii[:, None] + radii)
    bonded = np.zeros(ratio.shape, dtype=bool)
    bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = True
    wrong = np.triu(np.where(bonded, ratio > BROKEN, ratio < FORMED), k=1)
    if not wrong.any():
        return None
    i, j = np.argwhere(wrong)[0]
    event = "broken" if bonded[i, j] else "formed"
    return f"bond {chemical_symbols[numbers[i]]}{i}-{chemical_symbols[numbers[j]]}{j} {event}"
