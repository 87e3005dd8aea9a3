"""What commands take as structures, what they warn of, and what they do not write over."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import atomjet
from atomjet.models.registry import packaged

AMMONIUM = """ammonium
  made              3D

  5  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 N   0  0
    0.5900    0.5900    0.5900 H   0  0
   -0.5900   -0.5900    0.5900 H   0  0
   -0.5900    0.5900   -0.5900 H   0  0
    0.5900   -0.5900   -0.5900 H   0  0
M  CHG  1   1   1
M  END
$$$$
"""
WATER = """water
  made              3D

  3  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1193 O   0  0
    0.0000    0.7632   -0.4770 H   0  0
    0.0000   -0.7632   -0.4770 H   0  0
M  END
$$$$
"""


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Frames, the second and fourth of which the model refuses."""
    bad = Atoms("HFe", positions=[[0, 0, 0], [0, 0, 1.5]])
    path = tmp_path / "five.extxyz"
    write(path, [molecule("H2O"), bad, molecule("CH4"), bad, molecule("NH3")])
    return path


def test_skip_leaves_out_what_is_refused(call, five: Path, tmp_path: Path):
    status, out, err = call("predict", five, "--skip", "-o", tmp_path / "out.extxyz")
    assert status == 1
    assert [line.split(":")[0] for line in err.splitlines()] == ["skipped frame 1", "skipped frame 3"]
    assert "skipped 2 of 5 frames: 1, 3" in out
    assert [str(atoms.symbols) for atoms in read(tmp_path / "out.extxyz", ":")] == ["OH2", "CH4", "NH3"]
    status, out, _ = call("predict", tmp_path / "out.extxyz", "--skip")
    assert status == 0
    status, out, err = call("relax", five, "--frame", "1", "--skip", "-o", tmp_path / "none.xyz")
    assert (status, err.startswith(f"skipped {five}: atom 1: element Fe")) == (1, True)
    assert not (tmp_path / "none.xyz").exists()
    (tmp_path / "cut.xyz").write_text("1\n\nH 0 0 0\n2\n\nH 0 0 0\n")
    status, out, err = call("predict", tmp_path / "cut.xyz", "--skip", "--strict", "--spin", "2")
    assert status == 1
    assert "skipped frame 1: says 2 atoms at line 4, but the file ends after line 6" in err


def test_every_molecule_of_an_sdf_with_its_charge(call, tmp_path: Path):
    (tmp_path / "m.sdf").write_text(WATER + AMMONIUM + WATER)
    status, _, err = call("predict", tmp_path / "m.sdf")
    assert status == 2
    assert err.startswith("error: frame 1: charge 1, but this model knows only neutral structures")
    status, _, _ = call("predict", tmp_path / "m.sdf", "--skip", "-o", tmp_path / "out.extxyz")
    assert status == 1
    assert len(read(tmp_path / "out.extxyz", ":")) == 2
    assert read(tmp_path / "out.extxyz", 0).info["charge"] == 0


UMA = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"


def test_a_model_that_knows_charges_gets_those_of_the_file(call, tmp_path: Path):
    (tmp_path / "m.sdf").write_text(AMMONIUM + WATER)
    output = tmp_path / "out.extxyz"
    words = ["--model", UMA, "--task", "omol", "--device", "cpu", "--precision", "float64", "--strict", "-o", output]
    status, _, err = call("predict", tmp_path / "m.sdf", *words, model=False)
    assert (status, err) == (0, "")
    ammonium, water = read(output, ":")
    assert (ammonium.info["charge"], ammonium.info["spin"], water.info["charge"]) == (1, 1, 0)
    engine = atomjet.load(UMA, device="cpu", precision="float64", task="omol")
    alone = ammonium.copy()
    alone.info = {"charge": 1, "spin": 1}
    assert ammonium.get_potential_energy() == pytest.approx(float(engine.predict(alone).energy[0]), abs=1e-6)
    alone.info = {"charge": 0, "spin": 2}
    assert abs(ammonium.get_potential_energy() - float(engine.predict(alone).energy[0])) > 0.01


def test_charge_and_spin_for_structures_that_say_none(call, tmp_path: Path):
    says, silent = molecule("H2O"), molecule("H2O")
    says.info["charge"] = 0
    write(tmp_path / "in.extxyz", [says, silent])
    status, _, err = call("predict", tmp_path / "in.extxyz", "--charge", "1", "--skip")
    assert status == 1
    assert f"warning: {tmp_path / 'in.extxyz'}, frame 0 (H2O): says charge 0 itself, which goes before the 1 of" in err
    assert "skipped frame 1: charge 1, but this model knows only neutral structures" in err
    status, _, err = call("relax", tmp_path / "in.extxyz", "--spin", "3", "-o", tmp_path / "out.xyz")
    assert status == 2
    assert "spin 3, but this model knows only singlets" in err


def test_warnings_name_the_first_structure_and_count_the_rest(call, tmp_path: Path):
    methyl = molecule("CH3")
    methyl.set_initial_magnetic_moments(None)
    write(tmp_path / "in.extxyz", [molecule("CH4"), methyl, methyl, molecule("O2"), methyl])
    status, _, err = call("predict", tmp_path / "in.extxyz")
    assert status == 0
    assert err == (
        f"warning: {tmp_path / 'in.extxyz'}, frame 1 (CH3): has an odd number of electrons, 9, but it is computed as a neutral "
        "closed shell; use a model that knows charge and spin; likewise 3 more (frames 2, 3, 4)\n"
    )
    status, _, err = call("predict", tmp_path / "in.extxyz", "--strict")
    assert status == 2
    assert err.startswith(
        "error: frame 1: has an odd number of electrons, 9, but it is computed as a neutral closed shell"
    )
    write(tmp_path / "o2.extxyz", molecule("O2"))
    status, _, err = call("relax", tmp_path / "o2.extxyz", "--strict", "-o", tmp_path / "out.xyz")
    assert status == 2
    assert err.startswith(f"error: {tmp_path / 'o2.extxyz'} (O2): has initial magnetic moments")


def test_a_crystal_for_a_model_that_has_seen_none(call, diamond: Path):
    assert call("predict", diamond)[2] == ""  # its card says nothing of the kind
    if "organic-xtb" not in packaged():
        pytest.skip("organic-xtb is not packaged")
    model = packaged()["organic-xtb"]
    status, _, err = call("predict", diamond, "--model", model, model=False)
    assert status == 0
    assert err == (
        f"warning: {diamond} (C8): is periodic, but the model was trained on none that are; what it says of solids and liquids "
        "is a guess\n"
    )
    status, _, err = call("predict", diamond, "--strict", "--model", model, model=False)
    assert (status, err.startswith("error: frame 0: is periodic")) == (2, True)


def test_the_task_of_another_program_is_left_aside(call, tmp_path: Path):
    water = molecule("H2O")
    water.info["task"] = "opt"
    write(tmp_path / "in.extxyz", water)
    for command in ("predict", "relax"):
        status, _, err = call(command, tmp_path / "in.extxyz", "-o", tmp_path / f"{command}.extxyz")
        assert status == 0
        assert "its info['task'] 'opt' is no task of this model (none); ignored" in err
        assert read(tmp_path / f"{command}.extxyz").info["task"] == "opt"


def test_an_empty_last_model_does_not_end_anything(call, tmp_path: Path):
    line = "HETATM    1  C   MOL A   1       0.000   0.000   0.000  1.00  0.00           C\n"
    (tmp_path / "a.pdb").write_text(f"MODEL        1\n{line}ENDMDL\nMODEL        2\nENDMDL\nEND\n")
    for command in ("predict", "relax"):
        status, _, err = call(command, tmp_path / "a.pdb", "-o", tmp_path / f"{command}.extxyz")
        assert status == 0
        assert err == f"note: {tmp_path / 'a.pdb'}: frame 1 has no atoms; left out\n"


def test_standard_input(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "in.xyz", molecule("H2O"))
    with (tmp_path / "in.xyz").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        status, out, err = call("relax", "-", "--steps", "0", "--fmax", "100", "-o", tmp_path / "out.xyz")
    assert (status, err) == (0, "")
    assert "\n-: H2O, 3 atoms, not periodic\n" in f"\n{out}"


def test_a_smiles_in_the_place_of_a_file(call, tmp_path: Path):
    status, out, _ = call("relax", "CC(=O)O", "--steps", "1", "-o", tmp_path / "out.xyz")
    assert status in (0, 1)
    assert "CC(=O)O: C2H4O2, 8 atoms, not periodic" in out
    status, out, err = call("predict", "C1CC")
    assert (status, err) == (2, "error: C1CC: no such file, and no SMILES\n")


def test_a_smiles_without_rdkit_is_told_what_it_needs(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    needs = "RDKit: pip install 'atomjet[distill]'"
    assert call("vib", "CCO")[::2] == (2, f"error: CCO: no such file; if it is a SMILES, it needs {needs}\n")
    (tmp_path / "smiles").write_text("CCO ethanol\n")
    with (tmp_path / "smiles").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        status, _, err = call("predict", "-")
    assert status == 2
    assert err.endswith(f"or SMILES, or a file; a SMILES needs {needs}\n")


def test_nothing_is_written_over_unless_asked(call, ethanol: Path, tmp_path: Path):
    kept = tmp_path / "kept.extxyz"
    for command, option in (("predict", "-o"), ("predict", "--csv"), ("relax", "-o"), ("relax", "--trajectory")):
        kept.write_text("dear")
        words = [command, ethanol, option, kept]
        words += ["-o", tmp_path / "other.xyz"] if option == "--trajectory" else []
        status, out, err = call(*words)
        assert (status, out) == (2, "")
        assert err == f"error: {kept} exists already; write over it with --overwrite, or choose another name\n"
        assert kept.read_text() == "dear"
        assert call(*words, "--overwrite")[0] == 0
        assert kept.read_bytes() != b"dear"
        (tmp_path / "other.xyz").unlink(missing_ok=True)
    kept = tmp_path / "kept.json"
    kept.write_text("dear")
    golden = Path(__file__).parents[1] / "models" / "golden"
    (tmp_path / "kept.safetensors").write_text("dear")
    weights, config = golden / "gaussian.safetensors", golden / "gaussian.json"
    for words in (
        ["profile", ethanol, "--json", kept],
        ["validate", "--json", kept],
        ["bench", "latency", "--json", kept],
        ["convert", weights, "--config", config, "-o", tmp_path / "kept.safetensors"],
    ):
        status, _, err = call(*words, model=False)
        assert (status, "exists already; write over it with --overwrite" in err) == (2, True), words


def test_the_output_is_tried_before_the_first_step(call, ethanol: Path, tmp_path: Path):
    status, out, err = call("relax", ethanol, "-o", tmp_path / "out.vasp")
    assert status == 2
    assert "step" not in out
    assert err.startswith(f"error: {tmp_path / 'out.vasp'}: ASE cannot write it (")
    assert sorted(made.name for made in tmp_path.iterdir()) == ["ethanol.xyz"]
    water = molecule("H2O")
    water.info = {"note": 'two\nlines = "quoted"'}
    write(tmp_path / "in.traj", water)
    status, _, _ = call("predict", tmp_path / "in.traj", "-o", tmp_path / "out.extxyz")
    assert status == 0
    assert read(tmp_path / "out.extxyz").info["note"] == water.info["note"]


def labelled(count: int) -> list[Atoms]:
    """Water with energies of -1, -2 ... eV and forces of 0.1 eV/Å along x."""
    frames = []
    for k in range(count):
        atoms = molecule("H2O")
        forces = np.zeros((3, 3))
        forces[:, 0] = 0.1
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k, forces=forces)
        frames.append(atoms)
    return frames


def test_labels_of_the_file_are_compared_with_and_kept(call, tmp_path: Path):
    write(tmp_path / "in.extxyz", labelled(2))
    status, out, _ = call(
        "predict",
        tmp_path / "in.extxyz",
        "-o",
        tmp_path / "out.extxyz",
        "--plot",
        tmp_path / "p.png",
        "--precision",
        "float64",
    )
    assert status == 0
    first, second = read(tmp_path / "out.extxyz", ":")
    assert (first.info["label_energy"], second.info["label_energy"]) == (-1.0, -2.0)
    assert np.array_equal(first.arrays["label_forces"][:, 0], [0.1] * 3)
    errors = 1e3 * (np.array([first.get_potential_energy(), second.get_potential_energy()]) - [-1.0, -2.0]) / 3
    words = next(line for line in out.splitlines() if line.startswith("energy, meV/atom")).split()
    assert [float(word) for word in words[2:7]] == pytest.approx(
        [2, np.abs(errors).mean(), np.sqrt((errors**2).mean()), errors.mean(), np.abs(errors).max()], abs=2e-3
    )
    wrong = (
        1e3 * np.concatenate([atoms.get_forces() - atoms.arrays["label_forces"] for atoms in (first, second)]).ravel()
    )
    words = next(line for line in out.splitlines() if line.startswith("forces, meV/Å")).split()
    assert [float(word) for word in words[2:5]] == pytest.approx(
        [2, np.abs(wrong).mean(), np.sqrt((wrong**2).mean())], abs=2e-3
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    write(tmp_path / "bare.xyz", molecule("H2O"))
    status, _, err = call("predict", tmp_path / "bare.xyz", "--plot", tmp_path / "q.png")
    assert (status, "holds no energies or forces to compare with" in err) == (2, True)


def test_many_frames_are_summed_up(call, tmp_path: Path):
    write(tmp_path / "in.extxyz", [molecule("H2O")] * 30 + [molecule("CH3CH2OH"), bulk("C", cubic=True)])
    status, out, _ = call("predict", tmp_path / "in.extxyz", "--csv", tmp_path / "out.csv", "--precision", "float64")
    assert status == 0
    assert len(out.splitlines()) < 12
    assert "32 frames, 107 atoms" in out
    for quantity in ("energy / eV/atom", "largest force / eV/Å", "pressure / GPa"):
        assert f"\n{quantity}" in out
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["frame"] for row in rows] == [str(k) for k in range(32)]
    assert (rows[30]["formula"], rows[30]["atoms"], rows[30]["pressure_GPa"]) == ("C2H6O", "9", "")
    assert float(rows[31]["energy_eV"]) == pytest.approx(8 * float(rows[31]["energy_eV_per_atom"]), abs=1e-6)
    assert rows[31]["pressure_GPa"] != ""


def test_forces_below_the_floor_of_float32_are_not_sought_for_ever(call, tmp_path: Path):
    if "organic-xtb" not in packaged():
        pytest.skip("organic-xtb is not packaged")
    write(tmp_path / "in.xyz", molecule("H2O"))
    words = ["relax", tmp_path / "in.xyz", "--fmax", "1e-7", "--device", "cpu"]
    status, out, err = call(*words, "-o", tmp_path / "out.xyz", model=False)
    assert status == 1
    assert "turned in space the structure's forces differ by" in err
    assert "use --precision float64" in err
    assert len(out.splitlines()) < 200
    status, out, _ = call(*words, "-o", tmp_path / "exact.xyz", "--precision", "float64", model=False)
    assert status == 0


def test_md_reads_as_the_others_do(call, tmp_path: Path):
    (tmp_path / "m.sdf").write_text(WATER + AMMONIUM)
    words = ["md", tmp_path / "m.sdf", "--steps", "5", "-o", tmp_path / "a.traj"]
    status, _, err = call(*words, "--skip")
    assert (status, err.startswith(f"skipped {tmp_path / 'm.sdf'}: ")) == (1, True)
    assert "charge 1, but this model knows only neutral structures" in err
    status, out, _ = call(*words, "--frame", "0", "--spin", "1")
    assert status == 0
    assert "frame 0 of 0 ... 1: H2O" in out
    write(tmp_path / "o2.extxyz", molecule("O2"))
    status, _, err = call("md", tmp_path / "o2.extxyz", "--steps", "5", "-o", tmp_path / "b.traj", "--strict")
    assert (status, "has initial magnetic moments" in err) == (2, True)


def test_a_pipe_that_is_named_is_read(call, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "in.xyz", molecule("H2O"))
    feeder = subprocess.Popen(["cp", str(tmp_path / "in.xyz"), str(tmp_path / "pipe")])
    status, out, _ = call("predict", tmp_path / "pipe")
    assert feeder.wait() == 0
    assert (status, "  H2O" in out) == (0, True)
