"""Runs that are killed again and again end as the undisturbed run does."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atomjet.distill.journal import Journal
from tests.killing import Point, Runs

RECIPE = """
name: small
seed: 7
output: out
elements: [H, C, N, O]
molecules: molecules.smi
sample:
  workers: 2
  split: {{validation: 0, test: 0, in_distribution: 0.1}}
  conformers: {{per_molecule: 1}}
  normal_modes: {{frames: {frames}}}
  walls: {{points: 4}}
label: {{workers: 2, shard_size: 60, hessian_rows: 1}}
student: {{features: 16, layers: 1, num_radial: 8, cutoff: 3.0}}
train: {{epochs: {epochs}, batch_size: 24, checkpoint_minutes: 0.0001, validation_interval: 1}}
"""
EPOCHS = 40


def prepare(directory: Path, frames: int) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "molecules.smi").write_text("O\nC\nN\nCO\nC=O\n")
    (directory / "recipe.yaml").write_text(RECIPE.format(frames=frames, epochs=EPOCHS))
    return directory / "out"


WORK = ("atomjet.distill.sample:Task", "atomjet.distill.label:Task", "atomjet.distill.trainer:losses")
"""What is called for each piece of work: for each unit to sample, each frame to label, each step of training."""


def words(command: str, output: Path) -> list[str]:
    return [command, str(output.parent / "recipe.yaml"), *(["--device", "cpu"] if command != "label" else [])]


def finish(runs: Runs, command: str, output: Path) -> None:
    ended = runs.run(words(command, output))
    assert ended.status == 0, ended.out + ended.err


def done(output: Path) -> list[int]:
    """Pieces of each kind of work that are on the disk."""
    written = []
    for folder in ("samples", "labels"):
        with Journal(output / folder) as journal:
            written.append(len(journal))
    return [*written, max((line["step"] for line in log(output)), default=0)]


def log(output: Path) -> list[dict]:
    """Whole lines of the log, without what depends on the clock."""
    path = output / "training" / "log.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in whole]


class Undisturbed:
    """A run that nobody disturbs."""

    def __init__(self, runs: Runs, directory: Path, frames: int) -> None:
        runs.imports = ["atomjet.distill.sample", "atomjet.distill.label", "atomjet.distill.train"]
        self.output, self.frames = prepare(directory, frames), frames
        finish(runs, "distill", self.output)
        self.done = done(self.output)
        assert len(log(self.output)) == EPOCHS

    def begun(self, directory: Path, command: str) -> Path:
        """A directory in which the command has all that it needs."""
        output = prepare(directory, self.frames)
        if command in ("label", "train"):
            output.mkdir()
            shutil.copy(self.output / "samples.h5", output)
        if command == "train":
            shutil.copytree(self.output / "dataset", output / "dataset")
        return output


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory) -> Undisturbed:
    return Undisturbed(runs, tmp_path_factory.mktemp("undisturbed"), frames=40)


@pytest.fixture(scope="module")
def longer(runs, tmp_path_factory) -> Undisturbed:
    return Undisturbed(runs, tmp_path_factory.mktemp("longer"), frames=120)


def kill_again_and_again(runs: Runs, reference: Undisturbed, output: Path, command: str, kills: int) -> None:
    """Never at the same place of a run: at a share of its work, and a little later."""
    drawn, kinds = random.Random(command), {"label": [1], "train": [2], "distill": [0, 1, 2]}[command]
    whole = sum(reference.done[kind] for kind in kinds)
    for kill in range(kills):
        target, kind = int(0.97 * whole * (kill + 0.5) / kills), kinds[0]
        for kind in kinds:
            if target < reference.done[kind]:
                break
            target -= reference.done[kind]
        point = Point(signal.SIGKILL, WORK[kind], max(1, target - done(output)[kind]), drawn.randrange(3000))
        ended = runs.run(words(command, output), point)
        assert ended.status == -signal.SIGKILL, f"{point} was not reached: {ended.out}{ended.err}"
    finish(runs, command, output)


def assert_same(found: Path, expected: Path, command: str) -> None:
    if command in ("label", "distill"):
        shards = [
            [path.read_bytes() for path in sorted((output / "dataset").iterdir())] for output in (found, expected)
        ]
        assert len(shards[1]) > 2
        assert shards[0] == shards[1]
        assert (found / "failures.jsonl").read_bytes() == (expected / "failures.jsonl").read_bytes()
    if command in ("train", "distill"):
        weights, right = (load_file(output / "small.safetensors") for output in (found, expected))
        assert weights.keys() == right.keys()
        assert all(torch.equal(weights[name], right[name]) for name in right)
        assert log(found) == log(expected)
    assert not list(found.rglob("*.partial"))


def test_a_distillation_killed_in_each_of_its_steps_ends_as_undisturbed(runs, undisturbed, tmp_path):
    output = undisturbed.begun(tmp_path / "run", "distill")
    kill_again_and_again(runs, undisturbed, output, "distill", 3)
    assert_same(output, undisturbed.output, "distill")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kills"), [("label", 10), ("train", 20), ("distill", 10)])
def test_many_kills_end_as_undisturbed(runs, longer, tmp_path, command, kills):
    output = longer.begun(tmp_path / "run", command)
    kill_again_and_again(runs, longer, output, command, kills)
    assert_same(output, longer.output, command)
