"""All radial networks of an eSCN-MD at once, with their derivative by hand.

Each layer's network, and that of the edge degrees, reads the same input z = [Gaussians of d, element of j, element of i]. Stacked,
the first products are one; and as the embeddings of elements are most of the input, their share of it is a table by element:

    h = G(d) A + S[Z_j] + T[Z_i],   a = silu(norm_1(h)),   b = silu(norm_2(a B + β))    for all P networks together
    radial_p = b_p C_p + γ_p                                                          left to the layer that needs it

b̄ = dE/db of all networks then flows back to d in one pass. X̄ stands for dE/dX.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from atomjet.data import Graph
from atomjet.models.escn_md.blocks import RadialNetwork
from atomjet.models.escn_md.chunks import Chunk
from atomjet.models.escn_md.general import EscnMd


class Norm(NamedTuple):
    """LayerNorm of every network: (P, 1, width) each."""

    weight: Tensor
    bias: Tensor
    epsilon: float


class Saved(NamedTuple):
    """What the backward pass needs of one step: the normalised values, and one over the deviation."""

    normalised: Tensor
    inverse: Tensor


class UnifiedRadial:
    """P radial networks, all but their last product. Holds rearranged copies of the weights."""

    def __init__(self, model: EscnMd) -> None:
        networks: list[RadialNetwork] = [model.edge_degree, *(block.radial for block in model.blocks)]  # type: ignore[list-item]
        self.model = model
        gaussians, edge = model.config.num_radial, model.config.edge_channels
        first = torch.stack([network[0].weight for network in networks])  # type: ignore[arg-type]  # (P, width, inputs)
        bias = torch.stack([network[0].bias for network in networks])  # type: ignore[arg-type]
        by_distance, by_source, by_target = first.split([gaussians, edge, edge], dim=2)
        self.by_distance = by_distance.flatten(0, 1).T.contiguous()  # (gaussians, P width)
        self.by_source = model.source_embedding.weight @ by_source.flatten(0, 1).T
        self.by_target = model.target_embedding.weight @ by_target.flatten(0, 1).T + bias.flatten()
        self.second = torch.stack([network[3].weight.T for network in networks]).contiguous()  # type: ignore[arg-type, operator]
        self.second_bias = torch.stack([network[3].bias for network in networks])[:, None]  # type: ignore[arg-type]
        self.norms = [_stacked([network[k] for network in networks]) for k in (1, 4)]  # type: ignore[misc]
        self.count = len(networks)

    def forward(self, lengths: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """(e,) Å and (e,) atomic numbers of neighbor and center to b (P, e, width)."""
        return self._steps(lengths, source, target)[2]

    def backward(self, lengths: Tensor, source: Tensor, target: Tensor, b_bar: Tensor) -> Tensor:
        """(P, e, width) to dE/dd (e,); computes the forward pass anew."""
        first, second, _ = self._steps(lengths, source, target)
        a_bar = torch.bmm(_norm_backward(self.norms[1], second, b_bar), self.second.mT)
        h_bar = _norm_backward(self.norms[0], first, a_bar)
        basis_bar = h_bar.transpose(0, 1).flatten(1) @ self.by_distance.T
        return (basis_bar * self.basis_slope(lengths)).sum(1)

    def _steps(self, lengths: Tensor, source: Tensor, target: Tensor) -> tuple[Saved, Saved, Tensor]:
        h = self.model.radial_basis(lengths) @ self.by_distance
        h += self.by_source.index_select(0, source)
        h += self.by_target.index_select(0, target)
        h = h.unflatten(1, (self.count, -1)).transpose(0, 1)
        first, a = _norm_forward(self.norms[0], h)
        second, b = _norm_forward(self.norms[1], torch.baddbmm(self.second_bias, a, self.second))
        return first, second, b

    def basis_slope(self, lengths: Tensor) -> Tensor:
        """(e,) Å to dG/dd (e, num_radial)."""
        config = self.model.config
        centers = torch.linspace(0, config.cutoff, config.num_radial, dtype=torch.float64).to(lengths)
        width = 2 * config.cutoff / (config.num_radial - 1)
        return (centers - lengths[:, None]) / width**2 * self.model.radial_basis(lengths)


class NetworkFactors:
    """The radial networks at the edges of one call: values forward, and what is accumulated of their derivatives."""

    def __init__(self, networks: UnifiedRadial, graph: Graph, lengths: Tensor, chunks: list[Chunk]) -> None:
        model = networks.model
        self.networks, self.lengths, self.numbers, self.chunks = networks, lengths, graph.atomic_numbers, chunks
        self.last = [model.edge_degree[6], *(block.radial[6] for block in model.blocks)]  # type: ignore[index, union-attr]
        self.inner = lengths.new_empty(
            networks.count, graph.num_edges, model.config.edge_channels
        )  # b of every network
        for chunk in chunks:
            self.inner[:, chunk.edges] = networks.forward(lengths[chunk.edges], *self._elements(chunk))
        self.inner_bar = torch.zeros_like(self.inner)

    def values(self, network: int, chunk: Chunk) -> Tensor:
        """What a network gives, (e, outputs); 0 is that of the edge degrees, layers follow."""
        last = self.last[network]
        return torch.addmm(last.bias, self.inner[network, chunk.edges], last.weight.T)

    def backward(self, network: int, chunk: Chunk, values_bar: Tensor, share: Tensor | None = None) -> None:
        """dE/dvalues (e, outputs), to be weighed by share (e,), to what is accumulated; once for each network and chunk."""
        inner_bar = values_bar @ self.last[network].weight
        self.inner_bar[network, chunk.edges] = inner_bar if share is None else share[:, None] * inner_bar

    def along(self) -> Tensor:
        """dE/dd (E,) through all networks."""
        found = torch.empty_like(self.lengths)
        for chunk in self.chunks:
            inner_bar = self.inner_bar[:, chunk.edges]
            found[chunk.edges] = self.networks.backward(self.lengths[chunk.edges], *self._elements(chunk), inner_bar)
        return found

    def _elements(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Atomic numbers (e,) of neighbor and center."""
        return self.numbers[chunk.neighbor], self.numbers[chunk.center]


def _stacked(norms: list[nn.LayerNorm]) -> Norm:
    weight, bias = (torch.stack([getattr(norm, name) for norm in norms])[:, None] for name in ("weight", "bias"))
    return Norm(weight, bias, norms[0].eps)


def _norm_forward(norm: Norm, h: Tensor) -> tuple[Saved, Tensor]:
    """silu of the normalised (P, e, width)."""
    centered = h - h.mean(2, keepdim=True)
    inverse = torch.rsqrt(centered.square().mean(2, keepdim=True) + norm.epsilon)
    normalised = centered * inverse
    return Saved(normalised, inverse), silu(torch.addcmul(norm.bias, normalised, norm.weight))


def _norm_backward(norm: Norm, saved: Saved, a_bar: Tensor) -> Tensor:
    n_bar = a_bar * silu_derivative(torch.addcmul(norm.bias, saved.normalised, norm.weight)) * norm.weight
    along = (n_bar * saved.normalised).mean(2, keepdim=True)
    return (n_bar - n_bar.mean(2, keepdim=True) - saved.normalised * along) * saved.inverse


def silu_derivative(x: Tensor) -> Tensor:
    """d silu(x) / dx."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))
