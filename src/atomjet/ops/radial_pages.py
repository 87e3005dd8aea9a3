"""Radial networks of pairs of elements by table: value, slope and curvature at even knots, in half precision.

For one pair a network is a function of the distance alone. At each of K knots from 0 to the cutoff stand, for each of W outputs, a
word with value (low half) and slope (high half), and behind all words the curvatures:

    row k (3 W halves) = [value_0 slope_0 value_1 slope_1 ... | curvature_0 curvature_1 ...]
    W(d) = value + δ slope,    W'(d) = slope + δ curvature        with δ the distance beyond the nearest knot

The tables of all networks of a pair stand one after the other in one tensor, which begins at a multiple of `PAGE` bytes from that of
the first pair: its number of pages, in a matrix by elements, is all that a kernel needs to find it. So pairs come and go while what
was captured stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KNOTS = 2048
"""From 0 to the cutoff: with 6 Å, no distance is further than 0.0015 Å from one."""

STEP = 1e-3
"""Å, of the differences that give slopes and curvatures: in float64, of fourth order, exact to nine digits."""

PAGE = 256
"""Bytes."""


def tabulate(functions: Sequence[Callable[[Tensor], Tensor]], cutoff: float, device: torch.device) -> Tensor:
    """Tabulate networks of one pair, (K,) distances in float64 to (K, W) outputs each, as one tensor of halves."""
    lengths = torch.linspace(0, cutoff, KNOTS, dtype=torch.float64, device=device)
    parts = []
    for function in functions:
        at = [function(lengths + k * STEP) for k in (-2, -1, 0, 1, 2)]
        slopes = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * STEP)
        curvatures = (16 * (at[1] + at[3]) - 30 * at[2] - at[0] - at[4]) / (12 * STEP**2)
        words = torch.stack([at[2], slopes], dim=2).flatten(1)
        parts.append(torch.cat([words, curvatures], dim=1).half().flatten())
    return torch.cat(parts)


def pages_between(first: Tensor, other: Tensor) -> int:
    """How many pages after the first tensor another begins."""
    distance = other.data_ptr() - first.data_ptr()
    assert distance % PAGE == 0, "tables begin at whole pages"
    return distance // PAGE


def reference(table: Tensor, start: int, outputs: int, knots: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """W and W' (E, outputs) of one network, whose rows begin at `start`, of one pair's table; in the type of the offsets (E,)."""
    rows = table[start : start + KNOTS * 3 * outputs].view(KNOTS, 3 * outputs)[knots.long()].to(offsets.dtype)
    words, curvatures = rows.split([2 * outputs, outputs], dim=1)
    values, slopes = words.unflatten(1, (outputs, 2)).unbind(2)
    return values + offsets[:, None] * slopes, slopes + offsets[:, None] * curvatures


def paged(table: Tensor) -> Tensor:
    """A copy that begins at a whole page."""
    room = torch.empty(table.numel() + PAGE // 2, dtype=table.dtype, device=table.device)
    start = -room.data_ptr() % PAGE // 2
    return room[start : start + table.numel()].copy_(table)
