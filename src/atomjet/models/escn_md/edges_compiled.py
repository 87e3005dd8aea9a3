"""The edges of an eSCN-MD, forward and backward, on a GPU: steps that are each one pass over memory, and products between them.

With half precision as storage type the products run on tensor cores, with ten bits of mantissa and sums in float32. What a product
reads never leaves the range of the type: features are normalised by the model itself, and derivatives by `edge_ops.normalised`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.models.escn_md import edge_ops, memory
from atomjet.models.escn_md.chunks import Chunk, Product
from atomjet.models.escn_md.compiled import Compiled
from atomjet.models.escn_md.general import RESCALE, EscnMd
from atomjet.models.escn_md.geometry import EdgeGeometry
from atomjet.models.escn_md.radial_factors import NetworkRadial, RadialFactors, Tables, TabulatedRadial
from atomjet.models.escn_md.unified_radial import NetworkFactors, UnifiedRadial
from atomjet.ops.segment_sum import scatter_sum, segment_sum

gate, gate_backward = Compiled(edge_ops.gate), Compiled(edge_ops.gate_backward)
messages, messages_backward = Compiled(edge_ops.messages), Compiled(edge_ops.messages_backward)
normalised, gathered = Compiled(edge_ops.normalised), Compiled(edge_ops.gathered)


class Outputs(NamedTuple):
    """What the products of a layer gave."""

    h: Tensor  # (e, 11 H)
    o: Tensor  # (e, 9, C)


class CompiledWeights:
    """What calls share, see `EdgeWeights`: the radial networks or, where features are stored in half precision, their tables."""

    def __init__(self, model: EscnMd, storage_dtype: torch.dtype) -> None:
        self.model, self.storage_dtype = model, storage_dtype
        self.networks = UnifiedRadial(model)
        self.tables = Tables(model, storage_dtype) if storage_dtype == torch.float16 else None

    def elements(self, graph: Graph) -> tuple[int, ...]:
        """Those in a graph."""
        numbers = graph.atomic_numbers
        present = numbers.new_zeros(self.model.config.max_z, dtype=torch.bool).index_fill_(0, numbers, True)
        return tuple(number for number, there in enumerate(present.tolist()) if there)

    def edges(self, graph: Graph, chunks: list[Chunk]) -> CompiledEdges:
        """See `EdgeWeights`."""
        return CompiledEdges(self, graph, chunks)

    def bytes_needed(self, graph: Graph, at_once: int) -> int:
        """See `EdgeWeights`; with the tables that the call needs."""
        tables = self.tables.bytes_of(self.elements(graph)) if self.tables else 0
        dtype = next(self.model.parameters()).dtype
        edges = memory.bytes_compiled(self.model.config, graph, dtype, self.storage_dtype, at_once, tables > 0)
        return edges + tables

    def radial_factors(self, graph: Graph, lengths: Tensor, chunks: list[Chunk]) -> RadialFactors:
        """From tables, or from the networks where there are none or too many elements."""
        elements = self.elements(graph)
        tables = self.tables.of(elements) if self.tables else None
        if tables is None:
            return NetworkRadial(NetworkFactors(self.networks, graph, lengths, chunks))
        return TabulatedRadial(self.model, tables, elements, graph, lengths)


class CompiledEdges:
    """One call, see `Edges`: what the forward pass saved of its edges, what the backward pass accumulates."""

    def __init__(self, weights: CompiledWeights, graph: Graph, chunks: list[Chunk]) -> None:
        self.storage_dtype, self.graph, self.chunks = weights.storage_dtype, graph, chunks
        model = weights.model
        self.geometry = EdgeGeometry.of(model, graph)
        self.wigner, self.envelope, lengths = self.geometry.wigner, self.geometry.envelope, self.geometry.lengths
        # Found now, with what else makes the host wait, and not in the middle of the backward pass.
        self.reverse = None if graph.halo else graph.reverse
        self.count = torch.arange(max(graph.longest_row, 2), device=lengths.device)
        self.saves = memory.saves_outputs(model.config, lengths.device, weights.storage_dtype, graph.num_edges)
        self.saved: list[list[Outputs | None]] = [[] for _ in model.blocks]
        self.radial = weights.radial_factors(graph, lengths, chunks)
        self.envelope_bar = torch.zeros_like(lengths)
        self.torque = lengths.new_zeros(2, graph.num_edges)  # about x and z

    # ------------------------------------------------------------------ forward

    def degrees(self) -> Tensor:
        """Σ f Dᵀ radial / 5 over each row with the columns of m = 0 only; (N, 9, C)."""
        return torch.cat([self._summed(chunk, *self._degree(chunk), RESCALE) for chunk in self.chunks])

    def messages(self, layer: int, y: Tensor) -> Tensor:
        """Sums over each row (N, 9, C) of the messages of a layer."""
        y = y.to(self.storage_dtype)
        sums = []
        for chunk in self.chunks:
            outputs = self._convolve(layer, chunk, y)
            sums.append(self._summed(chunk, outputs.o, chunk.products[layer][1].bias))
            self.saved[layer].append(outputs if self.saves else None)
        return torch.cat(sums)

    def _degree(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """The radial network of the edge degrees (e, 3, C), and no bias."""
        values = self.radial.degree(chunk)
        return values.unflatten(1, (3, -1)), values.new_zeros(values.shape[1])

    def _convolve(self, layer: int, chunk: Chunk, y: Tensor) -> Outputs:
        first, second = chunk.products[layer]
        h = _multiply(first, self.radial.pack(layer, chunk, y, self.wigner[chunk.edges]))
        o = _multiply(second, gate(h, first.bias), self.wigner.dtype)
        return Outputs(h, o.unflatten(1, (9, -1)))

    def _summed(self, chunk: Chunk, o: Tensor, bias: Tensor, rescale: float = 1.0) -> Tensor:
        if not len(o):
            return self.envelope.new_zeros(len(chunk.row_ptr) - 1, 9, o.shape[2])
        envelope = self.envelope[chunk.edges] / rescale
        starts, stops = chunk.row_ptr[:-1], chunk.row_ptr[1:]
        return messages(o, bias, self.wigner[chunk.edges], envelope, starts, stops, self.count)

    # ------------------------------------------------------------------ backward

    def messages_backward(self, layer: int, y: Tensor, x_bar: Tensor) -> Tensor:
        """x̄ (owned, 9, C) of the sums to ȳ (N, 9, C), ghosts' too; adds to what is gathered of the edges."""
        graph = self.graph
        if not graph.num_edges:
            return torch.zeros_like(y)
        y = y.to(self.storage_dtype)
        x_bar, largest = normalised(x_bar, self.storage_dtype)
        share = self.envelope * largest[graph.centers]
        given = []
        for chunk, outputs in zip(self.chunks, self.saved[layer], strict=True):
            outputs = outputs or self._convolve(layer, chunk, y)
            first, second = chunk.products[layer]
            q_bar = _multiply_backward(second, self._returned(chunk, outputs.o, second.bias, x_bar, largest))
            packed_bar = _multiply_backward(first, gate_backward(q_bar, outputs.h, first.bias))
            weight = share[chunk.edges]
            y_bar, torque = self.radial.pack_backward(layer, chunk, packed_bar, y, self.wigner[chunk.edges], weight)
            self.torque[:, chunk.edges] += torque * weight
            given.append(y_bar)
        self.saved[layer] = []
        whole = given[0] if len(given) == 1 else torch.cat(given)
        if self.reverse is None:
            return _gathered_with_ghosts(graph, whole, share)
        starts, stops = graph.row_ptr[:-1], graph.row_ptr[1:]
        return gathered(whole, share, self.reverse, starts, stops, self.count)

    def degrees_backward(self, x_bar: Tensor) -> None:
        """x̄ (N, 9, C) of the sums of the edge degrees to what is gathered of the edges."""
        x_bar, largest = normalised(x_bar, self.storage_dtype)
        share = self.envelope * largest[self.graph.centers] / RESCALE
        for chunk in self.chunks:
            t = self._returned(chunk, *self._degree(chunk), x_bar, largest, RESCALE)
            self.radial.degree_backward(chunk, t, share[chunk.edges])

    def _returned(
        self, chunk: Chunk, o: Tensor, bias: Tensor, x_bar: Tensor, largest: Tensor, rescale: float = 1.0
    ) -> Tensor:
        """ō without the envelope, normalised by atom; adds to the derivatives by the envelope and by turns of the frame."""
        edges = chunk.edges
        t, along, torque = messages_backward(x_bar, o, bias, self.wigner[edges], chunk.center)
        scale = largest[chunk.center] / rescale
        self.envelope_bar[edges] += along * scale
        self.torque[:, edges] += torque * (scale * self.envelope[edges])
        return t

    def gradients(self) -> Tensor:
        """dE/d(edge vectors) (E, 3) from all that was gathered."""
        return self.geometry.gradients(self.radial.along(), self.envelope_bar, *self.torque)


def _gathered_with_ghosts(graph: Graph, given: Tensor, share: Tensor) -> Tensor:
    """`edge_ops.gathered` where edges lead to ghosts, whose reverses are with other processes: (N, 9, C)."""
    to_neighbor, to_center = (given * share[:, None, None, None]).unbind(2)
    y_bar = scatter_sum(to_neighbor, graph.neighbors, graph.num_atoms)
    y_bar[: graph.num_owned] += segment_sum(to_center, graph.row_ptr, graph.centers)
    return y_bar


def _multiply(product: Product, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(e, 9 in) to the three products side by side, in the type of x or that given."""
    width = x.shape[1] // 9
    sizes = [weight.shape[1] for weight in product.weights]
    out = x.new_empty(len(x), sum(sizes), dtype=dtype)
    parts = x.split([3 * width, 4 * width, 2 * width], dim=1)
    for part, weight, place in zip(parts, product.weights, out.split(sizes, dim=1), strict=True):
        _product(part, weight, place)
    return out


def _product(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """x weight into a part of a tensor, which may be of a wider type."""
    if out.dtype == x.dtype:
        torch.mm(x, weight, out=out)
    else:
        torch.mm(x, weight, out_dtype=out.dtype, out=out)


def _multiply_backward(product: Product, y_bar: Tensor) -> Tensor:
    """Derivatives of the three products, side by side, to (e, 9 in)."""
    sizes, inputs = ([weight.shape[k] for weight in product.weights] for k in (1, 0))
    out = y_bar.new_empty(len(y_bar), sum(inputs))
    for part, weight, place in zip(y_bar.split(sizes, 1), product.weights, out.split(inputs, 1), strict=True):
        _product(part, weight.T, place)
    return out
