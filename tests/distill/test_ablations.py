"""The packaged recipe's ablations: every row is a recipe that differs from the baseline in what it says, and one is trained."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "recipes/organic-xtb/ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_a_recipe_with_its_own_changes(ablations, tmp_path):
    options = Namespace(
        work=tmp_path, dataset=tmp_path / "dataset", epochs=40, minutes=None, set=["train.compile=false"]
    )
    recipes = {row: ablations.recipe_of(row, options).model_dump(mode="json") for row in ablations.ROWS}
    for row, changes in ablations.ROWS.items():
        for name, value in changes.items():
            section, _, field = name.rpartition(".")
            assert (recipes[row][section] if section else recipes[row])[field] == value
        assert recipes[row]["train"]["compile"] is False
        assert recipes[row]["train"]["epochs"] == 40
    sections = {
        row: json.dumps({"seed": r["seed"], "student": r["student"], "train": r["train"]}) for row, r in recipes.items()
    }
    assert len(set(sections.values())) == len(sections)


@pytest.mark.slow
def test_rows_are_trained_and_kept(write_recipe, tmp_path):
    from atomjet.distill.label import run_label
    from atomjet.distill.sample import run_sample

    recipe = write_recipe()
    run_sample(recipe)
    run_label(recipe)
    out = tmp_path / "ablations.json"
    settings = ["--gpus", "cpu", "--epochs", "2", "--set", "train.compile=false", "--set", "student.features=16"]
    command = [sys.executable, SCRIPT, recipe.output / "dataset", "-o", out, "--work", tmp_path / "work", *settings]
    for _ in range(2):  # again: nothing is trained anew
        done = subprocess.run([*command, "--only", "baseline,zbl"], capture_output=True, text=True, check=True)
        assert "failed" not in done.stdout
    rows = json.loads(out.read_text())["rows"]
    assert [row["row"] for row in rows] == ["baseline", "zbl"]
    assert rows[1]["changes"] == {"student.zbl": [0.7, 1.0]}
    assert all(row["training_seconds"] > 0 and row["largest_kink_eV_A"] > 0 and row["by_largest_force"] for row in rows)
