"""The steps of eSCN-MD's edges for lmax = mmax = 2 as pure functions of tensors, each one pass over memory when it is compiled.

A GPU spends its time on reading and writing what belongs to an edge. So every step reads its inputs once and writes its outputs
once: gathering both atoms, turning, scaling and rounding are one function, and so on. The products between them stay outside.

Per edge (e), features are kept in the storage type (half precision, or that of the weights) and computed in the type of `wigner`:

    packed   (e, 18 C)  rows m-major (m = 0: l = 0 1 2; +1: 1 2; -1: 1 2; +2; -2), [neighbor | center] in each
    radial   (e, 12 C)  factors for m = 0: l = 0 1 2; |m| = 1: l = 1 2; |m| = 2; in the type of `wigner`, [neighbor | center] in each
    h        (e, 11 H)  gates of l = 1 2; then nine rows, without bias
    q, o     (e, 9 H), (e, 9 C)  nine rows; o without bias

X̄ stands for dE/dX. On the way back every row is in a unit of its own: what an edge's center receives is divided by its largest
value (`normalised`), so nothing leaves the range of half precision; and as all that follows is linear, the envelope and that value
come in last, as one weight per edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from atomjet.ops.wigner import generators, m_major

ORDER = tuple(m_major(2, 2))
DEGREE = (0, 1, 1, 1, 2, 2, 2, 2, 2)
FIRST = (0, 1, 10)
"""Where the block of each degree begins among the 35 numbers of a rotation."""
FACTOR = (0, 1, 2, 3, 4, 3, 4, 5, 5)
"""The radial factor of each row."""


def _turns() -> tuple[tuple[tuple[int, int, float], ...], ...]:
    """(row, column, value) of what is not zero in the generators about x and z, m-major."""
    tables = generators(2, torch.float64, torch.device("cpu"))[[0, 2]][:, ORDER][:, :, ORDER]
    return tuple(
        tuple((a, b, float(table[a, b])) for a in range(9) for b in range(9) if abs(float(table[a, b])) > 1e-12)
        for table in tables
    )


TURNS = _turns()


def _entry(wigner: Tensor, place: int, coefficient: int) -> Tensor:
    """D of a row (m-major) and a coefficient (l-major) of the same degree: (e,) of (e, 35)."""
    index = ORDER[place]
    degree = DEGREE[index]
    return wigner[..., FIRST[degree] + (index - degree**2) * (2 * degree + 1) + coefficient - degree**2]


def _turned(wigner: Tensor, x: Tensor, place: int) -> Tensor:
    """One row of D x: x (e, 9, C) l-major to (e, C)."""
    degree = DEGREE[ORDER[place]]
    if degree == 0:
        return x[:, 0].to(wigner.dtype)
    return _sum([_entry(wigner, place, k)[:, None] * x[:, k] for k in range(degree**2, (degree + 1) ** 2)])


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _places(coefficient: int, rows: int) -> list[int]:
    """The rows, of the first `rows`, that have the degree of an l-major coefficient."""
    return [place for place in range(rows) if DEGREE[ORDER[place]] == DEGREE[coefficient]]


def pack(y: Tensor, wigner: Tensor, radial: Tensor, neighbors: Tensor, centers: Tensor) -> Tensor:
    """D [y_neighbor | y_center] times the radial factors: y (N, 9, C) in storage type to packed."""
    return _packed(y, wigner, radial.unflatten(1, (6, 2, -1)).unbind(1), neighbors, centers)


def pack_tabulated(
    y: Tensor, wigner: Tensor, weight_table: Tensor, knots: Tensor, offsets: Tensor, neighbors: Tensor, centers: Tensor
) -> Tensor:
    """The same with factors by Taylor expansion about the nearest knot: the table (knots, 3, 12 C), knots and offsets (e,) Å."""
    table = weight_table.unflatten(2, (6, 2, -1))
    factors = [table[:, 0, k][knots] + offsets[:, None, None] * table[:, 1, k][knots] for k in range(6)]
    return _packed(y, wigner, factors, neighbors, centers)


def _packed(y: Tensor, wigner: Tensor, factors: Sequence[Tensor], neighbors: Tensor, centers: Tensor) -> Tensor:
    """Factors are six of (e, 2, C)."""
    sides = (y[neighbors], y[centers])
    rows = [
        (_turned(wigner, sides[side], place) * factors[FACTOR[place]][:, side]).to(y.dtype)
        for place in range(9)
        for side in range(2)
    ]
    return torch.cat(rows, dim=1)


def pack_backward(
    packed_bar: Tensor, y: Tensor, wigner: Tensor, radial: Tensor, atoms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one side: (e, 9, C) of dE/dpacked, (e, 6, C) of the factors, and the atoms of that side.

    Returns ȳ of each edge's atom (e, 9 C) in storage type, the torque about x and z (2, e), and dE/dradial (e, 6 C).
    """
    y_bar, torque, products = _packed_backward(packed_bar, y, wigner, radial.unbind(1), atoms)
    return y_bar, torque, torch.cat(products, dim=1).to(radial.dtype)


def pack_tabulated_backward(
    packed_bar: Tensor, y: Tensor, wigner: Tensor, weight_table: Tensor, knots: Tensor, offsets: Tensor, atoms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the table (knots, 3, 6, C) of that side; the last of what it returns is dE/dd (e,)."""
    offset = offsets[:, None]
    first = [weight_table[:, 1, k][knots] for k in range(6)]
    factors = [weight_table[:, 0, k][knots] + offset * first[k] for k in range(6)]
    y_bar, torque, products = _packed_backward(packed_bar, y, wigner, factors, atoms)
    slopes = [first[k] + offset * weight_table[:, 2, k][knots] for k in range(6)]
    return y_bar, torque, _sum([products[k] * slopes[k] for k in range(6)]).sum(1)


def _packed_backward(
    packed_bar: Tensor, y: Tensor, wigner: Tensor, factors: Sequence[Tensor], atoms: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """ȳ of each edge's atom, torque, and what multiplies the derivative of each of the six factors (e, C)."""
    x = y[atoms]
    turned = [_turned(wigner, x, place) for place in range(9)]
    bars = [packed_bar[:, place].to(wigner.dtype) for place in range(9)]
    scaled = [bars[place] * factors[FACTOR[place]] for place in range(9)]
    products: list[list[Tensor]] = [[] for _ in range(6)]
    for place in range(9):
        products[FACTOR[place]].append(bars[place] * turned[place])
    torque = torch.stack([_torque(turn, scaled, turned) for turn in TURNS])
    return _turned_back(wigner, scaled, y.dtype), torque, [_sum(parts) for parts in products]


def _torque(turn: tuple[tuple[int, int, float], ...], rows: list[Tensor], turned: list[Tensor]) -> Tensor:
    """Σ L_ab rows_a turned_b over a, b and channels."""
    terms = [value * rows[a] * turned[b] for a, b, value in turn if a < len(rows)]
    return _sum(terms).sum(1)


def _turned_back(wigner: Tensor, rows: list[Tensor], kind: torch.dtype) -> Tensor:
    """Dᵀ rows: nine of (e, C) to (e, 9 C), l-major."""
    columns = []
    for k in range(9):
        terms = [rows[place] if k == 0 else _entry(wigner, place, k)[:, None] * rows[place] for place in _places(k, 9)]
        columns.append(_sum(terms).to(kind))
    return torch.cat(columns, dim=1)


def gate(h: Tensor, weight_bias: Tensor) -> Tensor:
    """silu on l = 0, sigmoid of the gates on the others; `weight_bias` (5 H,) of the gates and of m = 0."""
    rows, _, factors = _opened(h, weight_bias)
    places = [silu(rows[0]), *(rows[k] * factors[DEGREE[ORDER[k]] - 1] for k in range(1, 9))]
    return torch.cat([row.to(h.dtype) for row in places], dim=1)


def gate_backward(q_bar: Tensor, h: Tensor, weight_bias: Tensor) -> Tensor:
    """dE/dq (e, 9 H) to dE/dh (e, 11 H)."""
    rows, _, factors = _opened(h, weight_bias)
    bars = q_bar.unflatten(1, (9, -1)).to(weight_bias.dtype)
    found = []
    for degree in (1, 2):
        terms = [bars[:, k] * rows[k] for k in range(1, 9) if DEGREE[ORDER[k]] == degree]
        factor = factors[degree - 1]
        found.append(_sum(terms) * factor * (1 - factor))
    s = torch.sigmoid(rows[0])
    found.append(bars[:, 0] * s * (1 + rows[0] * (1 - s)))
    found += [bars[:, k] * factors[DEGREE[ORDER[k]] - 1] for k in range(1, 9)]
    return torch.cat([part.to(h.dtype) for part in found], dim=1)


def _opened(h: Tensor, bias: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The nine rows, the gates of l = 1, 2, and their sigmoids; biases added."""
    parts, shifts = h.unflatten(1, (11, -1)), bias.unflatten(0, (5, -1))
    gates = [parts[:, k] + shifts[k] for k in range(2)]
    rows = [parts[:, k] + shifts[k] if k < 5 else parts[:, k].to(bias.dtype) for k in range(2, 11)]
    return rows, gates, [torch.sigmoid(part) for part in gates]


def messages(
    o: Tensor, weight_bias: Tensor, wigner: Tensor, envelope: Tensor, starts: Tensor, stops: Tensor, count: Tensor
) -> Tensor:
    """Σ f Dᵀ o over each row: o (e, 9, C), or (e, 3, C) of m = 0 alone, to (n, 9, C).

    `starts`, `stops` (n,): the edges of each row. `count`: 0, 1 ... up to the longest row.
    """
    rows = o.shape[1]
    edges, inside = _edges_of_rows(starts, stops, count)
    shifts = weight_bias.unflatten(0, (3, -1))
    values = [o[:, place][edges] + shifts[place] if place < 3 else o[:, place][edges] for place in range(rows)]
    weight = torch.where(inside, envelope[edges], 0.0)[:, :, None]
    columns = []
    for k in range(9):
        terms = [
            values[place] if k == 0 else _entry(wigner, place, k)[edges][:, :, None] * values[place]
            for place in _places(k, rows)
        ]
        columns.append((weight * _sum(terms)).sum(1))
    return torch.stack(columns, dim=1)


def _edges_of_rows(starts: Tensor, stops: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) edges of every row and whether there is one; the first edge stands for those that are not."""
    places = starts[:, None] + count
    inside = places < stops[:, None]
    return torch.where(inside, places, 0), inside


def normalised(x_bar: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x̄ (N, 9, C) divided by the largest value of each atom, in storage type, and that value (N,)."""
    largest = x_bar.abs().amax((1, 2)).clamp(min=1e-30)
    return (x_bar / largest[:, None, None]).to(kind), largest


def messages_backward(
    x_bar: Tensor, o: Tensor, weight_bias: Tensor, wigner: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x̄ (N, 9, C) normalised, o (e, 9, C) or (e, 3, C).

    Returns t = D x̄_center (e, 9 C or 3 C) in storage type, t · o (e,), and Σ L o tᵀ (2, e). ō is f times t, and so on.
    """
    rows, wide = o.shape[1], wigner.dtype
    x = x_bar[centers]
    turned = [_turned(wigner, x, place) for place in range(9)]
    shifts = weight_bias.unflatten(0, (3, -1))
    values = [o[:, place] + shifts[place] if place < 3 else o[:, place].to(wide) for place in range(rows)]
    terms = [values[place] * turned[place] for place in range(rows)]
    along = _sum(terms).sum(1)
    torque = torch.stack([_torque(turn, values, turned) for turn in TURNS])
    return torch.cat([turned[place].to(o.dtype) for place in range(rows)], dim=1), along, torque


def gathered(
    to_center: Tensor, to_neighbor: Tensor, share: Tensor, reverse: Tensor, starts: Tensor, stops: Tensor, count: Tensor
) -> Tensor:
    """Σ over the edges of each row of s_e to_center_e + s_r to_neighbor_r, r the reverse of e: (E, 9 C) twice to (N, 9 C).

    What an edge gives its neighbor is, seen from there, what the reverse edge receives: no scattered additions.
    """
    edges, inside = _edges_of_rows(starts, stops, count)
    others = reverse[edges]
    own = torch.where(inside, share[edges], 0.0)[:, :, None] * to_center[edges]
    theirs = torch.where(inside, share[others], 0.0)[:, :, None] * to_neighbor[others]
    return (own + theirs).sum(1)
