"""Files of structures are read as their formats mean them; what they do not mean becomes a remark or a refusal."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.io import write
from safetensors import safe_open

from atomjet.adapters.structure_checks import remarks_for, trained_on_periodic
from atomjet.adapters.structure_files import read_frames, read_structures
from atomjet.engine import Engine, Settings
from atomjet.errors import StructureError
from atomjet.models.registry import packaged
from tests.potentials import random_escn_md, random_painn

DEUTERIUM = 2.01410177812


def record(
    name: str, atoms: list[tuple[str, float, float, float]], bonds: list[tuple[int, int, int]], *rest: str
) -> str:
    """A V2000 molecule of an SDF."""
    lines = [name, "  made              3D", "", f"{len(atoms):3}{len(bonds):3}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:3} 0  0  0  0  0  0" for symbol, x, y, z in atoms]
    lines += [f"{i:3}{j:3}{kind:3}  0" for i, j, kind in bonds]
    return "\n".join([*lines, *rest, "M  END", "$$$$", ""])


AMMONIUM = record(
    "ammonium",
    [("N", 0, 0, 0), ("H", 0.6, 0.6, 0.6), ("H", -0.6, -0.6, 0.6), ("H", -0.6, 0.6, -0.6), ("H", 0.6, -0.6, -0.6)],
    [(1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 5, 1)],
    "M  CHG  1   1   1",
)
METHYL = record(
    "",
    [("C", 0, 0, 0), ("H", 1, 0, 0), ("H", -0.5, 0.9, 0), ("D", -0.5, -0.9, 0)],
    [(1, 2, 1), (1, 3, 1), (1, 4, 1)],
    "M  RAD  1   1   2",
)
OXYGEN = record("triplet", [("O", 0, 0, 0), ("O", 0, 0, 1.2)], [(1, 2, 1)], "M  RAD  2   1   2   2   2")
NITRATE = record(
    "nitrate",
    [("N", 0, 0, 0), ("O", 1.2, 0, 0), ("O", -0.6, 1, 0), ("O", -0.6, -1, 0)],
    [],
    "M  CHG  3   1   1   3  -1   4  -1",
)


def test_every_molecule_of_an_sdf_with_charge_and_spin(tmp_path: Path):
    (tmp_path / "many.sdf").write_text(AMMONIUM + METHYL + OXYGEN + NITRATE)
    frames = read_frames(tmp_path / "many.sdf")
    structures = [frame.atoms for frame in frames]
    assert [atoms.get_chemical_formula() for atoms in structures] == ["H4N", "CH3", "O2", "NO3"]
    assert [(atoms.info["charge"], atoms.info["spin"]) for atoms in structures] == [(1, 1), (0, 2), (0, 3), (-1, 1)]
    assert [atoms.info.get("name") for atoms in structures] == ["ammonium", None, "triplet", "nitrate"]
    assert structures[1].get_masses()[-1] == DEUTERIUM
    assert not any(frame.remarks for frame in frames)
    (tmp_path / "many.sdf.gz").write_bytes(gzip.compress((tmp_path / "many.sdf").read_bytes()))
    assert len(read_structures(tmp_path / "many.sdf.gz")) == 4


def test_charges_of_the_old_columns_and_of_v3000(tmp_path: Path):
    (tmp_path / "old.mol").write_text(AMMONIUM.replace("N   0  0", "N   0  3").replace("M  CHG  1   1   1\n", ""))
    assert read_structures(tmp_path / "old.mol")[0].info["charge"] == 1
    table = [
        "BEGIN CTAB",
        "COUNTS 2 1 0 0 0",
        "BEGIN ATOM",
        "7 O 0 0 0 0 CHG=-1",
        "9 H 0.9 0 0 0 -",
        "MASS=2",
        "END ATOM",
    ]
    table += ["BEGIN BOND", "1 1 7 9", "END BOND", "END CTAB"]
    lines = [
        "hydroxide",
        "",
        "",
        "  0  0  0     0  0            999 V3000",
        *(f"M  V30 {line}" for line in table),
        "M  END",
    ]
    (tmp_path / "new.sdf").write_text("\n".join(lines))
    (hydroxide,) = read_structures(tmp_path / "new.sdf")
    assert (hydroxide.get_chemical_formula(), hydroxide.info["charge"], hydroxide.info["spin"]) == ("HO", -1, 1)
    assert hydroxide.get_masses()[1] == DEUTERIUM


def test_records_that_lack_a_part(tmp_path: Path):
    cut = AMMONIUM.replace("M  CHG  1   1   1", "M  CHG  2   1   1")
    (tmp_path / "cut.sdf").write_text(cut + NITRATE.replace("M  END\n", ""))
    first, second = read_frames(tmp_path / "cut.sdf")
    assert first.refusal == "'M  CHG  2   1   1' says 2 values, but has 1; it is cut off"
    assert second.remarks["end"] == "has no `M  END`: it may be cut off, and lack charges"
    lines = ["", "", "", "  0  0  0     0  0            999 V3000", "M  V30 COUNTS 3 0 0 0 0", "M  V30 BEGIN ATOM"]
    lines += ["M  V30 1 O 0 0 0 0 CHG=-1", "M  V30 2 H 0 0 1 0", "M  V30 END ATOM", "M  END"]
    (tmp_path / "cut.mol").write_text("\n".join(lines))
    assert read_frames(tmp_path / "cut.mol")[0].refusal == "says 3 atoms, but has 2; it is cut off or damaged"


def test_drawings_and_missing_hydrogen_are_remarked(tmp_path: Path):
    flat = record("ethane", [("C", 0, 0, 0), ("C", 1.5, 0, 0)], [(1, 2, 1)]).replace("3D", "2D")
    (tmp_path / "flat.sdf").write_text(flat)
    (frame,) = read_frames(tmp_path / "flat.sdf")
    assert frame.remarks["drawing"].startswith("the file says 2D: a drawing, not a geometry")
    assert frame.remarks["hydrogens"].startswith("2 carbon atoms have fewer than four bonds")


def test_one_bad_molecule_leaves_the_others(tmp_path: Path):
    bad = AMMONIUM.replace(" N ", " R# ")
    (tmp_path / "many.sdf").write_text(AMMONIUM + bad + "x\n\n\n 99  0 V2000\n$$$$\n" + AMMONIUM)
    frames = read_frames(tmp_path / "many.sdf")
    assert [frame.atoms is not None for frame in frames] == [True, False, False, True]
    assert frames[1].refusal == "atom 0: 'R#' is no element; replace it by one"
    assert frames[2].refusal == "says 99 atoms and 0 bonds, but ends after 4 lines; it is cut off"
    with pytest.raises(StructureError, match="many.sdf, frame 1: atom 0: 'R#' is no element"):
        read_structures(tmp_path / "many.sdf")


def test_smiles_are_embedded(tmp_path: Path):
    (tmp_path / "l.smi").write_text("CCO ethanol\n# nothing\n\nC1CC\n[NH4+]\tammonium\n[CH3]\n")
    frames = read_frames(tmp_path / "l.smi", seed=3)
    assert [frame.atoms and frame.atoms.get_chemical_formula() for frame in frames] == ["C2H6O", None, "H4N", "CH3"]
    assert frames[1].refusal == "'C1CC' is no SMILES that RDKit understands"
    ethanol, _, ammonium, methyl = (frame.atoms for frame in frames)
    assert ethanol.info == {"charge": 0, "spin": 1, "smiles": "CCO", "name": "ethanol"}
    assert (ammonium.info["charge"], methyl.info["spin"]) == (1, 2)
    assert ethanol.get_distance(0, 1) == pytest.approx(1.52, abs=0.03)
    assert np.array_equal(read_structures("CCO", seed=3)[0].positions, ethanol.positions)
    with pytest.raises(StructureError, match="none.xyz: no such file, and no SMILES"):
        read_structures(tmp_path / "none.xyz")


def test_molecules_of_one_smiles_stand_apart(tmp_path: Path):
    pytest.importorskip("rdkit")
    (salt,) = read_structures("[Na+].[Cl-]")
    assert salt.get_distance(0, 1) == pytest.approx(3.0)
    assert salt.info["charge"] == 0


def test_text_as_editors_leave_it(tmp_path: Path):
    text = "3\nwater\nO 0 0 0.1\nH 0 0.76 -0.5\nH 0 -0.76 -0.5\n"
    for name, content in {
        "bom.xyz": b"\xef\xbb\xbf" + text.encode(),
        "utf16.xyz": text.encode("utf-16"),
        "dos.xyz": text.replace("\n", "\r\n").encode(),
        "latin.xyz": text.replace("water", "Wässer").encode("latin-1"),
        "ends.xyz": (text + "\n\n").encode(),
        "a@b.xyz": text.encode(),
        "a@1.xyz": text.encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        (atoms,) = read_structures(tmp_path / name)
        assert atoms.get_chemical_formula() == "H2O", name


def test_heavy_hydrogen(tmp_path: Path):
    (tmp_path / "d.xyz").write_text("2\nnone\nO 0 0 0\nH 0 0 1\n3\nDT\nO 0 0 0\nD 0 0 1\nT 0 1 0\n")
    light, heavy = read_structures(tmp_path / "d.xyz")
    assert not light.has("masses")
    assert heavy.get_chemical_formula() == "H2O"
    assert heavy.get_masses().tolist() == pytest.approx([15.999, DEUTERIUM, 3.01604928])
    (tmp_path / "e.extxyz").write_text("2\nProperties=pos:R:3:species:S:1\n0 0 0 O\n0 0 1 D\n")
    assert read_structures(tmp_path / "e.extxyz")[0].get_masses()[1] == DEUTERIUM


def test_bad_frames_of_xyz_leave_the_others(tmp_path: Path):
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n1\n\nXq 0 0 0\n1\n\nH 0 0 1\n2\n\nH 0 0 0\n")
    frames = read_frames(tmp_path / "a.xyz")
    assert [frame.atoms is not None for frame in frames] == [True, False, True, False]
    assert "Xq" in frames[1].refusal
    assert frames[3].refusal == "says 2 atoms at line 10, but the file ends after line 12; it is cut off"
    (tmp_path / "b.xyz").write_text("1\n\nH 0 0 0\n\n1\n\nH 0 0 1\n")
    assert "line 4, '', is not the number of atoms" in read_frames(tmp_path / "b.xyz")[1].refusal


PDB = """CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1
MODEL        1
ATOM      1  CA AALA A   1       0.000   0.000   0.000  0.60  0.00           C
ATOM      2  CA BALA A   1       0.500   0.000   0.000  0.40  0.00           C
ATOM      3  N   ALA A   1       1.500   0.000   0.000  1.00  0.00           N
ATOM      4  D   ALA A   1       2.500   0.000   0.000  1.00  0.00           D
ENDMDL
MODEL        2
ENDMDL
END
"""


def test_protein_data_bank(tmp_path: Path):
    (tmp_path / "a.pdb").write_text(PDB)
    notes: list[str] = []
    (frame,) = read_frames(tmp_path / "a.pdb", note=notes.append)
    assert notes == [f"{tmp_path / 'a.pdb'}: frame 1 has no atoms; left out"]
    assert frame.atoms.get_chemical_formula() == "CHN"
    assert frame.atoms.positions[:, 0].tolist() == [0.0, 1.5, 2.5]
    assert frame.atoms.get_masses()[2] == DEUTERIUM
    assert not frame.atoms.pbc.any()
    assert (
        frame.remarks["alternate locations"]
        == "has alternate locations of 1 atom; the first of each is taken, 1 left out"
    )
    assert frame.remarks["occupancies"].startswith("has occupancies other than one, 1 of 3 (atom 0: 0.6)")
    assert "taken as not periodic" in frame.remarks["dummy cell"]
    # The cell stands once, for all models; END after the last of them closes the file.
    real = PDB.replace("   1.000    1.000    1.000", "   9.000    9.000    9.000").replace(
        "1.000  90.00", "9.000  90.00"
    )
    nitrogen = next(line for line in real.splitlines() if line.endswith(" N"))
    (tmp_path / "b.pdb").write_text(real.replace("       2\nENDMDL", f"       2\n{nitrogen}\nENDMDL"))
    structures = read_structures(tmp_path / "b.pdb")
    assert [atoms.cell.lengths().tolist() for atoms in structures] == [[9, 9, 9]] * 2
    # Without columns for the element the name says it, by where it stands.
    (tmp_path / "c.pdb").write_text(
        "ATOM      1  CA  ALA A   1       0.000   0.000   0.000\nHETATM    2 CA    CA A   2       5.000   0.000   0.000\n"
    )
    assert str(read_structures(tmp_path / "c.pdb")[0].symbols) == "CCa"


ATOM_LINE = "ATOM  {:5d} {:4} {} A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          {:>2}{}\n"


def test_elements_and_charges_of_protein_data_bank(tmp_path: Path):
    names = ["HG11 VAL", " HG  SER", "HO5' DA ", "HG    HG", "CA    CA", " CA  ALA"]
    lines = [ATOM_LINE.format(k, name[:4], name[5:], 3 * k, 0, 0, "", "") for k, name in enumerate(names)]
    (tmp_path / "names.pdb").write_text("".join(lines))
    (named,) = read_structures(tmp_path / "names.pdb")
    assert list(named.symbols) == ["H", "H", "H", "Hg", "Ca", "C"]
    ions = [("N", "1+"), ("O", "1-"), ("O", "-1"), ("H", "  "), ("O", "1-")]
    lines = [ATOM_LINE.format(k, f" {e}  ", "LIG", 3 * k, 0, 0, e, charge) for k, (e, charge) in enumerate(ions)]
    (tmp_path / "ions.pdb").write_text("".join(lines))
    (charged,) = read_structures(tmp_path / "ions.pdb")
    assert charged.info["charge"] == -2
    (tmp_path / "pair.pdb").write_text(lines[3].replace(" H  ", " LP ", 1).replace("           H", "          LP"))
    (refused,) = read_frames(tmp_path / "pair.pdb")
    assert refused.refusal == "atom 0: 'LP' is no element; correct columns 77 and 78"


def test_the_asymmetric_unit_of_a_crystal_is_remarked(tmp_path: Path):
    cell = "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 {:11}   1\n"
    atom = ATOM_LINE.format(1, " O  ", "HOH", 0, 0, 0, "O", "")
    for group, remarked in (("P 21 21 21", True), ("P 1", False), ("", False)):
        (tmp_path / "x.pdb").write_text(cell.format(group) + atom)
        (frame,) = read_frames(tmp_path / "x.pdb")
        assert ("symmetry" in frame.remarks) is remarked
        assert frame.atoms.pbc.all()


CIF = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def test_disorder_and_dummies_of_a_crystal(tmp_path: Path):
    def remarks(column: str, sites: str) -> dict[str, str]:
        (tmp_path / "x.cif").write_text(f"{CIF}{column}\n{sites}")
        return read_frames(tmp_path / "x.cif")[0].remarks

    group = "_atom_site_disorder_group"
    assert remarks(group, "C1 C 0 0 0 1\nC2 C 0.3 0 0 2\nO1 O .5 .5 .5 .\n")["disorder"].startswith(
        "has 2 sites in disorder groups 1, 2, which exclude each other; all are computed as atoms"
    )
    assert "disorder" in remarks(group, "C1 C 0 0 0 -1\nO1 O .5 .5 .5 .\n")
    assert not remarks(group, "C1 C 0 0 0 1\nO1 O .5 .5 .5 .\n")
    dummies = remarks("_atom_site_calc_flag", "C1 C 0 0 0 d\nD1 D .5 .5 .5 dum\n")
    assert dummies == {"dummies": "has 1 dummy sites (the first is site 1); they are computed as atoms"}


@pytest.mark.parametrize(
    ("comment", "kind", "word"),
    [
        ("total_charge=1", "unread charge", "says total_charge=1, which is not read; write charge= for it"),
        ("charge=1 multiplicity=2", "unread spin", "says multiplicity=2, which is not read; write spin= for it"),
        ('cell="3 0 0 0 3 0 0 0 3"', "unread cell", "says cell=, which is not read as its cell; write Lattice= for it"),
        ("total_charge=0 multiplicity=1", "", ""),
        ("charge=1 spin=2 total_charge=1 multiplicity=2", "", ""),
    ],
)
def test_words_of_a_comment_that_are_not_read(tmp_path: Path, comment: str, kind: str, word: str):
    (tmp_path / "x.xyz").write_text(f"1\n{comment} Properties=species:S:1:pos:R:3\nNe 0 0 0\n")
    (frame,) = read_frames(tmp_path / "x.xyz")
    assert frame.remarks == ({kind: word} if kind else {})


def test_charge_and_multiplicity_of_a_gaussian_input(tmp_path: Path):
    atoms = molecule("H2O")
    write(tmp_path / "x.com", atoms, charge=1, mult=2)
    (frame,) = read_structures(tmp_path / "x.com")
    assert (frame.info["charge"], frame.info["spin"]) == (1, 2)


OUTCAR = """ POTCAR:    PAW_PBE H 15Jun2001
 POTCAR:    PAW_PBE H 15Jun2001
   ISPIN  =      1    spin polarized calculation?
   ions per type =               2
----------------------------------------- Iteration    1(   1)  ---------------------------------------
      direct lattice vectors                 reciprocal lattice vectors
     8.000000000  0.000000000  0.000000000     0.125000000  0.000000000  0.000000000
     0.000000000  8.000000000  0.000000000     0.000000000  0.125000000  0.000000000
     0.000000000  0.000000000  8.000000000     0.000000000  0.000000000  0.125000000
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000     -0.100000
      0.00000      0.00000      0.75000         0.000000      0.000000      0.100000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -6.70000000 eV

  energy  without entropy=       -6.70000000  energy(sigma->0) =       -6.70000000
"""


def test_readers_that_ask_for_the_name_of_the_file(tmp_path: Path):
    """As ASE's of VASP's output does, to look for constraints beside it."""
    (tmp_path / "OUTCAR").write_text(OUTCAR)
    (atoms,) = read_structures(tmp_path / "OUTCAR")
    assert atoms.get_distance(0, 1) == 0.75
    assert atoms.get_potential_energy() == -6.7


def test_shared_sites_of_a_crystal(tmp_path: Path):
    write(tmp_path / "a.cif", bulk("C", cubic=True))
    text = (tmp_path / "a.cif").read_text()
    assert not read_frames(tmp_path / "a.cif")[0].remarks
    lines = text.splitlines()
    site = next(k for k, line in enumerate(lines) if line.split()[:1] == ["C"])
    lines[site] = lines[site].replace("1.0000", "0.5000")
    (tmp_path / "a.cif").write_text("\n".join([*lines, lines[site].replace("C ", "S ").replace("C1", "S1")]) + "\n")
    (frame,) = read_frames(tmp_path / "a.cif")
    assert frame.remarks["occupancies"].startswith("has occupancies other than one at ")
    assert "0.5" in frame.remarks["occupancies"]


@pytest.mark.parametrize("name", ["a.xyz", "a.sdf", "a.pdb", "a.cif", "a.traj", "a.smi", "POSCAR", "a.xyz.gz"])
def test_standard_input_is_sniffed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / name
    if name == "a.sdf":
        path.write_text(AMMONIUM)
    elif name == "a.smi":
        path.write_text("[NH4+] ammonium\n")
    else:
        write(path, molecule("CH4", vacuum=3.0, pbc=True))
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert [len(atoms) for atoms in read_structures("-")] == [5]


def test_what_is_no_file_of_structures(tmp_path: Path):
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "cut.xyz.gz").write_bytes(gzip.compress(b"1\n\nH 0 0 0\n" * 50)[:-12])
    (tmp_path / "none.xyz.gz").write_text("no")
    for source, says in [
        (Path("/dev/zero"), "is a device, not a file of structures"),
        (tmp_path, "is a directory, not a file of structures"),
        (tmp_path / "empty.xyz", "ASE does not know its format"),
        (tmp_path / "cut.xyz.gz", "cannot be inflated"),
        (tmp_path / "none.xyz.gz", "cannot be inflated"),
    ]:
        with pytest.raises(StructureError, match=f"^{source}: {says}"):
            read_frames(source)


def test_structures_that_a_model_was_not_made_for():
    neutral = Engine(random_painn(elements=(1, 6, 7, 8)), Settings("cpu"), {"data": {"periodic": False}})
    wide = Engine(random_painn(elements=(1, 6, 7, 8)), Settings("cpu"), {"data": {"periodic": True}})
    universal = Engine(random_escn_md(), Settings("cpu"), task="omol")
    oxygen = molecule("O2")
    ammonium = Atoms("NH4", molecule("CH4").positions)
    assert "has initial magnetic moments" in remarks_for(neutral, oxygen)["unpaired electrons"]
    assert "has an odd number of electrons, 11" in remarks_for(neutral, ammonium)["unpaired electrons"]
    assert not remarks_for(neutral, molecule("CH4"))
    assert not remarks_for(universal, ammonium)
    ammonium.info["charge"] = 1  # which the model itself refuses
    assert not remarks_for(neutral, ammonium)
    oxygen.info["spin"] = 1
    assert not remarks_for(neutral, oxygen)
    crystal = bulk("C", cubic=True)
    assert "trained on none that are" in remarks_for(neutral, crystal)["periodic"]
    assert not remarks_for(wide, crystal)
    crystal.info["task"] = "opt"
    assert "info['task'] 'opt' is no task of this model (none)" in remarks_for(wide, crystal)["task"]
    assert "(omol, omat)" in remarks_for(universal, crystal)["task"]
    crystal.info["task"] = "omat"
    assert not remarks_for(universal, crystal)


def test_cards_say_whether_training_was_periodic():
    for card, said in [
        ({}, None),
        ({"limits": "none"}, None),
        (
            {"limits": ["Trained on frames of 1 to 40 atoms, without periodic directions. Liquids are extrapolation."]},
            False,
        ),
        ({"limits": ["Trained on frames of 1 to 40 atoms, with and without periodic directions."]}, True),
        ({"limits": ["Trained on frames of 1 to 40 atoms, with periodic directions."]}, True),
        ({"data": {"periodic": True}}, True),
    ]:
        assert trained_on_periodic(card) is said
    if "organic-xtb" in packaged():
        with safe_open(packaged()["organic-xtb"], framework="np") as opened:
            assert trained_on_periodic(json.loads(opened.metadata()["card"])) is False


def test_xyz_without_assertions(tmp_path: Path):
    """ASE reads the number of atoms within an `assert`."""
    frame = '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 charge=1\nO 0 0 0\nD 0 0 1\n'
    (tmp_path / "x.xyz").write_text(frame + "1\n\nNe 0 0 0\nVEC1 3 0 0\nVEC2 0 3 0\nVEC3 0 0 3\n")
    program = (
        "import sys; from atomjet.adapters.structure_files import read_structures\n"
        "for atoms in read_structures(sys.argv[1]): print(atoms.get_chemical_formula(), atoms.pbc, atoms.info)"
    )
    for option in ("-O", "-B"):
        command = [sys.executable, option, "-c", program, str(tmp_path / "x.xyz")]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert lines[0].startswith("HO [ True  True  True] {'charge': ")
        assert lines[1].startswith("Ne [ True  True  True] ")


def test_atoms_that_are_held_beside_one_that_is_held_in_one_direction(tmp_path: Path):
    atoms = molecule("CH3OH")
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian([3], mask=(False, False, True))])
    atoms.write(tmp_path / "held.xyz")
    (read,) = read_structures(tmp_path / "held.xyz")
    fixed, partly = read.constraints
    assert isinstance(fixed, FixAtoms)
    assert fixed.index.tolist() == [0, 1]
    assert isinstance(partly, FixCartesian)
    assert (partly.index.tolist(), partly.mask.tolist()) == ([3], [False, False, True])
    one_column = atoms.copy()
    one_column.set_constraint(FixAtoms([4]))
    one_column.write(tmp_path / "fixed.xyz")
    (read,) = read_structures(tmp_path / "fixed.xyz")
    assert [one.index.tolist() for one in read.constraints] == [[4]]


def test_columns_that_are_not_there(tmp_path: Path):
    """ASE would take 5 GB for them."""
    bomb = "1\nProperties=species:S:1:pos:R:3:x:R:999999999\nH 0 0 0 1\n"
    (tmp_path / "bomb.xyz").write_text(bomb)
    with pytest.raises(StructureError, match=r"bomb.xyz: Properties says 1000000003 columns, but the first atom has 5"):
        read_frames(tmp_path / "bomb.xyz")
    (tmp_path / "many.xyz").write_text(bomb + "1\n\nNe 0 0 0\n")
    first, second = read_frames(tmp_path / "many.xyz")
    assert first.refusal.startswith("Properties says 1000000003 columns")
    assert second.atoms.get_chemical_formula() == "Ne"


def test_many_empty_frames_at_the_end_take_no_time(tmp_path: Path):
    (tmp_path / "x.xyz").write_text("1\n\nNe 0 0 0\n" + "0\n\n" * 20000)
    notes: list[str] = []
    assert len(read_frames(tmp_path / "x.xyz", note=notes.append)) == 1
    assert notes == [f"{tmp_path / 'x.xyz'}: frames 1 to 20000 have no atoms; left out"]


CATION = "N 0.0 0.0 0.0\nH 0.9 0.3 0.0\nH -0.9 0.3 0.0\nH 0.0 -0.3 0.9\nH 0.0 -0.3 -0.9\n"
COORD = "$coord\n0 0 0 n\n1.7 0.5 0 h\n-1.7 0.5 0 h\n0 -0.5 1.7 h\n0 -0.5 -1.7 h\n"
PWI = (
    "&system\n ibrav=0, nat=2, ntyp=2, tot_charge=-1\n/\n&electrons\n/\nATOMIC_SPECIES\nO 16 O.upf\nH 1 H.upf\n"
    "CELL_PARAMETERS angstrom\n9 0 0\n0 9 0\n0 0 9\nATOMIC_POSITIONS angstrom\nO 0 0 0\nH 0.9 0.3 0\n"
)


@pytest.mark.parametrize(
    ("name", "text", "conditions"),
    [
        ("coord", f"{COORD}$eht charge=1 unpaired=2\n$end\n", {"charge": 1, "spin": 3}),
        ("coord", f"{COORD}$charge 1\n$end\n", {"charge": 1}),
        ("coord", f"{COORD}$end\n", {}),
        ("a.com", f"# B3LYP\n\ntitle\n\n1, 1\n{CATION}\n", {"charge": 1, "spin": 1}),
        ("a.pwi", PWI, {"charge": -1}),
        ("a.xyz", f"5\ncharge=1 of ammonium\n{CATION}", {"charge": 1}),
    ],
)
def test_what_other_programs_say_of_the_charge_is_read(tmp_path: Path, name: str, text: str, conditions: dict):
    (tmp_path / name).write_text(text)
    (frame,) = read_frames(tmp_path / name)
    assert frame.atoms is not None
    assert {key: frame.atoms.info[key] for key in ("charge", "spin") if key in frame.atoms.info} == conditions
    assert frame.remarks == {}


@pytest.mark.parametrize(
    ("comment", "remark"),
    [
        ("charge: +1", "says 'charge: +1', which is not read; write charge= for it"),
        ("cation, q: 1", "says 'q: 1', which is not read; write charge= for it"),
        ("1 1", "has the comment '1 1'; if that is charge and multiplicity, write charge=1 spin=1, for it is not read"),
        ("0 1", None),
        ("charge 0", None),
        ("Properties=species:S:1:pos:R:3 charge=1", None),
    ],
)
def test_a_charge_in_words_that_are_not_read_is_a_remark(tmp_path: Path, comment: str, remark: str | None):
    (tmp_path / "a.xyz").write_text(f"5\n{comment}\n{CATION}")
    (frame,) = read_frames(tmp_path / "a.xyz")
    assert frame.remarks == ({} if remark is None else {"unread charge": remark})


@pytest.mark.parametrize(("charge", "remarked"), [(0.25, True), (0.2, False), (0.002, False)])
def test_initial_charges_of_an_ion_are_a_remark(tmp_path: Path, charge: float, remarked: bool):
    rows = "".join(f"{line} {charge}\n" for line in CATION.splitlines()[1:])
    text = f"5\nProperties=species:S:1:pos:R:3:initial_charges:R:1\nN 0.0 0.0 0.0 0.0\n{rows}"
    (tmp_path / "a.xyz").write_text(text)
    (frame,) = read_frames(tmp_path / "a.xyz")
    assert (frame.remarks != {}) == remarked
    if remarked:
        assert "has initial charges of its atoms that sum to +1, which are not read" in frame.remarks["unread charge"]
