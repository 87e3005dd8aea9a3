"""Models and buffers that have shapes only: nothing heavy is imported, nothing is drawn, nothing takes memory."""

import subprocess
import sys

import pytest
import torch

from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.skeleton import skeleton

PROGRAM = """
import sys
import torch
import atomjet
from atomjet.data import Capacity
from atomjet.engine.evaluation import gpu_stages
engine = atomjet.load("organic-xtb", device="cpu")
engine.evaluator.tuning = None  # one that works in buffers of fixed size has it
stages = gpu_stages(engine.model, engine.evaluator, torch.zeros(119, 119))
assert stages.bytes_beside(Capacity(1, 64, 1024, 64)) > 0
print(*[name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_neither_loading_nor_sizing_imports_the_compiler():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("basis", ["gaussian", "bessel"])
def test_shapes_are_those_of_the_model(basis: str):
    config = PaiNNConfig(features=8, layers=2, num_radial=6, cutoff=3.0, elements=(1, 6), radial_basis=basis)
    model, bare = PaiNN(config), skeleton(lambda: PaiNN(config))
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in bare.state_dict().items()} == shapes
    assert all(parameter.is_meta for parameter in bare.parameters())
    before = torch.random.get_rng_state()
    skeleton(lambda: PaiNN(config))
    assert torch.equal(before, torch.random.get_rng_state())
