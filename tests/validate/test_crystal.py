"""Figures of a crystal: diffusion of walkers whose coefficient is known, elastic constants by energies, a model against itself."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import FIRE

from atomjet.cli.main import main
from atomjet.errors import ConfigError
from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.units import GPA
from atomjet.validate.crystal import compare_labels, elastic_constants, relaxed_cell
from atomjet.validate.diffusion import (
    Run,
    after_equilibration,
    diffusion,
    mean_square_displacement,
    radial_distributions,
    unwrapped,
)


def walkers(steps: int = 600, width: float = 0.3) -> list[Atoms]:
    """50 lithium atoms that walk at random in a skewed box, wrapped into it, beside a chlorine lattice that drifts."""
    rng = np.random.default_rng(0)
    cell = np.array([[9.0, 0, 0], [3.0, 8.0, 0], [0, 1.0, 7.0]])
    positions = rng.uniform(size=(50, 3)) @ cell
    heavy = rng.uniform(size=(30, 3)) @ cell
    frames = []
    for _ in range(steps):
        positions = positions + rng.normal(size=(50, 3)) * width
        atoms = Atoms("Li50Cl30", np.concatenate([positions, heavy]), cell=cell, pbc=True)
        atoms.wrap()
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def walk():
    return Run(walkers(), 20.0, 300.0)


def test_walkers_diffuse_as_they_were_made(walk):
    found, error = diffusion(walk, 3)
    expected = 0.3**2 / (2 * 20.0) * 0.1  # width² = 2 D t; 1 Å²/fs is 0.1 cm²/s
    assert error < 0.2 * expected
    assert found == pytest.approx(expected, abs=4 * error)
    lags, squares = mean_square_displacement(walk, 3)
    assert lags[0] == 0.02
    assert squares[0] == pytest.approx(3 * 0.3**2, rel=0.02)
    assert diffusion(walk, 17)[0] == pytest.approx(0.0, abs=1e-2 * expected)


def test_the_drift_of_the_whole_is_no_diffusion():
    frames = [Atoms("H2", [[0.1 * t, 0, 0], [0.1 * t + 1, 0, 0]], cell=[5, 5, 5], pbc=True) for t in range(100)]
    for atoms in frames:
        atoms.wrap()
    followed = unwrapped(frames)
    assert np.allclose(followed, followed[0])


def test_independent_atoms_have_no_structure_and_a_crystal_has_its_shells(walk):
    distances, found = radial_distributions(Run(walk.frames[::40], 1, 300), most=4.0, bins=8)
    g = found[3, 17]
    assert np.allclose(g[distances > 1.5], 1, atol=0.4)
    copper = bulk("Cu", a=3.6, cubic=True)
    distances, found = radial_distributions(Run([copper] * 2, 1, 300))
    g = found[29, 29]
    number = 4 * np.pi * distances**2 * g * (distances[1] - distances[0]) * 4 / 3.6**3
    assert number[distances < 2.8].sum() == pytest.approx(12, rel=0.01)
    assert g[distances < 2.4].max() == 0


def test_elastic_constants_are_second_derivatives_of_the_energy():
    crystal = relaxed_cell(EMT(), bulk("Cu", a=3.7))
    found = elastic_constants(crystal)
    assert np.allclose(found[:3, 3:], 0, atol=0.5)
    assert found[0, 0] == pytest.approx(found[2, 2], abs=0.5)
    energies = []
    for strain in (-0.01, 0.0, 0.01):
        moved = crystal.copy()
        moved.calc = EMT()
        deformation = np.eye(3)
        deformation[1, 2] = deformation[2, 1] = strain / 2  # Voigt's 4 is twice the strain
        moved.set_cell(crystal.cell.array @ deformation, scale_atoms=True)
        energies.append(moved.get_potential_energy())
    c44 = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2 / crystal.get_volume() / GPA
    assert found[3, 3] == pytest.approx(c44, rel=0.01)


def test_a_short_run_and_a_run_of_another_cell_are_refused():
    with pytest.raises(ConfigError, match="a run of 10 frames is too short; give 25 or more"):
        after_equilibration([bulk("Cu")] * 10, 1, 300)
    with pytest.raises(ConfigError, match=r"frame 20 has other atoms or another cell than the first"):
        after_equilibration([bulk("Cu")] * 20 + [bulk("Cu", a=4)] * 20, 1, 300)


def test_labels_that_frames_carry_are_taken_as_they_are():
    frame = bulk("Cu", cubic=True)
    frame.rattle(0.1, seed=1)
    frame.calc = EMT()
    frame.get_stress()
    frame.calc.results["energy"] += 4.0
    energy, force, stress = compare_labels(EMT(), EMT(), [frame])
    assert force.student == stress.student == 0
    assert energy.student == 0  # the mean of one frame is itself
    frames = [frame, frame.copy()]
    frames[1].calc = None
    energy, _, _ = compare_labels(EMT(), EMT(), frames)
    assert energy.student == pytest.approx(500.0)  # ±1 eV/atom about their mean of 0.5


def test_the_command_writes_figures_of_both(tmp_path, capsys):
    """A student of copper that was never trained stands beside EMT: figures differ, the run goes through."""
    torch.manual_seed(0)
    model = PaiNN(PaiNNConfig(features=8, layers=1, cutoff=4.0, elements=(29,)))
    tensor_file.write(tmp_path / "m.safetensors", model, {"name": "m", "elements": ["Cu"]})
    crystal = bulk("Cu", cubic=True)
    crystal.calc = EMT()
    FIRE(FrechetCellFilter(crystal), logfile=None).run(fmax=0.01)
    write(tmp_path / "cu.extxyz", crystal)
    arguments = ["compare", str(tmp_path / "cu.extxyz"), "--model", str(tmp_path / "m.safetensors"), "--device", "cpu"]
    more = ["--teacher", "ase.calculators.emt:EMT", "--no-static", "--frames", str(tmp_path / "cu.extxyz")]
    runs = ["--temperature", "300", "--steps", "60", "--every", "2", "--mobile", "Cu"]
    outputs = ["--json", str(tmp_path / "j.json"), "--plot", str(tmp_path / "p.png")]
    assert main([*arguments, *more, *runs, *outputs]) == 0, capsys.readouterr().err
    figures = {figure["name"]: figure for figure in json.loads((tmp_path / "j.json").read_text())["figures"]}
    assert set(figures) >= {"force, MAE", "g(r) Cu-Cu, 300 K", "diffusion of Cu, 300 K", "dynamics, 300 K"}
    assert figures["dynamics, 300 K"]["student"] > 0
    assert len(figures["g(r) Cu-Cu, 300 K"]["series"]["teacher"]) == 60
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert main([*arguments, *more, *runs, "--mobile", "Li"]) == 2
    assert "--mobile Li: the structure has none; it has Cu4" in capsys.readouterr().err
