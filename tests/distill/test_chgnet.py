"""A crystal after CHGNet itself, whose weights come inside its wheel: the shipped recipe in small."""

import numpy as np
import pytest

import atomjet
from atomjet.distill.dataset import read_dataset
from atomjet.distill.label import run_label
from atomjet.distill.recipe import load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.train import run_train
from atomjet.models.load import read
from tests.distill.test_one_molecule import RECIPES

pytest.importorskip("chgnet", reason="CHGNet is not installed; `make test-hosts` has it")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning"),  # CHGNet's own
    pytest.mark.filterwarnings(
        "ignore:structure .* nearer than:UserWarning"
    ),  # displaced further than what was learned from
]


@pytest.fixture(scope="module")
def electrolyte(tmp_path_factory):
    """The recipe of Li6PS5Cl with few frames of the small cell, and a student that a CPU trains in half a minute."""
    recipe = load_recipe(RECIPES / "li6ps5cl" / "recipe.yaml")
    few = {
        "frames": 24,
        "strained": 8,
        "supercells": recipe.sample.structures.supercells.model_copy(update={"max_atoms": 60}),
    }
    structures = recipe.sample.structures.model_copy(update=few)
    recipe = recipe.model_copy(
        update={
            "output": tmp_path_factory.mktemp("electrolyte"),
            "sample": recipe.sample.model_copy(update={"structures": structures, "workers": 1}),
            "label": recipe.label.model_copy(update={"workers": 1}),
            "student": recipe.student.model_copy(update={"features": 32, "layers": 2}),
            "train": recipe.train.model_copy(
                update={"max_minutes": None, "epochs": 40, "batch_size": 4, "ema_decay": 0.9}
            ),
        }
    )
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    return recipe, run_train(recipe, device="cpu", quiet=True)


def test_labels_are_what_chgnet_itself_says(electrolyte):
    from chgnet.model.dynamics import CHGNetCalculator

    frames = read_dataset(electrolyte[0].output / "dataset")
    assert set(frames.source) == {"structures", "strained"}
    atoms = frames.atoms(0)
    atoms.calc = CHGNetCalculator(use_device="cpu")
    assert atoms.get_potential_energy() == pytest.approx(frames.energy[0], abs=2e-3)
    assert np.abs(atoms.get_forces() - frames.forces[: len(atoms)]).max() < 1e-3
    assert np.abs(atoms.get_stress(voigt=False) - frames.stress[0]).max() < 1e-4


def test_the_student_learns_forces_and_stress(electrolyte):
    recipe, model = electrolyte
    frames = read_dataset(recipe.output / "dataset")
    frames = frames.select(frames.split == "in_distribution")
    found = atomjet.load(model, device="cpu", on_overlap="warn").predict(list(frames))
    for mine, right in ((found.forces, frames.forces), (found.stress, frames.stress)):
        assert np.abs(mine.numpy() - right).mean() < 0.4 * np.abs(right).mean()


def test_the_card_names_the_teacher(electrolyte):
    card = read(electrolyte[1])[1]
    assert card["teacher"]["calculator"] == "chgnet.model.dynamics:CHGNetCalculator"
    assert set(card["elements"]) == {"Li", "P", "S", "Cl"}
