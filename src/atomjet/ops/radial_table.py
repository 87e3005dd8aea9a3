"""Filters of a radial function by table: its Taylor coefficients at even knots, so that any distance is one short expansion.

With k the nearest knot, δ = d - d_k, and coefficients c_0 ... c_3 of each output, knots from 0 to the cutoff:

    W(d) = c_0 + δ (c_1 + δ c_2),      W'(d) = c_1 + δ (2 c_2 + 3 δ c_3)

What lies behind (any radial basis, any cutoff, a network) is evaluated once, in float64; a kernel reads a few rows and never
meets it. There are two forms. The wide one holds all four in float32. The narrow one has c_0 and c_1 in one word of 32 bits, since
every byte of a row is fetched for every edge, and c_2 in half precision, which is enough behind a δ of a few thousandths; c_3 is
left out, and c_2 from W. What is rounded of c_0 and c_1 goes into forces as it is, so they are fixed-point numbers: their 15 and 16
bits keep three to four more than half precision would. Each output is divided by a power of two of its own (`scales`), which
whoever uses the table multiplies into something else.

A word is read without converting whole numbers. Moved down by eight bits, with the exponent of 1 put before it, it is a float,
`NO_VALUE` + c_0; its lower half with the same exponent is `NO_SLOPE` + c_1 / G. Digits of c_1 that stand below those of c_0 in the
first are counted in when c_0 is rounded.
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


NOTHING = KNOTS + 1
"""The row behind the last knot, which is zero."""

NO_VALUE, NO_SLOPE = 1.5 + 2.0**-16, 1.0 + 2.0**-8
"""How zeros stand in a word of the narrow form, read as floats."""


class RadialTable(NamedTuple):
    """A table of W outputs by knot, from zero to the cutoff, with a row of zeros behind.

    Attributes:
        values: (knots + 2, 2, W) float32, c_0 and c_1; narrow: (knots + 2, 1, W) int32, both in a word.
        rows: (knots + 2, 2, W) float32, 2 c_2 and 3 c_3; narrow: (knots + 2, 1, W) float16, 2 c_2.
        scales: (W,) float32, powers of two: the function is this times what the table gives.
        gain: G of the words, a power of two.
        per_length: knots in an Å.
    """

    values: Tensor
    rows: Tensor
    scales: Tensor
    gain: float
    per_length: float


def tabulate(
    function: Callable[[Tensor], Tensor], cutoff: float, device: torch.device, dtype: torch.dtype
) -> RadialTable:
    """Tabulate a function of (D,) distances in float64 to (D, W) outputs, smooth also a little beyond both ends.

    Args:
        function: see above.
        cutoff: Å.
        device: where it is evaluated, and where the table will be.
        dtype: torch.float32 for the wide form, torch.float16 for the narrow one.
    """
    distances = torch.linspace(0, cutoff, KNOTS + 1, dtype=torch.float64, device=device).clamp(min=NEAREST)
    with torch.no_grad():
        shifted = torch.stack([function(distances + step * STEP) for step in range(-3, 4)])
    stencils = torch.tensor(DIFFERENCES, dtype=torch.float64, device=device)
    differences = torch.einsum("ks,sdw->kdw", stencils, shifted)
    differences = torch.nn.functional.pad(differences, (0, 0, 0, 1))
    value = torch.nn.functional.pad(shifted[3], (0, 0, 0, 1))
    first, second, third = (difference / STEP**order for order, difference in enumerate(differences, start=1))
    scales = torch.ones_like(value[0])
    if dtype == torch.float32:
        values, rows = torch.stack([value, first], dim=1), torch.stack([second, 0.5 * third], dim=1)
        return RadialTable(values.float(), rows.float(), scales.float(), 1.0, KNOTS / cutoff)
    largest = value.abs().amax(0)
    scales = torch.where(largest > 0, 2.0 * _power_above(largest), scales)
    value, first, second = value / scales, first / scales, second / scales
    gain = 256.0 * float(_power_above(first.abs().max()))
    words = packed(value, first / gain)[:, None]
    return RadialTable(words, second[:, None].half(), scales.float(), gain, KNOTS / cutoff)


def _power_above(x: Tensor) -> Tensor:
    """The power of two just above, so that what is divided by it stays below 1."""
    return torch.exp2(torch.frexp(x).exponent.double())


def packed(value: Tensor, first: Tensor) -> Tensor:
    """Numbers below 1/2 and below 2⁻⁸ to words."""
    low = ((first + 2.0**-8) * 2**23).round().long().clamp(0, 2**16 - 1)
    high = ((value + 0.5) * 2**15 - ((low >> 8) - 128) / 256).round().long().clamp(0, 2**15 - 1)
    word = (2**15 + high << 16) + low
    return (word - 2**32).to(torch.int32)  # the highest bit is set: as a signed number it is negative


def unpacked(words: Tensor) -> tuple[Tensor, Tensor]:
    """c_0 / scale and c_1 / (scale G) of words, float64."""
    word = words.long() % 2**32
    return 1 + (word % 2**31 >> 8) / 2**23 - NO_VALUE, 1 + word % 2**16 / 2**23 - NO_SLOPE


def reference(table: RadialTable, distances: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) Å to W and W' (E, W)."""
    knot = (distances * table.per_length).round().long()
    offset = (distances - knot / table.per_length)[:, None]
    second, *third = table.rows[knot].to(distances.dtype).unbind(1)
    if third:
        value, first = table.values[knot].to(distances.dtype).unbind(1)
        return value + offset * (first + 0.5 * offset * second), first + offset * (second + offset * third[0])
    value, first = (x.to(distances.dtype) for x in unpacked(table.values[knot][:, 0]))
    first = table.gain * first
    return table.scales * (value + offset * first), table.scales * (first + offset * second)
