"""What tests of several rooms share."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

# Molecules are too small to share between threads, and tests side by side would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A job in the background ignores ctrl-C and, under nohup, the end of its terminal; tests send both to themselves and to children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest
import torch

import atomjet

# Processes that tests start, wherever they run, find the package that is tested here.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(atomjet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; read by triton when it is imported

from atomjet.models import tensor_file
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.killing import Runs


def take_any_mask() -> None:
    """Have Triton's interpreter take masks of whole numbers, as which it spreads a single truth value; later ones refuse them."""
    from triton.runtime.interpreter import InterpreterBuilder

    for name, place in (("create_masked_load", 1), ("create_masked_store", 2)):
        plain = getattr(InterpreterBuilder, name)

        def taking(self, *given, plain=plain, place=place):
            given[place].data = given[place].data.astype(bool)
            return plain(self, *given)

        setattr(InterpreterBuilder, name, taking)


if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    take_any_mask()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file: PaiNN for H, C, N, O with few features and random weights.

    A smooth energy surface without chemistry, so flat that a molecule hardly notices within a few hundred steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PaiNN(PaiNNConfig(features=16, layers=2, num_radial=8, cutoff=4.0, elements=(1, 6, 7, 8)))
        for parameter in model.readout[-1].parameters():
            parameter.data *= 0.005
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    card = {
        "name": "small",
        "summary": "random weights",
        "elements": ["H", "C", "N", "O"],
        "teacher": {"calculator": "none"},
        "errors": {"held-out molecules": {"force_mae_meV_A": 12.5}},
        "limits": ["knows no chemistry", "for tests"],
        "licence": "MIT",
    }
    tensor_file.write(path, model, card)
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Starts commands, and kills them."""
    started = Runs(tmp_path_factory.mktemp("runs"))
    yield started
    started.close()
