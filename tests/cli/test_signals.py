"""Whatever asks a command to end, or stops reading what it prints: a clear line, the right status, no half files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import read, write

from tests.killing import Point, Runs

OTHERS = [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU]


@pytest.mark.parametrize("number", OTHERS)
def test_dynamics_end_with_the_way_on_and_go_on_as_undisturbed(
    runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path, number: int
):
    words = f"md {ethanol} --steps 12 --temperature 20 --timestep 0.2 --traj-interval 2 --checkpoint-seconds 0"
    command = [*words.split(), "--model", small_model]
    assert runs.run([*command, "-o", tmp_path / "whole.traj"]).status == 0
    cut = [*command, "-o", tmp_path / "cut.traj"]
    ended = runs.run(cut, Point(number, "atomjet.md.checkpoint:Checkpoint.save", 5, 200))
    assert ended.status == 130
    assert ended.err.endswith("repeat the command with --resume\ninterrupted\n")
    assert runs.run([*cut, "--resume"]).status == 0
    assert (tmp_path / "cut.traj").read_bytes() == (tmp_path / "whole.traj").read_bytes()


@pytest.mark.parametrize("number", OTHERS[1:])
def test_a_relaxation_keeps_its_steps(runs: Runs, ethanol: Path, small_model: Path, tmp_path: Path, number: int):
    words = ["relax", ethanol, "--model", small_model, "--fmax", "1e-6", "--precision", "float64"]
    point = Point(number, "atomjet.engine.engine:Engine.predict", 3, 50)
    ended = runs.run([*words, "-o", tmp_path / "out.extxyz", "--trajectory", tmp_path / "way.traj"], point)
    assert ended.status == 130
    assert ended.err.endswith("interrupted\n")
    assert "wrote" in ended.out
    assert len(read(tmp_path / "out.extxyz")) == 9
    assert all(len(atoms.get_forces()) == 9 for atoms in read(tmp_path / "way.traj", ":"))


@pytest.mark.parametrize("command", ["predict", "relax"])
def test_nobody_reads_what_is_printed_and_the_file_is_whole(small_model: Path, tmp_path: Path, command: str):
    write(tmp_path / "in.extxyz", [molecule("H2O")] * 15)
    output = tmp_path / "out.extxyz"
    words = [sys.executable, "-m", "atomjet", command, str(tmp_path / "in.extxyz"), "--model", str(small_model)]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([*words, "-o", str(output)], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(read(output, ":")) == (15 if command == "predict" else 1)


def test_nobody_reads_errors_either(small_model: Path, tmp_path: Path):
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "atomjet", "predict", str(tmp_path / "none.xyz"), "--model", str(small_model)]
    ended = subprocess.run(words, stdout=writing, stderr=writing)
    os.close(writing)
    assert ended.returncode == 2
