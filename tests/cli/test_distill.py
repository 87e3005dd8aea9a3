"""`atomjet sample`, `label`, `train` and `distill`: from a recipe to a model, and wrong recipes as one line."""

from pathlib import Path

import pytest

import atomjet

RECIPE = """
name: water
output: out
elements: [H, O]
molecules: molecules.smi
sample:
  workers: 1
  split: {validation: 0.0, test: 0.0, in_distribution: 0.2}
  conformers: {per_molecule: 1}
  normal_modes: {frames: 20}
label: {workers: 1}
student: {features: 8, layers: 1, num_radial: 6, cutoff: 3.0}
train: {epochs: 2, batch_size: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "molecules.smi").write_text("O\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_distill_ends_with_a_model_and_goes_on(call, recipe: Path):
    status, out, err = call("distill", recipe, "--device", "cpu", "--seed", "7", "--model", "mine", model=False)
    assert status == 0, err
    assert "distill mine: teacher tblite:GFN2-xTB, seed 7" in out
    assert atomjet.load(recipe.parent / "out" / "mine.safetensors").elements == (1, 8)
    status, out, err = call("label", recipe, "--seed", "7", model=False)
    assert status == 0, err
    assert "0 computed" in out  # every label is there already


@pytest.mark.parametrize("command", ["sample", "label", "rounds", "train", "distill"])
def test_wrong_recipes_are_one_line(call, recipe: Path, command: str):
    def refused(*arguments: object) -> str:
        status, _, err = call(command, *arguments, model=False)
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    assert "cannot read recipe absent.yaml" in refused("absent.yaml")
    assert "seed -1 is negative" in refused(recipe, "--seed", "-1")
    recipe.write_text(RECIPE + "colour: blue\n")
    assert "colour" in refused(recipe)
    recipe.write_text("[")
    assert "is not YAML" in refused(recipe)


def test_options_without_effect_are_said(call, recipe: Path):
    recipe.write_text(RECIPE.replace("molecules.smi", "absent.smi"))
    status, _, err = call("sample", recipe, "--precision", "high", "--device", "cuda", model=False)
    assert status == 2
    assert "warning: --precision high has no effect on sample\n" in err
    assert "warning: --device cuda has no effect on sample\n" in err


def test_several_seeds_are_trained_side_by_side(call, recipe: Path):
    recipe.write_text(RECIPE.replace("train: {", "train: {seeds: [0, 4], "))
    for command in ("sample", "label"):
        assert call(command, recipe, model=False)[0] == 0
    status, out, err = call("train", recipe, "--device", "cpu", "--seeds", "4", "--minutes", "5", model=False)
    assert status == 0, err
    assert "seed 4:\n" in out
    assert "until 2 epochs or 5 min" in out
    out = recipe.parent / "out"
    assert sorted(path.parent.name for path in out.rglob("water.safetensors")) == ["seed-4"]
    status, _, err = call("train", recipe, "--seeds", "4,x", model=False)
    assert (status, err) == (
        2,
        "error: --seeds 4,x: give whole numbers of 0 or more with commas between them, e.g. 0,1\n",
    )
    status, _, err = call("rounds", recipe, model=False)
    assert (status, err) == (2, "error: the recipe has no section rounds; add one, e.g. rounds: {count: 2}\n")
