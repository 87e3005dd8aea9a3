"""The steps of eSCN-MD's edges for lmax = mmax = 2 as pure functions of tensors, each one pass over memory when it is compiled.

A GPU spends its time on reading and writing what belongs to an edge. So every step reads its inputs once and writes its outputs
once: gathering both atoms, turning, scaling and rounding are one function, and so on. The products between them stay outside.

Per edge (e), features are stored in the storage type (half precision, or that of the weights) and computed in the type of `wigner`:

    packed   (e, 18 C)  rows m-major (m = 0: l = 0 1 2; +1: 1 2; -1: 1 2; +2; -2), [neighbor | center] in each
    radial   (e, 12 C)  factors for m = 0: l = 0 1 2; |m| = 1: l = 1 2; |m| = 2; [neighbor | center], in the type of `wigner`
    h        (e, 11 H)  gates of l = 1 2; then nine rows, without bias
    q        (e, 9 H)   nine rows
    o        (e, 9, C)  nine rows without bias, in the type of `wigner`: rounding it would cost most

X̄ stands for dE/dX. In the backward pass every row is in a unit of its own: what an edge's center receives is divided by its largest
value (`normalised`), so nothing leaves the range of half precision; and as all that follows is linear, the envelope and that value
come in last, as one weight per edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from atomjet.ops.wigner import generators, m_major

ORDER = tuple(m_major(2, 2))
DEGREE = (0, 1, 1, 1, 2, 2, 2, 2, 2)
FIRST = (0, 1, 10)
"""Places of the first number of each degree's block among the 35 numbers of a rotation."""
FACTOR = (0, 1, 2, 3, 4, 3, 4, 5, 5)
"""Number of the radial factor of each row."""


def _turns() -> tuple[tuple[tuple[int, int, float], ...], ...]:
    """(row, column, value) of what is not zero in the generators about x and z, m-major."""
    tables = generators(2, torch.float64, torch.device("cpu"))[[0, 2]][:, ORDER][:, :, ORDER]
    return tuple(
        tuple((a, b, float(table[a, b])) for a in range(9) for b in range(9) if abs(float(table[a, b])) > 1e-12)
        for table in tables
    )


TURNS = _turns()


def _numbers(wigner: Tensor, dims: int) -> Callable[[int, int], Tensor]:
    """Look up D of a row (m-major) and a coefficient (l-major) of its degree in (..., 35), with `dims` dimensions added."""
    entries = wigner[(..., *(dims * [None]))].unbind(-1 - dims)

    def entry(place: int, coefficient: int) -> Tensor:
        index = ORDER[place]
        degree = DEGREE[index]
        return entries[FIRST[degree] + (index - degree**2) * (2 * degree + 1) + coefficient - degree**2]

    return entry


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _turned(entry: Callable[[int, int], Tensor], x: Sequence[Tensor]) -> list[Tensor]:
    """D x: nine coefficients, l-major, to nine rows, m-major."""
    rows = [x[0].to(entry(0, 0).dtype)]
    for place in range(1, 9):
        degree = DEGREE[ORDER[place]]
        rows.append(_sum([entry(place, k) * x[k] for k in range(degree**2, (degree + 1) ** 2)]))
    return rows


def _turned_back(entry: Callable[[int, int], Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
    """Dᵀ rows: nine rows, or the three of m = 0, to nine coefficients."""
    found = [rows[0]]
    for k in range(1, 9):
        places = [place for place in range(len(rows)) if DEGREE[ORDER[place]] == DEGREE[k]]
        found.append(_sum([entry(place, k) * rows[place] for place in places]))
    return found


def _torque(rows: Sequence[Tensor], turned: Sequence[Tensor]) -> list[Tensor]:
    """Σ L_ab rows_a turned_b over a and b, about x and z."""
    return [_sum([value * rows[a] * turned[b] for a, b, value in turn if a < len(rows)]) for turn in TURNS]


def pack(y: Tensor, wigner: Tensor, radial: Tensor, pairs: Tensor) -> Tensor:
    """D [y_neighbor | y_center] times the radial factors: y (N, 9, C) in storage type, (neighbor, center) (e, 2) to packed."""
    return _packed(y, wigner, radial.unflatten(1, (6, 2, -1)).unbind(1), pairs)


def pack_tabulated(
    y: Tensor,
    wigner: Tensor,
    table_values: Tensor,
    table_changes: Tensor,
    knots: Tensor,
    offsets: Tensor,
    pairs: Tensor,
) -> Tensor:
    """`pack` with radial factors from tables, by Taylor expansion about the nearest knot: values (knots, 12 C), slopes and
    curvatures (knots, 2, 12 C); the knot of each edge (e,), and how far it is beyond it, Å.
    """
    values, slopes, _ = _tabulated(table_values, table_changes, knots)
    return _packed(y, wigner, (values + offsets[:, None, None, None] * slopes).unbind(1), pairs)


def _tabulated(values: Tensor, changes: Tensor, knots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, slope, curvature (e, 6, 2, C)."""
    slopes, curvatures = changes[knots].unflatten(2, (6, 2, -1)).unbind(1)
    return values[knots].unflatten(1, (6, 2, -1)), slopes, curvatures


def _packed(y: Tensor, wigner: Tensor, factors: Sequence[Tensor], pairs: Tensor) -> Tensor:
    """Factors are six of (e, 2, C)."""
    turned = _turned(_numbers(wigner, 2), y[pairs].unbind(2))
    rows = [(row * factors[FACTOR[place]]).to(y.dtype) for place, row in enumerate(turned)]
    return torch.stack(rows, dim=1).flatten(1)


def pack_backward(
    packed_bar: Tensor, y: Tensor, wigner: Tensor, radial: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dE/dpacked (e, 18 C) to ȳ of neighbor and center (e, 9, 2, C) in storage type, torque about x and z (2, e), and
    dE/dradial (e, 12 C).
    """
    y_bar, torque, products = _packed_backward(packed_bar, y, wigner, radial.unflatten(1, (6, 2, -1)).unbind(1), pairs)
    return y_bar, torque, torch.stack(products, dim=1).flatten(1)


def pack_tabulated_backward(
    packed_bar: Tensor,
    y: Tensor,
    wigner: Tensor,
    table_values: Tensor,
    table_changes: Tensor,
    knots: Tensor,
    offsets: Tensor,
    pairs: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dE/dpacked (e, 18 C) to ȳ and torque as `pack_backward` gives them, and dE/dd (e,) through the tabulated factors."""
    offset = offsets[:, None, None, None]
    values, slopes, curvatures = _tabulated(table_values, table_changes, knots)
    y_bar, torque, products = _packed_backward(packed_bar, y, wigner, (values + offset * slopes).unbind(1), pairs)
    changes = (slopes + offset * curvatures).unbind(1)
    return y_bar, torque, _sum([a * b for a, b in zip(products, changes, strict=True)]).sum((1, 2))


def _packed_backward(
    packed_bar: Tensor, y: Tensor, wigner: Tensor, factors: Sequence[Tensor], pairs: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """ȳ, torque, and what multiplies the derivative of each of the six factors (e, 2, C)."""
    entry = _numbers(wigner, 2)
    turned = _turned(entry, y[pairs].unbind(2))
    bars = packed_bar.unflatten(1, (9, 2, -1)).to(wigner.dtype).unbind(1)
    scaled = [bar * factors[FACTOR[place]] for place, bar in enumerate(bars)]
    products: list[list[Tensor]] = [[] for _ in range(6)]
    for place in range(9):
        products[FACTOR[place]].append(bars[place] * turned[place])
    torque = torch.stack([part.sum((1, 2)) for part in _torque(scaled, turned)])
    y_bar = torch.stack([part.to(y.dtype) for part in _turned_back(entry, scaled)], dim=1)
    return y_bar, torque, [_sum(parts) for parts in products]


def gate(h: Tensor, weight_bias: Tensor) -> Tensor:
    """silu on l = 0, sigmoid of the gates on the others; `weight_bias` (5 H,) of the gates and of m = 0."""
    rows, factors = _opened(h, weight_bias)
    places = [silu(rows[0]), *(rows[k] * factors[DEGREE[ORDER[k]] - 1] for k in range(1, 9))]
    return torch.cat([row.to(h.dtype) for row in places], dim=1)


def gate_backward(q_bar: Tensor, h: Tensor, weight_bias: Tensor) -> Tensor:
    """dE/dq (e, 9 H) to dE/dh (e, 11 H)."""
    rows, factors = _opened(h, weight_bias)
    bars = q_bar.unflatten(1, (9, -1)).to(weight_bias.dtype).unbind(1)
    found = []
    for degree, factor in zip((1, 2), factors, strict=True):
        terms = [bars[k] * rows[k] for k in range(1, 9) if DEGREE[ORDER[k]] == degree]
        found.append(_sum(terms) * factor * (1 - factor))
    s = torch.sigmoid(rows[0])
    found.append(bars[0] * s * (1 + rows[0] * (1 - s)))
    found += [bars[k] * factors[DEGREE[ORDER[k]] - 1] for k in range(1, 9)]
    return torch.cat([part.to(h.dtype) for part in found], dim=1)


def _opened(h: Tensor, bias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The nine rows and the sigmoids of the gates of l = 1, 2; biases added."""
    parts, shifts = h.unflatten(1, (11, -1)).to(bias.dtype).unbind(1), bias.unflatten(0, (5, -1)).unbind(0)
    shifted = [part + shift for part, shift in zip(parts, shifts, strict=False)]
    return [*shifted[2:], *parts[5:]], [torch.sigmoid(gate) for gate in shifted[:2]]


def messages(
    o: Tensor, weight_bias: Tensor, wigner: Tensor, envelope: Tensor, starts: Tensor, stops: Tensor, count: Tensor
) -> Tensor:
    """Σ f Dᵀ o over each row: o (e, 9, C), or (e, 3, C) of m = 0 alone, to (n, 9, C).

    `starts`, `stops` (n,): the edges of each row. `count`: 0, 1 ... up to the longest row.
    """
    edges, inside = _edges_of_rows(starts, stops, count)
    weight = torch.where(inside, envelope[edges], 0.0)[:, :, None]
    columns = _turned_back(_numbers(wigner[edges], 1), _shifted(o[edges], weight_bias))
    return torch.stack([(weight * column).sum(1) for column in columns], dim=1)


def _shifted(o: Tensor, bias: Tensor) -> list[Tensor]:
    """The rows of (..., 9 or 3, C), those of m = 0 with their bias (3 C,)."""
    rows, shifts = o.to(bias.dtype).unbind(-2), bias.unflatten(0, (3, -1)).unbind(0)
    return [*(row + shift for row, shift in zip(rows, shifts, strict=False)), *rows[3:]]


def _edges_of_rows(starts: Tensor, stops: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) edges of every row and whether there is one; the first edge stands for those that are not."""
    places = starts[:, None] + count
    inside = places < stops[:, None]
    return torch.where(inside, places, 0), inside


def normalised(x_bar: Tensor, storage_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x̄ (N, 9, C) divided by the largest value of each atom, in storage type, and that value (N,)."""
    largest = x_bar.abs().amax((1, 2)).clamp(min=1e-30)
    return (x_bar / largest[:, None, None]).to(storage_dtype), largest


def messages_backward(
    x_bar: Tensor, o: Tensor, weight_bias: Tensor, wigner: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x̄ (N, 9, C) normalised, o (e, 9, C) or (e, 3, C).

    Returns t = D x̄_center (e, 9 C or 3 C) in storage type, t · o (e,), and Σ L o tᵀ (2, e). ō is f times t, and so on.
    """
    turned = _turned(_numbers(wigner, 1), x_bar[centers].unbind(1))
    values = _shifted(o, weight_bias)
    along = _sum([value * t for value, t in zip(values, turned, strict=False)]).sum(1)
    torque = torch.stack([part.sum(1) for part in _torque(values, turned)])
    return torch.cat([t.to(x_bar.dtype) for t in turned[: len(values)]], dim=1), along, torque


def gathered(given: Tensor, share: Tensor, reverse: Tensor, starts: Tensor, stops: Tensor, count: Tensor) -> Tensor:
    """What edges give their atoms, ȳ of neighbor and center (E, 9, 2, C) weighed by share (E,), summed by atom: (N, 9, C).

    What an edge gives its neighbor is, seen from there, what the reverse edge receives: no scattered additions.
    """
    edges, inside = _edges_of_rows(starts, stops, count)
    others = reverse[edges]
    own = torch.where(inside, share[edges], 0.0)[:, :, None, None] * given[edges, :, 1]
    theirs = torch.where(inside, share[others], 0.0)[:, :, None, None] * given[others, :, 0]
    return (own + theirs).sum(1)
