"""Radial networks of pairs of elements by table: value, slope and curvature at even knots, six bytes together, or twelve.

For one pair a network is a function of the distance alone. At each of K knots from 0 to the cutoff stand, for each of W outputs, a
word of 32 bits, and behind all words one of 16 bits:

    row k (3 W numbers of 16 bits) = [word_0 word_1 ... | rest_0 rest_1 ...]
    word = value (sign, 5 bits of exponent, 14 of mantissa), upper 12 bits of the slope
    rest = upper 12 bits of the curvature, lower 4 bits of the slope
    W(d) = value + δ slope,    W'(d) = slope + δ curvature        with δ the distance beyond the nearest knot

The value's rounding goes into energies as it is, the same for all edges near a knot: it has four bits more than half precision.
Slope and curvature are numbers of half precision, the curvature without its last bits; W(d), where δ makes the slope small,
does without the last bits of it too, and reads the word alone.

In single precision a row holds three float32 of each output instead, twelve bytes:

    row k (3 W numbers of 32 bits) = [value | slope | half the curvature],    W(d) = value + δ slope + δ² half the curvature

The tables of all networks of a pair stand one after the other in one tensor, which begins at a multiple of `PAGE` bytes from
that of the first pair: its number of pages, in a matrix by elements, is all that a kernel needs to find it. So pairs come and
go while what was captured stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEWEST_KNOTS, MOST_KNOTS = 1024, 4096
"""Knots of a network, from 0 to the cutoff: with 1,024 and 6 Å, no distance is further than 0.003 Å from one."""

BETWEEN = 2.0**-16
"""Largest error between knots, of the norm: a quarter of what the rounding of a value to 14 bits is at most."""

STEP = 1e-3
"""Å, of the differences that give slopes and curvatures: in float64, of fourth order, exact to nine digits."""

PAGE = 256
"""Size of a page, bytes: tables begin at whole pages."""

MISSING_PAGE = -(2**62)
"""Stands for pairs without tables: each of their edges has a row of its own, at its very distance."""


def knots_for(functions: Sequence[Callable[[Tensor], Tensor]], cutoff: float, device: torch.device) -> int:
    """So many knots that networks of one pair, as for `tabulate`, are straight enough between them; a power of two."""
    knots = FEWEST_KNOTS
    while knots < MOST_KNOTS:
        half = 0.5 * cutoff / (knots - 1)
        middles = half * (2 * torch.arange(knots // 8, knots - 1, 3, dtype=torch.float64, device=device) + 1)
        wrong, norm = 0.0, 0.0
        for function in functions:
            before, there, after = function(middles - half), function(middles), function(middles + half)
            wrong += float((before + after - 2 * there).square().sum())  # twice the error of either knot's tangent
            norm += float((2 * there).square().sum())
        if wrong <= BETWEEN**2 * norm:
            break
        knots *= 2
    return knots


def tabulate(
    functions: Sequence[Callable[[Tensor], Tensor]],
    cutoff: float,
    device: torch.device,
    knots: int,
    single: bool = False,
) -> Tensor:
    """Tabulate networks of one pair, (K,) distances in float64 to (K, W) outputs each, as one tensor of int16, or float32."""
    lengths = torch.linspace(0, cutoff, knots, dtype=torch.float64, device=device)
    parts = []
    for function in functions:
        at = [function(lengths + k * STEP) for k in (-2, -1, 0, 1, 2)]
        slopes = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * STEP)
        curvatures = (16 * (at[1] + at[3]) - 30 * at[2] - at[0] - at[4]) / (12 * STEP**2)
        row = [x.float() for x in (at[2], slopes, curvatures / 2)] if single else _packed(at[2], slopes, curvatures)
        parts.append(torch.cat(row, dim=1).flatten())
    return torch.cat(parts)


def _packed(values: Tensor, slopes: Tensor, curvatures: Tensor) -> tuple[Tensor, Tensor]:
    """(K, W) each to words, as (K, 2W) int16, and rests (K, W) int16."""
    # A float32 times 2^-112 has the exponent of a number with five bits of it.
    bits = (values * 2.0**-112).float().view(torch.int32).long()
    bits = (bits & 0x80000000) | (((bits & 0x7FFFFFFF) + 0x100 & 0x0FFFFE00) << 3)
    slope = slopes.half().view(torch.int16).long() & 0xFFFF
    curvature = (curvatures.half().view(torch.int16).long() & 0x7FFF) + 8 & 0x7FF0
    curvature |= torch.where(curvatures < 0, 0x8000, 0)
    rests = curvature | slope & 0xF
    return _signed(bits | slope >> 4, 32).view(torch.int16), _signed(rests, 16)


def _signed(x: Tensor, bits: int) -> Tensor:
    """The signed number with these bits."""
    x = torch.where(x >= 2 ** (bits - 1), x - 2**bits, x)
    return x.to(torch.int32 if bits == 32 else torch.int16)


def pages_between(first: Tensor, other: Tensor) -> int:
    """How many pages after the first tensor another begins."""
    distance = other.data_ptr() - first.data_ptr()
    assert distance % PAGE == 0, "tables begin at whole pages"
    return distance // PAGE


def words_of(tables: Tensor) -> Tensor:
    """Tables of either kind as the numbers of 32 bits that kernels address."""
    return tables if tables.dtype == torch.float32 else tables.view(torch.int32)


def reference(
    table: Tensor, start: int, outputs: int, knots: Tensor, offsets: Tensor, among: int
) -> tuple[Tensor, Tensor]:
    """W and W' (E, outputs) of one network, whose rows begin at `start`, of one pair's table with `among` knots; in the type of
    the offsets (E,).
    """
    rows = table[start : start + among * 3 * outputs].view(among, 3 * outputs)[knots.long()]
    if table.dtype == torch.float32:
        value, slope, bend = rows.to(offsets.dtype).chunk(3, dim=1)
        offsets = offsets[:, None]
        return value + offsets * (slope + offsets * bend), slope + 2 * offsets * bend
    words, rests = rows[:, : 2 * outputs].contiguous().view(torch.int32).long(), rows[:, 2 * outputs :].long()
    values = ((words >> 3 & 0x0FFFFE00) | (words & 0x80000000)) & 0xFFFFFFFF
    values = _signed(values, 32).view(torch.float32).double() * 2.0**112
    slopes = [
        _signed((words & 0xFFF) << 4 | last, 16).view(torch.float16).to(offsets.dtype) for last in (8, rests & 0xF)
    ]
    curvatures = _signed(rests & 0xFFF0, 16).view(torch.float16).to(offsets.dtype)
    offsets = offsets[:, None]
    return values.to(offsets.dtype) + offsets * slopes[0], slopes[1] + offsets * curvatures


def paged(table: Tensor) -> Tensor:
    """A copy that begins at a whole page."""
    size = table.element_size()
    room = torch.empty(table.numel() + PAGE // size, dtype=table.dtype, device=table.device)
    start = -room.data_ptr() % PAGE // size
    return room[start : start + table.numel()].copy_(table)
