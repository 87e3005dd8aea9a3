"""PaiNN on its backends, every kind of basis and sharing."""

import pytest

from atomjet import Engine
from atomjet.engine import Settings
from tests.conformance.suite import Conformance
from tests.potentials import random_painn

CONFIGS = {
    "gaussian": {},
    "bessel": {"radial_basis": "bessel", "num_radial": 8, "layers": 2},
    "shared": {"shared_interactions": True, "shared_filters": True, "cutoff": 4.0},
    "one layer": {"layers": 1},
}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module", params=["general", "fast_pytorch"])
def engine(request, config):
    return Engine(random_painn(**config), Settings("cpu", request.param, "float64"))


class TestPaiNN(Conformance):
    """Everything in the suite."""
