"""eSCN-MD on its backends: the size of UMA-S with few channels, and one with mmax below lmax and every option otherwise."""

import pytest

from atomjet import Engine
from atomjet.engine import Settings
from tests.conformance.suite import Conformance
from tests.potentials import random_escn_md

CONFIGS = {
    "uma": {"charge_channels": (0, 3)},
    "large": {
        "lmax": 3,
        "mmax": 2,
        "composition": "none",
        "charge_channels": (1, 2),
        "tasks": ("omat",),
        "cutoff": 4.5,
    },
}


@pytest.fixture(scope="module", params=["uma-general", "uma-fast_pytorch", "large-general"])
def engine(request):
    name, backend = request.param.split("-")
    model = random_escn_md(**CONFIGS[name])
    return Engine(model, Settings("cpu", backend, "float64"), task=model.config.tasks[-1])


class TestEscnMd(Conformance):
    """Everything in the suite but inversion: the products that mix m with -m tell left from right, in fairchem's model too."""

    tells_left_from_right = True
