"""What PaiNN and the kernels of its `fast_gpu` must do: operations and bytes of one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atomjet.models.cost import Cost, Evaluation, Work, edge_forces
from atomjet.models.painn.config import PaiNNConfig


def work(config: PaiNNConfig, backend: str, of: Evaluation) -> Work:
    """Declared work of an evaluation by any backend; names of kernels are those of `fast_gpu`."""
    sizes = Sizes(of.systems, of.atoms, of.edges, config.layers, config.features, of.element)
    kernels = {name: cost(sizes) for name, cost in KERNELS.items()}
    return Work(whole(config, of.atoms, of.edges, of.element), kernels | edge_forces(of.systems, of.atoms, of.edges))


def whole(config: PaiNNConfig, atoms: int, edges: int, element: int) -> Cost:
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

    `element` are the bytes of a number that travels between atoms, and of weights.
    """

    systems: int
    atoms: int
    edges: int
    layers: int
    features: int
    element: int


def _message(s: Sizes) -> Cost:
    """L launches; the first gathers a table of elements only, and has two thirds of the filter."""
    f, more = s.features, s.layers - 1
    moved = s.layers * 16 * s.edges + s.atoms * (6 * f * s.element * more + 16 * f * (2 * s.layers - 1))
    return Cost(moved, float(s.edges * f * (25 * more + 15)), "arithmetic")


def _message_back(s: Sizes) -> Cost:
    """Filters and their slopes; of an edge a derivative of 16 bytes; nothing flows back to the table of elements."""
    f, more = s.features, s.layers - 1
    per_atom = s.layers * 4 * f * s.element + more * (9 * f * s.element + 24 * f)
    moved = (s.layers * 32 + more * 16) * s.edges + s.atoms * per_atom
    return Cost(moved, float(s.edges * f * (65 * more + 38)), "arithmetic")


def _update(s: Sizes) -> Cost:
    """L - 1 launches of 15 products of F x F an atom: mixing of three components, D1, D2, C1, C2."""
    launches, square = s.layers - 1, s.features**2
    per_atom = 32 * s.features + 16 * s.features * s.element
    return Cost(launches * (s.atoms * per_atom + 11 * square * s.element), launches * s.atoms * 30.0 * square)


def _update_back(s: Sizes) -> Cost:
    """L - 1 launches: the products of `_update` by transposed matrices, 15 of F x F an atom."""
    launches, square = s.layers - 1, s.features**2
    per_atom = 32 * s.features + 17 * s.features * s.element
    return Cost(launches * (s.atoms * per_atom + 11 * square * s.element), launches * s.atoms * 30.0 * square)


def _update_last(s: Sizes) -> Cost:
    """The last mixing without outputs that nothing reads, the readout of half the channels, and both backward."""
    square = s.features**2
    per_atom = 32 * s.features + 4 * s.features * s.element + 4
    return Cost(s.atoms * per_atom + 14 * square * s.element, s.atoms * 42.0 * square)


KERNELS: dict[str, Callable[[Sizes], Cost]] = {
    "painn_message_fwd_kernel": _message,
    "painn_message_bwd_kernel": _message_back,
    "painn_update_fwd_kernel": _update,
    "painn_update_bwd_kernel": _update_back,
    "painn_update_last_kernel": _update_last,
}
"""Costs by a kernel's name, of all launches of one evaluation together."""
