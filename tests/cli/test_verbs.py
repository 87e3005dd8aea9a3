"""`vib`, `relax --all`, `neb` and `eos` as a user calls them."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations

from atomjet import AtomJetCalculator
from atomjet.cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(text):
    """Wavenumbers of vib's table, imaginary ones negative."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].isdigit():
            value = words[1]
            found.append(-float(value[:-1]) if value.endswith("i") else float(value))
    return found


def test_vib_of_water(here, capsys):
    write("water.xyz", molecule("H2O"))
    assert main(["vib", "water.xyz", "--relax", "--modes", "modes.xyz", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert len(rows(said.out)) == 3
    assert 1500 < rows(said.out)[0] < 1600
    assert "ideal gas, nonlinear, symmetry number 2 (of its geometry), multiplicity 1\n" in said.out
    (entropy,) = (line for line in said.out.splitlines() if line.startswith("entropy"))
    assert 1.94 < float(entropy.split()[2]) < 1.97  # experiment: 1.957 meV/K
    assert "no infrared intensities" in said.out
    assert not said.err
    assert len(read("modes.xyz", ":")) == 3 * 16


def test_thermochemistry_is_that_of_ase(here, capsys):
    """Frequencies by ASE's own differences, its thermochemistry of them, and what `vib` prints."""
    atoms = molecule("H2O")
    atoms.calc = AtomJetCalculator("organic-xtb", device="cpu", precision="float64")
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=100)
    write("water.extxyz", atoms)
    vibrations = Vibrations(atoms, name="vibrations", delta=0.01)
    vibrations.run()
    gas = IdealGasThermo(
        vibrations.get_energies()[-3:].real, "nonlinear", atoms.get_potential_energy(), atoms, 2, 0, vib_selection="all"
    )
    assert main(["vib", "water.extxyz", "--temperature", "350", "--pressure", "2", "--device", "cpu"]) == 0
    said = {
        line[:22].strip(): line[22:].split()[0] for line in capsys.readouterr().out.splitlines() if line[22:].split()
    }
    expected = {
        "zero-point energy": vibrations.get_energies()[-3:].real.sum() / 2,
        "enthalpy (H)": gas.get_enthalpy(350, verbose=False),
        "free energy (G)": gas.get_gibbs_energy(350, 2e5, verbose=False),
    }
    for name, value in expected.items():
        assert float(said[name]) == pytest.approx(value, abs=1e-4), name


def test_vib_keeps_fixed_atoms(here, capsys):
    """As ASE's Vibrations does: atoms that are not fixed vibrate in the field of the others."""
    atoms = molecule("CH3OH")
    atoms.calc = AtomJetCalculator("organic-xtb", device="cpu", precision="float64")
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    atoms.set_constraint(FixAtoms(range(4)))
    vibrations = Vibrations(atoms, name="vibrations", delta=0.01)
    vibrations.run()
    write("methanol.extxyz", atoms)
    assert main(["vib", "methanol.extxyz", "--device", "cpu", "--modes", "modes.xyz"]) == 0
    said = capsys.readouterr().out
    np.testing.assert_allclose(rows(said), vibrations.get_frequencies().real, atol=0.1)
    assert "harmonic, of the 2 of 6 atoms that are not fixed" in said
    assert np.ptp([frame.positions[:4] for frame in read("modes.xyz", ":")], axis=0).max() == 0
    atoms.set_constraint(FixAtoms(range(6)))
    write("held.extxyz", atoms)
    assert main(["vib", "held.extxyz", "--device", "cpu"]) == 2
    assert "all 6 atoms are fixed" in capsys.readouterr().err
    atoms.set_constraint(FixBondLength(0, 1))
    write("bond.traj", atoms)
    assert main(["vib", "bond.traj", "--device", "cpu"]) == 2
    assert "constraint FixBondLengths has no vibrations of its own" in capsys.readouterr().err


def test_vib_away_from_a_minimum_and_at_a_saddle(here, capsys):
    atoms = molecule("NH3")
    atoms.positions[:, 2] = 0.0
    write("flat.xyz", atoms)
    assert main(["vib", "flat.xyz", "--ir-free", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "warning: the largest force is" in said.err
    assert "give --relax" in said.err
    assert "mode 0 is imaginary" in said.err
    assert "i cm⁻¹: the energy falls as it moves atoms" in said.err
    assert rows(said.out)[0] < 0
    assert "symmetry number 6 (of its geometry), multiplicity 1, without 3 imaginary modes\n" in said.out
    assert "infrared" not in said.out


def test_vib_of_a_cell_and_of_one_atom(here, capsys):
    box = molecule("CH4")
    box.center(vacuum=3.0)
    box.pbc = True
    write("box.extxyz", box)
    assert main(["vib", "box.extxyz", "--analytic", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert len(rows(said)) == 12
    assert "harmonic, of the cell" in said
    write("atom.xyz", molecule("O"))
    assert main(["vib", "atom.xyz", "--device", "cpu"]) == 0
    assert "monatomic" in capsys.readouterr().out


def test_vib_refuses_nonsense(here, capsys):
    write("water.xyz", molecule("H2O"))
    assert main(["vib", "water.xyz", "--temperature", "0"]) == 2
    assert "temperature 0.0 is not above zero" in capsys.readouterr().err


def test_relax_all(here, capsys):
    (here / "list.smi").write_text("CCO\nnothing here\nCC\n")
    assert main(["relax", "list.smi", "--all", "-o", "out.extxyz", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "2 structures converged below 0.01 eV/Å, 1 did not" in said.out
    assert "frame 1: " in said.err
    relaxed = read("out.extxyz", ":")
    assert [atoms.get_chemical_formula() for atoms in relaxed] == ["C2H6O", "C2H6"]
    for atoms in relaxed:
        assert atoms.info["converged"]
        assert atoms.info["fmax"] < 0.01
        assert np.isfinite(atoms.get_potential_energy())
    assert main(["relax", "list.smi", "--all", "-o", "out.extxyz", "--device", "cpu"]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--cell"], ["--optimizer", "bfgs"], ["--frame", "2"], ["--trajectory", "t.traj"]])
def test_relax_all_refuses_what_only_one_can_have(here, capsys, option):
    write("water.xyz", molecule("H2O"))
    assert main(["relax", "water.xyz", "--all", "-o", "out.extxyz", *option]) == 2
    assert "does not go with --all" in capsys.readouterr().err


def test_neb_of_ammonia(here, capsys):
    first = molecule("NH3")
    last = first.copy()
    last.positions[:, 2] *= -1
    write("first.xyz", first)
    write("last.xyz", last)
    words = ["neb", "first.xyz", "last.xyz", "-o", "path.extxyz", "--images", "5", "--device", "cpu"]
    assert main([*words, "--relax-ends", "--plot", "path.png"]) == 0
    said = capsys.readouterr()
    images = read("path.extxyz", ":")
    assert len(images) == 5
    energies = [atoms.get_potential_energy() for atoms in images]
    assert energies[2] == max(energies)
    (barrier,) = (float(line.split()[2]) for line in said.out.splitlines() if line.startswith("barrier forward"))
    assert barrier == pytest.approx(energies[2] - energies[0], abs=1e-4)
    (back,) = (float(line.split()[2]) for line in said.out.splitlines() if line.startswith("barrier backward"))
    assert back == pytest.approx(barrier, abs=2e-3)
    assert (here / "path.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--overwrite", "--steps", "2"]) == 1
    said = capsys.readouterr()
    assert "warning: FIRST feels forces up to" in said.err
    assert "give --relax-ends" in said.err
    assert "not converged after 2 steps, limit 0.05 eV/Å" in said.err
    assert len(read("path.extxyz", ":")) == 5


def test_neb_refuses_ends_that_differ(here, capsys):
    write("first.xyz", molecule("NH3"))
    last = molecule("NH3")
    last.info["charge"] = 1
    write("last.extxyz", last)
    assert main(["neb", "first.xyz", "last.extxyz", "-o", "path.extxyz", "--model", "organic-xtb"]) == 2
    assert "charge" in capsys.readouterr().err
    assert main(["neb", "first.xyz", "first.xyz", "-o", "first.xyz"]) == 2
    assert "it is the input" in capsys.readouterr().err
    assert main(["neb", "first.xyz", "first.xyz", "-o", "path.pdb"]) == 2
    assert "keeps no energies and forces" in capsys.readouterr().err
    assert main(["neb", "first.xyz", "first.xyz", "-o", "path.extxyz", "--device", "cpu"]) == 2
    assert "the ends are the same structure, 0.000 Å apart" in capsys.readouterr().err


def test_neb_of_ends_in_another_order(here, capsys):
    first = molecule("CH3CH2OH")
    last = first.copy()
    hydroxyl = int(np.flatnonzero(first.get_distances(int(first.symbols.search("O")[0]), range(9)) < 1.1)[-1])
    carbons, (oxygen,) = first.symbols.search("C"), first.symbols.search("O")
    (holder,) = (atom for atom in carbons if first.get_distance(atom, oxygen) < 1.6)
    (methyl,) = set(carbons.tolist()) - {holder}
    last.set_dihedral(methyl, holder, oxygen, hydroxyl, 60)
    order = list(range(9))
    order[3:9] = order[3:9][::-1]  # hydrogen atoms, numbered from the other end
    write("first.xyz", first)
    write("last.xyz", last[order])
    words = ["neb", "first.xyz", "last.xyz", "-o", "path.extxyz", "--images", "5", "--steps", "1", "--device", "cpu"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "of LAST stand where others of their element do in FIRST" in said
    assert "give --reorder" in said
    assert main([*words, "--reorder"]) == 0
    said = capsys.readouterr()
    assert "lies 0.028 eV below both ends: there is a minimum between" in said.err
    assert "LAST's atoms put in another order: " in said.out
    assert "give --reorder" not in said.err
    ends = read("path.extxyz", ":")
    bonds = [np.argwhere(np.triu(one.get_all_distances() < 1.2, 1)) for one in (ends[0], ends[-1])]
    np.testing.assert_array_equal(*bonds)


def test_neb_asks_no_rest_of_fixed_atoms(here, capsys):
    first = molecule("CH3OH")
    hydroxyl = 3  # of C, O, H, H, H, H: its hydrogen
    (oxygen,) = first.symbols.search("O")
    assert first.get_distance(oxygen, hydroxyl) < 1.1
    first.set_constraint(FixAtoms([atom for atom in range(6) if atom != hydroxyl]))
    last = first.copy()
    last.set_dihedral(2, 0, oxygen, hydroxyl, first.get_dihedral(2, 0, oxygen, hydroxyl) + 120)
    write("first.extxyz", first)
    write("last.extxyz", last)
    words = ["relax", "first.extxyz", "-o", "rest.extxyz", "--device", "cpu"]
    assert main(words) == 0
    words = [
        "neb",
        "rest.extxyz",
        "last.extxyz",
        "-o",
        "path.extxyz",
        "--images",
        "4",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    assert main(words) in (0, 1)
    said = capsys.readouterr().err
    assert "FIRST feels" not in said
    assert "LAST feels" in said
    assert np.ptp([frame.positions[0] for frame in read("path.extxyz", ":")], axis=0).max() < 1e-6


def test_neb_says_which_image_breaks_down(here, capsys):
    two = molecule("C2H6")
    write("first.xyz", two)
    write("last.xyz", two[[1, 0, *range(2, 8)]])
    assert main(["neb", "first.xyz", "last.xyz", "-o", "path.extxyz", "--images", "5", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "the band broke down at image 2 of 0 ... 4: atom 0 and atom 1 are" in said
    assert "see that both ends have their atoms in the same order" in said


def test_eos_of_a_crystal(here, capsys):
    write("diamond.extxyz", bulk("C", "diamond", 3.33))
    words = ["eos", "diamond.extxyz", "--points", "7", "--strain", "0.03", "--device", "cpu"]
    assert main(words) == 1
    assert "lowest at the largest volume" in capsys.readouterr().err
    write("diamond.extxyz", bulk("C", "diamond", 3.371))
    assert main([*words, "--plot", "eos.png"]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("equilibrium volume"))
    volumes = [float(row.split()[0]) for row in said.splitlines() if row[:1] == " " and row.split()[0][0].isdigit()]
    assert len(volumes) == 7
    assert float(line.split()[2]) == pytest.approx(volumes[3], rel=2e-3)
    assert (here / "eos.png").read_bytes().startswith(b"\x89PNG")
    # The model knows no solids, and finds no cell at rest.
    assert main([*words, "--relax"]) == 1
    assert "C2 does not relax below 0.001 eV/Å" in capsys.readouterr().err


def test_conformers_of_a_smiles_and_of_files(here, capsys):
    pytest.importorskip("rdkit")
    words = ["-n", "4", "--device", "cpu"]
    assert main(["conformers", "CCCC", "-o", "out.extxyz", "--csv", "out.csv", *words]) == 0
    said = capsys.readouterr()
    assert "2 conformers from 4 starts; 0 starts end above 6 kcal/mol, 0 are left out" in said.out
    frames = read("out.extxyz", ":")
    assert [atoms.info["degeneracy"] for atoms in frames] == [1, 2]
    energies = [atoms.get_potential_energy() for atoms in frames]
    assert energies[0] < energies[1]
    head, first, second = (here / "out.csv").read_text().splitlines()
    assert head == "conformer,energy_eV,kcal_per_mol,weight,degeneracy,starts,turned"
    assert float(first.split(",")[2]) == 0
    assert float(second.split(",")[1]) == pytest.approx(energies[1], abs=1e-5)
    # From a geometry: bonds follow from the distances; from a drawing: its own, hydrogen added.
    write("gauche.xyz", frames[1])
    assert main(["conformers", "gauche.xyz", "-o", "again.extxyz", *words, "--window", "0.1"]) == 0
    assert "1 conformers from 4 starts" in capsys.readouterr().out
    assert read("again.extxyz").get_potential_energy() == pytest.approx(energies[0], abs=2e-3)
    (here / "drawn.mol").write_text(DRAWN)
    assert main(["conformers", "drawn.mol", "-o", "drawn.extxyz", *words]) == 0
    assert read("drawn.extxyz").get_chemical_formula() == "C2H6O"


DRAWN = """
  drawn   2D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0
    1.2990    0.7500    0.0000 C   0  0  0  0  0  0
    2.5981    0.0000    0.0000 O   0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
"""


def test_conformers_refused(here, capsys):
    pytest.importorskip("rdkit")
    assert main(["conformers", "CC[NH3+]", "-n", "2", "-o", "out.extxyz", "--device", "cpu"]) != 0
    assert "charge" in capsys.readouterr().err
    assert not (here / "out.extxyz").exists()
    assert main(["conformers", "CCO", "-n", "0", "-o", "out.extxyz"]) == 2
    assert "number 0 is not above zero" in capsys.readouterr().err
    assert main(["conformers", "CC(O)F", "-n", "2", "-o", "out.extxyz", "--device", "cpu"]) == 0
    assert "the configuration of 1 centres is not said" in capsys.readouterr().err
    assert main(["conformers", "CC.O", "-n", "2", "-o", "two.extxyz", "--device", "cpu"]) == 2
    assert "2 molecules" in capsys.readouterr().err


def test_phonons_of_a_crystal(here, capsys):
    pytest.importorskip("phonopy")
    write("diamond.extxyz", bulk("C", "diamond", 3.371))
    words = ["phonons", "diamond.extxyz", "--supercell", "2", "2", "2", "--mesh", "4", "4", "4", "--device", "cpu"]
    assert main([*words, "--plot", "bands.png", "--csv", "thermal.csv", "-o", "phonopy.yaml"]) == 0
    said = capsys.readouterr()
    assert "space group Fd-3m (227); 1 displaced supercells of 16 atoms; primitive cell of 2 atoms" in said.out
    (line,) = (line for line in said.out.splitlines() if "acoustic modes at Γ" in line)
    assert all(abs(float(word)) < 1e-3 for word in line.split("Γ: ")[1].removesuffix(" THz").split(", "))
    head, first, *_, last = (here / "thermal.csv").read_text().splitlines()
    assert head == "temperature_K,free_energy_eV,entropy_eV_per_K,heat_capacity_eV_per_K"
    (zero_point,) = (line.split()[2] for line in said.out.splitlines() if line.startswith("zero-point"))
    assert float(first.split(",")[1]) == pytest.approx(float(zero_point), abs=1e-6)
    assert last.startswith("1000,")
    assert (here / "bands.png").read_bytes().startswith(b"\x89PNG")
    assert "force_constants" in (here / "phonopy.yaml").read_text()
    write("water.xyz", molecule("H2O"))
    assert main(["phonons", "water.xyz", "--device", "cpu"]) == 2
    assert "phonons need three periodic directions" in capsys.readouterr().err
