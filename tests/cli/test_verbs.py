"""`vib` and `relax --all` as a user calls them."""

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

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
    assert main(["vib", "water.xyz", "--relax", "--symmetry", "2", "--modes", "modes.xyz", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert len(rows(said.out)) == 3
    assert 1500 < rows(said.out)[0] < 1600
    assert "ideal gas, nonlinear, symmetry number 2" in said.out
    (entropy,) = (line for line in said.out.splitlines() if line.startswith("entropy"))
    assert 1.94 < float(entropy.split()[2]) < 1.97  # experiment: 1.957 meV/K
    assert "no infrared intensities" in said.out
    assert not said.err
    assert len(read("modes.xyz", ":")) == 3 * 16


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
