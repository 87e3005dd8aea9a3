from pathlib import Path

import pytest

from atomjet.distill.molecules import read_molecules
from atomjet.distill.recipe import load_recipe
from atomjet.errors import ConfigError

GOOD = "name: a\noutput: out\nelements: [H, C]\nmolecules: m.smi\n"
PACKAGED = Path(__file__).parents[2] / "recipes/organic-xtb/recipe.yaml"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\n  b: [", "is not YAML"),
        ("- 1\n", "must be a mapping of fields, got list"),
        ("name: a\nelements: [H]\nmolecules: m.smi\n", "output: Field required"),
        (GOOD.replace("[H, C]", "[H, Xx]"), "elements.1: 'Xx' is no chemical element"),
        (GOOD + "sampel: {}\n", "sampel: no such field"),
        (
            GOOD + "sample: {md: {keep_every: 0}}\n",
            "sample.md.keep_every: Input should be greater than or equal to 1, got 0",
        ),
        (
            GOOD + "sample: {normal_modes: {temperature: [900, 300]}}\n",
            "sample.normal_modes.temperature: needs two positive values, the smaller first, got [900.0, 300.0]",
        ),
        (GOOD + "label: {workers: two, max_force: -1}\n", "label.workers: Input should be a valid integer"),
        (GOOD.replace("molecules: m.smi\n", ""), "needs molecules (a file of SMILES) or sample.structures"),
    ],
)
def test_a_malformed_recipe_is_refused_in_one_line_that_names_the_field(tmp_path, text, complaint):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read recipe .*gone\.yaml: No such file"):
        load_recipe(tmp_path / "gone.yaml")


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "recipe.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("here/recipe.yaml")
    assert recipe.output == tmp_path / "here" / "out"
    assert recipe.molecules == tmp_path / "here" / "m.smi"


@pytest.mark.parametrize(
    ("molecules", "complaint"),
    [
        ("C\nC1CC\n", "molecules.smi line 2: 'C1CC' is no SMILES"),
        ("C[NH3+]\n", "charged or open-shell"),
        ("[CH3]\n", "charged or open-shell"),
        ("CBr\n", "CBr contains Br, not among the recipe's elements H C N O F"),
        ("OC\n# a comment\n\nCO again\n", "molecules.smi line 4: CO stands already in molecules.smi line 1"),
    ],
)
def test_a_molecule_that_cannot_be_used_is_named_with_its_line(write_recipe, molecules, complaint):
    with pytest.raises(ConfigError) as error:
        read_molecules(write_recipe(molecules=molecules))
    assert complaint in str(error.value)


def test_the_split_of_a_molecule_depends_on_nothing_but_itself_and_the_seed(write_recipe):
    many = {m.smiles: m.split for m in read_molecules(write_recipe("many"))}
    few = {m.smiles: m.split for m in read_molecules(write_recipe("few", molecules="CC\nC\nCO\n"))}
    assert set(many.values()) == {"train", "validation", "test"}
    assert few == {smiles: many[smiles] for smiles in few}


def test_diatomic_molecules_are_for_training_where_walls_contain_them(write_recipe):
    molecules = "[H][H]\nN#N\nF\nFF\nO=C=O\n" + "".join("C" * n + "\n" for n in range(1, 9))
    walls = write_recipe("walls", molecules=molecules, sample="split: {validation: 0.2, test: 0.3}\nwalls: {}")
    splits = {m.smiles: m.split for m in read_molecules(walls)}
    assert {splits[smiles] for smiles in ("[H][H]", "N#N", "F", "FF")} == {"train"}
    assert len(set(splits.values())) > 1


def test_the_packaged_recipe_is_valid_and_its_molecules_usable():
    recipe = load_recipe(PACKAGED)
    molecules = read_molecules(recipe)
    assert len(molecules) >= 700
    assert {m.split for m in molecules if m.large} == {"test"}
    assert {"train", "validation", "test"} == {m.split for m in molecules if not m.large}
    assert next(m.split for m in molecules if m.smiles == "O") == "train"  # water clusters are for training
