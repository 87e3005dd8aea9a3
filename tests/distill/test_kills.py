"""Runs that are killed again and again end as the undisturbed run does."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def start(command: str, output: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "atomjet", command, str(output.parent / "recipe.yaml")]
    words += ["--device", "cpu"] if command in ("train", "distill") else []
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def journals(output: Path, folder: str) -> int:
    return sum(path.stat().st_size for path in output.glob(f"{folder}/*.journal"))


def log(output: Path) -> list[dict]:
    """Whole lines of the log, without what depends on the clock."""
    path = output / "training" / "log.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in whole]


class Undisturbed:
    """A run that nobody disturbs, and how far another one has come beside it."""

    def __init__(self, directory: Path, frames: int) -> None:
        self.output, self.frames = prepare(directory, frames), frames
        finish(start("distill", self.output))
        self.bytes = {folder: journals(self.output, folder) for folder in ("samples", "labels")}
        assert len(log(self.output)) == EPOCHS

    def progress(self, output: Path, command: str) -> float:
        """Share of the command's work that is on the disk."""
        done = [journals(output, folder) / whole for folder, whole in self.bytes.items()]
        done.append(len(log(output)) / EPOCHS)
        return {"label": done[1], "train": done[2], "distill": sum(done) / 3}[command]

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
def undisturbed(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), frames=40)


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("longer"), frames=300)


def kill_again_and_again(reference: Undisturbed, output: Path, command: str, kills: int) -> None:
    drawn = random.Random(command)
    for kill in range(kills):
        process = start(command, output)
        # Never the same place of a run: at a share of its work, and a little later.
        while reference.progress(output, command) < 0.97 * (kill + 0.5) / kills and process.poll() is None:
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.1))
        assert process.poll() is None, "the run ended before it could be killed: " + "".join(process.communicate())
        process.kill()
        process.communicate()
    finish(start(command, output))


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


def test_a_distillation_killed_in_each_of_its_steps_ends_as_undisturbed(undisturbed, tmp_path):
    output = undisturbed.begun(tmp_path / "run", "distill")
    kill_again_and_again(undisturbed, output, "distill", 3)
    assert_same(output, undisturbed.output, "distill")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["label", "train", "distill"])
def test_twenty_kills_end_as_undisturbed(longer, tmp_path, command):
    output = longer.begun(tmp_path / "run", command)
    kill_again_and_again(longer, output, command, 20)
    assert_same(output, longer.output, command)
