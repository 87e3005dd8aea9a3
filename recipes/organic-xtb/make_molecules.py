"""Writes molecules.smi beside it: python make_molecules.py.

Three sources: SMILES written by hand (by_hand.txt), side groups on small scaffolds, and capped amino acids. Kept is
what RDKit understands and embeds, has 2 to 24 atoms of the recipe's elements, and is neutral and closed-shell.
"""

import hashlib
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

RDLogger.DisableLog("rdApp.*")

SCAFFOLDS = """
CC CCC C(C)C CC(C)C C=C CC=C C#C CC#C C1CC1 C1CCC1 C1CCCC1 C1CCOC1 C1CCNC1 c1ccccc1 Cc1ccccc1 c1ccncc1 c1cccnc1
c1ccco1 c1cccs1 c1ccc[nH]1 c1ncc[nH]1 c1cnco1 CCO CCN CCS CCOC CC(F)F CCCl CCC#N CC(C)O CN1CCCC1 C1COC1 CC(C)=O
CC1CO1 C(F)(F)F
"""

GROUPS = """
O N C=O OC NC C(=O)O C(N)=O C#N [N+](=O)[O-] S SC F Cl C(C)=O OC=O NC=O S(C)=O S(C)(=O)=O S(N)(=O)=O C=NC C(=O)OC
C(F)(F)F N(C)C NC(N)=O OC(C)=O C=C C#C C=NO
"""

# Acetyl-X-methylamide for the side chains that leave 24 atoms or fewer, other caps, and free amino acids.
SIDE_CHAINS = """
[H] C CO CS CF CCl C#N C=C CC C(C)C C1CC1 CN C=O CC#N C(N)=O C(=O)O CC(N)=O CC(=O)O CCSC c1ccco1 Cc1c[nH]cn1
Cc1ccccc1 C(C)O CCO
"""

CAPS = """
CC(=O)NC({})C(=O)NC O=CNC({})C(=O)NC O=CNC({})C(N)=O NC({})C(=O)O NC({})C(N)=O CC(=O)NC({})C(N)=O O=CNC({})C(=O)O
CNC({})C(=O)NC
"""

ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}
MOST_ATOMS, KEPT_COMBINATIONS = 24, 200


def accept(smiles: str) -> str | None:
    """Canonical SMILES of a molecule worth keeping, or None."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    full = Chem.AddHs(molecule)
    atoms = full.GetAtoms()
    if not 2 <= full.GetNumAtoms() <= MOST_ATOMS or {atom.GetSymbol() for atom in atoms} - ELEMENTS:
        return None
    if Chem.GetFormalCharge(full) or any(atom.GetNumRadicalElectrons() for atom in atoms):
        return None
    if rdDistGeom.EmbedMolecule(full, randomSeed=1) != 0:
        return None
    return Chem.MolToSmiles(molecule)


def combinations() -> list[str]:
    """Scaffolds with groups, and amino acids: all that are accepted, then a fixed pseudo-random choice of them."""
    attached = [_attach(scaffold, group) for scaffold in SCAFFOLDS.split() for group in GROUPS.split()]
    amino = [cap.format(chain) for cap in CAPS.split() for chain in SIDE_CHAINS.split()]
    found = dict.fromkeys(filter(None, map(accept, attached)))
    chosen = sorted(found, key=lambda smiles: hashlib.sha256(smiles.encode()).digest())[:KEPT_COMBINATIONS]
    peptides = list(dict.fromkeys(filter(None, map(accept, amino))))
    return chosen + peptides


def _attach(scaffold: str, group: str) -> str:
    """The group in brackets behind the scaffold's first atom: both are written so that their first atoms bond."""
    first = 2 if scaffold[1:2].isdigit() else 1
    return f"{scaffold[:first]}({group}){scaffold[first:]}"


def main() -> None:
    """Write molecules.smi beside this script."""
    found: dict[str, None] = {}
    lines = Path(__file__).with_name("by_hand.txt").read_text(encoding="utf-8").splitlines()
    for smiles in " ".join(line for line in lines if not line.startswith("# ")).split():
        if (kept := accept(smiles)) is None:
            print("left out:", smiles)
        else:
            found[kept] = None
    by_hand = len(found)
    found.update(dict.fromkeys(combinations()))
    Path(__file__).with_name("molecules.smi").write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{by_hand} written by hand, {len(found) - by_hand} combined")


if __name__ == "__main__":
    main()
