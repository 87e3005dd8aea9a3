"""Molecules as RDKit knows them, by their bonds: of a SMILES, a molfile or a structure; and geometries for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError, StructureError

LONGEST = 10_000
"""Characters of a SMILES; far longer ones take RDKit minutes."""

MOST_ATOMS = 1000
"""Atoms, hydrogen included, of a molecule that is embedded; beyond, distance geometry takes minutes."""

OVERLAPPING, SIDE_BY_SIDE = 1.0, 3.0
"""Å. Molecules of one SMILES with atoms nearer than the first are put so far from each other."""

TO_THE_END, A_FEW = 500, 20
"""Steps of the force field: to its minimum, or only until strain is gone: its minima are fewer than those of a better potential."""


RDKIT = "RDKit: pip install 'atomjet[distill]'"


def readable() -> bool:
    """Whether RDKit is there."""
    return find_spec("rdkit") is not None


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
    return embed_many(from_smiles(text), 1, seed, TO_THE_END).frames[0]


@dataclass(frozen=True)
class Torsion:
    """A bond about which one side of a molecule turns against the other.

    Attributes:
        atoms: four, whose dihedral angle says how it stands; the bond joins the middle two.
        moving: the side that turns, the smaller one: atoms beyond the third.
        distinct: whether a turn leads to another conformer, as that of a methyl group does not.
    """

    atoms: tuple[int, int, int, int]
    moving: np.ndarray
    distinct: bool


@dataclass(frozen=True)
class Embedded:
    """Geometries of one molecule.

    Attributes:
        frames: with `info["charge"]` and `info["spin"]` of the formula.
        equivalent: (N,) a number for each atom; those with the same number cannot be told apart by what they are bonded to.
        own_mirror_image: whether its mirror image is the same molecule, as it is without centres of chirality.
        open_centres: atoms and double bonds whose configuration is not said: frames have either.
        molecules: that no bond joins.
        torsions: bonds about which it turns, those to hydroxyl, amine and amide groups too.
    """

    frames: list[Atoms]
    equivalent: np.ndarray
    own_mirror_image: bool
    open_centres: int
    molecules: int
    torsions: tuple[Torsion, ...] = ()


def embed_many(molecule: Any, number: int, seed: int = 0, force_field_steps: int = A_FEW) -> Embedded:
    """Conformers by ETKDGv3, each relaxed with MMFF94 (else UFF).

    Args:
        molecule: of RDKit, see `from_smiles`, `from_molfile`, `from_structure`.
        number: of geometries; fewer may be found.
        seed: of the random numbers.
        force_field_steps: most steps of the force field.

    Raises:
        StructureError: a wildcard atom, too large, or no conformer found.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    name = molecule.GetProp("_Name")
    with rdBase.BlockLogs():
        molecule = Chem.AddHs(molecule)
        numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        if not 0 < len(numbers) <= MOST_ATOMS:
            raise StructureError(f"{name} has {len(numbers)} atoms; 1 to {MOST_ATOMS} can be embedded")
        if 0 in numbers:
            raise StructureError(f"{name}: atom {numbers.index(0)} is a wildcard; replace it by an element")
        parameters = rdDistGeom.ETKDGv3()
        # RDKit's conformers take multiples of the seed: those of 0 are all one, and those of 2 would be among those of 1.
        parameters.randomSeed = int(np.random.default_rng(seed % 2**64).integers(1, 2**31))
        for random in (False, True):
            parameters.useRandomCoords = random
            if len(places := list(rdDistGeom.EmbedMultipleConfs(molecule, number, parameters))):
                break
        else:
            raise StructureError(f"{name}: RDKit finds no geometry; give a file with one")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, maxIters=force_field_steps)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMoleculeConfs(molecule, maxIters=force_field_steps)
        unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
        info = {"charge": Chem.GetFormalCharge(molecule), "spin": 1 + unpaired}
        if molecule.HasProp("smiles"):
            info["smiles"] = molecule.GetProp("smiles")
        fragments = [list(atoms) for atoms in Chem.GetMolFrags(molecule)]
        frames = [
            Atoms(numbers, _apart(molecule.GetConformer(place).GetPositions(), fragments), info=dict(info))
            for place in places
        ]
        if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
            for atoms in frames:
                atoms.set_array("masses", np.array([atom.GetMass() for atom in molecule.GetAtoms()]))
        equivalent = Chem.CanonicalRankAtoms(molecule, breakTies=False, includeChirality=False)
        return Embedded(
            frames,
            np.array(list(equivalent)),
            _is_own_mirror_image(molecule),
            _open_centres(molecule),
            len(fragments),
            tuple(_torsions(molecule, list(equivalent))),
        )


def torsions_of(molecule: Any) -> int:
    """Bonds about which a molecule of RDKit turns into other conformers."""
    from rdkit import Chem

    molecule = Chem.AddHs(molecule)
    equivalent = Chem.CanonicalRankAtoms(molecule, breakTies=False, includeChirality=False)
    return sum(torsion.distinct for torsion in _torsions(molecule, list(equivalent)))


def _apart(positions: np.ndarray, fragments: list[list[int]]) -> np.ndarray:
    """Molecules side by side where RDKit, which has no bounds between them, left any on top of each other."""
    if len(fragments) < 2:
        return positions
    nearest = min(
        np.linalg.norm(positions[a][:, None] - positions[b], axis=2).min() for a, b in combinations(fragments, 2)
    )
    if nearest > OVERLAPPING:
        return positions
    moved, edge = positions.copy(), 0.0
    for atoms in fragments:
        moved[atoms] -= [positions[atoms, 0].min() - edge, *positions[atoms, 1:].mean(0)]
        edge = moved[atoms, 0].max() + SIDE_BY_SIDE
    return moved


def from_smiles(text: str) -> Any:
    """RDKit's molecule of a SMILES.

    Raises:
        ConfigError: RDKit is missing.
        StructureError: no SMILES.
    """
    molecule = _molecule(text)
    if molecule is None:
        raise StructureError(f"{_short(text)} is no SMILES that RDKit understands")
    molecule.SetProp("_Name", _short(text))
    molecule.SetProp("smiles", text)
    return molecule


def from_molfile(lines: list[str], name: str) -> Any:
    """RDKit's molecule of a molfile, with the bonds and the configuration that it says.

    Raises:
        ConfigError: RDKit is missing.
        StructureError: RDKit cannot read it.
    """
    Chem, rdBase = _rdkit()
    with rdBase.BlockLogs():
        molecule = Chem.MolFromMolBlock("\n".join(lines), removeHs=False)
    if molecule is None:
        raise StructureError(f"{name}: its bonds are none that RDKit understands; correct it, or give a SMILES")
    molecule.SetProp("_Name", name)
    return molecule


def from_structure(atoms: Atoms, name: str) -> Any:
    """RDKit's molecule of a structure without bonds: they follow from the distances and from `info["charge"]`.

    Raises:
        ConfigError: RDKit is missing.
        StructureError: no bonds go with this charge.
    """
    Chem, rdBase = _rdkit()
    from rdkit.Chem import rdDetermineBonds

    molecule = Chem.RWMol()
    conformer = Chem.Conformer(len(atoms))
    for number, place in zip(atoms.numbers, atoms.positions, strict=True):
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        conformer.SetAtomPosition(molecule.AddAtom(atom), place.tolist())
    molecule.AddConformer(conformer)
    charge = int(atoms.info.get("charge") or 0)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBonds(molecule, charge=charge)
            molecule = molecule.GetMol()
            Chem.SanitizeMol(molecule)
            Chem.AssignStereochemistryFrom3D(molecule)
    except Exception:  # RDKit raises several kinds
        raise StructureError(
            f"{name}: no bonds between its atoms go with charge {charge}; give another --charge, an .sdf with bonds, or a SMILES"
        ) from None
    molecule.SetProp("_Name", name)
    return molecule


def _torsions(molecule: Any, equivalent: list[int]) -> Iterator[Torsion]:
    """Bonds that turn: single ones outside of rings between atoms that each have others beside, not in a line."""
    from rdkit import Chem

    for bond in molecule.GetBonds():
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        straight = any(atom.GetHybridization() == Chem.HybridizationType.SP for atom in ends)
        if bond.IsInRing() or straight or bond.GetBondType() != Chem.BondType.SINGLE:
            continue
        sides = [
            [other.GetIdx() for other in atom.GetNeighbors() if other.GetIdx() != bond.GetOtherAtomIdx(atom.GetIdx())]
            for atom in ends
        ]
        if not all(sides):
            continue
        moving = [_beyond(molecule, ends[k].GetIdx(), ends[1 - k].GetIdx()) for k in (0, 1)]
        turning = int(len(moving[1]) < len(moving[0]))
        middle = ends[1 - turning].GetIdx(), ends[turning].GetIdx()
        # Three equivalent atoms (a methyl or tert-butyl group) come out of a turn as they went in.
        same = any(len(side) == 3 and len({equivalent[atom] for atom in side}) == 1 for side in sides)
        atoms = (min(sides[1 - turning]), *middle, min(sides[turning]))
        yield Torsion(atoms, np.array(moving[turning]), not same)


def _beyond(molecule: Any, start: int, other: int) -> list[int]:
    """Atoms that `start` holds once its bond to `other` is cut, itself not."""
    seen, waiting = {start, other}, [start]
    while waiting:
        for atom in molecule.GetAtomWithIdx(waiting.pop()).GetNeighbors():
            if atom.GetIdx() not in seen:
                seen.add(atom.GetIdx())
                waiting.append(atom.GetIdx())
    return sorted(seen - {start, other})


def _is_own_mirror_image(molecule: Any) -> bool:
    """Whether all centres of chirality turned over give the same molecule."""
    from rdkit import Chem

    mirrored = Chem.Mol(molecule)
    for atom in mirrored.GetAtoms():
        atom.InvertChirality()
    Chem.AssignStereochemistry(mirrored, cleanIt=True, force=True)
    return Chem.MolToSmiles(mirrored) == Chem.MolToSmiles(molecule)


def _open_centres(molecule: Any) -> int:
    from rdkit import Chem

    unknown = Chem.StereoSpecified.Unspecified
    return sum(centre.specified == unknown for centre in Chem.FindPotentialStereo(Chem.Mol(molecule)))


def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise ConfigError(f"a SMILES, or bonds, need {RDKIT}, or give a file with a geometry") from None
    return Chem, rdBase


def _molecule(text: str) -> Any:
    Chem, rdBase = _rdkit()
    if not text or len(text) > LONGEST or not text.isascii() or any(char.isspace() for char in text):
        return None
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
