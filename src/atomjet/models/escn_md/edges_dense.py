"""The edges of an eSCN-MD, forward and backward, for a CPU: dense rotations, batched products, a few rows at a time.

Edges are taken as many together as the caches hold; sums over an atom's own edges are sums over rows. What the products of an edge
gave is saved for the backward pass where memory allows, and computed anew where not, with the same digits. X̄ stands for dE/dX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from atomjet.data import Graph
from atomjet.models.escn_md import memory
from atomjet.models.escn_md.chunks import Chunk, Product
from atomjet.models.escn_md.general import RESCALE, EscnMd
from atomjet.models.escn_md.geometry import EdgeGeometry
from atomjet.models.escn_md.unified_radial import NetworkFactors, UnifiedRadial, silu_derivative
from atomjet.ops.node_to_edge_wigner_permute import node_to_edge_wigner_permute
from atomjet.ops.permute_wigner_inv_edge_to_node import permute_wigner_inv_edge_to_node_backward
from atomjet.ops.segment_sum import scatter_add_, segment_sum
from atomjet.ops.wigner import generators, m_major


class Outputs(NamedTuple):
    """What the products of a layer gave: the radial factors, and the convolutions before the gate and after it."""

    radial: Tensor  # (e, 12 C)
    h: list[Tensor]  # m = 0 with the gates first (e, 5 H), ±1 (e, 4 H), ±2 (e, 2 H)
    o: Tensor  # (e, 9, C)


class DenseWeights:
    """What calls share, see `EdgeWeights`: the radial networks, and how the numbers of a rotation and of a turn are laid out."""

    def __init__(self, model: EscnMd) -> None:
        self.model, self.radial = model, UnifiedRadial(model)
        order = m_major(2, 2)
        weight = next(model.parameters())
        self.storage_dtype = weight.dtype
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

    def edges(self, graph: Graph, chunks: list[Chunk]) -> DenseEdges:
        """See `EdgeWeights`."""
        return DenseEdges(self, graph, chunks)

    def bytes_needed(self, graph: Graph, at_once: int) -> int:
        """See `EdgeWeights`."""
        return memory.bytes_dense(self.model.config, graph, self.storage_dtype, at_once)


class DenseEdges:
    """One call, see `Edges`: what the forward pass saved of its edges, what the backward pass accumulates."""

    def __init__(self, weights: DenseWeights, graph: Graph, chunks: list[Chunk]) -> None:
        self.weights, self.model, self.graph, self.chunks = weights, weights.model, graph, chunks
        self.geometry = EdgeGeometry.of(self.model, graph)
        self.wigner, self.envelope, lengths = self.geometry.wigner, self.geometry.envelope, self.geometry.lengths
        self.radial = NetworkFactors(weights.radial, graph, lengths, chunks)
        self.saves = memory.saves_outputs(self.model.config, lengths.device, lengths.dtype, graph.num_edges)
        self.saved: list[list[Outputs | None]] = [[] for _ in self.model.blocks]
        self.envelope_bar = torch.zeros_like(lengths)
        self.torque = lengths.new_zeros(graph.num_edges, 2)  # about x and z

    # ------------------------------------------------------------------ forward

    def degrees(self) -> Tensor:
        """Σ f Dᵀ radial / 5 over each row with the columns of m = 0 only; (N, 9, C)."""
        sums = []
        for chunk in self.chunks:
            values = self.radial.values(0, chunk).unflatten(1, (3, -1)) / RESCALE
            matrices = self._matrices(chunk)[:, :3] * self.envelope[chunk.edges, None, None]
            sums.append(segment_sum(torch.bmm(matrices.mT, values), chunk.row_ptr, chunk.rows))
        return torch.cat(sums)

    def messages(self, layer: int, y: Tensor) -> Tensor:
        """Sums over each row (N, 9, C) of the messages of a layer."""
        sums = []
        for chunk in self.chunks:
            matrices = self._matrices(chunk)
            packed = node_to_edge_wigner_permute(y, matrices, chunk.neighbor, chunk.center).flatten(1)
            outputs = self._convolve(layer, chunk, packed)
            weighed = matrices * self.envelope[chunk.edges, None, None]
            sums.append(segment_sum(torch.bmm(weighed.mT, outputs.o), chunk.row_ptr, chunk.rows))
            self.saved[layer].append(outputs if self.saves else None)
        return torch.cat(sums)

    def _matrices(self, chunk: Chunk) -> Tensor:
        """(e, 35) to (e, 9, 9), rows in m-major order."""
        compact = self.wigner[chunk.edges]
        return compact.new_zeros(len(compact), 81).index_copy_(1, self.weights.places, compact).unflatten(1, (9, 9))

    def _convolve(self, layer: int, chunk: Chunk, packed: Tensor) -> Outputs:
        """Scale features (e, 18 C) by their radial factors, in place; both convolutions of them."""
        first, second = chunk.products[layer]
        radial = self.radial.values(layer + 1, chunk)
        _scale_(packed, radial)
        h = _multiply(first, packed)
        q = _gate(h)
        o = q.new_empty(len(q), 9 * self.model.config.channels)
        _multiply(second, q, out=o)
        return Outputs(radial, h, o.unflatten(1, (9, -1)))

    # ------------------------------------------------------------------ backward

    def degrees_backward(self, x_bar: Tensor) -> None:
        """x̄ (N, 9, C) of the sums of the edge degrees to what is gathered of the edges."""
        for chunk in self.chunks:
            values = self.radial.values(0, chunk).unflatten(1, (3, -1)) / RESCALE
            padded = torch.cat([values, values.new_zeros(len(values), 6, values.shape[2])], dim=1)
            o_bar = self._returned_backward(chunk, self._matrices(chunk), padded, x_bar)
            self.radial.backward(0, chunk, o_bar[:, :3].flatten(1) / RESCALE)

    def messages_backward(self, layer: int, y: Tensor, x_bar: Tensor) -> Tensor:
        """x̄ (owned, 9, C) of the sums to ȳ (N, 9, C), ghosts' too; adds to what is gathered of the edges."""
        y_bar = torch.zeros_like(y)
        for chunk, outputs in zip(self.chunks, self.saved[layer], strict=True):
            self._chunk_backward(layer, chunk, y, outputs, x_bar, y_bar)
        self.saved[layer] = []
        return y_bar

    def _returned_backward(self, chunk: Chunk, matrices: Tensor, o: Tensor, x_bar: Tensor) -> Tensor:
        envelope = self.envelope[chunk.edges]
        o_bar, envelope_bar, turn = permute_wigner_inv_edge_to_node_backward(x_bar, o, matrices, envelope, chunk.center)
        self.envelope_bar[chunk.edges] += envelope_bar
        self.torque[chunk.edges] += turn.flatten(1) @ self.weights.turns
        return o_bar

    def _chunk_backward(
        self, layer: int, chunk: Chunk, y: Tensor, outputs: Outputs | None, x_bar: Tensor, y_bar: Tensor
    ) -> None:
        """Backward of a chunk's messages: x̄ (N, 9, C) of their sums in; adds to ȳ (N, 9, C) and to the gradients of edges."""
        matrices = self._matrices(chunk)
        features = node_to_edge_wigner_permute(y, matrices, chunk.neighbor, chunk.center)
        if outputs is None:
            outputs = self._convolve(layer, chunk, features.flatten(1).clone())
        first, second = chunk.products[layer]
        o_bar = self._returned_backward(chunk, matrices, outputs.o, x_bar)
        h_bar = _gate_backward(
            outputs.h, _multiply_backward(second, o_bar.flatten(1).split(_widths(o_bar.shape[2]), 1))
        )
        packed_bar = _multiply_backward(first, h_bar)
        radial_bar = _scale_backward_(packed_bar, features.flatten(1), outputs.radial)
        self.radial.backward(layer + 1, chunk, radial_bar)
        features_bar = packed_bar.unflatten(1, (9, -1))
        self.torque[chunk.edges] += torch.bmm(features_bar, features.mT).flatten(1) @ self.weights.turns
        to_neighbor, to_center = features_bar.chunk(2, dim=2)
        scatter_add_(y_bar, torch.bmm(matrices.mT, to_neighbor), chunk.neighbor)
        y_bar[chunk.atoms] += segment_sum(torch.bmm(matrices.mT, to_center), chunk.row_ptr, chunk.rows)

    def gradients(self) -> Tensor:
        """dE/d(edge vectors) (E, 3) from all that was gathered."""
        return self.geometry.gradients(self.radial.along(), self.envelope_bar, *self.torque.unbind(1))


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
    """Backward of y = x times radial: dE/dradial (e, 6 c); ȳ (e, 9 c) becomes x̄ in place."""
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
