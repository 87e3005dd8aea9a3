"""Runs that are killed leave no torn file under the name they were to write, and the same command then ends as undisturbed."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

FORKER = """
import os, sys, time, atomjet.cli.main, atomjet.adapters.ase, atomjet.adapters.structure_output, atomjet.md.relax
print("ready", flush=True)
for line in sys.stdin:
    number, after, *words = line.split()
    started = time.perf_counter()
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os._exit(atomjet.cli.main.main(words))
    if int(number):
        time.sleep(float(after))
        os.kill(child, int(number))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), time.perf_counter() - started, flush=True)
"""
"""Everything is imported once; each run is a process of its own nevertheless."""


class Runs:
    """Starts commands, and kills them."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def run(self, words: list[str], kill: int = 0, after: float = 0.0) -> tuple[int, float]:
        """Exit status, and seconds it took."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(" ".join([str(kill), str(after), *words]) + "\n")
        status, seconds = self.server.stdout.readline().split()
        return int(status), float(seconds)

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    made = Runs()
    yield made
    made.close()


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
    status, seconds = runs.run([*words, "-o", str(tmp_path / "undisturbed.extxyz")])
    assert status in (0, 1)
    undisturbed = (tmp_path / "undisturbed.extxyz").read_bytes()
    whole = read_all(tmp_path / "undisturbed.extxyz")
    output, draw, stopped = tmp_path / "out.extxyz", random.Random(1), 0
    for k in range(kills):
        how = (signal.SIGKILL, signal.SIGTERM)[k % 2]
        ended, _ = runs.run([*words, "-o", str(output), "--overwrite"], how, draw.uniform(0.0, seconds))
        stopped += ended not in (0, 1)
        if output.exists():
            there = read_all(output)
            if command == "predict":
                assert len(there) == len(whole) or how == signal.SIGTERM
                assert all(same(a, b) for a, b in zip(there, whole, strict=False))
            else:
                assert [len(atoms) for atoms in there] == [9]
            output.unlink()
    assert stopped
    assert runs.run([*words, "-o", str(output)])[0] == status
    assert output.read_bytes() == undisturbed


def read_all(path: Path) -> list[Atoms]:
    frames = read(path, ":")
    assert isinstance(frames, list)
    return frames


def same(a: Atoms, b: Atoms) -> bool:
    return a.get_potential_energy() == b.get_potential_energy() and np.array_equal(a.get_forces(), b.get_forces())
