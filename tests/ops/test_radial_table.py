"""Filters by table against the function itself."""

import math

import pytest
import torch

from atomjet.models.painn.general import BesselBasis, GaussianBasis
from atomjet.ops import radial_table

CUTOFF = 5.0
BASES = {"gaussian": GaussianBasis(20, CUTOFF), "bessel": BesselBasis(8, CUTOFF)}


@pytest.fixture(params=BASES)
def function(request):
    basis = BASES[request.param].double()
    weight = torch.randn(7, 8 if request.param == "bessel" else 20, dtype=torch.float64, generator=torch.manual_seed(0))
    return lambda d: basis(d) @ weight.T * (0.5 * (torch.cos(d * math.pi / CUTOFF) + 1))[:, None]


@pytest.mark.parametrize(("dtype", "value", "slope"), [(torch.float32, 1e-6, 3e-6), (torch.float16, 2e-4, 2e-3)])
def test_values_and_slopes(function, dtype, value, slope):
    """Relative to the largest: what the type rounds, and in half precision a little of the expansion."""
    table = radial_table.tabulate(function, CUTOFF, torch.device("cpu"), dtype)
    lengths = 0.4 + (CUTOFF - 0.4) * torch.rand(500, dtype=torch.float64, generator=torch.manual_seed(1))
    w, w_slope = radial_table.reference(table, lengths)
    exact = function(lengths)
    step = 1e-4
    exact_slope = (function(lengths + step) - function(lengths - step)) / (2 * step)
    assert float((w - exact).abs().max()) < value * float(exact.abs().max())
    assert float((w_slope - exact_slope).abs().max()) < slope * float(exact_slope.abs().max())


def test_nothing_is_left_at_the_cutoff(function):
    table = radial_table.tabulate(function, CUTOFF, torch.device("cpu"), torch.float16)
    w, w_slope = radial_table.reference(table, torch.tensor([CUTOFF], dtype=torch.float64))
    assert float(w.abs().max()) < 1e-12
    assert float(w_slope.abs().max()) < 1e-8  # what differences leave
