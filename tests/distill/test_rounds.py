"""Rounds in which students lead: whole runs with a real teacher, interrupted, with a failing one, with students that explode."""

import itertools
import json
import random
import shutil
import signal
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.cluster import Octahedron
from safetensors.torch import load_file

import atomjet
from atomjet.distill import label, trainer, trajectories
from atomjet.distill.dataset import read_dataset
from atomjet.distill.journal import Journal, JournalWriter
from atomjet.distill.label import run_label
from atomjet.distill.recipe import Recipe, load_recipe
from atomjet.distill.round_summary import summaries
from atomjet.distill.rounds import run_rounds, train_to_the_end
from atomjet.distill.sample import run_sample
from atomjet.errors import ConfigError
from atomjet.models import tensor_file
from tests.killing import Point

RECIPE = """
name: copper
seed: 3
output: out
elements: [Cu]
teacher: {{calculator: "{teacher}", options: {{}}}}
sample:
  workers: 1
  free_atoms: false
  split: {{validation: 0, test: 0, in_distribution: 0.1}}
  structures: {{files: [start.extxyz], frames: 10, displacement: 0.08, strain: 0.03, supercells: null}}
label: {{workers: 1{label}}}
student: {{features: 8, layers: 1, num_radial: 6, cutoff: 4.0}}
train: {{epochs: 20, batch_size: 8, seeds: [0, 1], learning_rate: 0.01{train}}}
rounds:
  count: {count}
  train_share: 0.3
  frames: 12
  starts: 9
  steps: 40
  keep_every: 20
  temperatures: [300, 800]
  timestep: 2
  apart: 0.01
  disagreement: [0.001, 20.0]
"""


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Several batches in a round, as large runs have."""
    before, trajectories.ATOMS_AT_ONCE["cpu"] = trajectories.ATOMS_AT_ONCE["cpu"], 30
    yield
    trajectories.ATOMS_AT_ONCE["cpu"] = before


def prepare(folder: Path, teacher="ase.calculators.emt:EMT", count=2, label="", train="", trust=()) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Octahedron("Cu", 3, 1)
    cluster = Atoms(cluster.numbers, cluster.positions)
    ase.io.write(folder / "start.extxyz", [bulk("Cu", cubic=True), bulk("Cu", cubic=True) * (2, 1, 1), cluster])
    (folder / "recipe.yaml").write_text(RECIPE.format(teacher=teacher, count=count, label=label, train=train))
    return load_recipe(folder / "recipe.yaml", trust)


def labelled(recipe: Recipe) -> Recipe:
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    return recipe


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Recipe:
    recipe = labelled(prepare(tmp_path_factory.mktemp("undisturbed")))
    run_rounds(recipe, "cpu", quiet=True)
    train_to_the_end(recipe, device="cpu", quiet=True)
    return recipe


def begun(undisturbed: Recipe, folder: Path, students: bool = False, **changes) -> Recipe:
    """A recipe whose first frames are labelled already, and whose students have begun, if asked."""
    recipe = prepare(folder, **changes)
    shutil.copytree(undisturbed.output / "dataset", recipe.output / "dataset")
    for seed in (0, 1) if students else ():
        trained = Path(f"seed-{seed}") / "training"
        (recipe.output / trained).mkdir(parents=True)
        shutil.copy(undisturbed.output / trained / "stage-0.safetensors", recipe.output / trained)
    return recipe


def content(recipe: Recipe) -> dict[str, bytes]:
    shards = {path.name: path.read_bytes() for path in recipe.round_frames.glob("*.h5")}
    return shards | {path.name: path.read_bytes() for path in recipe.round_frames.glob("*.json*")}


def test_two_rounds_add_frames_and_end_with_students_that_agree_better(undisturbed):
    first, second = summaries(undisturbed.round_frames)
    for number, summary in enumerate((first, second), start=1):
        assert summary["round"] == number
        assert summary["trajectories"] == 9
        assert summary["labelled"] == summary["chosen"] + summary["quarantined"] <= 12
        assert summary["chosen"] > 4
        assert summary["disagreement_before"]["median"] > 0
        assert summary["disagreement_after"] is not None
    frames = read_dataset(undisturbed.round_frames)
    assert set(frames.split) == {"train"}
    assert {str(source).removesuffix("-diverged") for source in frames.source} == {"round-1", "round-2"}
    assert len(frames) == first["labelled"] + second["labelled"]
    assert np.isfinite(frames.stress[frames.pbc.all(1)]).all()
    assert 0 < frames.pbc.all(1).sum() < len(frames)
    cells = {f"{np.linalg.det(cell):.6f}" for cell in frames.cell[frames.pbc.all(1)]}
    known = {f"{np.linalg.det(cell):.6f}" for cell in read_dataset(undisturbed.output / "dataset").cell}
    assert cells - known  # NPT
    models = [undisturbed.output / f"seed-{seed}" / "copper.safetensors" for seed in (0, 1)]
    weights = [load_file(model)["embedding.weight"] for model in models]
    assert not torch.equal(*weights)
    card = atomjet.load(models[0], device="cpu").card
    assert [one["round"] for one in card["rounds"]] == [1, 2]
    assert "round 2: 9 trajectories" in models[0].with_suffix(".md").read_text()


def test_a_second_call_does_nothing(undisturbed, capsys):
    before = content(undisturbed)
    assert [one["round"] for one in run_rounds(undisturbed, "cpu", quiet=True)] == [1, 2]
    assert content(undisturbed) == before
    assert capsys.readouterr().out == ""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int) -> None:
    """Send ctrl-C once a function has been called for the n-th time."""
    function, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments, **options):
        result = function(*arguments, **options)
        if next(calls) == nth:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, counted)


def test_interrupted_in_each_phase_it_ends_as_undisturbed(undisturbed, tmp_path, monkeypatch):
    recipe = begun(undisturbed, tmp_path / "run")
    explored, summary = recipe.round_frames / "explored", recipe.round_frames / "round-1.json"
    chosen = explored / "round-1-chosen.h5"
    stages = [[recipe.output / f"seed-{s}/training/stage-{k}.safetensors" for s in (0, 1)] for k in (0, 1)]

    def rounds() -> None:
        run_rounds(recipe, "cpu", quiet=True)

    def interrupted(owner: object, name: str, nth: int) -> None:
        with monkeypatch.context() as patched:
            interrupt_at(patched, owner, name, nth)
            with pytest.raises(KeyboardInterrupt):
                rounds()

    interrupted(trainer, "losses", 20)  # each student takes 18 steps
    assert [path.exists() for path in stages[0]] == [True, False]
    interrupted(JournalWriter, "append", 1)
    assert [path.exists() for path in stages[0]] == [True, True]
    with Journal(explored) as journal:
        assert len(journal) == 1
    assert not chosen.exists()
    interrupted(label, "Task", 8)
    with Journal(recipe.output / "labels") as journal:
        assert 0 < len(journal) < 12
    assert chosen.exists()
    assert not summary.exists()
    interrupted(trainer, "losses", 32)  # from step 18 to 48
    assert summary.exists()
    assert [path.exists() for path in stages[1]] == [True, False]
    rounds()
    train_to_the_end(recipe, device="cpu", quiet=True)
    assert content(recipe) == content(undisturbed)
    for seed in (0, 1):
        found, right = (load_file(one.output / f"seed-{seed}" / "copper.safetensors") for one in (recipe, undisturbed))
        assert all(torch.equal(found[name], right[name]) for name in right)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_undisturbed(runs, undisturbed, tmp_path):
    def words(recipe: Recipe) -> list[str]:
        return ["distill", str(recipe.output.parent / "recipe.yaml"), "--device", "cpu"]

    runs.imports, drawn = ["atomjet.distill.rounds", "atomjet.distill.train"], random.Random(1)
    recipes = [begun(undisturbed, tmp_path / name) for name in ("whole", "killed")]
    assert runs.run(words(recipes[0])).status == 0
    losses, append, task = "trainer:losses", "journal:JournalWriter.append", "label:Task"
    for call, nth in ((losses, 20), (append, 1), (task, 8), (losses, 32), (append, 1), (losses, 8)):
        point = Point(signal.SIGKILL, f"atomjet.distill.{call}", nth, drawn.randrange(3000))
        ended = runs.run(words(recipes[1]), point)
        assert ended.status == -signal.SIGKILL, f"{point} was not reached: {ended.out}{ended.err}"
    assert runs.run(words(recipes[1])).status == 0
    assert content(recipes[1]) == content(recipes[0])
    for seed in (0, 1):
        found, right = (load_file(one.output / f"seed-{seed}" / "copper.safetensors") for one in recipes)
        assert all(torch.equal(found[name], right[name]) for name in right)


def test_failures_of_the_teacher_are_named_and_the_round_goes_on(undisturbed, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "moody.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "from ase.calculators.calculator import CalculationFailed\n\n\n"
        "class Moody(EMT):\n"
        "    def calculate(self, atoms=None, *more):\n"
        "        if len(atoms) == 8:\n"
        "            raise CalculationFailed('no convergence of eight')\n"
        "        super().calculate(atoms, *more)\n"
    )
    where = tmp_path / "run"
    recipe = begun(undisturbed, where, students=True, teacher="moody.py:Moody", count=1, trust=["moody.py"])
    (summary,) = run_rounds(recipe, "cpu", quiet=True)
    lines = (recipe.round_frames / "round-1-failures.jsonl").read_text().splitlines()
    failed = [json.loads(line) for line in lines if json.loads(line)["outcome"] == "left out"]
    assert summary["teacher_failed"] == len(failed) > 0
    assert {one["reason"] for one in failed} == {"CalculationFailed: no convergence of eight"}
    assert summary["labelled"] == summary["chosen"] + summary["quarantined"] - len(failed) > 0
    said = capsys.readouterr().out
    assert f"{len(failed)} the teacher failed on" in said
    assert f"{len(failed)} left out; reasons in {recipe.round_frames / 'round-1-failures.jsonl'}" in said


def test_exploding_students_are_quarantined(undisturbed, tmp_path):
    recipe = begun(undisturbed, tmp_path / "run", students=True, count=1)
    path = recipe.output / "seed-0" / "training" / "stage-0.safetensors"
    engine = atomjet.load(path, device="cpu")
    for parameter in engine.model.parameters():
        parameter.data.mul_(30.0)
    tensor_file.write(path, engine.model, {"name": "exploding"})
    (summary,) = run_rounds(recipe, "cpu", quiet=True)
    assert sum(summary["diverged"].values()) == 9  # every trajectory has ended, once
    assert summary["quarantined"] == round(0.1 * 12) == 1
    frames = read_dataset(recipe.round_frames)
    strongest = np.linalg.norm(frames.forces, axis=1).max()
    assert strongest <= recipe.label.max_force
    assert "round-1-diverged" in {str(source) for source in frames.source}
    assert summary["labelled"] == len(frames)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": ", max_labels: 20"}, "label.max_labels 20 reached: no round 1"),
        ({"train": ", target_force_mae: 1000000"}, "train.target_force_mae 1e+06 meV/Å reached: no round 1"),
    ],
)
def test_budgets_stop_the_rounds_with_a_word(undisturbed, tmp_path, capsys, change, words):
    recipe = begun(undisturbed, tmp_path / "run", **change)
    assert run_rounds(recipe, "cpu", quiet=True) == []
    assert words in capsys.readouterr().out


def test_a_budget_of_labels_is_kept_within_a_round(undisturbed, tmp_path):
    have = len(read_dataset(undisturbed.output / "dataset"))
    recipe = begun(undisturbed, tmp_path / "run", students=True, count=1, label=f", max_labels: {have + 5}")
    (summary,) = run_rounds(recipe, "cpu", quiet=True)
    assert summary["chosen"] + summary["quarantined"] == 5


def test_recipes_that_cannot_be_done_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"rounds: count 4 times train_share 0.3 leaves nothing of the training"):
        prepare(tmp_path / "long", count=4)
    folder = tmp_path / "alone"
    folder.mkdir()
    text = RECIPE.format(teacher="ase.calculators.emt:EMT", count=1, label="", train="").replace("[0, 1]", "[5]")
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"rounds need two students or more, train.seeds has \[5\]"):
        load_recipe(folder / "recipe.yaml")
    (folder / "recipe.yaml").write_text(text.replace("[5]", "[5, 5]"))
    with pytest.raises(ConfigError, match=r"seeds \[5, 5\] has one twice"):
        load_recipe(folder / "recipe.yaml")
    (folder / "recipe.yaml").write_text(text[: text.index("rounds:")])
    with pytest.raises(ConfigError, match="the recipe has no section rounds"):
        run_rounds(load_recipe(folder / "recipe.yaml"))
