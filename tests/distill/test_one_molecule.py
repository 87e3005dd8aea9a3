"""From one line to a recipe: a molecule or the structures of a file, warm or cold."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import atomjet
from atomjet.cli.main import main
from atomjet.distill import one_molecule
from atomjet.distill.dataset import read_dataset
from atomjet.distill.label import run_label
from atomjet.distill.one_molecule import write_recipe
from atomjet.distill.recipe import TeacherConfig, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.errors import ConfigError
from atomjet.models.load import read

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_molecule_becomes_a_recipe_that_goes_on_when_called_again(tmp_path):
    path = write_recipe(tmp_path / "my", molecule="OC(F)=O", start_from="organic-xtb")
    recipe = load_recipe(path)
    assert recipe.name == "my"
    assert recipe.elements == ("C", "F", "H", "O")
    assert recipe.train.start_from == "organic-xtb"
    assert recipe.teacher.options == {"accuracy": 0.1}
    assert (path.parent / "molecules.smi").read_text() == "OC(F)=O\n"
    assert write_recipe(tmp_path / "my", molecule="OC(F)=O", start_from="organic-xtb") == path
    with pytest.raises(ConfigError, match=r"molecules.smi is there and says something else; run .* or give another -o"):
        write_recipe(tmp_path / "my", molecule="CO", start_from="organic-xtb")


def test_a_file_of_structures_becomes_a_recipe_with_another_teacher(tmp_path):
    bulk("NaCl", "rocksalt", 5.6).write(tmp_path / "salt.cif")
    path = write_recipe(tmp_path / "salt", structure=tmp_path / "salt.cif", teacher="ase.calculators.emt:EMT")
    recipe = load_recipe(path)
    assert recipe.elements == ("Cl", "Na")
    assert recipe.sample.structures.files == (tmp_path / "salt.cif",)
    assert recipe.sample.structures.relax
    assert recipe.teacher.options == {}
    assert recipe.train.start_from is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "my"], "give a recipe, --molecule SMILES or --structure FILE: one of the three"),
        (["--molecule", "C"], "give a recipe, or -o FOLDER with --molecule SMILES"),
        (["--molecule", "C(", "-o", "my"], "--molecule: 'C(' is no SMILES that RDKit understands"),
        (["--structure", "absent.cif", "-o", "my"], "cannot read --structure absent.cif: No such file"),
        (["r.yaml", "--molecule", "C"], "r.yaml says what to do: leave --molecule, --structure and -o out"),
        (
            ["--molecule", "C", "-o", "my", "--start-from", "absent"],
            "absent",
        ),
    ],
)
def test_requests_that_cannot_be_met(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["distill", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_elements_that_the_start_does_not_know_are_said_before_anything_is_labelled(tmp_path, capsys):
    bulk("Cu").write(tmp_path / "cu.extxyz")
    (tmp_path / "recipe.yaml").write_text(
        "name: cu\noutput: out\nelements: [Cu]\nteacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        "sample: {workers: 1, split: {validation: 0, test: 0}, structures: {files: [cu.extxyz], frames: 8,"
        " supercells: {max_atoms: 30}}}\n"
        "label: {workers: 1}\ntrain: {epochs: 1, batch_size: 4, start_from: organic-xtb}\n"
    )
    assert main(["distill", str(tmp_path / "recipe.yaml"), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "warning: train.start_from: organic-xtb does not know Cu: learned from nothing" in said.err
    assert read(tmp_path / "out" / "cu.safetensors")[1]["elements"] == ["Cu"]


def test_a_start_of_another_architecture_is_refused_before_anything_is_labelled(tmp_path, capsys):
    (tmp_path / "m.smi").write_text("C\n")
    (tmp_path / "recipe.yaml").write_text(
        "name: a\noutput: out\nelements: [H, C]\nmolecules: m.smi\nstudent: {features: 32}\n"
        "train: {epochs: 1, start_from: organic-xtb}\n"
    )
    assert main(["distill", str(tmp_path / "recipe.yaml")]) == 2
    assert "leave student out to take the architecture of the start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_line_makes_a_student_of_one_molecule_better_than_its_start(tmp_path, monkeypatch, capsys):
    """The line as a user writes it, with fewer frames: glycolonitrile, which the packaged student was not trained on."""
    few = {"conformers": {"per_molecule": 1}, "normal_modes": {"frames": 150}, "md": None, "torsions": None}
    monkeypatch.setattr(one_molecule, "MOLECULE", one_molecule.MOLECULE | few)
    monkeypatch.setattr(one_molecule, "WARM", one_molecule.WARM | {"max_minutes": None, "epochs": 8})
    line = [
        "distill",
        "--molecule",
        "OCC#N",
        "--start-from",
        "organic-xtb",
        "-o",
        str(tmp_path / "my"),
        "--device",
        "cpu",
    ]
    assert main(line) == 0
    card = read(tmp_path / "my" / "run" / "my.safetensors")[1]
    found = card["errors"]["training molecules, held-out frames"]["force_mae_meV_A"]
    frames = read_dataset(tmp_path / "my" / "run" / "dataset")
    frames = frames.select(frames.split == "in_distribution")
    start = atomjet.load("organic-xtb", device="cpu").predict(list(frames)).forces.numpy()
    assert found < 0.8 * 1000 * np.abs(start - frames.forces).mean()
    assert card["training"]["start_from"] == "organic-xtb"


@pytest.mark.slow
def test_paracetamol_as_the_page_has_it(tmp_path, monkeypatch):
    """The line of docs/recipes.md with all its frames, for four passes instead of four minutes, which depend on the machine."""
    monkeypatch.setattr(one_molecule, "WARM", one_molecule.WARM | {"max_minutes": None, "epochs": 4})
    line = ["distill", "--molecule", "CC(=O)Nc1ccc(O)cc1", "--start-from", "organic-xtb", "-o", str(tmp_path / "my")]
    assert main([*line, "--device", "cpu"]) == 0
    errors = read(tmp_path / "my" / "run" / "my.safetensors")[1]["errors"]["training molecules, held-out frames"]
    assert errors["force_mae_meV_A"] < 15


def test_the_shipped_recipe_of_a_crystal_samples_two_sizes(tmp_path):
    """With fewer frames and a teacher that costs nothing; CHGNet itself is no dependency of the tests."""
    recipe = load_recipe(RECIPES / "li6ps5cl" / "recipe.yaml")
    assert recipe.teacher.calculator == "chgnet.model.dynamics:CHGNetCalculator"
    structures = recipe.sample.structures.model_copy(update={"frames": 2, "strained": 2})
    sample = recipe.sample.model_copy(update={"structures": structures, "workers": 1})
    label = recipe.label.model_copy(update={"workers": 1, "max_force": 1e6})
    cheap = TeacherConfig(calculator="ase.calculators.lj:LennardJones", options={"sigma": 2.0, "rc": 5.0})
    recipe = recipe.model_copy(update={"sample": sample, "teacher": cheap, "label": label, "output": tmp_path})
    run_sample(recipe, quiet=True)
    frames = read_dataset(run_label(recipe, quiet=True))
    assert sorted(set(frames.counts)) == [52, 104]
    assert set(frames.source) == {"structures", "strained"}
    assert np.isfinite(frames.stress).all()
    assert not (frames.source == "free_atoms").any()
