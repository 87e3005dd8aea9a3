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


@pytest.mark.parametrize(("dtype", "value", "slope"), [(torch.float32, 1e-6, 3e-6), (torch.float16, 2e-4, 5e-4)])
def test_values_and_slopes(function, dtype, value, slope):
    """Relative to the largest: what the type rounds, and in the narrow form a little of the expansion."""
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_row_behind_the_last_is_zero(function, dtype):
    """Kernels read it where there is no edge."""
    table = radial_table.tabulate(function, CUTOFF, torch.device("cpu"), dtype)
    beyond = torch.tensor([CUTOFF + CUTOFF / radial_table.KNOTS], dtype=torch.float64)
    w, w_slope = radial_table.reference(table, beyond)
    assert bool((w == 0).all())
    assert bool((w_slope == 0).all())


def test_words_keep_fifteen_and_sixteen_digits():
    """Of the largest number there is room for; zeros are exact, and both ends fit."""
    x = torch.linspace(-0.4999, 0.4999, 999, dtype=torch.float64)
    value, slope = radial_table.unpacked(radial_table.packed(x, (x / 128).flip(0)))
    assert float((value - x).abs().max()) <= 2.0**-16
    assert float((slope - (x / 128).flip(0)).abs().max()) <= 2.0**-24
    zeros = torch.zeros(1, dtype=torch.float64)
    assert [float(part) for part in radial_table.unpacked(radial_table.packed(zeros, zeros))] == [0.0, 0.0]


def test_outputs_are_scaled_by_powers_of_two(function):
    table = radial_table.tabulate(lambda d: function(d) * 1e4, CUTOFF, torch.device("cpu"), torch.float16)
    assert bool((torch.frexp(table.scales).mantissa == 0.5).all())
    value, _ = radial_table.unpacked(table.values)
    assert bool((value.abs().amax((0, 1)) > 0.24).all())


def test_outputs_that_are_zero_stay_so():
    """Channels that pad a model."""
    table = radial_table.tabulate(
        lambda d: torch.zeros(len(d), 4, dtype=d.dtype), CUTOFF, torch.device("cpu"), torch.float16
    )
    w, w_slope = radial_table.reference(table, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert bool((w == 0).all())
    assert bool((w_slope == 0).all())
