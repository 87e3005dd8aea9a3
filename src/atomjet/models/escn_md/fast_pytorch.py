"""eSCN-MD without autograd, for lmax = mmax = 2: energies and dE/d(edge vectors) by a backward pass written by hand.

The same function as `general.py`, rearranged. X̄ stands for dE/dX.

- Nothing is differentiated with respect to the rotations. A small turn w of an edge's frame multiplies its features by
  1 + Σ w_k L_k; so all that the direction of an edge contributes is a torque τ_k = dE/dw_k, gathered over all layers, and with the
  rows (R_x, e, R_z) of the rotation to the frame

      dE/dr = dE/dd e + (τ_z R_x - τ_x R_z) / d        (about the edge itself there is no torque: no roll changes the energy)

- For m > 0 the product of the convolution is one matrix, [[W_1, -W_2], [W_2, W_1]] on (m, -m). Experts are always merged.
- Radial networks: all layers together up to the last product (`unified_radial.py`), and back together.
- A rotation is kept as its 35 numbers that are not zero by construction: blocks of 1, 9 and 25.
- Edges are taken a few rows at a time, so that their features stay in the caches; sums over an atom's own edges are sums over rows.
  What the products of an edge gave is kept for the way back where memory allows, and computed anew where not, with the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from atomjet.data import Graph
from atomjet.errors import BackendError
from atomjet.models.escn_md import memory, node_steps
from atomjet.models.escn_md.experts import Blend, Blends, runs
from atomjet.models.escn_md.general import RESCALE, Block, EscnMd
from atomjet.models.escn_md.unified_radial import UnifiedRadial, silu_derivative
from atomjet.ops.node_to_edge_wigner_permute import node_to_edge_wigner_permute
from atomjet.ops.permute_wigner_inv_edge_to_node import permute_wigner_inv_edge_to_node_backward
from atomjet.ops.segment_sum import scatter_add_, segment_sum
from atomjet.ops.wigner import generators, m_major, rotations_to_y, wigner_blocks

EDGES_ON_A_CPU = 512
"""Edges processed together on a CPU: as many as the caches hold. A GPU takes as many as its memory does."""


class Product(NamedTuple):
    """The three products of a convolution, (in, out) each, and the bias of m = 0."""

    weights: tuple[Tensor, Tensor, Tensor]
    bias: Tensor


class Piece(NamedTuple):
    """A run of whole rows and its edges, all of one kind of system."""

    atoms: slice
    edges: slice
    row_ptr: Tensor  # starting at zero
    rows: Tensor  # (e,) center of each edge, counted from the first row
    center: Tensor  # (e,)
    neighbor: Tensor  # (e,)
    products: list[tuple[Product, Product]]  # of each layer


class Edges(NamedTuple):
    """What is known of every edge throughout."""

    length: Tensor  # d (E,)
    rotation: Tensor  # R (E, 3, 3)
    wigner: Tensor  # (E, 35)
    envelope: Tensor  # f (E,)
    radial: Tensor  # b (P, E, width)


class Outputs(NamedTuple):
    """What the products of a layer gave: the radial factors, and the convolutions before the gate and after it."""

    radial: Tensor  # (e, 12 C)
    h: list[Tensor]  # m = 0 with the gates first (e, 5 H), ±1 (e, 4 H), ±2 (e, 2 H)
    o: Tensor  # (e, 9, C)


class Bars(NamedTuple):
    """What is gathered of every edge on the way back."""

    envelope: Tensor  # (E,)
    torque: Tensor  # (E, 2) about x and z
    radial: Tensor  # (P, E, width)


class FastPyTorch:
    """The `fast_pytorch` backend of eSCN-MD; holds rearranged copies of the weights, in their type and on their device.

    Raises:
        BackendError: the model has other degrees or orders than lmax = mmax = 2.
    """

    def __init__(self, model: EscnMd) -> None:
        config = model.config
        if (config.lmax, config.mmax) != (2, 2):
            raise BackendError(
                f"backend 'fast_pytorch' is written for lmax = mmax = 2; this model has lmax {config.lmax} and mmax {config.mmax}: "
                "use 'general'"
            )
        self.model = model
        with torch.no_grad():
            self.radial = UnifiedRadial(model)
        self.blends = Blends(self._products)
        weight = next(model.parameters())
        order = m_major(2, 2)
        turns = generators(2, weight.dtype, weight.device)[[0, 2]][:, order][:, :, order]
        self.turns = turns.reshape(2, 81).T.contiguous()
        # Where each of the 35 numbers stands in the 9 x 9 matrix with rows in m-major order.
        places = [
            order.index(degree**2 + row) * 9 + degree**2 + column
            for degree in range(3)
            for row in range(2 * degree + 1)
            for column in range(2 * degree + 1)
        ]
        self.places = torch.tensor(places, device=weight.device)

    def _products(self, blend: Blend) -> tuple[Tensor, list[tuple[Product, Product]]]:
        """The embedding, and the blended maps of every layer as the passes want them."""
        found = []
        for layer, block in enumerate(self.model.blocks):
            w = [blend.weights[6 * layer + k] for k in range(6)]
            pair = []
            for convolution, (m0, *others) in ((block.conv_1, w[:3]), (block.conv_2, w[3:])):
                blocks = []
                for weight in others:
                    w_1, w_2 = weight.chunk(2)
                    both = torch.cat([torch.cat([w_1, -w_2], dim=1), torch.cat([w_2, w_1], dim=1)])
                    blocks.append(both.T.contiguous())
                pair.append(Product((m0.T.contiguous(), *blocks), convolution.m0.bias))  # type: ignore[arg-type, union-attr]
            found.append(tuple(pair))
        return blend.embedding, found

    @torch.no_grad()
    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) float64 eV without references, and dE/d(edge vectors) (E, 3) eV/Å."""
        model = self.model
        pieces, embedding = self._pieces(graph)
        edges = self._edges(graph, pieces)
        keep = memory.keeps(model.config, edges.length.device, edges.length.dtype, graph.num_edges)

        scalars = model.sphere_embedding(graph.atomic_numbers) + embedding
        x = torch.cat([scalars[:, None], scalars.new_zeros(len(scalars), 8, scalars.shape[1])], dim=1)
        for piece in pieces:
            x[piece.atoms] += self._degrees(edges, piece)
        inputs: list[tuple[Tensor, Tensor]] = []
        kept: list[list[Outputs | None]] = []
        for layer, block in enumerate(model.blocks):
            y = block.norm_1(x)  # type: ignore[operator]
            y[:, 0] += embedding
            middle = torch.empty_like(x)
            kept.append([])
            for piece in pieces:
                sums, outputs = self._message(layer, edges, piece, y)
                torch.add(x[piece.atoms], sums, out=middle[piece.atoms])
                kept[layer].append(outputs if keep else None)
            inputs.append((x, middle))
            x = middle + block.atom_wise(block.norm_2(middle))  # type: ignore[operator]
            x = model._balance(x, graph)
        energies, scalars_bar = node_steps.read_out(model, model.norm(x)[:, 0], graph)

        bars = Bars(
            torch.zeros_like(edges.length), edges.length.new_zeros(graph.num_edges, 2), torch.zeros_like(edges.radial)
        )
        y_bar = torch.zeros_like(x)
        y_bar[:, 0] = scalars_bar
        x_bar = node_steps.norm_backward(model.norm, x, y_bar)
        for layer in reversed(range(len(inputs))):
            x_bar = self._layer_backward(
                layer, graph, edges, pieces, inputs[layer], embedding, kept[layer], x_bar, bars
            )
            kept[layer] = []
        for piece in pieces:
            self._degrees_backward(edges, piece, x_bar, bars)
        return energies, self._gradients(graph, edges, pieces, bars)

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        config, dtype = self.model.config, self.turns.dtype
        # A blend as prepared has the products of m > 0 twice.
        blends = 2 * self.model.bytes_of_blends(graph)
        return memory.bytes_by_hand(config, graph, dtype, self._edges_at_once(graph)) + blends

    # ------------------------------------------------------------------ geometry and pieces

    def _edges_at_once(self, graph: Graph) -> int:
        device = graph.row_ptr.device
        limit = memory.edges_at_once(self.model.config, device, self.turns.dtype, layers=1)
        return min(limit, EDGES_ON_A_CPU) if device.type == "cpu" else limit

    def _pieces(self, graph: Graph) -> tuple[list[Piece], Tensor]:
        """The graph in pieces, and the embedding (N, C) of each atom's system."""
        limit, device = self._edges_at_once(graph), graph.vectors.device
        pieces, embeddings, counts = [], [], []
        for run in runs(self.model, graph):
            embedding, products = self.blends.of(self.model, run.kind)
            embeddings.append(embedding)
            counts.append(run.atoms.stop - run.atoms.start)
            for atoms, edges in memory.rows(graph, run.atoms, run.edges, limit):
                center = graph.centers[edges]
                row_ptr = graph.row_ptr[atoms.start : atoms.stop + 1] - edges.start
                pieces.append(
                    Piece(atoms, edges, row_ptr, center - atoms.start, center, graph.neighbors[edges], products)
                )
        return pieces, torch.stack(embeddings).repeat_interleave(torch.tensor(counts, device=device), 0)

    def _edges(self, graph: Graph, pieces: list[Piece]) -> Edges:
        length = torch.linalg.vector_norm(graph.vectors, dim=1)
        rotation = rotations_to_y(graph.vectors / length[:, None])
        wigner = torch.cat([block.flatten(1) for block in wigner_blocks(rotation, 2)], dim=1)
        numbers = graph.atomic_numbers
        radial = length.new_empty(self.radial.count, len(length), self.model.config.edge_channels)
        for piece in pieces:
            radial[:, piece.edges] = self.radial.forward(
                length[piece.edges], numbers[piece.neighbor], numbers[piece.center]
            )
        return Edges(length, rotation, wigner, self.model.envelope(length), radial)

    def _matrices(self, edges: Edges, piece: Piece) -> Tensor:
        """(e, 35) to (e, 9, 9), rows in m-major order."""
        compact = edges.wigner[piece.edges]
        return compact.new_zeros(len(compact), 81).index_copy_(1, self.places, compact).unflatten(1, (9, 9))

    def _gradients(self, graph: Graph, edges: Edges, pieces: list[Piece], bars: Bars) -> Tensor:
        numbers = graph.atomic_numbers
        along = torch.empty_like(edges.length)
        for piece in pieces:
            source, target = numbers[piece.neighbor], numbers[piece.center]
            along[piece.edges] = self.radial.backward(
                edges.length[piece.edges], source, target, bars.radial[:, piece.edges]
            )
        u = edges.length / self.model.cutoff
        slope = u**4 * (-105 + u * (210 - 105 * u)) / self.model.cutoff * (u < 1)
        along = along + bars.envelope * slope
        x, y, z = edges.rotation.unbind(1)
        across = bars.torque[:, 1:] * x - bars.torque[:, :1] * z
        return along[:, None] * y + across / edges.length[:, None]

    # ------------------------------------------------------------------ edge degrees

    def _degrees(self, edges: Edges, piece: Piece) -> Tensor:
        """Σ f Dᵀ radial / 5 with the columns of m = 0 only; (rows, 9, C)."""
        values = self._last(0, edges, piece).unflatten(1, (3, -1)) / RESCALE
        matrices = self._matrices(edges, piece)[:, :3] * edges.envelope[piece.edges, None, None]
        return segment_sum(torch.bmm(matrices.mT, values), piece.row_ptr, piece.rows)

    def _degrees_backward(self, edges: Edges, piece: Piece, x_bar: Tensor, bars: Bars) -> None:
        values = self._last(0, edges, piece).unflatten(1, (3, -1)) / RESCALE
        messages = torch.cat([values, values.new_zeros(len(values), 6, values.shape[2])], dim=1)
        o_bar = self._returned_backward(edges, piece, self._matrices(edges, piece), messages, x_bar, bars)
        bars.radial[0, piece.edges] = o_bar[:, :3].flatten(1) / RESCALE @ self._last_weights(0)[0]

    def _last_weights(self, network: int) -> tuple[Tensor, Tensor]:
        last = self.model.edge_degree[6] if network == 0 else self.model.blocks[network - 1].radial[6]  # type: ignore[index, union-attr]
        return last.weight, last.bias  # type: ignore[return-value]

    def _last(self, network: int, edges: Edges, piece: Piece) -> Tensor:
        """The last product of a radial network, (e, outputs)."""
        weight, bias = self._last_weights(network)
        return torch.addmm(bias, edges.radial[network, piece.edges], weight.T)

    # ------------------------------------------------------------------ edges of a layer

    def _convolve(self, layer: int, edges: Edges, piece: Piece, packed: Tensor) -> Outputs:
        """Scale features (e, 18 C) by their radial factors, in place; both convolutions of them."""
        first, second = piece.products[layer]
        radial = self._last(layer + 1, edges, piece)
        _scale_(packed, radial)
        h = _multiply(first, packed)
        q = _gate(h)
        o = q.new_empty(len(q), 9 * self.model.config.channels)
        _multiply(second, q, out=o)
        return Outputs(radial, h, o.unflatten(1, (9, -1)))

    def _returned(self, edges: Edges, piece: Piece, matrices: Tensor, o: Tensor) -> Tensor:
        """Σ f Dᵀ o over each row, (rows, 9, C)."""
        weighed = matrices * edges.envelope[piece.edges, None, None]
        return segment_sum(torch.bmm(weighed.mT, o), piece.row_ptr, piece.rows)

    def _returned_backward(
        self, edges: Edges, piece: Piece, matrices: Tensor, o: Tensor, x_bar: Tensor, bars: Bars
    ) -> Tensor:
        envelope = edges.envelope[piece.edges]
        o_bar, envelope_bar, turn = permute_wigner_inv_edge_to_node_backward(x_bar, o, matrices, envelope, piece.center)
        bars.envelope[piece.edges] += envelope_bar
        bars.torque[piece.edges] += turn.flatten(1) @ self.turns
        return o_bar

    def _message(self, layer: int, edges: Edges, piece: Piece, y: Tensor) -> tuple[Tensor, Outputs]:
        """Sums over each row (rows, 9, C), and what the products gave."""
        matrices = self._matrices(edges, piece)
        packed = node_to_edge_wigner_permute(y, matrices, piece.neighbor, piece.center).flatten(1)
        outputs = self._convolve(layer, edges, piece, packed)
        return self._returned(edges, piece, matrices, outputs.o), outputs

    def _layer_backward(
        self,
        layer: int,
        graph: Graph,
        edges: Edges,
        pieces: list[Piece],
        inputs: tuple[Tensor, Tensor],
        embedding: Tensor,
        kept: list[Outputs | None],
        x_bar: Tensor,
        bars: Bars,
    ) -> Tensor:
        """dE/dx after the layer to dE/dx before it; adds to what is gathered of the edges."""
        block: Block = self.model.blocks[layer]  # type: ignore[assignment]
        x, middle = inputs
        x_bar = node_steps.balance_backward(self.model.config, graph, x_bar)
        inner_bar = node_steps.atom_wise_backward(block.atom_wise, block.norm_2(middle), x_bar)
        x_bar = x_bar + node_steps.norm_backward(block.norm_2, middle, inner_bar)
        y = block.norm_1(x)
        y[:, 0] += embedding
        y_bar = torch.zeros_like(y)
        for piece, outputs in zip(pieces, kept, strict=True):
            self._message_backward(layer, edges, piece, y, outputs, x_bar, y_bar, bars)
        return x_bar + node_steps.norm_backward(block.norm_1, x, y_bar)

    def _message_backward(
        self,
        layer: int,
        edges: Edges,
        piece: Piece,
        y: Tensor,
        outputs: Outputs | None,
        x_bar: Tensor,
        y_bar: Tensor,
        bars: Bars,
    ) -> None:
        """Of the messages of a piece: x̄ (N, 9, C) of their sums; adds to ȳ (N, 9, C) and to what is gathered of the edges."""
        matrices = self._matrices(edges, piece)
        features = node_to_edge_wigner_permute(y, matrices, piece.neighbor, piece.center)
        if outputs is None:
            outputs = self._convolve(layer, edges, piece, features.flatten(1).clone())
        first, second = piece.products[layer]
        o_bar = self._returned_backward(edges, piece, matrices, outputs.o, x_bar, bars)
        h_bar = _gate_backward(
            outputs.h, _multiply_backward(second, o_bar.flatten(1).split(_widths(o_bar.shape[2]), 1))
        )
        packed_bar = _multiply_backward(first, h_bar)
        radial_bar = _scale_backward_(packed_bar, features.flatten(1), outputs.radial)
        bars.radial[layer + 1, piece.edges] = radial_bar @ self._last_weights(layer + 1)[0]
        features_bar = packed_bar.unflatten(1, (9, -1))
        bars.torque[piece.edges] += torch.bmm(features_bar, features.mT).flatten(1) @ self.turns
        to_neighbor, to_center = features_bar.chunk(2, dim=2)
        scatter_add_(y_bar, torch.bmm(matrices.mT, to_neighbor), piece.neighbor)
        y_bar[piece.atoms] += segment_sum(torch.bmm(matrices.mT, to_center), piece.row_ptr, piece.rows)


def _widths(channels: int) -> list[int]:
    """Columns of m = 0, 1 and 2 of nine rows."""
    return [3 * channels, 4 * channels, 2 * channels]


def _scale_(x: Tensor, radial: Tensor) -> None:
    """x (e, 9 c) times radial (e, 6 c), in place; m and -m share a factor."""
    width = x.shape[1] // 9
    factors = radial.split([3 * width, 2 * width, width], dim=1)
    for part, factor, signs in zip(x.split(_widths(width), dim=1), factors, (1, 2, 2), strict=True):
        part.unflatten(1, (signs, -1)).mul_(factor[:, None])


def _scale_backward_(y_bar: Tensor, x: Tensor, radial: Tensor) -> Tensor:
    """Of y = x times radial: return dE/dradial (e, 6 c), and turn ȳ (e, 9 c) into x̄ in place."""
    width = x.shape[1] // 9
    radial_bar = torch.empty_like(radial)
    parts = radial_bar.split([3 * width, 2 * width, width], dim=1)
    spans = _widths(width)
    for part, y_part, x_part, signs in zip(parts, y_bar.split(spans, 1), x.split(spans, 1), (1, 2, 2), strict=True):
        (y_first, *y_second), (x_first, *x_second) = y_part.chunk(signs, 1), x_part.chunk(signs, 1)
        torch.mul(y_first, x_first, out=part)
        for y_other, x_other in zip(y_second, x_second, strict=True):
            part.addcmul_(y_other, x_other)
    _scale_(y_bar, radial)
    return radial_bar


def _multiply(product: Product, x: Tensor, out: Tensor | None = None) -> list[Tensor]:
    """(e, 9 in) to the products for m = 0 with its bias, ±1 and ±2; side by side in `out` if it is given."""
    sizes = [weight.shape[1] for weight in product.weights]
    places = out.split(sizes, dim=1) if out is not None else [x.new_empty(len(x), size) for size in sizes]
    parts = x.split(_widths(x.shape[1] // 9), dim=1)
    torch.addmm(product.bias, parts[0], product.weights[0], out=places[0])
    for part, weight, place in zip(parts[1:], product.weights[1:], places[1:], strict=True):
        torch.mm(part, weight, out=place)
    return list(places)


def _multiply_backward(product: Product, parts: Sequence[Tensor]) -> Tensor:
    """Derivatives of the three products to (e, 9 in)."""
    sizes = [weight.shape[0] for weight in product.weights]
    x_bar = parts[0].new_empty(len(parts[0]), sum(sizes))
    for part, weight, place in zip(parts, product.weights, x_bar.split(sizes, dim=1), strict=True):
        torch.mm(part, weight.T, out=place)
    return x_bar


def _gate(h: list[Tensor]) -> Tensor:
    """(e, 5 H) with the gates of l = 1, 2 first, (e, 4 H), (e, 2 H) to (e, 9 H): silu on l = 0, sigmoid(gate) on the others."""
    width = h[2].shape[1] // 2
    q = h[0].new_empty(len(h[0]), 9 * width)
    factors = torch.sigmoid(h[0][:, : 2 * width])
    q0, q1, q2 = q.split(_widths(width), dim=1)
    q0[:, :width] = silu(h[0][:, 2 * width : 3 * width])
    torch.mul(h[0][:, 3 * width :], factors, out=q0[:, width:])
    torch.mul(h[1].unflatten(1, (2, -1)), factors[:, None], out=q1.unflatten(1, (2, -1)))
    torch.mul(h[2].unflatten(1, (2, -1)), factors[:, None, width:], out=q2.unflatten(1, (2, -1)))
    return q


def _gate_backward(h: list[Tensor], q_bar: Tensor) -> list[Tensor]:
    """(e, 9 H), which is overwritten, to the derivatives of the three parts of h."""
    width = h[2].shape[1] // 2
    gates, scalars, others = h[0].split([2 * width, width, 2 * width], dim=1)
    factors = torch.sigmoid(gates)
    q0, q1, q2 = q_bar.split(_widths(width), dim=1)
    by_gate = (q1 * h[1]).unflatten(1, (2, -1)).sum(1).addcmul_(q0[:, width:], others)
    by_gate[:, width:] += (q2 * h[2]).unflatten(1, (2, -1)).sum(1)
    h0_bar = torch.empty_like(h[0])
    torch.mul(by_gate, factors * (1 - factors), out=h0_bar[:, : 2 * width])
    torch.mul(q0[:, :width], silu_derivative(scalars), out=h0_bar[:, 2 * width : 3 * width])
    torch.mul(q0[:, width:], factors, out=h0_bar[:, 3 * width :])
    q1.unflatten(1, (2, -1)).mul_(factors[:, None])
    q2.unflatten(1, (2, -1)).mul_(factors[:, None, width:])
    return [h0_bar, q1, q2]
