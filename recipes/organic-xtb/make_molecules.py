"""Writes molecules.smi beside it: python make_molecules.py [--total 7000] [--seed 1].

Molecules come from three places: SMILES written by hand (by_hand.txt), molecules built at random from the fragments of
fragments.txt by the rules below, and capped peptides of its side chains. Kept is what RDKit understands and embeds, has at most 30
heavy atoms of the recipe's elements, and is neutral and closed-shell. Stereoisomers are one molecule: every SMILES is
written without stereochemistry, and its conformers are of either kind.

Each line is a SMILES and its split, drawn by a hash of the molecule. What stands in outside.smi and peptides.smi, which
judge the student, is never written.
"""

import argparse
import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

RDLogger.DisableLog("rdApp.*")

HERE = Path(__file__).parent
ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}
MOST_HEAVY_ATOMS, MOST_ATOMS = 30, 60
LARGE, FADING = 14, 6.0
"""Beyond so many heavy atoms a molecule is kept the less often the larger it is: a label costs the square of its atoms."""

VALIDATION, TEST = 0.03, 0.03

ROUTES = {
    "substituted": 0.31,
    "linked": 0.25,
    "chain": 0.07,
    "drug-like": 0.17,
    "peptide": 0.12,
    "nucleoside": 0.03,
    "sugar": 0.05,
}
"""Shares of the built molecules by the way they are built."""

REFUSED = [
    Chem.MolFromSmarts(smarts)
    for smarts in (
        "[N,O,S][F,Cl]",  # hypohalites and their like fall apart when they are relaxed
        "[NX3;!$(N[C,S]=[O,N,S]);!$(Nc)][CX4][F,Cl]",
        "[N,O,S;H1,H2][CX4]([N,O,S;H1,H2])[N,O,S;H1,H2]",
        "[#7,#8,#16]~[#7,#8,#16]~[#8;X2]~[#7,#8,#16]",
        "[CX4](O[OX2])(O[OX2])",
        "[NX2]=[NX2]-[NX2]=[NX2]",
        "[SX3,SX4;!H0]",  # the open end of a sulfonyl
        "[N+](=O)[O-].[N+](=O)[O-].[N+](=O)[O-]",
    )
]

TETHERED = {("S", "N"), ("N", "S")}
"""Bonds between hetero atoms that may be made, if the sulfur is a sulfonyl; all others stand within fragments."""

CAPS = (
    ("CC(=O)", "NC"),
    ("CC(=O)", "N"),
    ("O=C", "NC"),
    ("O=C", "N"),
    ("", "O"),
    ("", "N"),
    ("CC(=O)", "O"),
    ("C", "NC"),
    ("COC(=O)", "NC"),
    ("", "OC"),
)


def read_fragments() -> dict[str, list[Chem.Mol]]:
    """Fragments of each kind."""
    found: dict[str, list[Chem.Mol]] = {}
    kind = ""
    for line in (HERE / "fragments.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and line.strip("[]").replace(" ", "").islower():
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            for smiles in line.split():
                molecule = Chem.MolFromSmiles(smiles)
                if molecule is None:
                    raise SystemExit(f"fragments.txt: {smiles} is no SMILES")
                found.setdefault(kind, []).append(molecule)
    return found


def flat(molecule: Chem.Mol) -> str:
    """Canonical SMILES without stereochemistry."""
    return Chem.MolToSmiles(Chem.RemoveHs(molecule), isomericSmiles=False)


def accept(smiles: str) -> str | None:
    """Canonical SMILES of a molecule worth keeping, or None."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    written = flat(molecule)
    full = Chem.AddHs(Chem.MolFromSmiles(written))
    atoms = list(full.GetAtoms())
    heavy = sum(atom.GetAtomicNum() > 1 for atom in atoms)
    if not 2 <= len(atoms) <= MOST_ATOMS or heavy > MOST_HEAVY_ATOMS or {a.GetSymbol() for a in atoms} - ELEMENTS:
        return None
    if Chem.GetFormalCharge(full) or any(atom.GetNumRadicalElectrons() for atom in atoms) or "." in written:
        return None
    if rdDistGeom.EmbedMolecule(full, randomSeed=1, maxAttempts=10) != 0:
        return None
    return written


def join(first: Chem.Mol, i: int, second: Chem.Mol, j: int) -> Chem.Mol | None:
    """Both molecules with a single bond between atom i of the first and atom j of the second, or None."""
    whole = Chem.RWMol(Chem.CombineMols(first, second))
    j += first.GetNumAtoms()
    for index in (i, j):
        atom = whole.GetAtomWithIdx(index)
        if atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    whole.AddBond(i, j, Chem.BondType.SINGLE)
    try:
        Chem.SanitizeMol(whole)
    except Chem.MolSanitizeException:
        return None
    return whole.GetMol()


def may_bond(a: Chem.Atom, b: Chem.Atom) -> bool:
    """Whether a rule allows the bond: one of the two is a carbon, or a sulfonyl meets a nitrogen."""
    if a.GetTotalNumHs() == 0 or b.GetTotalNumHs() == 0:
        return False
    if "C" in (a.GetSymbol(), b.GetSymbol()):
        return True
    sulfur = a if a.GetSymbol() == "S" else b
    return (a.GetSymbol(), b.GetSymbol()) in TETHERED and sulfur.GetTotalValence() == 6


class Builder:
    """Builds molecules by the routes; every draw is of one generator."""

    def __init__(self, seed: int) -> None:
        self.draw, self.fragments = random.Random(seed), read_fragments()

    def one(self, kind: str) -> Chem.Mol:
        """A fragment of a kind."""
        return self.draw.choice(self.fragments[kind])

    def add(self, core: Chem.Mol, group: Chem.Mol, at: int = 0) -> Chem.Mol | None:
        """The core with the group's atom `at` bonded to one of its atoms."""
        there = group.GetAtomWithIdx(at)
        places = [a.GetIdx() for a in core.GetAtoms() if may_bond(a, there)]
        # Carbon first: of the hetero atoms that might take a group only every third does.
        places = [p for p in places if core.GetAtomWithIdx(p).GetSymbol() == "C" or self.draw.random() < 0.35]
        return join(core, self.draw.choice(places), group, at) if places else None

    def substituted(self, core: Chem.Mol | None = None, most: int = 3) -> Chem.Mol | None:
        """A ring with one to three groups."""
        whole = core or self.one("rings")
        for _ in range(self.draw.randint(1, most)):
            whole = self.add(whole, self.one("groups")) if whole else None
        return whole

    def chain(self) -> Chem.Mol | None:
        """An open chain with up to two groups."""
        return self.substituted(self.one("chains"), 2)

    def linked(self) -> Chem.Mol | None:
        """Two parts and a link; the first part a ring, the second a ring or a chain."""
        first = self.one("rings") if self.draw.random() < 0.75 else self.one("chains")
        return self.extend(self.substituted(first, 1) if self.draw.random() < 0.4 else first)

    def extend(self, first: Chem.Mol | None) -> Chem.Mol | None:
        """A link on the first part, and another part behind the link."""
        link, last = self.one("links"), self.one(self.draw.choice(("rings", "rings", "groups", "chains")))
        if first is None:
            return None
        size, end = first.GetNumAtoms(), _last_open(link)
        whole = self.add(first, link)
        if whole is None or end is None:
            return None
        at = whole.GetAtomWithIdx(size + end)
        places = [a.GetIdx() for a in last.GetAtoms() if may_bond(a, at)]
        return join(whole, size + end, last, self.draw.choice(places)) if places else None

    def drug_like(self) -> Chem.Mol | None:
        """Two rings and a link, further parts or groups until it is large enough."""
        whole = self.extend(self.substituted(None, 2))
        if whole is not None and whole.GetNumAtoms() < 18:
            whole = self.extend(whole) if self.draw.random() < 0.5 else self.substituted(whole, 2)
        return whole if whole is None or whole.GetNumAtoms() >= 14 else None

    def sugar(self) -> Chem.Mol | None:
        """A sugar, plain or with a group or two."""
        return self.substituted(self.one("sugars"), 2)

    def nucleoside(self) -> Chem.Mol | None:
        """A base on a furanose or what resembles it, half of them with a group more."""
        whole = join(self.one("furanoses"), 0, self.one("bases"), 0)
        return self.add(whole, self.one("groups")) if whole and self.draw.random() < 0.5 else whole

    def peptide(self) -> Chem.Mol | None:
        """One to three residues between two caps; some are prolines."""
        front, back = self.draw.choice(CAPS)
        body = ""
        for _ in range(self.draw.choice((1, 1, 2, 2, 2, 3))):
            side = self.draw.choice(self.fragments["side chains"])
            text = Chem.MolToSmiles(side, rootedAtAtom=0)
            body += "N1CCCC1C(=O)" if self.draw.random() < 0.06 else f"NC({text})C(=O)"
        return Chem.MolFromSmiles(front + body + back)


def _last_open(link: Chem.Mol) -> int | None:
    """Last atom of a link along which it can be continued: the last written that has a hydrogen and is no oxo group."""
    for atom in reversed(list(link.GetAtoms())):
        if atom.GetTotalNumHs() and not (len(link.GetAtoms()) > 1 and atom.GetIdx() == 0):
            return atom.GetIdx()
    return 0 if link.GetAtomWithIdx(0).GetTotalNumHs() > 1 else None


def build(total: int, seed: int, kept: dict[str, str], refused: set[str]) -> Counter[str]:
    """Add molecules to `kept` until there are `total`; the routes that made them, counted."""
    builder, made = Builder(seed), Counter()
    routes: dict[str, Callable[[], Chem.Mol | None]] = {
        name: getattr(builder, name.replace("-", "_")) for name in ROUTES
    }
    while len(kept) < total:
        (name,) = builder.draw.choices(list(ROUTES), list(ROUTES.values()))
        molecule = routes[name]()
        if molecule is None or (heavy := molecule.GetNumHeavyAtoms()) > MOST_HEAVY_ATOMS:
            continue
        if builder.draw.random() > math.exp(min(0.0, (LARGE - heavy) / FADING)):
            continue
        if any(molecule.HasSubstructMatch(pattern) for pattern in REFUSED):
            continue
        written = flat(molecule)
        if written in kept or written in refused:
            continue
        found = accept(written)
        if found is None or found in kept or found in refused:
            continue
        kept[found] = name
        made[name] += 1
    return made


def draw_split(written: str) -> str:
    """Split of a molecule, by a hash of its SMILES."""
    drawn = int.from_bytes(hashlib.sha256(f"split {written}".encode()).digest()[:8], "big") / 2.0**64
    return "test" if drawn < TEST else "validation" if drawn < TEST + VALIDATION else "train"


def smiles_of(path: Path) -> Iterator[str]:
    """First word of every line that is no comment."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.split()[0]


def main() -> None:
    """Write molecules.smi beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    refused = {flat(Chem.MolFromSmiles(s)) for name in ("outside.smi", "peptides.smi") for s in smiles_of(HERE / name)}
    kept: dict[str, str] = {}
    lines = (HERE / "by_hand.txt").read_text(encoding="utf-8").splitlines()
    for smiles in " ".join(line for line in lines if not line.startswith("# ")).split():
        if (found := accept(smiles)) is None:
            print("left out:", smiles)
        elif found not in refused:
            kept[found] = "by hand"
    common = {flat(molecule) for molecule in read_fragments()["common"]}
    kept.update(dict.fromkeys(sorted(common - set(kept)), "common"))
    by_hand = len(kept)
    made = build(asked.total, asked.seed, kept, refused)
    # Two atoms are one of the walls, and those are for training as are the common molecules.
    trained = {s for s in kept if s in common or Chem.AddHs(Chem.MolFromSmiles(s)).GetNumAtoms() == 2}
    splits = {s: "train" if s in trained else draw_split(s) for s in kept}
    (HERE / "molecules.smi").write_text("".join(f"{s} {split}\n" for s, split in splits.items()), encoding="utf-8")
    print(f"{by_hand} written by hand, built:", dict(made), dict(Counter(splits.values())))


if __name__ == "__main__":
    main()
