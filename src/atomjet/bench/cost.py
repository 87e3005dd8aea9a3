"""Declared cost of operators and kernels: bytes that must move and floating point operations.

Only those listed here have a cost; of the others a profile says the time and nothing more. Bytes count every input once and
the result once, as if nothing stayed in a cache between operators. Of operators the shapes of their inputs say how much that is; of
kernels, which a profiler sees by name alone, the sizes of the model and of what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from atomjet.models.painn import PaiNNConfig


class Cost(NamedTuple):
    """Bytes moved and operations done by one call. `by` is what computes: matrix "products", or "arithmetic" number by number,
    which is slower on a GPU.
    """

    bytes: float
    flops: float
    by: str = "products"


ELEMENTWISE = {
    # name: operations per element of the largest input
    "add": 1,
    "add_": 1,
    "sub": 1,
    "mul": 1,
    "mul_": 1,
    "div": 1,
    "neg": 1,
    "rsub": 1,
    "pow": 1,
    "square": 1,
    "addcmul": 2,
    "addcmul_": 2,
    "clone": 0,
    "copy_": 0,
    "fill_": 0,
    "zero_": 0,
    "sqrt": 1,
    "sqrt_": 1,
    "exp": 10,
    "cos": 10,
    "sin": 10,
    "sigmoid": 10,
    "silu": 11,
    "silu_backward": 14,
    "where": 1,
    "lt": 1,
    "abs": 1,
    "masked_fill_": 1,
    "sum": 1,
    "linalg_vector_norm": 2,
}


def declared(name: str, shapes: list[list[int]], element: int) -> Cost | None:
    """Cost of an operator (aten::NAME) on inputs of these shapes, `element` bytes a number; None where none is declared."""
    kind = name.removeprefix("aten::")
    sizes = [prod(shape) if shape else 0 for shape in shapes]
    if kind in ("mm", "addmm", "bmm"):
        a, b = [shape for shape in shapes if len(shape) >= 2][-2:]
        batch, (rows, inner), columns = prod(a[:-2]), a[-2:], b[-1]
        return Cost(
            element * batch * (rows * inner + inner * columns + rows * columns), 2.0 * batch * rows * inner * columns
        )
    if kind in ELEMENTWISE and sizes:
        # In place or not, one result of the largest input's size; sums and norms write next to nothing.
        result = 0 if kind in ("sum", "linalg_vector_norm") else max(sizes)
        return Cost(element * (sum(sizes) + result), float(ELEMENTWISE[kind] * max(sizes)), "arithmetic")
    if kind == "index_select" and len(shapes) >= 3:
        rows, width = sizes[2], prod(shapes[0][1:])
        return Cost(element * 2 * rows * width + 8 * rows, 0.0, "arithmetic")
    if kind == "index" and shapes and shapes[0]:
        return None  # the indices' shapes are not recorded
    if kind in ("index_add_", "index_add") and len(shapes) >= 4:
        added = sizes[3]
        return Cost(element * (added + 2 * sizes[0]) + 8 * sizes[2], float(added), "arithmetic")
    if kind == "segment_reduce" and sizes:
        return Cost(element * sizes[0], float(sizes[0]), "arithmetic")
    return None


def painn(config: PaiNNConfig, atoms: int, edges: int, element: int) -> Cost:
    """Energy and forces of PaiNN, dense, nothing recomputed and nothing saved by structure.

    F channels, K radial functions. Per atom and layer 15 F² multiply-adds (context 4, channel mix 6, update 5), per edge and
    layer 3 F K for the filter and some 8 F operations around it; the backward pass repeats the products and does twice as much
    around them. Bytes: what each edge gathers (6 F numbers forward, 4 F backward) and 18 F numbers an atom kept and read again.
    """
    f, k = config.features, config.num_radial
    per_atom = config.layers * 15 * f * f + f * f // 2 + f // 2
    per_edge = config.layers * 3 * f * k
    flops = 2 * 2 * (atoms * per_atom + edges * per_edge) + config.layers * edges * (16 + 40) * f
    gathered = config.layers * edges * 10 * f
    kept = config.layers * atoms * 2 * 18 * f
    return Cost(float(element * (gathered + kept)), float(flops))


@dataclass(frozen=True)
class Sizes:
    """Sizes of one evaluation by PaiNN's kernels: S systems, N atoms, E edges, L layers, F channels.

    `narrow` are the bytes of a number that travels between atoms, and of weights.
    """

    systems: int
    atoms: int
    edges: int
    layers: int
    features: int
    narrow: int


def _message(s: Sizes) -> Cost:
    """L launches; the first gathers a table of elements only, and has two thirds of the filter."""
    f, more = s.features, s.layers - 1
    moved = s.layers * 16 * s.edges + s.atoms * (6 * f * s.narrow * more + 16 * f * (2 * s.layers - 1))
    return Cost(moved, float(s.edges * f * (25 * more + 15)), "arithmetic")


def _message_back(s: Sizes) -> Cost:
    """Filters and their slopes; of an edge a derivative of 16 bytes; nothing flows back to the table of elements."""
    f, more = s.features, s.layers - 1
    per_atom = s.layers * 4 * f * s.narrow + more * (9 * f * s.narrow + 24 * f)
    moved = (s.layers * 32 + more * 16) * s.edges + s.atoms * per_atom
    return Cost(moved, float(s.edges * f * (65 * more + 38)), "arithmetic")


def _update(s: Sizes) -> Cost:
    """L - 1 launches of 15 products of F x F an atom: mixing of three components, D1, D2, C1, C2."""
    launches, square = s.layers - 1, s.features**2
    per_atom = 32 * s.features + 16 * s.features * s.narrow
    return Cost(launches * (s.atoms * per_atom + 11 * square * s.narrow), launches * s.atoms * 30.0 * square)


def _update_back(s: Sizes) -> Cost:
    """L - 1 launches: the products of `_update` by transposed matrices, 15 of F x F an atom."""
    launches, square = s.layers - 1, s.features**2
    per_atom = 32 * s.features + 17 * s.features * s.narrow
    return Cost(launches * (s.atoms * per_atom + 11 * square * s.narrow), launches * s.atoms * 30.0 * square)


def _update_last(s: Sizes) -> Cost:
    """The last mixing without outputs that nothing reads, the readout of half the channels, and both backward."""
    square = s.features**2
    per_atom = 32 * s.features + 4 * s.features * s.narrow + 4
    return Cost(s.atoms * per_atom + 14 * square * s.narrow, s.atoms * 42.0 * square)


def _edge_forces(s: Sizes) -> Cost:
    """Vector, ends and both gradients of an edge in; force, energy and virial of an atom out."""
    return Cost(s.edges * (20 + 24.0) + s.atoms * 88.0, 60.0 * s.edges, "arithmetic")


def _edge_forces_sums(s: Sizes) -> Cost:
    """Energy and virial of an atom in; cell and periodic directions in, energy and stress of a structure out."""
    return Cost(s.atoms * 56.0 + s.systems * 168.0, 7.0 * s.atoms + 21.0 * s.systems, "arithmetic")


KERNELS: dict[str, Callable[[Sizes], Cost]] = {
    "painn_message_fwd_kernel": _message,
    "painn_message_bwd_kernel": _message_back,
    "painn_update_fwd_kernel": _update,
    "painn_update_bwd_kernel": _update_back,
    "painn_update_last_kernel": _update_last,
    "edge_forces_kernel": _edge_forces,
    "edge_forces_sums_kernel": _edge_forces_sums,
}
"""By name: the cost of all launches of one evaluation together. Those of the search are in `search_cost`."""


def cost_of(name: str, costs: Mapping[str, Cost]) -> Cost | None:
    """That of a kernel as a profiler names it: forms for one kind of GPU do the same work."""
    name = name.replace("_hopper_kernel", "_kernel")
    return next((cost for kernel, cost in costs.items() if name.startswith(kernel)), None)
