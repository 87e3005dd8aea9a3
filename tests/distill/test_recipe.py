import os
import time
from pathlib import Path

import pytest

from atomjet.distill.molecules import read_molecules
from atomjet.distill.recipe import load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.train import run_train
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


BAD = "C\nC1CC\nOC\nC[NH3+]\n[CH3]\nCBr\nCO again\nN\n\x1b[31mC\n" + "C" * 3000 + "\n"


def test_molecules_that_cannot_be_used_are_left_out_with_their_reasons(write_recipe):
    recipe = write_recipe(molecules=BAD)
    left_out = []
    assert [m.smiles for m in read_molecules(recipe, left_out)] == ["C", "CO", "N"]
    reasons = [failure["reason"] for failure in left_out]
    assert len(reasons) == 7
    for reason, line, words in zip(
        reasons,
        (2, 4, 5, 6, 7, 9, 10),
        ("no SMILES", "charged", "open-shell", "contains Br", "stands already in", "no SMILES", "the most is 2000"),
        strict=True,
    ):
        assert reason.startswith(f"molecules.smi line {line}: ")
        assert words in reason
        assert reason.isprintable()
        assert len(reason) < 200


def test_one_bad_molecule_does_not_stop_the_run_unless_it_is_strict(write_recipe, capsys):
    from atomjet.cli.main import main

    recipe = write_recipe(molecules="C\nC1CC\nN\n", sample="split: {validation: 0, test: 0}", frames=1)
    path = str(recipe.output.parent / "recipe.yaml")
    assert main(["sample", path, "--strict"]) == 2
    assert capsys.readouterr().err == "error: molecules.smi line 2: 'C1CC' is no SMILES that RDKit understands\n"
    assert main(["sample", path]) == 0
    captured = capsys.readouterr()
    assert "warning: molecules.smi line 2: 'C1CC' is no SMILES that RDKit understands; left out\n" in captured.err
    assert "1 molecules or structures left out; reasons in" in captured.out
    assert "C1CC" in (recipe.output / "sample_failures.jsonl").read_text()


def test_a_file_without_any_usable_molecule_is_refused(write_recipe):
    with pytest.raises(ConfigError, match=r"no molecule of .*molecules.smi can be used; molecules.smi line 1: 'C1CC'"):
        read_molecules(write_recipe(molecules="C1CC\n[CH3]\n"), [])


def bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (bomb(30, 9), "line 5: more than 20,000 values, those behind aliases counted each time"),
        (GOOD + "sample: &s {x: *s}\n", "line 5: an alias contains itself"),
        ("[" * 100_000, "line 1: nests deeper than 20 levels"),
        ("\n".join(" " * n + "a:" for n in range(500)), "nests deeper than 20 levels"),
        (GOOD + "seed: 1\nseed: 2\n", "line 6: seed is given twice; remove one"),
        (GOOD + "x" * 1000 + ": 1\n", "no such field"),
        (GOOD + "seed: '" + "9" * 5000 + "'\n", "seed: Unable to parse input string as an integer"),
        (GOOD + "seed: " + "9" * 5000 + "\n", "is not YAML: Exceeds the limit"),
        (GOOD + "seed: 9999999999999999999999\n", "seed: Input should be less than 9223372036854775808"),
        (GOOD + "when: 2001-99-99\n", "is not YAML: month must be in 1..12"),
        (GOOD + "x: !!python/object/apply:os.system [ls]\n", "is not YAML: line 5: could not determine a constructor"),
        (GOOD.replace("name: a", "name: ../../a"), "name: must be 1 to 100 characters that can name a file"),
        (GOOD.replace("name: a", 'name: "a\\e[31m"'), "name: has control characters; remove them"),
        (GOOD.replace(": out", ": " + '"out\\e[31m"'), "output: has control characters; remove them"),
        (
            GOOD + "student: {features: 100000000}\n",
            "student.features: Input should be less than or equal to 4096, got 100000000",
        ),
        (
            GOOD + "student: {layers: 1000000000}\n",
            "student.layers: Input should be less than or equal to 64, got 1000000000",
        ),
        (
            GOOD + "sample: {walls: {points: 1000000000000}}\n",
            "sample.walls.points: Input should be less than or equal to",
        ),
        (GOOD + "label: {max_force: .nan}\n", "label.max_force: Input should be a finite number, got nan"),
        (GOOD + "train: {epochs: 5, learning_rate: .inf}\n", "train.learning_rate: Input should be a finite number"),
        ("\0" * 100, "is not YAML"),
        ("# " + "x" * 1_000_001, "has 1,000,003 bytes, more than the 1,000,000 that are read"),
    ],
)
def test_a_recipe_that_would_blow_up_is_one_short_line_at_once(tmp_path, text, complaint):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert complaint in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))
    assert str(error.value).isprintable()
    assert time.process_time() - started < 5


@pytest.mark.parametrize("field", ["recipe", "molecules", "structures", "data"])
def test_devices_and_pipes_are_not_read(tmp_path, field):
    """Reading them would never end."""
    os.mkfifo(tmp_path / "pipe")
    for device in ("/dev/zero", "pipe"):
        if field == "recipe":
            with pytest.raises(ConfigError, match="it is not a regular file"):
                load_recipe(tmp_path / device)
            continue
        path, text = tmp_path / "recipe.yaml", GOOD
        if field == "molecules":
            text = GOOD.replace("m.smi", device)
        if field == "structures":
            text = GOOD.replace("molecules: m.smi", f"sample: {{structures: {{files: [{device}]}}}}")
        if field == "data":
            text = GOOD + f"train: {{epochs: 1, data: [{{path: {device}}}]}}\n"
        path.write_text(text)
        recipe = load_recipe(path)
        with pytest.raises(ConfigError, match="it is not a regular file"):
            run_train(recipe, device="cpu") if field == "data" else run_sample(recipe, quiet=True, strict=True)


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
