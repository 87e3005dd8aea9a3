"""eSCN-MD without autograd, for lmax = mmax = 2: energies and dE/d(edge vectors) by a backward pass written by hand.

The same function as `general.py`, rearranged. X̄ stands for dE/dX.

- Nothing is differentiated with respect to the rotations. A small turn w of an edge's frame multiplies its features by
  1 + Σ w_k L_k; so all that the direction of an edge contributes is a torque τ_k = dE/dw_k, gathered over all layers, and with the
  rows (R_x, e, R_z) of the rotation to the frame

      dE/dr = dE/dd e + (τ_z R_x - τ_x R_z) / d        (about the edge itself there is no torque: no roll changes the energy)

- For m > 0 the product of the convolution is one matrix, [[W_1, -W_2], [W_2, W_1]] on (m, -m). Experts are always merged.
- Radial networks: all layers together up to the last product (`unified_radial.py`), and back together.
- A rotation is stored as its 35 numbers that are not zero by construction: blocks of 1, 9 and 25.
- What belongs to edges is behind one Protocol, `edges.py`, which chooses who serves it; what belongs to atoms is in `node_ops.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.data.halo import to_owners, with_ghosts
from atomjet.errors import BackendError
from atomjet.models.escn_md import memory, node_ops
from atomjet.models.escn_md.blocks import Block
from atomjet.models.escn_md.chunks import Product, divide
from atomjet.models.escn_md.edges import Edges, weights_of_edges
from atomjet.models.escn_md.experts import Blend, Blends, rows_of_systems
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.escn_md.layers import evaluate

EDGES_ON_A_CPU = 512
"""Edges of a chunk on a CPU: as many as its caches hold. A GPU takes as many as its memory does."""


class FastPyTorch:
    """The `fast_pytorch` backend of eSCN-MD; holds rearranged copies of the weights, in their type and on their device.

    Raises:
        BackendError: the model has other degrees or orders than lmax = mmax = 2.
    """

    def __init__(self, model: EscnMd, precision: str = "high") -> None:
        config = model.config
        if (config.lmax, config.mmax) != (2, 2):
            raise BackendError(
                f"backend 'fast_pytorch' is written for lmax = mmax = 2; this model has lmax {config.lmax} and mmax {config.mmax}: "
                "use 'general'"
            )
        self.model, self.exchanges = model, model.exchanges
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        with torch.no_grad():
            self.weights = weights_of_edges(model, precision)
        self.blends = Blends(self._products)

    def _products(self, blend: Blend) -> tuple[Tensor, list[tuple[Product, Product]]]:
        """The embedding, and the blended maps of every layer as the passes want them."""
        found = []
        for layer, block in enumerate(self.model.blocks):
            w = [blend.weights[6 * layer + k].to(self.weights.storage_dtype) for k in range(6)]
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
            BackendError: a number beyond the range of half precision, where that is the type of stored features of edges.
        """
        chunks, embedding = divide(self.model, self.blends, graph, self._edges_at_once(graph))
        steps = _Evaluation(self.model, graph, self.weights.edges(graph, chunks), embedding)
        evaluate(steps, self.model.config.layers)
        energies, gradients = steps.energies, steps.gradients
        # With a halo no process may refuse alone: the energy, which is no number then, is looked at by all.
        half = self.weights.storage_dtype == torch.float16 and graph.halo is None
        if half and not bool(energies.isfinite().all() & gradients.isfinite().all()):
            raise BackendError(
                "a feature of an edge left the range of half precision (65,504), so the result would not be a number; use "
                "precision='high'"
            )
        return energies, gradients

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        # A blend as prepared has the products of m > 0 twice.
        blends = 2 * self.model.bytes_of_blends(graph)
        return self.weights.bytes_needed(graph, self._edges_at_once(graph)) + blends

    def _edges_at_once(self, graph: Graph) -> int:
        limit = memory.edges_at_once(self.model.config, self.device, self.dtype, layers=1)
        return min(limit, EDGES_ON_A_CPU) if self.device.type == "cpu" else limit


class _Evaluation:
    """The `Steps` of one call. Features (N, 9, C) before each layer, and in the middle of it, are saved for the backward pass.

    Where processes share the structure, those before a layer are the ghosts' too, so that the backward pass asks for none a second
    time; what edges give ghosts of a derivative goes home to their owners.
    """

    energies: Tensor
    gradients: Tensor
    x: Tensor
    x_bar: Tensor

    def __init__(self, model: EscnMd, graph: Graph, edges: Edges, embedding: Tensor) -> None:
        self.model, self.graph, self.edges, self.embedding = model, graph, edges, embedding
        self.system_ptr = rows_of_systems(graph)
        self.before: list[Tensor] = []
        self.middle: list[Tensor] = []

    def degrees(self) -> None:
        """See `Steps`."""
        own = self.graph.num_owned
        scalars = self.model.sphere_embedding(self.graph.atomic_numbers[:own]) + self.embedding[:own]
        self.x = torch.cat([scalars[:, None], scalars.new_zeros(len(scalars), 8, scalars.shape[1])], dim=1)
        self.x += self.edges.degrees()

    def messages(self, layer: int) -> None:
        """See `Steps`."""
        self.before.extend(with_ghosts(self.graph.halo, self.x))
        self.x = self.x + self.edges.messages(layer, self._normed(layer))
        self.middle.append(self.x)

    def atom_wise(self, layer: int) -> None:
        """See `Steps`."""
        block = self._block(layer)
        self.x = self.x + node_ops.atom_wise(block.atom_wise, node_ops.norm(block.norm_2, self.x))
        self.x = self.model.balance(self.x, self.graph, self.system_ptr)

    def read_out(self) -> None:
        """See `Steps`."""
        model = self.model
        self.energies, scalars_bar = node_ops.read_out(model, node_ops.norm(model.norm, self.x)[:, 0], self.graph)
        y_bar = torch.zeros_like(self.x)
        y_bar[:, 0] = scalars_bar
        self.x_bar = node_ops.norm_backward(model.norm, self.x, y_bar)

    def atom_wise_backward(self, layer: int) -> None:
        """See `Steps`."""
        block, middle = self._block(layer), self.middle[layer]
        x_bar = node_ops.balance_backward(self.model.config, self.graph, self.x_bar, self.system_ptr)
        inner_bar = node_ops.atom_wise_backward(block.atom_wise, node_ops.norm(block.norm_2, middle), x_bar)
        self.x_bar = x_bar + node_ops.norm_backward(block.norm_2, middle, inner_bar)

    def messages_backward(self, layer: int) -> None:
        """See `Steps`."""
        y_bar = to_owners(self.graph.halo, self.edges.messages_backward(layer, self._normed(layer), self.x_bar))
        before = self.before[layer][: self.graph.num_owned]
        self.x_bar = self.x_bar + node_ops.norm_backward(self._block(layer).norm_1, before, y_bar)

    def degrees_backward(self) -> None:
        """See `Steps`."""
        self.edges.degrees_backward(self.x_bar)
        self.gradients = self.edges.gradients()

    def _block(self, layer: int) -> Block:
        return self.model.blocks[layer]  # type: ignore[return-value]

    def _normed(self, layer: int) -> Tensor:
        """What the edges of a layer read."""
        y = node_ops.norm(self._block(layer).norm_1, self.before[layer])
        y[:, 0] += self.embedding
        return y
