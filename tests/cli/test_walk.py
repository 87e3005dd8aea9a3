"""A newcomer's walk: from a SMILES to a prediction, a relaxed molecule, its vibrations, its dynamics and a picture."""

import numpy as np
import pytest
from ase.io import read

from atomjet.cli.main import main

pytest.importorskip("rdkit")

WALK = """
atomjet info
atomjet info organic-xtb
atomjet predict CCO
atomjet relax CCO -o ethanol.extxyz
atomjet predict ethanol.extxyz --csv energies.csv
atomjet vib ethanol.extxyz --relax --modes modes.xyz
atomjet md ethanol.extxyz --steps 50 --temperature 300 -o run.traj --log run.csv --plot run.png
atomjet relax run.traj --frame -1 -o quenched.extxyz
atomjet conformers CCO -n 4 -o conformers.extxyz
"""
MOST_COMMANDS = 15


def test_a_newcomers_walk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = WALK.strip().splitlines()
    assert len(commands) < MOST_COMMANDS
    said = {}
    for command in commands:
        assert main([*command.split()[1:], *([] if " info" in command else ["--device", "cpu"])]) == 0, command
        captured = capsys.readouterr()
        said[command.split()[1]] = captured.out
        assert "error:" not in captured.err
        assert "warning:" not in captured.err.replace("warning: only one start led", "")

    relaxed, quenched = read("ethanol.extxyz"), read("quenched.extxyz")
    assert relaxed.get_chemical_formula() == "C2H6O"
    energies = (tmp_path / "energies.csv").read_text().splitlines()
    assert len(energies) == 2
    assert "\nzero-point energy" in said["vib"]
    assert "imaginary" not in said["vib"]
    assert len(read("modes.xyz", ":")) == 21 * 16  # 3N - 6 modes
    frames = read("run.traj", ":")
    assert np.ptp([atoms.positions for atoms in frames], axis=0).max() > 0.02
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert np.abs(quenched.get_all_distances() - relaxed.get_all_distances()).max() < 0.05
    conformers = read("conformers.extxyz", ":")
    assert conformers[0].get_potential_energy() == min(atoms.get_potential_energy() for atoms in conformers)
