"""Runs that are killed leave no torn file under the name they were to write, and the same command then ends as undisturbed."""

import random
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from tests.killing import Point, Runs


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["predict", "relax"])
def test_no_torn_file(runs: Runs, small_model: Path, tmp_path: Path, command: str, kills: int):
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(200 if command == "predict" else 1):
        frames.append(molecule("CH3CH2OH"))
        frames[-1].positions += 0.05 * generator.standard_normal((9, 3))
    write(tmp_path / "in.extxyz", frames)
    words = [command, str(tmp_path / "in.extxyz"), "--model", str(small_model), "--device", "cpu"]
    words += ["--fmax", "1e-4", "--steps", "30", "--precision", "float64"] if command == "relax" else []
    ended = runs.run([*words, "-o", tmp_path / "undisturbed.extxyz"], count=True)
    assert ended.status in (0, 1), ended.err
    undisturbed = (tmp_path / "undisturbed.extxyz").read_bytes()
    whole = read_all(tmp_path / "undisturbed.extxyz")
    output, draw, stopped = tmp_path / "out.extxyz", random.Random(1), 0
    for k in range(kills):
        how = (signal.SIGKILL, signal.SIGTERM)[k % 2]
        point = Point(how, calls=draw.randrange(1, ended.calls))
        stopped += runs.run([*words, "-o", output, "--overwrite"], point).status not in (0, 1)
        if output.exists():
            there = read_all(output)
            if command == "predict":
                assert len(there) == len(whole) or how == signal.SIGTERM
                assert all(same(a, b) for a, b in zip(there, whole, strict=False))
            else:
                assert [len(atoms) for atoms in there] == [9]
            output.unlink()
    assert stopped > kills / 2
    assert runs.run([*words, "-o", output]).status == ended.status
    assert output.read_bytes() == undisturbed


def read_all(path: Path) -> list[Atoms]:
    frames = read(path, ":")
    assert isinstance(frames, list)
    return frames


def same(a: Atoms, b: Atoms) -> bool:
    return a.get_potential_energy() == b.get_potential_energy() and np.array_equal(a.get_forces(), b.get_forces())
