"""Screened repulsion of nuclei: against numbers worked out from the published formula, and smooth where it is switched."""

import math

import pytest
import torch

from atomjet.ops.zbl import COULOMB, POWER, SCREENING, reference, reference_grad


def pair(first, second, start=10.0, end=20.0):
    """Parameters of a pair of nuclei; whole everywhere unless said otherwise."""
    numbers = (COULOMB * first * second, (first**POWER + second**POWER) / SCREENING, start, end)
    return [torch.tensor([number], dtype=torch.float64) for number in numbers]


@pytest.mark.parametrize(
    ("first", "second", "distance"), [(1, 1, 0.3), (7, 7, 0.5), (6, 17, 0.7), (17, 17, 1.2)], ids=str
)
def test_is_the_published_formula(first, second, distance):
    a = 0.88534 * 0.529177 / (first**0.23 + second**0.23)
    x = distance / a
    screened = 0.18175 * math.exp(-3.1998 * x) + 0.50986 * math.exp(-0.94229 * x)
    screened += 0.28022 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.20162 * x)
    expected = 14.399645 * first * second / distance * screened
    found = reference(torch.tensor([distance], dtype=torch.float64), *pair(first, second))
    assert float(found) == pytest.approx(expected, rel=2e-6)


def test_two_nitrogens_at_half_an_angstrom():
    """Where the whole potential of GFN2-xTB is 159 eV."""
    assert float(reference(torch.tensor([0.5], dtype=torch.float64), *pair(7, 7))) == pytest.approx(154, abs=1)


def test_derivative_is_that_of_the_energy():
    lengths = torch.linspace(0.2, 1.7, 40, dtype=torch.float64, requires_grad=True)
    parameters = [x.expand(40) for x in pair(6, 8, 0.7, 1.4)]
    energy, slope = reference_grad(lengths, *parameters)
    expected = reference(lengths, *parameters)
    torch.testing.assert_close(energy, expected)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), lengths)[0])
    assert torch.autograd.gradgradcheck(lambda x: reference(x, *parameters), (lengths,))


@pytest.mark.parametrize("at", [0.7, 1.4])
def test_two_derivatives_are_continuous_where_it_is_switched(at):
    sides = torch.tensor([at - 1e-7, at + 1e-7], dtype=torch.float64, requires_grad=True)
    energy = reference(sides, *(x.expand(2) for x in pair(6, 8, 0.7, 1.4)))
    (first,) = torch.autograd.grad(energy.sum(), sides, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), sides)
    energy, first = energy.detach(), first.detach()
    for values, change in ((energy, 1e-4), (first, 1e-3), (second, 1e-1)):
        assert float((values[1] - values[0]).abs()) < change
    assert float(energy[1]) == 0.0 if at == 1.4 else float(energy[0]) > 30
    assert float(second[0].abs()) > 100 if at == 0.7 else float(second.abs().max()) < 1e-2
