"""What a card says of the teacher, its licence, and what was never seen; and that some frames are always held out."""

import itertools

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from atomjet.distill.card import closest_pairs, nearest_distances, never_seen, shortest_distances
from atomjet.distill.dataset import read_dataset
from atomjet.distill.frames import make_frames
from atomjet.distill.label import run_label
from atomjet.distill.recipe import load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.teacher import licence_of
from atomjet.distill.train import run_train
from atomjet.models.load import read

RECIPE = """
name: copper
output: out
elements: [Cu]
teacher: {calculator: 'ase.calculators.emt:EMT', options: {}}
sample: {workers: 1, free_atoms: false, structures: {files: [cu.extxyz], frames: 12, supercells: null}}
label: {workers: 1}
student: {features: 8, layers: 1, num_radial: 6, cutoff: 4.0}
train: {epochs: 2, batch_size: 4}
"""


@pytest.fixture
def copper(tmp_path):
    """A recipe of one crystal, as most people begin."""
    ase.io.write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    # The seed decides whether the only system is drawn for training.
    return next(
        recipe.changed(seed=seed) for seed in range(20) if "Cu" in _sampled_for_training(recipe.changed(seed=seed))
    )


def _sampled_for_training(recipe) -> str:
    from atomjet.distill.plan import Plan

    return "Cu" if next(Plan(recipe, []).slices({})).split == "train" else ""


def test_one_crystal_has_held_out_frames_and_a_card_of_its_own(copper):
    run_sample(copper, quiet=True)
    run_label(copper, quiet=True)
    _, card = read(run_train(copper, device="cpu", quiet=True))
    assert card["errors"]["training molecules, held-out frames"]["frames"] == 1
    assert card["teacher"]["calculator"] == "ase.calculators.emt:EMT"
    assert "GNU" in card["teacher"]["licence"] or "GPL" in card["teacher"]["licence"]
    limits = " ".join(card["limits"])
    assert "closed-shell" not in limits
    assert "The teacher was asked at charge 0, spin not said" in limits
    assert "Never seen: fully periodic structures outside 11" in limits
    assert "Never seen: forces above" in limits
    assert "licence: " in (copper.output / "copper.md").read_text()


def test_a_licence_is_that_of_the_recipe_where_it_says_one(copper):
    run_sample(copper, quiet=True)
    run_label(copper, quiet=True)
    _, card = read(run_train(copper.model_copy(update={"licence": "CC-BY-4.0"}), device="cpu", quiet=True))
    assert card["licence"] == "CC-BY-4.0"


def test_licences_of_teachers():
    assert licence_of("tblite:GFN2-xTB").startswith("LGPL-3.0")
    assert licence_of("atomjet:organic-xtb") == "MIT"
    assert licence_of("atomjet:absent") == "unknown"
    assert licence_of("nowhere:Calculator") == "unknown"


@pytest.mark.parametrize("seed", range(4))
def test_a_file_of_one_system_is_learned_and_a_tenth_of_it_held_out(tmp_path, seed):
    structures = []
    for step in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=step)
        atoms.calc = EMT()
        atoms.get_forces()
        structures.append(atoms)
    ase.io.write(tmp_path / "foreign.extxyz", structures)
    frames = read_dataset(tmp_path / "foreign.extxyz", seed=seed)
    assert np.unique(frames.split, return_counts=True)[1].tolist() == [2, 18]
    assert set(frames.split) == {"train", "in_distribution"}
    assert (read_dataset(tmp_path / "foreign.extxyz", seed=seed).split == frames.split).all()


def test_shortest_distances_reach_over_periodic_boundaries():
    diamond = bulk("C", cubic=False)  # two atoms: of four bonds three leave the cell
    diamond.positions[1] += [0.1, 0.1, 0.1]
    frames = make_frames([diamond, molecule("CH4")], "train", "s", "C")
    images = np.array(list(itertools.product((-1, 0), repeat=3))) @ diamond.cell.array
    distances = np.linalg.norm(diamond.positions[1] - diamond.positions[0] + images, axis=1)
    assert distances.argmin() != 7  # not the bond within the cell
    nearest = nearest_distances(frames)
    assert shortest_distances(nearest) == {
        "C-C": pytest.approx(distances.min(), abs=1e-3),
        "H-C": pytest.approx(1.09, abs=1e-3),
        "H-H": pytest.approx(1.779, abs=1e-3),
    }
    known = shortest_distances(nearest)
    assert closest_pairs(nearest, (6, 1, 8)) == known | {"H-O": None, "C-O": None, "O-O": None}


def test_bounds_of_what_was_seen():
    frames = make_frames([bulk("Cu", a=a) for a in (3.5, 3.8)], "train", "s", "Cu")
    frames.forces[:] = [[3.0, 4.0, 0.0], [0.0, 0.0, 0.1]]
    assert never_seen(frames) == [
        "Never seen: fully periodic structures outside 10.7 to 13.7 Å³ an atom.",
        "Never seen: forces above 5 eV/Å.",
    ]
