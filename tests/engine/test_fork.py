"""Processes made by fork after a prediction, as pools of workers are."""

import os
import subprocess
import sys

import pytest

POOL = """
import multiprocessing
import sys

import torch
from ase.build import molecule

import atomjet

torch.set_num_threads(2)
engine = atomjet.load(sys.argv[1], device="cpu")
atoms = molecule("C6H6")


def energy(_):
    return float(engine.predict(atoms).energy), torch.get_num_threads()


here = energy(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    there = pool.map(energy, range(4))
assert here[1] == 2, "the parent keeps its threads"
assert all(threads == 1 for _, threads in there)
assert all(abs(value - here[0]) < 1e-3 for value, _ in there)
print("as many as asked:", len(there))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_pool_by_fork_after_a_prediction_with_two_threads():
    command = [sys.executable, "-c", POOL, "organic-xtb"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "as many as asked: 4\n"
