"""SMILES: a molecule written as one word, given a geometry by RDKit."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError, StructureError

LONGEST = 10_000
"""Characters of a SMILES; far longer ones take RDKit minutes."""

MOST_ATOMS = 1000
"""Atoms, hydrogen included, of a molecule that is embedded; beyond, distance geometry takes minutes."""


def is_smiles(text: str) -> bool:
    """Whether RDKit is there and understands it."""
    try:
        return _molecule(text) is not None
    except ConfigError:
        return False


def embed(text: str, seed: int = 0) -> Atoms:
    """One conformer by ETKDGv3, relaxed with MMFF94 (else UFF), with `info["charge"]` and `info["spin"]` of the formula.

    Raises:
        ConfigError: RDKit is missing.
        StructureError: no SMILES, a wildcard atom, too large, or no conformer found.
    """
    molecule = _molecule(text)
    if molecule is None:
        raise StructureError(f"{_short(text)} is no SMILES that RDKit understands")
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    with rdBase.BlockLogs():
        molecule = Chem.AddHs(molecule)
        if not 0 < molecule.GetNumAtoms() <= MOST_ATOMS:
            raise StructureError(
                f"{_short(text)} has {molecule.GetNumAtoms()} atoms; 1 to {MOST_ATOMS} can be embedded"
            )
        numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        if 0 in numbers:
            raise StructureError(f"{_short(text)}: atom {numbers.index(0)} is a wildcard; replace it by an element")
        parameters = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed % 2**31
        if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
            parameters.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
                raise StructureError(f"{_short(text)}: RDKit finds no geometry; give a file with one")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=500)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=500)
        atoms = Atoms(numbers, molecule.GetConformer().GetPositions())
        if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
            atoms.set_array("masses", np.array([atom.GetMass() for atom in molecule.GetAtoms()]))
        unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
        atoms.info = {"charge": Chem.GetFormalCharge(molecule), "spin": 1 + unpaired, "smiles": text}
    return atoms


def _molecule(text: str) -> Any:
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise ConfigError(
            "a SMILES needs RDKit: pip install 'atomjet[distill]', or give a file with a geometry"
        ) from None
    if not text or len(text) > LONGEST or not text.isascii() or any(char.isspace() for char in text):
        return None
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
