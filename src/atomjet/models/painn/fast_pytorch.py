"""PaiNN without autograd: energies and dE/d(edge vectors) by a backward pass written by hand, in plain PyTorch.

The same function as `general.py`, rearranged; `docs/concepts/analytic_forces.md` derives it block by block. X̄ stands for dE/dX.

- The cutoff is folded into the basis: with ĝ = [φ f, f] and Â = [A, b], the filter is one product, W = ĝ Âᵀ, and its
  derivative never has to be formed: d̄ = ĝ' · (Âᵀ of what multiplies W).
- The list holds every edge in both directions, so the sum over receivers of what an atom sent walks the atom's *own* row, each
  edge read backwards (u becomes -u): forward and backward are both sums over rows, without atomics and without a transposed
  list.
- Edges are taken a few rows at a time and filters computed anew in the backward pass: per edge only ĝ, ĝ' and 4 numbers stay.
- Layer 0 starts from the element alone, so its context is a table, and its vectors are zero: a third of its message drops out, and
  nothing needs to flow back through it. Nothing reads the vectors after the last layer: a third of its update drops out.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from atomjet.data import Graph
from atomjet.data.halo import with_ghosts
from atomjet.models.painn.general import PaiNN, cosine_cutoff, cosine_cutoff_derivative
from atomjet.models.row_chunks import row_chunks
from atomjet.ops.segment_sum import segment_sum

EDGES_AT_ONCE = {"cpu": 512, "cuda": 131072}
"""Edges processed together: on a CPU as many as the caches hold, on a GPU enough to fill it."""

MOST_VIEWS = 128
"""Numbers of edges whose views of the buffers are remembered."""


def silu_derivative(x: Tensor) -> Tensor:
    """d silu(x) / dx."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _without_dust(x: Tensor) -> Tensor:
    """Set to zero what lies under 1e-30: far tails of Gaussians become denormal numbers, which halve a CPU's speed."""
    return x.masked_fill_(x.abs() < 1e-30, 0.0)


def _dot(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Σ_xyz a ⊙ b of (E, 3, F) and (E, 3, F or 1): three fused multiply-adds write a third of what a product would."""
    torch.mul(a[:, 0], b[:, 0], out=out).addcmul_(a[:, 1], b[:, 1]).addcmul_(a[:, 2], b[:, 2])


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, in the form the passes want them."""

    filter: Tensor  # Â (3F, K + 1); (2F, K + 1) in layer 0
    context1: nn.Linear
    context2: nn.Linear
    channel_mix: Tensor  # M (2F, F)
    update1: nn.Linear
    update2_weight: Tensor  # D2 (3F, F), rows s, w, t; (2F, F), rows s, w, in the last layer
    update2_bias: Tensor


class Chunk(NamedTuple):
    """Some whole rows and their edges."""

    atoms: slice
    edges: slice
    row_ptr: Tensor  # starting at zero
    center: Tensor  # (e,) counted from the first row
    neighbor: Tensor  # (e,)


class Scratch(NamedTuple):
    """Where what is computed of a chunk's edges stands, one chunk after the other."""

    filters: Tensor  # (e, 3F); (e, 2F) in layer 0, as the next two
    context: Tensor
    sent: Tensor
    vectors: Tensor  # (e, 3, F)
    other: Tensor  # (e, 3, F)
    scalar: Tensor  # (e, F)


class ScratchBuffers:
    """Buffers for chunks of up to so many edges; allocated anew for each they cost a CPU a quarter of its time, in page faults."""

    def __init__(self, edges: int, features: int, like: Tensor) -> None:
        self.edges, self.features = edges, features
        self.flat = [like.new_empty(width * edges * features) for width in (3, 3, 3, 3, 3, 1)]
        self.views: dict[tuple[int, int], Scratch] = {}

    def of(self, edges: int, width: int) -> Scratch:
        """Views for so many edges and rows of a filter; remembered, as every layer asks for them twice."""
        if (edges, width) not in self.views:
            if len(self.views) >= MOST_VIEWS:
                self.views.clear()
            filters, vectors = (edges, width), (edges, 3, self.features)
            shapes = (filters, filters, filters, vectors, vectors, (edges, self.features))
            views = (flat[: math.prod(shape)].view(shape) for flat, shape in zip(self.flat, shapes, strict=True))
            self.views[edges, width] = Scratch(*views)
        return self.views[edges, width]


class _Cache(threading.local):
    """The buffers that this thread used last; no model's own, so that models can be copied and sent to other processes."""

    scratch: ScratchBuffers | None = None


_cache = _Cache()


class Edges(NamedTuple):
    """What all layers need of every edge."""

    basis: Tensor  # ĝ (E, K + 1)
    slope: Tensor  # ĝ' (E, K + 1)
    direction: Tensor  # u (E, 3)
    length: Tensor  # d (E,)
    chunks: list[Chunk]
    scratch: ScratchBuffers


class Saved(NamedTuple):
    """What the backward pass of one layer needs from the forward pass: 18 F numbers per atom."""

    c: Tensor  # (N, 3F) context; in layer 0 (N, 2F)
    y: Tensor | None  # (N, F) argument of the context's silu; none in layer 0
    mu_in: Tensor | None  # (N, 3, F) vectors at the message; none (zero) in layer 0
    vu: Tensor  # (N, 3, 2F) V and U
    norm: Tensor  # (N, F)
    z: Tensor  # (N, F) argument of the update's silu
    w: Tensor  # (N, F)
    t: Tensor | None  # (N, F); none in the last layer


class FastPyTorch:
    """The `fast_pytorch` backend of PaiNN; holds rearranged copies of the weights, in their type and on their device."""

    def __init__(self, model: PaiNN, precision: str = "high") -> None:
        with torch.no_grad():
            self.model = model
            self.features = model.config.features
            self.layers = [self._rearranged(index) for index in range(model.config.layers)]
            self.exchanges = 2 * model.config.layers - 1
            first = self.layers[0]
            context = first.context2(silu(first.context1(model.embedding.weight)))
            self.first_context = context[:, : 2 * self.features].contiguous()

    def _rearranged(self, index: int) -> Layer:
        model, features = self.model, self.features
        interaction, mixing = model.layer(index)
        start = 0 if model.config.shared_filters else 3 * features * index
        width = 2 * features if index == 0 else 3 * features
        window = slice(start, start + width)
        filters = torch.cat([model.filters.weight[window], model.filters.bias[window, None]], dim=1)
        update2: nn.Linear = mixing.context[2]  # type: ignore[assignment]
        s, t, w = update2.weight.chunk(3)
        s_bias, t_bias, w_bias = update2.bias.chunk(3)
        last = index == model.config.layers - 1
        return Layer(
            filter=filters,
            context1=interaction.context[0],  # type: ignore[arg-type]
            context2=interaction.context[2],  # type: ignore[arg-type]
            channel_mix=mixing.channel_mix.weight,
            update1=mixing.context[0],  # type: ignore[arg-type]
            update2_weight=torch.cat([s, w] if last else [s, w, t]),
            update2_bias=torch.cat([s_bias, w_bias] if last else [s_bias, w_bias, t_bias]),
        )

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and dE/d(edge vectors) (E, 3) eV/Å."""
        # What the graph keeps of itself is made before: others may differentiate through it, which that mode rules out.
        with torch.no_grad():
            assert len(graph.lengths) == (graph.num_edges if graph.halo else len(graph.reverse))
        with torch.inference_mode():  # a tenth faster than no_grad, where operators are many and small
            energies, gradients = self._evaluate(graph)
            if self.model.zbl is not None:
                shares, slopes = self.model.zbl.shares_and_slopes(graph)
                energies = energies + segment_sum(shares, graph.row_ptr, graph.centers)
                gradients = gradients + (slopes / graph.lengths)[:, None] * graph.vectors
        return energies.clone(), gradients.clone()

    def _evaluate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        edges = self._edges(graph)
        own = graph.num_owned
        q = self.model.embedding(graph.atomic_numbers[:own])
        mu: Tensor | None = None
        saved_layers: list[Saved] = []
        for index, layer in enumerate(self.layers):
            if index == 0:
                y, c = None, self.first_context[graph.atomic_numbers]
            else:
                everywhere, mu = with_ghosts(graph.halo, q, mu)  # type: ignore[arg-type]
                y = layer.context1(everywhere)
                c = layer.context2(silu(y))
                y = y[:own]
            mu_in = mu
            q, mu = self._message(layer, edges, q, mu_in, c)
            q, mu, mixed = self._mix(layer, q, mu)
            saved_layers.append(Saved(c, y, mu_in, *mixed))
        hidden = self.model.readout[0](q)
        energies = self.model.readout[2](silu(hidden)).squeeze(1)

        q_bar = (silu_derivative(hidden) * self.model.readout[2].weight) @ self.model.readout[0].weight  # type: ignore[operator]
        return energies, self._backward(graph, edges, saved_layers, q_bar)  # type: ignore[arg-type]

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph.

        Per atom what `Saved` holds and the temporaries of one layer; per edge what `Edges` holds and the gradient.
        """
        size = self.model.embedding.weight.element_size()
        at_once = min(graph.num_edges, EDGES_AT_ONCE.get(graph.row_ptr.device.type, EDGES_AT_ONCE["cpu"]))
        per_atom = self.features * (17 * len(self.layers) + 24)
        per_edge = 6 * (self.model.config.num_radial + 1) + 24
        return size * (per_atom * graph.num_atoms + per_edge * graph.num_edges + 24 * self.features * at_once)

    # ------------------------------------------------------------------ forward

    def _edges(self, graph: Graph) -> Edges:
        length = graph.lengths
        phi, slope = self.model.basis.with_derivative(length)  # type: ignore[operator]
        f = cosine_cutoff(length, self.model.cutoff)[:, None]
        f_slope = cosine_cutoff_derivative(length, self.model.cutoff)[:, None]
        basis = _without_dust(torch.cat([phi * f, f], dim=1))
        slope = _without_dust(torch.cat([slope * f + phi * f_slope, f_slope], dim=1))
        chunks = _chunks(graph)
        scratch = self._scratch(max((len(chunk.neighbor) for chunk in chunks), default=0), basis)
        return Edges(basis, slope, graph.vectors / length[:, None], length, chunks, scratch)

    def _scratch(self, edges: int, like: Tensor) -> ScratchBuffers:
        """Those that this thread had last, if they will do; a GPU's allocator keeps its own."""
        if like.is_cuda:
            return ScratchBuffers(edges, self.features, like)
        buffers = _cache.scratch
        if (
            buffers is None
            or buffers.edges < edges
            or buffers.features != self.features
            or buffers.flat[0].dtype != like.dtype
        ):
            buffers = _cache.scratch = ScratchBuffers(edges, self.features, like)
        return buffers

    def _message(self, layer: Layer, edges: Edges, q: Tensor, mu_in: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        """q_i += Σ_j a,  μ_i += Σ_j (b ⊗ u + e ⊙ μ_j) with (a, b, e) = c_j ⊙ W."""
        q_sum, mu_sum = torch.empty_like(q), q.new_empty(q.shape[0], 3, q.shape[1])
        for chunk in edges.chunks:
            scratch = edges.scratch.of(len(chunk.neighbor), len(layer.filter))
            filters = torch.mm(edges.basis[chunk.edges], layer.filter.T, out=scratch.filters)
            there = torch.index_select(c, 0, chunk.neighbor, out=scratch.context)
            u = edges.direction[chunk.edges, :, None]
            _, b, *rest = filters.mul_(there).split(self.features, dim=1)
            # The sums want rows that stand beside each other.
            scratch.scalar.copy_(filters[:, : self.features])
            if mu_in is None:
                vectors = torch.mul(b[:, None, :], u, out=scratch.vectors)
            else:
                vectors = torch.index_select(mu_in, 0, chunk.neighbor, out=scratch.vectors)
                vectors.mul_(rest[0][:, None, :]).addcmul_(b[:, None, :], u)
            segment_sum(scratch.scalar, chunk.row_ptr, chunk.center, out=q_sum[chunk.atoms])
            segment_sum(vectors, chunk.row_ptr, chunk.center, out=mu_sum[chunk.atoms])
        return q + q_sum, mu_sum if mu_in is None else mu_sum.add_(mu_in[: len(q)])

    def _mix(self, layer: Layer, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor | None, tuple]:
        """q += s + w ⊙ Σ_xyz V ⊙ U,  μ += t ⊙ U; also what the backward pass needs: (vu, norm, z, w, t)."""
        vu = linear(mu, layer.channel_mix)
        v, u = vu.split(self.features, dim=2)
        norm = v.square().sum(1).add_(self.model.config.epsilon).sqrt_()
        z = layer.update1(torch.cat([q, norm], dim=1))
        s, w, *rest = linear(silu(z), layer.update2_weight, layer.update2_bias).split(self.features, dim=1)
        q = q + s + w * (v * u).sum(1)
        if not rest:
            return q, None, (vu, norm, z, w, None)
        return q, torch.addcmul(mu, rest[0][:, None, :], u), (vu, norm, z, w, rest[0])

    # ----------------------------------------------------------------- backward

    def _backward(self, graph: Graph, edges: Edges, saved_layers: list[Saved], q_bar: Tensor) -> Tensor:
        mu_bar: Tensor | None = None
        d_bar, u_bar = torch.zeros_like(edges.length), torch.zeros_like(edges.direction)
        for layer, saved in zip(reversed(self.layers), reversed(saved_layers), strict=True):
            q_bar, mu_bar = self._mix_backward(layer, saved, q_bar, mu_bar)
            # A row walks what its atom sent, so it reads derivatives of the receivers: a copy again, and no sum over processes.
            received = with_ghosts(graph.halo, q_bar, mu_bar)
            c_bar, mu_sent = self._message_backward(layer, saved, edges, *received, len(q_bar), d_bar, u_bar)
            if saved.y is not None:
                mu_bar = mu_bar + mu_sent
                q_bar = q_bar + (silu_derivative(saved.y) * (c_bar @ layer.context2.weight)) @ layer.context1.weight
        # d_bar and u_bar belong to each edge read backwards, whose direction is -u.
        direction = -edges.direction
        along = (direction * u_bar).sum(1, keepdim=True)
        gradients = direction * d_bar[:, None] + (u_bar - direction * along) / edges.length[:, None]
        # What counts is the sum over a pair's two edges, so either may carry it: with a halo this one, turned round.
        return -gradients if graph.halo else gradients[graph.reverse]

    def _mix_backward(self, layer: Layer, saved: Saved, q_bar: Tensor, mu_bar: Tensor | None) -> tuple[Tensor, Tensor]:
        v, u = saved.vu.split(self.features, dim=2)
        s_w_t = [q_bar, q_bar * (v * u).sum(1)]
        if mu_bar is not None:
            s_w_t.append((mu_bar * u).sum(1))
        z_bar = silu_derivative(saved.z) * (torch.cat(s_w_t, dim=1) @ layer.update2_weight)
        q_part, norm_bar = (z_bar @ layer.update1.weight).split(self.features, dim=1)
        product_bar = (q_bar * saved.w)[:, None, :]
        v_bar = torch.addcmul(product_bar * u, (norm_bar / saved.norm)[:, None, :], v)
        u_bar = product_bar * v
        if mu_bar is not None and saved.t is not None:
            u_bar.addcmul_(saved.t[:, None, :], mu_bar)
        through = torch.cat([v_bar, u_bar], dim=2) @ layer.channel_mix
        return q_bar + q_part, through if mu_bar is None else through.add_(mu_bar)

    def _message_backward(
        self,
        layer: Layer,
        saved: Saved,
        edges: Edges,
        q_bar: Tensor,
        mu_bar: Tensor,
        owned: int,
        d_bar: Tensor,
        u_bar: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return c̄ (owned, 3F) and what flows to the senders' vectors (N, 3, F); add to d̄ and ū.

        Row i holds the edges that i *sent* when each is read backwards: its neighbor is the receiver, its direction -u.
        """
        c_bar, mu_sent = torch.empty_like(saved.c[:owned]), torch.empty_like(mu_bar[:owned])
        for chunk in edges.chunks:
            scratch = edges.scratch.of(len(chunk.neighbor), len(layer.filter))
            received = torch.index_select(mu_bar, 0, chunk.neighbor, out=scratch.vectors)
            a_bar, b_bar, *e_bar = scratch.sent.split(self.features, dim=1)
            a_bar.copy_(torch.index_select(q_bar, 0, chunk.neighbor, out=scratch.scalar))
            _dot(received, -edges.direction[chunk.edges, :, None], out=b_bar)
            if saved.mu_in is not None:
                own = torch.index_select(saved.mu_in[chunk.atoms], 0, chunk.center, out=scratch.other)
                _dot(received, own, out=e_bar[0])
            c = torch.index_select(saved.c[chunk.atoms], 0, chunk.center, out=scratch.context)
            filters = torch.mm(edges.basis[chunk.edges], layer.filter.T, out=scratch.filters)
            if saved.mu_in is not None:
                product = torch.mul(scratch.sent, filters, out=scratch.other.view(scratch.sent.shape))
                segment_sum(product, chunk.row_ptr, chunk.center, out=c_bar[chunk.atoms])
            slope = edges.slope[chunk.edges]
            d_bar[chunk.edges] += scratch.sent.mul_(c).matmul(layer.filter).mul_(slope).sum(1)
            b, *e = filters[:, self.features :].mul_(c[:, self.features :]).split(self.features, dim=1)
            u_bar[chunk.edges] += torch.mul(received, b[:, None, :], out=scratch.other).sum(2)
            if saved.mu_in is not None:
                segment_sum(received.mul_(e[0][:, None, :]), chunk.row_ptr, chunk.center, out=mu_sent[chunk.atoms])
        return c_bar, mu_sent


def _chunks(graph: Graph) -> list[Chunk]:
    """The graph in chunks of whole rows of about `EDGES_AT_ONCE` edges."""
    limit = EDGES_AT_ONCE.get(graph.row_ptr.device.type, EDGES_AT_ONCE["cpu"])
    return [
        Chunk(
            atoms=atoms,
            edges=edges,
            row_ptr=graph.row_ptr[atoms.start : atoms.stop + 1] - edges.start,
            center=graph.centers[edges] - atoms.start,
            neighbor=graph.neighbors[edges],
        )
        for atoms, edges in row_chunks(graph, limit, slice(0, graph.num_owned), slice(0, graph.num_edges))
    ]
