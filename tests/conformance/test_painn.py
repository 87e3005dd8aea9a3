"""PaiNN on its backends, every kind of basis and sharing."""

import pytest
import torch

from atomjet import Engine
from atomjet.engine import Settings
from atomjet.models.ensemble import Ensemble
from atomjet.testing import Conformance
from tests.potentials import random_painn

CONFIGS = {
    "gaussian": {},
    "bessel": {"radial_basis": "bessel", "num_radial": 8, "layers": 2},
    "shared": {"shared_interactions": True, "shared_filters": True, "cutoff": 4.0},
    "one layer": {"layers": 1},
    "repulsion": {"layers": 2, "zbl": (0.8, 1.5), "epsilon": 1e-2},
}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.fixture(scope="module", params=["general", "fast_pytorch"])
def backend(request):
    return request.param


@pytest.fixture(scope="module", params=["cpu", CUDA])
def engine(request, backend, config):
    return Engine(random_painn(**config), Settings(request.param, backend, "float64"))


class TestPaiNN(Conformance):
    """Everything in the suite."""

    def test_deterministic(self, engine, backend):
        if engine.device.type == "cuda" and backend == "general":
            pytest.skip("autograd of indexing adds atomically on a GPU; the definition makes no promise there")
        super().test_deterministic(engine)


class TestEnsemble(Conformance):
    """Two members that differ in more than their weights."""

    @pytest.fixture(scope="class", params=["cpu", CUDA])
    @classmethod
    def engine(cls, request):
        members = [random_painn(seed=1, features=8, layers=2), random_painn(seed=2, features=6, layers=1)]
        return Engine(Ensemble(members), Settings(request.param, "fast_pytorch", "float64"))
