"""Molecules of a recipe: reading SMILES, splitting them, and their geometry by the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.data import chemical_symbols, covalent_radii
from ase.optimize import BFGS
from numpy.typing import NDArray

from atomjet.distill.embedding import Embedding, Molecule, rdkit
from atomjet.distill.files import read_text, short
from atomjet.distill.force_constants import FLOOR, estimate_hessian
from atomjet.distill.journal import Record
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.normal_modes import modes_of_hessian, no_modes, normal_modes
from atomjet.distill.recipe import Recipe, TeacherConfig
from atomjet.distill.sample_config import ConformersConfig
from atomjet.distill.splits import draw_split
from atomjet.distill.teacher import teacher_of_worker
from atomjet.errors import ConfigError, TeacherError

Array = NDArray[Any]

BROKEN = 1.5
"""A bond counts as broken beyond this multiple of the sum of covalent radii (a C-H bond: 1.6 Å)."""

FORMED = 1.15
"""Two atoms that were not bonded count as bonded below this multiple."""

LARGEST_FILE = 100_000_000
"""Bytes of a file of SMILES."""

LONGEST_SMILES = 2000

SPLITS = ("train", "validation", "test")


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
        modes: (C, M, N, 3) Cartesian displacement of each mode, amu^(-1/2); where M is 0 they are estimated when needed.
    """

    numbers: NDArray[Any]
    bonds: NDArray[Any]
    rotors: NDArray[Any]
    start: NDArray[Any]
    relaxed: NDArray[Any]
    stiffness: NDArray[Any]
    modes: NDArray[Any]

    def modes_of(self, conformer: int) -> tuple[Array, Array]:
        """Stiffness (M,) and modes (M, N, 3) of a relaxed conformer."""
        if self.stiffness.shape[1]:
            return self.stiffness[conformer], self.modes[conformer]
        if conformer not in self._estimated:
            atoms = Atoms(self.numbers, self.relaxed[conformer].astype(float))
            hessian = estimate_hessian(atoms.numbers, atoms.positions, self.bonds)
            self._estimated[conformer] = modes_of_hessian(atoms, hessian)
        return self._estimated[conformer]

    @cached_property
    def _estimated(self) -> dict[int, tuple[Array, Array]]:
        return {}


def derive_seed(seed: int, *parts: Any) -> int:
    """A seed of 63 bits that belongs to the recipe's seed and the parts, whatever else is sampled and by whom."""
    text = "\n".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: Any) -> np.random.Generator:
    """Random numbers of `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *parts))


def read_molecules(recipe: Recipe, left_out: Failures | None = None) -> list[Molecule]:
    """Molecules of the recipe in the order of their file, then the peptides; each with its split.

    The split is the word after the SMILES if the recipe says so. Otherwise it is drawn by a hash of the SMILES without
    stereochemistry, so that stereoisomers fall into one split; but a diatomic molecule is for training where there are walls: it
    is one of them.

    Args:
        recipe: names the files.
        left_out: where molecules that cannot be used are noted; without it the first of them is refused.

    Raises:
        ConfigError: no file, none of its molecules can be used; or, without `left_out`, a line that is no SMILES, a charged or
            open-shell molecule, an element that the recipe does not list, a molecule that stands twice (names file and line).
    """
    seen: dict[str, str] = {}
    molecules = [
        Molecule(smiles, split)
        for smiles, split in _read_smiles(recipe, recipe.molecules, seen, left_out, recipe.sample.split.from_file)
    ]
    if recipe.sample.peptides is not None:
        found = _read_smiles(recipe, recipe.sample.peptides.molecules, seen, left_out)
        molecules += [Molecule(smiles, "test", large=True) for smiles, _ in found]
    return molecules


def _read_smiles(
    recipe: Recipe, path: Path | None, seen: dict[str, str], left_out: Failures | None, with_split: bool = False
) -> list[tuple[str, str]]:
    """Canonical SMILES of a file, and the split of each, as written or drawn.

    One molecule a line; words after it, the split aside, are a comment, as is a line that begins with #.
    """
    if path is None:
        return []
    found, before = [], len(left_out or ())
    for number, line in enumerate(read_text(path, "molecules", LARGEST_FILE).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where, text = f"{path.name} line {number}", line.split()[0]
        try:
            smiles, drawn = _canonical(text, recipe, where)
            split = _written_split(line, where) if with_split else drawn
            if smiles in seen:
                raise ConfigError(f"{where}: {smiles} stands already in {seen[smiles]}; remove one")
        except ConfigError as error:
            leave_out(left_out, "molecules", short(text), str(error))
            continue
        seen[smiles] = where
        found.append((smiles, split))
    if left_out is not None and not found and len(left_out) > before:
        raise ConfigError(f"no molecule of {path} can be used; {left_out[before]['reason']}")
    return found


def _written_split(line: str, where: str) -> str:
    split = [*line.split(), ""][1]
    if split not in SPLITS:
        found = f"says {short(repr(split))}" if split else "says no split"
        raise ConfigError(
            f"{where}: {found} behind the SMILES; sample.split.from_file needs one of {', '.join(SPLITS)}"
        )
    return split


def read_smiles(text: str, where: str = "--molecule") -> Any:
    """RDKit's molecule of a SMILES.

    Raises:
        ConfigError: no SMILES, or a very long one; names `where`.
    """
    if len(text) > LONGEST_SMILES:
        raise ConfigError(f"{where}: a SMILES of {len(text)} characters; the most is {LONGEST_SMILES}")
    chem = rdkit()
    molecule = chem.MolFromSmiles(text)
    if molecule is None or not molecule.GetNumAtoms():
        raise ConfigError(f"{where}: {short(repr(text))} is no SMILES that RDKit understands")
    return molecule


def _canonical(text: str, recipe: Recipe, where: str) -> tuple[str, str]:
    """Canonical SMILES, and the split that is drawn for it."""
    elements, shares = recipe.elements, recipe.sample.split
    molecule, chem = read_smiles(text, where), rdkit()
    atoms = list(chem.AddHs(molecule).GetAtoms())
    foreign = sorted({atom.GetSymbol() for atom in atoms} - set(elements))
    if foreign:
        raise ConfigError(
            f"{where}: {short(text)} contains {foreign[0]}, not among the recipe's elements {' '.join(elements)}"
        )
    if sum(atom.GetFormalCharge() for atom in atoms) or sum(atom.GetNumRadicalElectrons() for atom in atoms):
        raise ConfigError(f"{where}: {short(text)} is charged or open-shell; give neutral closed-shell molecules")
    flat = chem.MolToSmiles(molecule, isomericSmiles=False)
    in_walls = len(atoms) == 2 and recipe.sample.walls is not None
    split = "train" if in_walls else draw_split(recipe.seed, flat, shares.validation, shares.test)
    return chem.MolToSmiles(molecule), split


def make_geometry(embedding: Embedding, conformers: ConformersConfig, teacher: TeacherConfig) -> Record:
    """Task of a worker: conformers of a molecule, relaxed, and their normal modes by the teacher if it is asked for them; fields of
    `Geometry`. A conformer at which the teacher fails is left out.
    """
    numbers, bonds = embedding.numbers, embedding.bonds
    kept: list[tuple[Array, ...]] = []
    reason = "every conformer changed its bonds when it was relaxed by the teacher"
    for start in embedding.start:
        atoms = Atoms(numbers, start.astype(float))
        atoms.calc = teacher_of_worker(teacher)
        try:
            _relax(atoms, bonds, conformers)
            if bond_change(numbers, atoms.positions, bonds) is not None:
                continue
            modes = normal_modes(atoms) if conformers.modes == "teacher" else no_modes(len(atoms))
        except CalculationFailed as error:
            reason = f"the teacher failed at every conformer; the last time with {error}"
            continue
        kept.append((start, atoms.positions.astype(np.float32), *modes))
    if not kept:
        raise TeacherError(reason)
    columns = [_stack(column) for column in zip(*kept, strict=True)]
    names = ("start", "relaxed", "stiffness", "modes")
    return {
        "numbers": numbers,
        "bonds": bonds,
        "rotors": embedding.rotors,
        **dict(zip(names, columns, strict=True)),
    }


def _relax(atoms: Atoms, bonds: Array, conformers: ConformersConfig) -> None:
    """Relax by BFGS; with estimated modes from the estimated Hessian."""
    optimizer = BFGS(atoms, logfile=None)  # type: ignore[arg-type]
    if conformers.modes == "estimated":
        hessian = estimate_hessian(atoms.numbers, atoms.positions, bonds)
        optimizer.H0 = hessian + FLOOR * np.eye(len(hessian))
    optimizer.run(fmax=conformers.fmax, steps=conformers.max_steps)


def _stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays whose first length may differ, padded with NaN."""
    longest = max(len(array) for array in arrays)
    stacked = np.full((len(arrays), longest, *arrays[0].shape[1:]), np.nan, dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked


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
