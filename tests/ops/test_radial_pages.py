"""Radial tables in words: what is read is the function, to the bits that are promised."""

import torch

from atomjet.ops import radial_pages

CUTOFF, KNOTS = 6.0, 2048


def waves(x):
    k = torch.linspace(0.5, 4.0, 24, dtype=torch.float64)
    return torch.cat(
        [torch.sin(x[:, None] * k), 30 * torch.exp(-x[:, None] * k), 1e-3 * torch.cos(x[:, None] * k)], dim=1
    )


def test_value_and_slope():
    table = radial_pages.tabulate([lambda x: waves(x)[:, :8], waves], CUTOFF, torch.device("cpu"), KNOTS)
    start = KNOTS * 3 * 8
    distances = torch.linspace(0.3, CUTOFF, 4001, dtype=torch.float64)
    step = CUTOFF / (KNOTS - 1)
    knots = (distances / step).round()
    value, slope = radial_pages.reference(table, start, 72, knots, distances - knots * step, KNOTS)
    x = distances.clone().requires_grad_(True)
    exact = waves(x)
    slopes = torch.stack([torch.autograd.grad(exact[:, k].sum(), x, retain_graph=True)[0] for k in range(72)], dim=1)
    # 14 bits of mantissa, the last bits of the slope over half a step, and its change over that.
    assert bool(((value - exact).abs() <= 2.0**-15 * exact.abs() + step * (0.01 * slopes.abs() + 0.01) + 1e-8).all())
    exact, slopes = exact.detach(), slopes.detach()
    assert float((value - exact).norm() / exact.norm()) < 3e-5
    assert float((slope - slopes).norm() / slopes.norm()) < 3e-4


def test_single_precision():
    table = radial_pages.tabulate([waves], CUTOFF, torch.device("cpu"), KNOTS, single=True)
    distances = torch.linspace(0.3, CUTOFF, 4001, dtype=torch.float64)
    step = CUTOFF / (KNOTS - 1)
    knots = (distances / step).round()
    value, slope = radial_pages.reference(table, 0, 72, knots, distances - knots * step, KNOTS)
    exact, slopes = waves(distances), (waves(distances + 1e-5) - waves(distances - 1e-5)) / 2e-5
    assert float((value - exact).norm() / exact.norm()) < 1e-7
    assert float((slope - slopes).norm() / slopes.norm()) < 1e-5


def test_a_steeper_network_gets_more_knots():
    found = [
        radial_pages.knots_for([lambda x, k=k: torch.sin(k * x[:, None])], CUTOFF, torch.device("cpu"))
        for k in (0.1, 2.0, 50.0)
    ]
    assert found == [1024, 2048, 4096]


def test_pages_are_counted_from_the_first():
    first, other = (radial_pages.paged(torch.arange(300, dtype=torch.int16)) for _ in range(2))
    assert other.data_ptr() == first.data_ptr() + radial_pages.PAGE * radial_pages.pages_between(first, other)
    assert torch.equal(other, torch.arange(300, dtype=torch.int16))
