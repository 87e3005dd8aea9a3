"""What `fast_pytorch` must save against `general`: memory on a box of water.

What time it saves is held by the benchmark's results: tests/bench/test_committed_results.py.
"""

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms

MEMORY = 5.0


def water(molecules, seed=0):
    """A periodic box of randomly turned water at 1 g/cm³."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(molecules ** (1 / 3)))
    spacing = (1 / 0.0334) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:molecules]
    shape = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]])
    turns = np.linalg.qr(rng.normal(size=(molecules, 3, 3)))[0]
    x = grid[:, None] * spacing + shape @ turns
    return Atoms("OHH" * molecules, x.reshape(-1, 3), cell=np.eye(3) * side * spacing, pbc=True)


def output_of(script, argument):
    """What a script prints in a fresh process."""
    out = subprocess.run([sys.executable, "-c", script, str(argument)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout


PEAK = """
import re, sys, torch
from pathlib import Path
from tests.models.test_cost import water
from atomjet import Engine, System
from atomjet.engine import Settings
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.neighbors import search

def peak():  # kB; unlike getrusage, not inherited from the parent process
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
engine = Engine(PaiNN(PaiNNConfig()), Settings("cpu", sys.argv[1]))
engine.predict(water(8))
before = peak()
engine.predict(water(1000))
print(peak() - before, engine.evaluator.bytes_needed(search(System.from_ase(water(1000)), 5.0)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory():
    peaks = {}
    for name in ("general", "fast_pytorch"):
        peak, estimate = map(int, output_of(PEAK, name).split())
        peaks[name] = peak / 1024
        assert 0.4 * estimate < peak * 1024 < estimate * 1.1 + 2**27, name  # the estimate is above, not far above
    assert peaks["general"] / peaks["fast_pytorch"] >= MEMORY, peaks
