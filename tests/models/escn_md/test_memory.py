"""Estimated memory against the peak of a process of its own."""

import subprocess
import sys

import pytest

PEAK = """
import re, sys, torch
from pathlib import Path
from ase.build import bulk
from atomjet import Engine, System
from atomjet.engine import Settings
from atomjet.neighbors import search
from tests.potentials import random_escn_md

def peak():  # kB
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
model = random_escn_md(channels=64, hidden_channels=64, edge_channels=64, num_radial=16)
engine = Engine(model, Settings("cpu", sys.argv[1]), task="omat")
small, large = bulk("Cu", cubic=True), bulk("Cu", a=3.8, cubic=True) * (3, 3, 2)
engine.predict(small)
before = peak()
engine.predict(large)
graph = search(engine.model.complete(System.from_ase(large), "omat"), engine.cutoff)
print((peak() - before) * 1024, engine.evaluator.bytes_needed(graph))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_estimate_is_above_the_peak_and_not_far(backend):
    out = subprocess.run([sys.executable, "-c", PEAK, backend], capture_output=True, text=True, check=True)
    peak, estimate = map(int, out.stdout.split())
    assert 0.9 * peak < estimate < 3 * peak
