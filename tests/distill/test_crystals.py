"""Crystals: supercells of two sizes, rattled, strained, relaxed and moved by the teacher."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from atomjet.distill.crystals import repeated, strained, supercells
from atomjet.distill.dataset import read_dataset
from atomjet.distill.frames import frames_from_record
from atomjet.distill.label import run_label
from atomjet.distill.recipe import load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.sample_config import StructuresConfig, SupercellsConfig

TWO_SIZES = SupercellsConfig()


@pytest.mark.parametrize(
    ("atoms", "most", "expected"),
    [
        (bulk("MgO", "rocksalt", 4.2, cubic=True), 1000, [(2, 2, 2), (3, 3, 3)]),  # 8.4 and 12.6 Å
        (bulk("MgO", "rocksalt", 4.2, cubic=True), 200, [(2, 2, 2), (2, 3, 3)]),  # 216 atoms are too many
        (bulk("Cu"), 200, [(3, 3, 3), (5, 5, 5)]),  # heights of the primitive cell, not lengths of its vectors
        (Atoms("Li52", np.zeros((52, 3)), cell=[10.1, 10.3, 10.0], pbc=True), 200, [(1, 1, 1), (1, 1, 2)]),
        (Atoms("Li52", np.zeros((52, 3)), cell=[10.1, 10.3, 10.0], pbc=True), 100, [(1, 1, 1)]),
        (Atoms("C2", np.zeros((2, 3)), cell=[2.5, 4.3, 0.0], pbc=[True, True, False]), 200, [(2, 2, 1), (4, 3, 1)]),
        (molecule("CH4"), 200, [(1, 1, 1)]),
    ],
)
def test_a_crystal_is_repeated_until_atoms_see_no_image_then_no_two(atoms, most, expected):
    assert supercells(atoms, 5.0, SupercellsConfig(max_atoms=most)) == expected


def test_a_supercell_has_the_charge_of_all_its_cells():
    ion = bulk("Cu")
    ion.info.update(charge=1, spin=2, task="omat", other=3)
    assert repeated(ion, (2, 1, 3)).info == {"charge": 6, "spin": 2, "task": "omat"}


def test_strained_frames_are_volumes_and_shears_by_turns():
    config = StructuresConfig.model_validate(
        {"files": ["x"], "strained": 8, "volume": [0.8, 1.2], "shear": 0.04}, context={"directory": "."}
    )
    cell = bulk("Cu", cubic=True)
    frames = frames_from_record(strained("Cu", 1, cell, config), "train", "strained")
    strains = [frames.cell[f] @ np.linalg.inv(cell.cell.array) - np.eye(3) for f in range(8)]
    volumes = [np.linalg.det(np.eye(3) + s) for s in strains]
    assert np.allclose(volumes[::2], [0.85, 0.95, 1.05, 1.15])
    for strain in strains[1::2]:
        assert abs(np.trace(strain)) < 1e-12
        assert 0.001 < np.abs(strain).max() <= 0.04 * 4 / 3
    scaled = [np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T for atoms in frames]
    assert np.allclose(scaled, np.linalg.solve(cell.cell.array.T, cell.positions.T).T, atol=1e-6)


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    directory = tmp_path_factory.mktemp("copper")
    bulk("Cu", a=3.7).write(directory / "cu.extxyz")  # EMT's lattice constant is 3.59 Å
    (directory / "recipe.yaml").write_text(
        "name: cu\nseed: 2\noutput: out\nelements: [Cu]\nteacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        "sample: {workers: 1, split: {validation: 0, test: 0, in_distribution: 0.1}, structures: {files: [cu.extxyz], relax: true,"
        " frames: 6, strained: 4, md: {frames: 6, temperatures: [300, 900], keep_every: 5}}}\nlabel: {workers: 1}\n"
    )
    recipe = load_recipe(directory / "recipe.yaml")
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    return recipe


def test_every_kind_of_sample_in_both_sizes_with_stress_and_no_free_atom(copper):
    frames = read_dataset(copper.output / "dataset")
    kinds = {str(source): sorted(set(frames.counts[frames.source == source])) for source in np.unique(frames.source)}
    assert kinds == {"structures": [27, 125], "strained": [27, 125], "structure_md": [27]}
    assert np.isfinite(frames.stress).all()
    assert len(frames) == 2 * 6 + 2 * 4 + 6


def test_the_teacher_relaxed_first_and_its_stress_is_the_label(copper):
    frames = read_dataset(copper.output / "dataset")
    first = next(f for f in range(len(frames)) if frames.source[f] == "structures" and frames.counts[f] == 27)
    assert frames.cell[first].max() == pytest.approx(3 * 3.59 / 2, rel=3e-3)
    assert np.abs(frames.stress[first]).max() < 2e-3
    for f in range(0, len(frames), 5):
        atoms = frames.atoms(f)
        atoms.calc = EMT()
        assert np.allclose(atoms.get_stress(voigt=False), frames.stress[f], atol=1e-7)


def test_frames_of_dynamics_are_hotter_where_the_temperature_is(copper):
    frames = read_dataset(copper.output / "dataset")
    moved = frames.select(frames.source == "structure_md")
    forces = [np.sqrt((moved.forces[moved.ptr[f] : moved.ptr[f + 1]] ** 2).mean()) for f in range(6)]
    assert min(forces) > 0.05
    assert np.mean(forces[3:]) > 1.3 * np.mean(forces[:3])


def test_a_relaxation_that_fails_leaves_its_structure_out(tmp_path, capsys):
    """EMT knows copper, not sodium."""
    for name in ("Cu", "Na"):
        bulk(name, cubic=True).write(tmp_path / f"{name}.extxyz")
    (tmp_path / "recipe.yaml").write_text(
        "name: a\noutput: out\nelements: [Cu, Na]\nteacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        "sample: {workers: 1, split: {validation: 0, test: 0}, "
        "structures: {files: [Cu.extxyz, Na.extxyz], relax: true, frames: 2}}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    frames = read_dataset(run_sample(recipe, quiet=True))
    assert set(frames.numbers) == {29}
    (line,) = (recipe.output / "sample_failures.jsonl").read_text().splitlines()
    assert json.loads(line)["molecule"] == "Na.extxyz, structure 0"
    assert "1 tasks failed or ended early" in capsys.readouterr().out
