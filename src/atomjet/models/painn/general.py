"""PaiNN, the definition: plain PyTorch, any device, any floating type; autograd gives the rest.

Schütt, Unke, Gastegger, "Equivariant message passing for the prediction of tensorial properties and molecular spectra", ICML 2021
(arXiv:2102.03150), with the parameters of SchNetPack 2.x. N atoms, E edges, F channels, K radial functions, L layers.

For the edge from i to j with r = x_j - x_i, d = |r|, u = r / d:

    basis    φ(d) ∈ R^K,  f(d) = ½ (cos(π d / r_c) + 1) inside the cutoff
    filter   W_l(d) = (A_l φ(d) + b_l) f(d) ∈ R^3F        the cutoff multiplies the bias too: smooth at r_c

Each atom carries scalars q ∈ R^F (an embedding of its element) and vectors μ ∈ R^(3 x F) (zero at first). A layer is

    message  c = C2 silu(C1 q) ∈ R^3F;  (a, b, e) = split(c_j ⊙ W_l(d))
             q_i += Σ_j a,   μ_i += Σ_j (b ⊗ u + e ⊙ μ_j)
    mixing   (V, U) = split(M μ),  n = sqrt(Σ_xyz V² + ε),  (s, t, w) = split(D2 silu(D1 [q; n]))
             q += s + w ⊙ Σ_xyz V ⊙ U,   μ += t ⊙ U

and the energy of an atom is R2 silu(R1 q), plus, where the model has it, half the repulsion of its nucleus from each other
(`models/zbl.py`). Only channels are mixed, never x with y: the model is exactly equivariant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atomjet.data import Graph
from atomjet.data.halo import with_ghosts
from atomjet.models.base import NeutralSinglets
from atomjet.models.painn.config import PaiNNConfig
from atomjet.models.zbl import ZBL


class GaussianBasis(nn.Module):
    """φ_k = exp(-(d - o_k)² / (2 w_k²)), offsets o even from 0 to the cutoff, widths w their distance."""

    offsets: Tensor
    widths: Tensor

    def __init__(self, number: int, cutoff: float) -> None:
        super().__init__()
        offsets = torch.linspace(0, cutoff, number, dtype=torch.float64)
        self.register_buffer("offsets", offsets.float())
        self.register_buffer("widths", torch.full((number,), cutoff / (number - 1)))

    def forward(self, lengths: Tensor) -> Tensor:
        """(E,) Å to (E, K)."""
        return torch.exp(-0.5 * ((lengths[:, None] - self.offsets) / self.widths) ** 2)

    def with_derivative(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) Å to φ and dφ/dd, (E, K) each."""
        phi = self(lengths)
        return phi, (self.offsets - lengths[:, None]).div_(self.widths**2).mul_(phi)


class BesselBasis(nn.Module):
    """φ_k = sin(f_k d) / d with f_k = k π / r_c."""

    frequencies: Tensor

    def __init__(self, number: int, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, number + 1) * (math.pi / cutoff))

    def forward(self, lengths: Tensor) -> Tensor:
        """(E,) Å to (E, K)."""
        return torch.sin(lengths[:, None] * self.frequencies) / lengths[:, None]

    def with_derivative(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) Å to φ and dφ/dd, (E, K) each."""
        phi, length = self(lengths), lengths[:, None]
        return phi, (self.frequencies * torch.cos(length * self.frequencies)).sub_(phi).div_(length)


RADIAL_BASES = {"gaussian": GaussianBasis, "bessel": BesselBasis}
"""Classes by the configuration's name; each takes the number of functions and the cutoff, Å."""


def cosine_cutoff(lengths: Tensor, cutoff: float) -> Tensor:
    """½ (cos(π d / r_c) + 1) below the cutoff, zero beyond."""
    return 0.5 * (torch.cos(lengths * (math.pi / cutoff)) + 1.0) * (lengths < cutoff)


def cosine_cutoff_derivative(lengths: Tensor, cutoff: float) -> Tensor:
    """d/dd of `cosine_cutoff`."""
    return -0.5 * math.pi / cutoff * torch.sin(lengths * (math.pi / cutoff)) * (lengths < cutoff)


class Interaction(nn.Module):
    """The message: context per atom, filter per edge, sums per row."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.context = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, 3 * features))

    def forward(
        self, q: Tensor, mu: Tensor, filters: Tensor, directions: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """(N, F), (N, 3, F), (E, 3F), (E, 3) to the updated (owned, F), (owned, 3, F)."""
        a, b, e = (self.context(q)[graph.neighbors] * filters).chunk(3, dim=1)
        per_edge = b[:, None, :] * directions[:, :, None] + e[:, None, :] * mu[graph.neighbors]
        own = graph.num_owned
        return q[:own].index_add(0, graph.centers, a), mu[:own].index_add(0, graph.centers, per_edge)


class Mixing(nn.Module):
    """The update: within each atom, between its scalars and vectors."""

    def __init__(self, features: int, epsilon: float) -> None:
        super().__init__()
        self.channel_mix = nn.Linear(features, 2 * features, bias=False)
        self.context = nn.Sequential(nn.Linear(2 * features, features), nn.SiLU(), nn.Linear(features, 3 * features))
        self.epsilon = epsilon

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F), (N, 3, F) to the same, updated."""
        v, u = self.channel_mix(mu).chunk(2, dim=2)
        norm = torch.sqrt(v.square().sum(1) + self.epsilon)
        s, t, w = self.context(torch.cat([q, norm], dim=1)).chunk(3, dim=1)
        return q + s + w * (v * u).sum(1), mu + t[:, None, :] * u


class PaiNN(NeutralSinglets, nn.Module):
    """PaiNN's learned energy; see the module's docstring for the equations.

    `reference_energies` (max_z,) float64, eV by atomic number, is added to the energies outside, in float64, by whoever asks for
    totals: the network itself only sees differences of a few eV, which float32 resolves.
    """

    family = "painn"
    reference_energies: Tensor

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.config = config
        self.exchanges = 2 * (config.layers - 1)
        features, layers = config.features, config.layers
        self.basis = RADIAL_BASES[config.radial_basis](config.num_radial, config.cutoff)
        self.embedding = nn.Embedding(config.max_z, features)
        self.filters = nn.Linear(config.num_radial, 3 * features * (1 if config.shared_filters else layers))
        own = 1 if config.shared_interactions else layers
        self.interactions = nn.ModuleList(Interaction(features) for _ in range(own))
        self.mixings = nn.ModuleList(Mixing(features, config.epsilon) for _ in range(own))
        self.readout = nn.Sequential(nn.Linear(features, features // 2), nn.SiLU(), nn.Linear(features // 2, 1))
        self.zbl = None if config.zbl is None else ZBL(config.zbl, config.cutoff, config.max_z)
        self.register_buffer("reference_energies", torch.zeros(config.max_z, dtype=torch.float64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier weights and zero biases, as SchNetPack starts PaiNN."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.config.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model serves."""
        return self.config.elements or tuple(range(1, self.config.max_z))

    def references(self, graph: Graph) -> Tensor:
        """(N,) float64, eV: the energy of each atom by its element, to be added to the learned energies."""
        return self.reference_energies[graph.atomic_numbers]

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Move or cast as usual, but keep the reference energies in float64: they are thousands of eV."""
        references = self.reference_energies
        super()._apply(fn, recurse)
        self.reference_energies = references.to(self.reference_energies.device)
        return self

    def layer(self, index: int) -> tuple[Interaction, Mixing]:
        """The modules of layer `index`; the same ones for all layers where they are shared."""
        own = 0 if self.config.shared_interactions else index
        return self.interactions[own], self.mixings[own]  # type: ignore[return-value]

    def atomic_energies(self, graph: Graph) -> Tensor:
        """(N,) learned energies, eV, in the type of the weights, without reference energies."""
        lengths = torch.linalg.vector_norm(graph.vectors, dim=1)
        directions = graph.vectors / lengths[:, None]
        filters = self.filters(self.basis(lengths)) * cosine_cutoff(lengths, self.cutoff)[:, None]
        width = 3 * self.config.features
        q = self.embedding(graph.atomic_numbers)
        mu = q.new_zeros(q.shape[0], 3, q.shape[1])
        for index in range(self.config.layers):
            interaction, mixing = self.layer(index)
            if index:  # in the first layer an atom is its element, which is known of ghosts too
                q, mu = with_ghosts(graph.halo, q, mu)
            start = 0 if self.config.shared_filters else index * width
            q, mu = interaction(q, mu, filters[:, start : start + width], directions, graph)
            q, mu = mixing(q, mu)
        energies = self.readout(q).squeeze(1)
        return energies if self.zbl is None else energies + self.zbl.atomic_energies(graph, lengths)

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Upper estimate of what energies and their derivative take; a test holds it against measured peaks."""
        per_layer = self.config.features * self.config.layers * self.embedding.weight.element_size()
        return per_layer * (28 * graph.num_edges + 24 * graph.num_atoms)

    def forward(self, graph: Graph) -> Tensor:
        """Same as `atomic_energies`: the name that PyTorch's wrappers call."""
        return self.atomic_energies(graph)
