"""What the kernels of eSCN-MD's `fast_gpu` must do: operations and bytes of all launches of one evaluation together, by kernel.

Bytes are those that no cache can spare: what belongs to edges is written by one kernel and read by the next. What belongs to
atoms and the radial tables are small beside it, and are counted where they are all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from atomjet.models.cost import UNDECLARED, Cost, Evaluation, Work, edge_forces
from atomjet.models.escn_md.config import EscnMdConfig


def work(config: EscnMdConfig, backend: str, of: Evaluation) -> Work:
    """Declared work of an evaluation by `fast_gpu`; other backends declare none."""
    if backend != "fast_gpu":
        return UNDECLARED
    sizes = EdgeSizes.of(config, of.systems, of.atoms, of.edges)
    kernels = {name: cost(sizes) for name, cost in KERNELS.items()}
    return Work(kernels["grouped_product_kernel"], kernels | edge_forces(of.systems, of.atoms, of.edges))


@dataclass(frozen=True)
class EdgeSizes:
    """Sizes of one evaluation: S systems, N atoms, E edges, L layers, C channels, H hidden channels, R rows of an edge."""

    systems: int
    atoms: int
    edges: int
    layers: int
    channels: int
    hidden: int
    rows: int

    @classmethod
    def of(cls, config: EscnMdConfig, systems: int, atoms: int, edges: int) -> EdgeSizes:
        """For a model with lmax 2."""
        rows = 5 + 2 * config.mmax
        return cls(systems, atoms, edges, config.layers, config.channels, config.hidden_channels, rows)


FRAME = 144 + 28
"""Bytes of an edge's frame, and of what says where its tables and its reverse stand."""


def multiply_adds(s: EdgeSizes) -> int:
    """Multiply-adds of both convolutions for one edge in one layer: three orders, those of m > 0 as one real matrix."""
    orders = [3, 4, 2][: (s.rows - 3) // 2]
    first = sum(2 * count * s.channels * (count * s.hidden + (2 * s.hidden if count == 3 else 0)) for count in orders)
    return first + sum(count * count * s.hidden * s.channels for count in orders)


def _product(s: EdgeSizes) -> Cost:
    """Two convolutions, forward and backward; in and out in half precision."""
    per_edge = 2 * 2 * (2 * s.rows * s.channels + (2 + s.rows) * s.hidden + s.rows * s.hidden + s.rows * s.channels)
    return Cost(float(s.layers * s.edges * per_edge), s.layers * s.edges * 4.0 * multiply_adds(s))


def _pack(s: EdgeSizes) -> Cost:
    """Rows of both atoms written; a turn, a factor for each number."""
    moved = s.edges * (4 * s.rows * s.channels + FRAME) + s.atoms * 36 * s.channels
    return Cost(float(s.layers * moved), s.layers * s.edges * (68.0 + 8 * s.rows) * s.channels, "arithmetic")


def _pack_back(s: EdgeSizes) -> Cost:
    """Rows of both atoms read; turned back, and their share in stretching and turning the edge."""
    moved = s.edges * (4 * s.rows * s.channels + FRAME + 40) + s.atoms * 72 * s.channels
    return Cost(float(s.layers * moved), s.layers * s.edges * (136.0 + 26 * s.rows + 32) * s.channels, "arithmetic")


def _unpack(s: EdgeSizes) -> Cost:
    """Rows read, rotated out of the edge's frame, summed."""
    moved = s.edges * (2 * s.rows * s.channels + FRAME) + s.atoms * 72 * s.channels
    return Cost(float(s.layers * moved), s.layers * s.edges * (68.0 + 2 * s.rows) * s.channels, "arithmetic")


def _unpack_back(s: EdgeSizes) -> Cost:
    """Rows read and their derivatives written."""
    moved = s.edges * (4 * s.rows * s.channels + FRAME + 40) + s.atoms * 36 * s.channels
    return Cost(float(s.layers * moved), s.layers * s.edges * (68.0 + 4 * s.rows + 32) * s.channels, "arithmetic")


def _gate(s: EdgeSizes) -> Cost:
    """Gates and rows in, rows out."""
    moved = s.edges * 2 * (2 + 2 * s.rows) * s.hidden
    return Cost(float(s.layers * moved), s.layers * s.edges * (10.0 + s.rows) * s.hidden, "arithmetic")


def _gate_back(s: EdgeSizes) -> Cost:
    """Derivatives of rows, gates and rows in; derivatives of both out."""
    moved = s.edges * 2 * (4 + 3 * s.rows) * s.hidden
    return Cost(float(s.layers * moved), s.layers * s.edges * (20.0 + 3 * s.rows) * s.hidden, "arithmetic")


def _atom_wise(s: EdgeSizes) -> Cost:
    """Nine coefficients through two products, eight through the gate's; each of three products of half precision."""
    products = 3 * 2 * (18 + 8) * s.channels * s.hidden
    return Cost(s.layers * s.atoms * 72.0 * s.channels, float(s.layers * s.atoms * products))


def _atom_wise_back(s: EdgeSizes) -> Cost:
    """The first product and the gate's again, and the three backward."""
    products = 3 * 2 * (27 + 16) * s.channels * s.hidden
    return Cost(s.layers * s.atoms * (36 * 3 + 32.0) * s.channels, float(s.layers * s.atoms * products))


def _frames(s: EdgeSizes) -> Cost:
    """Vector, elements and reverse in, frame out."""
    return Cost(s.edges * (24.0 + FRAME), 150.0 * s.edges, "arithmetic")


def _degrees(s: EdgeSizes) -> Cost:
    """Frame in, features of an atom out."""
    return Cost(s.edges * float(FRAME) + s.atoms * 36.0 * s.channels, s.edges * 28.0 * s.channels, "arithmetic")


def _degrees_back(s: EdgeSizes) -> Cost:
    """Frame and all that layers gathered in, a gradient out."""
    return Cost(s.edges * (FRAME + 44.0) + s.atoms * 36.0 * s.channels, s.edges * 80.0 * s.channels, "arithmetic")


KERNELS: dict[str, Callable[[EdgeSizes], Cost]] = {
    "grouped_product_kernel": _product,
    "node_to_edge_wigner_permute_fwd_kernel": _pack,
    "node_to_edge_wigner_permute_bwd_kernel": _pack_back,
    "permute_wigner_inv_edge_to_node_fwd_kernel": _unpack,
    "permute_wigner_inv_edge_to_node_bwd_kernel": _unpack_back,
    "so2_gate_fwd_kernel": _gate,
    "so2_gate_bwd_kernel": _gate_back,
    "atom_wise_fwd_kernel": _atom_wise,
    "atom_wise_bwd_kernel": _atom_wise_back,
    "edge_frames_kernel": _frames,
    "edge_degrees_fwd_kernel": _degrees,
    "edge_degrees_bwd_kernel": _degrees_back,
}
"""Costs by a kernel's name. Where cuBLAS multiplies, its kernels do the work of the first."""
