"""eSCN-MD without autograd, for lmax = mmax = 2: energies and dE/d(edge vectors) by a backward pass written by hand.

The same function as `general.py`, rearranged. X̄ stands for dE/dX.

- Nothing is differentiated with respect to the rotations. A small turn w of an edge's frame multiplies its features by
  1 + Σ w_k L_k; so all that the direction of an edge contributes is a torque τ_k = dE/dw_k, gathered over all layers, and with the
  rows (R_x, e, R_z) of the rotation to the frame

      dE/dr = dE/dd e + (τ_z R_x - τ_x R_z) / d        (about the edge itself there is no torque: no roll changes the energy)

- For m > 0 the product of the convolution is one matrix, [[W_1, -W_2], [W_2, W_1]] on (m, -m). Experts are always merged.
- Radial networks: all layers together up to the last product (`unified_radial.py`), and back together.
- A rotation is kept as its 35 numbers that are not zero by construction: blocks of 1, 9 and 25.
- What belongs to edges is done by `edges_dense.py`, or, in float32 on a GPU that functions can be compiled for, by
  `edges_compiled.py`;
  there features of edges are kept and multiplied in half precision unless the precision asked for is higher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.errors import BackendError
from atomjet.models.escn_md import memory, node_ops
from atomjet.models.escn_md.chunks import Product, divide
from atomjet.models.escn_md.compiled import can_compile
from atomjet.models.escn_md.edges_compiled import FusedEdges, FusedWeights
from atomjet.models.escn_md.edges_dense import MatrixEdges, MatrixWeights
from atomjet.models.escn_md.experts import Blend, Blends, rows_of_systems
from atomjet.models.escn_md.general import Block, EscnMd

EDGES_ON_A_CPU = 512
"""Edges processed together on a CPU: as many as the caches hold. A GPU takes as many as its memory does."""


class FastPyTorch:
    """The `fast_pytorch` backend of eSCN-MD; holds rearranged copies of the weights, in their type and on their device.

    Raises:
        BackendError: the model has other degrees or orders than lmax = mmax = 2.
    """

    exchanges = None

    def __init__(self, model: EscnMd, precision: str = "high") -> None:
        config = model.config
        if (config.lmax, config.mmax) != (2, 2):
            raise BackendError(
                f"backend 'fast_pytorch' is written for lmax = mmax = 2; this model has lmax {config.lmax} and mmax {config.mmax}: "
                "use 'general'"
            )
        self.model = model
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.kind = self.dtype
        with torch.no_grad():
            self.weights: FusedWeights | MatrixWeights
            if fuses(weight):
                self.kind = torch.float16 if precision == "default" else self.dtype
                self.weights = FusedWeights(model, self.kind)
            else:
                self.weights = MatrixWeights(model)
        self.blends = Blends(self._products)

    def _products(self, blend: Blend) -> tuple[Tensor, list[tuple[Product, Product]]]:
        """The embedding, and the blended maps of every layer as the passes want them."""
        found = []
        for layer, block in enumerate(self.model.blocks):
            w = [blend.weights[6 * layer + k].to(self.kind) for k in range(6)]
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
        """Return (N,) float64 eV without references, and dE/d(edge vectors) (E, 3) eV/Å.

        Raises:
            BackendError: a number beyond the range of half precision, where that is what features of edges are kept in.
        """
        model = self.model
        chunks, embedding = divide(model, self.blends, graph, self._edges_at_once(graph))
        edges: FusedEdges | MatrixEdges
        if isinstance(self.weights, FusedWeights):
            edges = FusedEdges(self.weights, graph, chunks)
        else:
            edges = MatrixEdges(self.weights, graph, chunks)

        system_ptr = rows_of_systems(graph)
        scalars = model.sphere_embedding(graph.atomic_numbers) + embedding
        x = torch.cat([scalars[:, None], scalars.new_zeros(len(scalars), 8, scalars.shape[1])], dim=1)
        x += edges.degrees()
        inputs: list[tuple[Tensor, Tensor]] = []
        for layer, block in enumerate(model.blocks):
            y = node_ops.norm(block.norm_1, x)  # type: ignore[arg-type]
            y[:, 0] += embedding
            middle = x + edges.messages(layer, y)
            inputs.append((x, middle))
            x = middle + node_ops.atom_wise(block.atom_wise, node_ops.norm(block.norm_2, middle))  # type: ignore[arg-type]
            x = model.balance(x, graph, system_ptr)
        energies, scalars_bar = node_ops.read_out(model, node_ops.norm(model.norm, x)[:, 0], graph)

        y_bar = torch.zeros_like(x)
        y_bar[:, 0] = scalars_bar
        x_bar = node_ops.norm_backward(model.norm, x, y_bar)
        for layer in reversed(range(len(inputs))):
            x_bar = self._layer_backward(layer, graph, edges, inputs[layer], embedding, x_bar, system_ptr)
        edges.degrees_backward(x_bar)
        gradients = edges.gradients()
        if self.kind == torch.float16 and not bool(energies.isfinite().all() & gradients.isfinite().all()):
            raise BackendError(
                "a feature of an edge left the range of half precision (65,504), so the result would not be a number; use "
                "precision='high'"
            )
        return energies, gradients

    def _layer_backward(
        self,
        layer: int,
        graph: Graph,
        edges: FusedEdges | MatrixEdges,
        inputs: tuple[Tensor, Tensor],
        embedding: Tensor,
        x_bar: Tensor,
        system_ptr: Tensor,
    ) -> Tensor:
        """dE/dx after the layer to dE/dx before it."""
        block: Block = self.model.blocks[layer]  # type: ignore[assignment]
        x, middle = inputs
        x_bar = node_ops.balance_backward(self.model.config, graph, x_bar, system_ptr)
        inner_bar = node_ops.atom_wise_backward(block.atom_wise, node_ops.norm(block.norm_2, middle), x_bar)
        x_bar = x_bar + node_ops.norm_backward(block.norm_2, middle, inner_bar)
        y = node_ops.norm(block.norm_1, x)
        y[:, 0] += embedding
        return x_bar + node_ops.norm_backward(block.norm_1, x, edges.messages_backward(layer, y, x_bar))

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        # A blend as prepared has the products of m > 0 twice.
        blends = 2 * self.model.bytes_of_blends(graph)
        at_once = self._edges_at_once(graph)
        if isinstance(self.weights, FusedWeights):
            tables = self.weights.bytes_of_tables(graph)
            edges = memory.bytes_fused(self.model.config, graph, self.dtype, self.kind, at_once, tables > 0)
            return edges + blends + tables
        return memory.bytes_by_hand(self.model.config, graph, self.dtype, at_once) + blends

    def _edges_at_once(self, graph: Graph) -> int:
        limit = memory.edges_at_once(self.model.config, self.device, self.dtype, layers=1)
        return min(limit, EDGES_ON_A_CPU) if self.device.type == "cpu" else limit


def fuses(weight: Tensor) -> bool:
    """Whether edges are done by compiled steps; float64, the reference, is not worth compiling for."""
    return can_compile(weight.device) and weight.dtype == torch.float32
