import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomjet.distill import slices
from atomjet.distill.dataset import read_dataset
from atomjet.distill.embedding import Embedding, embed
from atomjet.distill.molecules import Geometry, bond_change, derive_seed, make_geometry, read_molecules
from atomjet.distill.normal_modes import QUANTUM, displace, hessian
from atomjet.distill.recipe import Recipe, TeacherConfig, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.sample_config import ConformersConfig, MDConfig
from atomjet.distill.teacher import make_teacher
from atomjet.errors import ConfigError

TEACHER = TeacherConfig()


def relaxed(smiles: str, **settings: Any) -> Geometry:
    """Conformers of a molecule, relaxed by the teacher."""
    config = ConformersConfig.model_validate(settings)
    embedding = Embedding(**embed(smiles, derive_seed(1, "conformers", smiles), config.per_molecule))
    return Geometry(**make_geometry(embedding, config, TEACHER))


@pytest.fixture(scope="module")
def ethanol() -> Geometry:
    return relaxed("CCO", per_molecule=1)


def test_normal_modes_of_water_have_the_wavenumbers_of_the_teacher():
    water = relaxed("O", fmax=0.001)
    from ase.units import invcm

    wavenumbers = QUANTUM * np.sqrt(water.stiffness[0]) / invcm
    # GFN2-xTB's own numerical Hessian (central differences, 1e-3 Å): bend, symmetric and antisymmetric stretch.
    atoms = Atoms(water.numbers, water.relaxed[0])
    atoms.calc = make_teacher(TEACHER.calculator, TEACHER.options)
    masses = np.repeat(atoms.get_masses(), 3)
    exact = np.zeros((9, 9))
    for i in range(9):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.flat[i] += sign * 1e-3
            moved.calc = make_teacher(TEACHER.calculator, TEACHER.options)
            exact[i] -= sign * moved.get_forces().ravel() / 2e-3
    reference = QUANTUM * np.sqrt(np.linalg.eigvalsh(exact / np.sqrt(np.outer(masses, masses)))[-3:]) / invcm
    np.testing.assert_allclose(wavenumbers, reference, rtol=0.02)
    assert np.abs(hessian(atoms) - exact).max() < 0.02 * np.abs(exact).max()


def test_a_linear_molecule_keeps_its_four_vibrations():
    carbon_dioxide = relaxed("O=C=O")
    assert carbon_dioxide.stiffness.shape[1] == 4


def test_thermal_displacements_have_the_energy_of_their_temperature(ethanol):
    """Stiff modes at 300 K are harmonic: the mean energy above the minimum is 3N - 6 times kT/2."""
    calculator = make_teacher(TEACHER.calculator, TEACHER.options)
    atoms = Atoms(ethanol.numbers, ethanol.relaxed[0])
    atoms.calc = calculator
    lowest, energies = atoms.get_potential_energy(), []
    for number in range(150):
        atoms.positions = slices.displaced(ethanol, (300.0, 300.0), np.random.default_rng(number))
        energies.append(atoms.get_potential_energy() - lowest)
    expected = 21 * 8.617e-5 * 300 / 2  # soft modes are stiffened, anharmonicity adds a little: both within 20%
    assert 0.8 * expected < np.mean(energies) < 1.2 * expected


def test_large_displacements_do_not_tear_methyl_groups(ethanol):
    for number in range(200):
        positions = slices.displaced(ethanol, (1000.0, 1000.0), np.random.default_rng(number))
        assert bond_change(ethanol.numbers, positions, ethanol.bonds) is None


def test_displacement_along_one_bond_changes_its_length_to_first_order():
    masses = np.array([1.0, 35.0])
    relaxed, bonds = np.array([[0.0, 0, 0], [0, 0, 1.3]]), np.array([[0, 1]])
    modes = np.array([[[0.0, 0, -1.0], [0, 0, 1 / 35]]])
    stiffness = np.array([8.0])
    moved = displace(relaxed, bonds, masses, stiffness, modes, 300.0, np.random.default_rng(0))
    linear = relaxed + np.random.default_rng(0).normal() * np.sqrt(8.617330337e-5 * 300 / 8.0) * modes[0]
    np.testing.assert_allclose(moved, linear, atol=1e-6)


def test_turning_about_a_bond_keeps_all_lengths_on_either_side(ethanol):
    i, j = ethanol.rotors[0]
    before = ethanol.relaxed[0]
    after = slices.turn(before, ethanol.bonds, int(i), int(j), np.pi / 2)
    lengths = [np.linalg.norm(x[ethanol.bonds[:, 0]] - x[ethanol.bonds[:, 1]], axis=1) for x in (before, after)]
    np.testing.assert_allclose(*lengths, atol=1e-12)
    assert np.abs(after - before).max() > 0.5


def test_bond_changes_are_told():
    methane = Embedding(**embed("C", 1, 1))
    numbers, bonds, positions = methane.numbers, methane.bonds, methane.start
    assert bond_change(numbers, positions[0], bonds) is None
    torn = positions[0].copy()
    torn[1] *= 2
    assert bond_change(numbers, torn, bonds) == "bond C0-H1 broken"
    joined = positions[0].copy()
    joined[2] = joined[1] + [0.5, 0, 0]
    assert "formed" in str(bond_change(numbers, joined, bonds))


def test_md_keeps_its_temperature_and_the_same_seed_gives_the_same_frames(ethanol):
    config = MDConfig(frames=4, temperatures=(300.0,), keep_every=5)
    first, second = (slices.md("CCO", 3, ethanol, config, TEACHER) for _ in range(2))
    np.testing.assert_array_equal(first["positions"], second["positions"])
    assert first["counts"].tolist() == [9] * 4
    assert 0.01 < np.abs(first["positions"][-9:] - ethanol.relaxed[0]).max() < 1.0


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Every slice of a few molecules, sampled once."""
    directory = tmp_path_factory.mktemp("sampled")
    (directory / "m.smi").write_text("O\nC\nN\nCO\nC=O\nCC\nC#N\nOO\n")
    (directory / "p.smi").write_text("NC=O\n")
    (directory / "recipe.yaml").write_text(
        "name: all\nseed: 7\noutput: out\nelements: [H, C, N, O]\nmolecules: m.smi\n"
        "sample:\n  workers: 2\n  split: {validation: 0.2, test: 0.3, in_distribution: 0.2}\n"
        "  conformers: {per_molecule: 1}\n  normal_modes: {frames: 8}\n  torsions: {frames: 4}\n"
        "  md: {share: 0.5, frames: 2, temperatures: [300], keep_every: 2}\n  dimers: {frames: 4}\n"
        "  compressed: {frames: 1, max_atoms: 12}\n  oriented: {scans: 12, points: 2}\n  packed: {clusters: 12}\n"
        "  spheres: {boxes: 8, spheres: 2, atoms: [10, 20]}\n  common: [O, C]\n"
        "  clusters: {water: 1, mixed: 4, molecules: [2, 4], frames: 1, keep_every: 1}\n  walls: {points: 5}\n"
        "  peptides: {molecules: p.smi, mode_frames: 2, md_frames: 2, keep_every: 1}\n"
    )
    recipe = load_recipe(directory / "recipe.yaml")
    return recipe, read_dataset(run_sample(recipe, quiet=True))


def test_every_slice_is_there(sampled):
    _, frames = sampled
    names = "conformers normal_modes torsions md dimers compressed oriented clusters packed spheres walls free_atoms peptides"
    assert set(frames.source.tolist()) == set(names.split())
    assert set(frames.split[frames.large].tolist()) == {"test"}
    assert set(frames.source[frames.large].tolist()) == {"peptides"}


def test_no_molecule_of_one_split_appears_in_another_not_even_in_a_pair(sampled):
    recipe, frames = sampled
    splits = {m.smiles: m.split for m in read_molecules(recipe)}
    assert set(splits.values()) == {"train", "validation", "test"}
    seen = set()
    for source, split, key in zip(frames.source, frames.split, frames.molecule, strict=True):
        if source not in ("walls", "free_atoms"):
            family = "train" if split == "in_distribution" else split
            assert {splits[part] for part in key.split(".")} == {family}
            seen.add((source, split))
    assert {("dimers", "test"), ("dimers", "train"), ("normal_modes", "in_distribution")} <= seen


def test_sampling_does_not_depend_on_the_number_of_workers(write_recipe, capsys):
    files = [run_sample(write_recipe(f"run{n}", workers=n), quiet=True).read_bytes() for n in (1, 3)]
    # the name of the recipe is stored with the frames: it is the only difference
    assert len(files[0]) == len(files[1])
    first, second = (read_dataset(write_recipe(f"run{n}").output / "samples.h5") for n in (1, 3))
    np.testing.assert_array_equal(first.positions, second.positions)
    assert first.molecule.tolist() == second.molecule.tolist()
    assert "normal_modes" in capsys.readouterr().out


def test_more_frames_keep_those_that_are_there_and_no_geometry_is_made_again(write_recipe):
    few = read_dataset(run_sample(write_recipe(molecules="C\nCO\n", frames=3), quiet=True))
    geometries = sorted((write_recipe().output / "samples").glob("*.journal"))
    more = read_dataset(run_sample(write_recipe(molecules="C\nCO\n", frames=5), quiet=True))
    kept = {atoms.positions.tobytes() for atoms in more}
    assert all(atoms.positions.tobytes() in kept for atoms in few)
    added = sorted(set((write_recipe().output / "samples").glob("*.journal")) - set(geometries))
    assert sum(path.stat().st_size for path in added) < sum(path.stat().st_size for path in geometries)


def test_a_molecule_that_cannot_be_sampled_is_reported_and_the_others_are_there(write_recipe, capsys):
    recipe = write_recipe(molecules="C\nO\nN\nCF\n", sample="split: {validation: 0, test: 0}")
    broken = recipe.model_copy(update={"teacher": TeacherConfig(calculator="ase.calculators.emt:EMT", options={})})
    frames = read_dataset(run_sample(broken, quiet=True))
    failures = [json.loads(line) for line in (recipe.output / "sample_failures.jsonl").read_text().splitlines()]
    reasons = {failure["molecule"]: failure["reason"] for failure in failures if failure["slice"] == "geometry"}
    assert "No EMT-potential for F" in reasons["CF"]
    assert "CF" not in set(frames.molecule.tolist())
    assert "C" in set(frames.molecule.tolist())
    assert f"{len(failures)} tasks failed or ended early; reasons in" in capsys.readouterr().out


def copper(directory: Path, split: str) -> Recipe:
    bulk("Cu", cubic=True).write(directory / "cu.extxyz")
    (directory / "recipe.yaml").write_text(
        "name: cu\noutput: out\nelements: [Cu]\nteacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        f"sample: {{workers: 1, split: {split}, structures: {{files: [cu.extxyz], frames: 4, supercells: null}}}}\n"
    )
    return load_recipe(directory / "recipe.yaml")


def test_structures_from_files_are_displaced_and_strained(tmp_path):
    frames = read_dataset(run_sample(copper(tmp_path, "{validation: 0, test: 0, in_distribution: 0}"), quiet=True))
    frames = frames.select(frames.source == "structures")
    assert len(frames) == 4
    assert frames.pbc.all()
    assert len({cell.tobytes() for cell in frames.cell}) == 4
    assert np.allclose(frames.cell[0], np.eye(3) * 3.61)
    assert set(frames.split) == {"train"}


def test_a_recipe_without_anything_to_train_on_is_refused(tmp_path):
    recipe = copper(tmp_path, "{test: 0.99, validation: 0}")
    with pytest.raises(ConfigError, match=r"no molecule or structure was drawn for training; give more of them"):
        run_sample(recipe, quiet=True)
