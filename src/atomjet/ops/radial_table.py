"""Filters of a radial function by table: its Taylor coefficients at even knots, so that any distance is one short expansion.

With k the nearest knot, δ = d - d_k, and coefficients c_0 ... c_3 of each output, knots from 0 to the cutoff:

    W(d) = c_0 + δ (c_1 + δ c_2),      W'(d) = c_1 + δ (2 c_2 + 3 δ c_3)

c_0 and c_1 are stored in float32: what is rounded of them goes into forces as it is. c_2 is as narrow as wanted, since it meets a δ
of a few thousandths, and c_3 is kept in float32 alone. What lies behind (any radial basis, any cutoff, a network) is evaluated
once, in float64; a kernel reads a few rows and never meets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

KNOTS = 1024

NEAREST = 1e-3
"""Å. The first knot stands here instead of at zero, where functions such as sin(k d) / d are not evaluated well."""

STEP = 0.01
"""Å, of the differences that give the derivatives: errors of about 1e-10, 1e-9 and 1e-5 of them."""

DIFFERENCES = [
    [-1 / 60, 3 / 20, -3 / 4, 0, 3 / 4, -3 / 20, 1 / 60],
    [1 / 90, -3 / 20, 3 / 2, -49 / 18, 3 / 2, -3 / 20, 1 / 90],
    [1 / 8, -1, 13 / 8, 0, -13 / 8, 1, -1 / 8],
]
"""Central differences of the first, second and third derivative from seven values, of order 6, 6 and 4."""


class RadialTable(NamedTuple):
    """Tables by knot: `values` (knots + 1, 2, W) float32, c_0 and c_1, and `rows` (knots + 1, 1 or 2, W), 2 c_2 and, in float32,
    3 c_3; `per_length` knots lie within an Å.
    """

    values: Tensor
    rows: Tensor
    per_length: float


def tabulate(
    function: Callable[[Tensor], Tensor], cutoff: float, device: torch.device, dtype: torch.dtype
) -> RadialTable:
    """Tabulate a function of (D,) distances in float64 to (D, W) outputs, smooth also a little beyond both ends."""
    distances = torch.linspace(0, cutoff, KNOTS + 1, dtype=torch.float64, device=device).clamp(min=NEAREST)
    with torch.no_grad():
        shifted = torch.stack([function(distances + step * STEP) for step in range(-3, 4)])
    stencils = torch.tensor(DIFFERENCES, dtype=torch.float64, device=device)
    first, second, third = torch.einsum("ks,sdw->kdw", stencils, shifted).unbind(0)
    values = torch.stack([shifted[3], first / STEP], dim=1)
    rows = [second / STEP**2]
    if dtype == torch.float32:
        rows.append(0.5 * third / STEP**3)
    return RadialTable(values.float(), torch.stack(rows, dim=1).to(dtype), KNOTS / cutoff)


def reference(table: RadialTable, distances: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) Å to W and W' (E, W)."""
    knot = (distances * table.per_length).round().long()
    offset = (distances - knot / table.per_length)[:, None]
    value, first = table.values[knot].to(distances.dtype).unbind(1)
    second, *third = table.rows[knot].to(distances.dtype).unbind(1)
    if not third:
        return value + offset * first, first + offset * second
    return value + offset * (first + 0.5 * offset * second), first + offset * (second + offset * third[0])
