"""Writes the structures on which students are judged, `src/atomjet/validate/organic/*.extxyz.gz`: python make_judging.py [SET ...].

Needs RDKit and tblite, and some twenty minutes of two cores. Geometries are the teacher's own (GFN2-xTB), so that they favour no
student: minima, relaxed torsions, molecular dynamics. Molecules of outside.smi are held out of training; those of dimers, torsions
and frequencies are small and well known, and may be trained on: what is judged there is a curve, not coverage.
"""

import gzip
import io
import sys
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixInternals
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS
from ase.spacegroup import crystal
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from tblite.ase import TBLite

OUTPUT = Path(__file__).parents[2] / "src/atomjet/validate/organic"

KELVINS, FRAMES, EQUILIBRATION, BETWEEN = (300, 600), 3, 60, 25
"""Molecular dynamics, steps of 1 fs."""

TORSIONS = {  # SMILES, and the four atoms of the dihedral by their place in it
    "biphenyl": ("c1ccccc1-c1ccccc1", (4, 5, 6, 7)),
    "dimethyl disulfide": ("CSSC", (0, 1, 2, 3)),
    "dimethyl peroxide": ("COOC", (0, 1, 2, 3)),
    "butane": ("CCCC", (0, 1, 2, 3)),
    "1,2-dichloroethane": ("ClCCCl", (0, 1, 2, 3)),
    "2-fluoroethanol": ("FCCO", (0, 1, 2, 3)),
    "anisole": ("COc1ccccc1", (0, 1, 2, 3)),
    "acrolein": ("C=CC=O", (0, 1, 2, 3)),
    "methylurea": ("CNC(N)=O", (0, 1, 2, 4)),
    "methyl acetate": ("CC(=O)OC", (0, 1, 3, 4)),
    "N-methylmethanesulfonamide": ("CS(=O)(=O)NC", (0, 1, 4, 5)),
    "(difluoromethoxy)ethane": ("CCOC(F)F", (1, 2, 3, 4)),
}

FREQUENCIES = {
    "water": "O",
    "hydrogen cyanide": "C#N",
    "formamide": "NC=O",
    "methanol": "CO",
    "formic acid": "OC=O",
    "acetone": "CC(C)=O",
    "dichloromethane": "ClCCl",
    "fluoroform": "FC(F)F",
    "dimethyl sulfide": "CSC",
    "thiophene": "c1ccsc1",
    "imidazole": "c1c[nH]cn1",
    "nitromethane": "C[N+](=O)[O-]",
}

CONFORMERS = (
    "ibuprofen",
    "metformin",
    "cimetidine",
    "metronidazole",
    "melatonin",
    "tolbutamide",
    "propranolol",
    "lipoic acid",
    "glucose",
    "Ace-Leu-Ser-NMe",
)
MOST_CONFORMERS = 10

POOL = {
    "water": "O",
    "ammonia": "N",
    "methane": "C",
    "hydrogen fluoride": "F",
    "hydrogen chloride": "Cl",
    "hydrogen sulfide": "S",
    "nitrogen": "N#N",
    "carbon dioxide": "O=C=O",
    "methanol": "CO",
    "acetonitrile": "CC#N",
    "formamide": "NC=O",
    "acetone": "CC(C)=O",
    "dimethyl sulfide": "CSC",
    "chloromethane": "CCl",
    "fluoromethane": "CF",
    "sulfur dioxide": "O=S=O",
    "benzene": "c1ccccc1",
    "imidazole": "c1c[nH]cn1",
    "thiophene": "c1ccsc1",
    "chlorine": "ClCl",
    "nitromethane": "C[N+](=O)[O-]",
    "methanesulfonamide": "CS(N)(=O)=O",
    "trifluoroacetic acid": "OC(=O)C(F)(F)F",
    "acetic acid": "CC(=O)O",
    "dimethylformamide": "CN(C)C=O",
    "diethyl ether": "CCOCC",
    "ethanol": "CCO",
    "hexane": "CCCCCC",
    "toluene": "Cc1ccccc1",
    "chloroform": "ClC(Cl)Cl",
    "dimethyl sulfoxide": "CS(C)=O",
    "pyridine": "c1ccncc1",
    "ethyl acetate": "CCOC(C)=O",
    "tetrahydrofuran": "C1CCOC1",
    "urea": "NC(N)=O",
    "aniline": "Nc1ccccc1",
    "chlorobenzene": "Clc1ccccc1",
    "dichloromethane": "ClCCl",
    "fluorobenzene": "Fc1ccccc1",
    "formic acid": "OC=O",
}
"""Partners of compressed contacts and liquids in boxes."""


def teacher() -> TBLite:
    """GFN2-xTB as labels use it."""
    return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def outside() -> dict[str, tuple[str, str]]:
    """Name -> (SMILES, group) of outside.smi."""
    found, group = {}, ""
    for line in Path(__file__).with_name("outside.smi").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            group = line.removeprefix("#").strip()
        elif line.strip():
            smiles, _, name = line.strip().partition(" ")
            found[name] = (smiles, group)
    return found


def embed(smiles: str, number: int = 1) -> list[Atoms]:
    """Conformers by RDKit and MMFF94, lowest first."""
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if full.GetNumAtoms() == 1 or not len(rdDistGeom.EmbedMultipleConfs(full, number, randomSeed=7)):
        raise SystemExit(f"cannot embed {smiles}")
    energies = [e for _, e in rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(full, maxIters=2000)]
    numbers = [atom.GetAtomicNum() for atom in full.GetAtoms()]
    order = np.argsort(energies) if energies else range(number)
    return [Atoms(numbers, full.GetConformer(int(k)).GetPositions()) for k in order]


def relaxed(atoms: Atoms, fmax: float = 0.005, steps: int = 500) -> Atoms:
    """The teacher's minimum."""
    atoms = atoms.copy()
    atoms.calc = teacher()
    BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps)
    return atoms


def plain(atoms: Atoms, **info: object) -> Atoms:
    """Elements, positions, cell and words alone."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def make_frames(entry: tuple[str, tuple[str, str]]) -> list[Atoms]:
    """Frames of molecular dynamics of one molecule."""
    name, (smiles, group) = entry
    start, frames = relaxed(embed(smiles)[0], fmax=0.1, steps=60), []
    for kelvin in KELVINS:
        rng, atoms = np.random.default_rng([kelvin, len(start)]), start.copy()
        atoms.calc = teacher()
        # From a minimum, half of it goes into the bonds.
        MaxwellBoltzmannDistribution(atoms, temperature_K=2 * kelvin, rng=rng)
        md = Langevin(atoms, 1.0 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng)
        md.run(EQUILIBRATION)
        for _ in range(FRAMES):
            md.run(BETWEEN)
            frames.append(plain(atoms, molecule=name, group=group, kelvin=kelvin))
    return frames


def make_torsion(entry: tuple[str, tuple[str, tuple[int, ...]]]) -> list[Atoms]:
    """A relaxed scan, 0 to 180° in steps of 15°."""
    name, (smiles, indices) = entry
    atoms, frames = relaxed(embed(smiles)[0], fmax=0.02), []
    moving = side_of(atoms, indices[1], indices[2])
    for angle in range(180, -1, -15):
        atoms = atoms.copy()
        atoms.set_constraint()
        atoms.set_dihedral(*indices, angle, indices=moving)
        atoms.calc = teacher()
        atoms.set_constraint(FixInternals(dihedrals_deg=[[float(angle), list(indices)]], epsilon=1e-6))
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=150)
        frames.append(plain(atoms, molecule=name, angle=angle))
    return frames[::-1]


def side_of(atoms: Atoms, fixed: int, moving: int) -> list[int]:
    """Atoms on the side of `moving` of the bond to `fixed`."""
    from ase.neighborlist import natural_cutoffs, neighbor_list

    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    found, todo = {moving}, [moving]
    while todo:
        a = todo.pop()
        for b in j[i == a]:
            if int(b) not in found and int(b) != fixed:
                found.add(int(b))
                todo.append(int(b))
    return sorted(found)


def make_conformers(entry: tuple[str, str]) -> list[Atoms]:
    """Minima of the teacher that differ in energy or shape."""
    name, smiles = entry
    kept: list[Atoms] = []
    for atoms in embed(smiles, 16)[:10]:
        atoms = relaxed(atoms, fmax=0.05, steps=60)
        shape = np.sort(atoms.get_all_distances(), axis=None)
        energy = atoms.get_potential_energy()
        if all(
            abs(energy - other.info["energy"]) > 2e-3 or np.abs(shape - other.info["shape"]).max() > 0.3
            for other in kept
        ):
            atoms.info |= {"energy": energy, "shape": shape}
            kept.append(atoms)
    kept.sort(key=lambda atoms: atoms.info["energy"])
    return [plain(atoms, molecule=name) for atoms in kept[:MOST_CONFORMERS]]


def make_drug(entry: tuple[str, str]) -> list[Atoms]:
    """A geometry by the force field, to be relaxed by the student."""
    return [plain(embed(entry[1])[0], molecule=entry[0])]


def make_small(entry: tuple[str, str]) -> list[Atoms]:
    """The teacher's minimum of a small molecule."""
    return [plain(relaxed(embed(entry[1])[0], fmax=0.001), molecule=entry[0])]


def make_dimer(name: str) -> list[Atoms]:
    """A pair near its minimum: two copies of the relaxed monomer; those that hydrogen bonds hold are relaxed as pairs first."""
    first, second = start_of(name)
    number = len(first)
    pair = first + second
    if name not in SYMMETRIC:
        pair = relaxed(pair, fmax=0.005)
    return [plain(pair, molecule=name, first=number)]


SYMMETRIC = ("benzene, stacked", "benzene, T-shaped", "carbon dioxide, slipped", "methane", "ethene, crossed")
"""Pairs whose orientation is part of the name, and would turn if it were relaxed."""

DIMERS = (
    "water",
    "ammonia",
    "hydrogen fluoride",
    "hydrogen sulfide",
    "methanol",
    "formamide, cyclic",
    "formic acid, cyclic",
    *SYMMETRIC,
)


def start_of(name: str) -> tuple[Atoms, Atoms]:
    """Two monomers in the orientation that the name says."""
    kind = name.partition(",")[0]
    formula = {"water": "H2O", "ammonia": "NH3", "hydrogen fluoride": "HF", "hydrogen sulfide": "SH2", "methane": "CH4"}
    formula |= {
        "methanol": "CH3OH",
        "formic acid": "HCOOH",
        "benzene": "C6H6",
        "carbon dioxide": "CO2",
        "ethene": "C2H4",
    }
    atoms = embed("NC=O")[0] if kind == "formamide" else molecule(formula[kind])
    one = relaxed(atoms, fmax=0.001)
    one.calc = None
    one.positions -= one.get_center_of_mass()
    other = one.copy()
    if name.endswith("cyclic"):
        return cyclic(one)
    if kind == "benzene":
        if name.endswith("T-shaped"):
            other.rotate(90, "x")
            other.positions[:, 2] += 5.0
        else:
            other.positions[:, 2] += 3.5
    elif kind == "carbon dioxide":
        align(one, [0, 0, 1])
        other = one.copy()
        other.positions += [3.1, 0, 1.75]
    elif kind == "methane":
        # Three hydrogens of either face the other, staggered.
        align(one, [0, 0, -1], axis=one.positions[1] - one.positions[0])
        other = one.copy()
        other.positions *= -1
        other.positions += [0, 0, 3.7]
    elif kind == "ethene":
        align(one, [1, 0, 0], axis=one.positions[1] - one.positions[0])
        other = one.copy()
        other.rotate(90, "z")
        other.positions[:, 2] += 3.8
        other.rotate(90, "y", center=other.get_center_of_mass())
    else:
        return donor_acceptor(one)
    return one, other


def align(atoms: Atoms, to: list[float], axis: np.ndarray | None = None) -> None:
    """Turn an axis (default: the longest extension) to a direction."""
    if axis is None:
        axis = np.linalg.svd(atoms.positions - atoms.positions.mean(0))[2][0]
    atoms.rotate(axis, to, center=atoms.get_center_of_mass())


def donor_acceptor(one: Atoms) -> tuple[Atoms, Atoms]:
    """A hydrogen of the first points at the heavy atom of the second, whose hydrogens point away."""
    heavy = next(k for k, z in enumerate(one.numbers) if z in (7, 8, 9, 16))
    hydrogens = [k for k, z in enumerate(one.numbers) if z == 1]
    donor = min(hydrogens, key=lambda k: one.get_distance(k, heavy))
    first, second = one.copy(), one.copy()
    first.positions -= first.positions[heavy]
    first.rotate(first.positions[donor], [1, 0, 0], center=(0, 0, 0))
    second.positions -= second.positions[heavy]
    away = second.positions[[k for k in range(len(second)) if k != heavy]].mean(0)
    second.rotate(away, [1, 0, 0.4], center=(0, 0, 0))
    second.positions += [2.9 if one.numbers[heavy] != 16 else 4.0, 0, 0]
    return first, second


def cyclic(one: Atoms) -> tuple[Atoms, Atoms]:
    """Two planar molecules turned by 180° in their plane, each donating to the other's carbonyl."""
    oxygen = min(
        (k for k, z in enumerate(one.numbers) if z == 8),
        key=lambda k: sum(one.get_distance(k, m) < 1.2 for m, z in enumerate(one.numbers) if z == 1),
    )
    polar = [k for k, z in enumerate(one.numbers) if z in (7, 8) and k != oxygen]
    hydrogens = [k for k, z in enumerate(one.numbers) if z == 1 and min(one.get_distance(k, p) for p in polar) < 1.2]
    donor = min(hydrogens, key=lambda k: one.get_distance(k, oxygen))
    normal = np.linalg.svd(one.positions - one.positions.mean(0))[2][2]
    one.rotate(normal, [0, 0, 1], center=(0, 0, 0))
    middle = 0.5 * (one.positions[oxygen] + one.positions[donor])
    outward = middle - one.get_center_of_mass()
    center = middle + 0.85 * outward / np.linalg.norm(outward)
    other = one.copy()
    other.rotate(180, "z", center=center)
    return one, other


def make_crystal(name: str) -> list[Atoms]:
    """A molecular crystal from its published cell and coordinates."""
    return [plain(CRYSTALS[name](), molecule=name)]


CRYSTALS = {
    # De Smedt and Keesom (1924); Simon and Peters, Acta Cryst. B 1980, 36, 2750.
    "carbon dioxide": lambda: crystal(
        "CO", [(0, 0, 0), (0.1187, 0.1187, 0.1187)], spacegroup=205, cellpar=[5.624] * 3 + [90] * 3
    ),
    # Swaminathan, Craven and McMullan, Acta Cryst. B 1984, 40, 300 (12 K).
    "urea": lambda: crystal(
        "CONHH",
        [
            (0, 0.5, 0.3280),
            (0, 0.5, 0.5963),
            (0.1447, 0.6447, 0.1785),
            (0.2557, 0.7557, 0.2841),
            (0.1428, 0.6428, -0.0339),
        ],
        spacegroup=113,
        cellpar=[5.565, 5.565, 4.684, 90, 90, 90],
    ),
    # Bacon, Curry and Wilson, Proc. R. Soc. A 1964, 279, 98 (138 K).
    "benzene": lambda: crystal(
        "CCCHHH",
        [
            (-0.0569, 0.1387, -0.0054),
            (-0.1335, 0.0460, 0.1264),
            (-0.0774, -0.0925, 0.1295),
            (-0.0976, 0.2447, -0.0177),
            (-0.2409, 0.0794, 0.2218),
            (-0.1371, -0.1631, 0.2312),
        ],
        spacegroup=61,
        cellpar=[7.39, 9.42, 6.81, 90, 90, 90],
    ),
}

SETS = {
    "dimers": (make_dimer, lambda: list(DIMERS), 4),
    "molecules": (make_small, lambda: list(POOL.items()), 4),
    "frequencies": (make_small, lambda: list(FREQUENCIES.items()), 6),
    "crystals": (make_crystal, lambda: list(CRYSTALS), 4),
    "drugs": (make_drug, lambda: [(n, s) for n, (s, g) in outside().items() if g.startswith("drugs")][:20], 3),
    "torsions": (make_torsion, lambda: list(TORSIONS.items()), 4),
    "conformers": (make_conformers, lambda: [(name, outside()[name][0]) for name in CONFORMERS], 4),
    "frames": (make_frames, lambda: list(outside().items()), 3),
}
"""What makes one entry of a set, its entries, and decimals of Å that are kept."""


def save(name: str, frames: list[Atoms], decimals: int) -> None:
    """Write a set so that equal structures make equal bytes."""
    text = io.StringIO()
    for atoms in frames:
        atoms.positions = atoms.positions.round(decimals) + 0.0
        lines = io.StringIO()
        write(lines, atoms, format="extxyz")
        head = lines.getvalue().splitlines()[1]
        rows = [
            f"{s} " + " ".join(f"{x:.{decimals}f}" for x in p)
            for s, p in zip(atoms.symbols, atoms.positions, strict=True)
        ]
        text.write("\n".join([str(len(atoms)), head, *rows]) + "\n")
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / f"{name}.extxyz.gz").write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    print(f"{name}: {len(frames)} structures, {(OUTPUT / f'{name}.extxyz.gz').stat().st_size:,} bytes", flush=True)


def main() -> None:
    """Make the sets named, or all."""
    with Pool(2) as pool:
        for name in sys.argv[1:] or SETS:
            make, entries, decimals = SETS[name]
            frames = [atoms for part in pool.imap(make, entries(), chunksize=1) for atoms in part]
            save(name, frames, decimals)


if __name__ == "__main__":
    main()
