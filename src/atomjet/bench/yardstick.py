"""A fixed computation that stands for the machine: message passing with its gradient, as PaiNN does it, in plain PyTorch.

On a machine shared with others the same program takes half as long again at another hour. Measured in alternation with what is
to be judged, this work slows down alike, and their ratio stays; the more so, the more alike they use the caches: it has the
weights of a PaiNN of the usual size, and as many atoms as the case. It uses nothing of AtomJet and must never change: results of
different revisions are compared in units of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

DEGREE, FEATURES, LAYERS, BASIS = 12, 128, 3, 20

MOST_ATOMS = 400
"""More would take longer than what is measured, and fill no cache that these do not."""


class Yardstick:
    """Twelve edges an atom, 128 features, three layers; one call computes an energy and its gradient."""

    def __init__(self, device: torch.device | str, atoms: int) -> None:
        atoms = min(atoms, MOST_ATOMS)
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).div(shape[0] ** 0.5).to(device)

        edges = DEGREE * atoms
        self.centers = torch.arange(atoms, device=device).repeat_interleave(DEGREE)
        self.neighbors = torch.randint(0, atoms, (edges,), generator=generator).to(device)
        self.vectors = torch.randn(edges, 3, generator=generator).to(device)
        self.offsets = torch.linspace(0, 5, BASIS, device=device)
        self.start = draw(atoms, FEATURES)
        self.filters = draw(BASIS, 3 * FEATURES * LAYERS)
        sizes = ((1, 1), (1, 3), (1, 2), (2, 1), (1, 3))
        self.weights = [[draw(a * FEATURES, b * FEATURES) for a, b in sizes] for _ in range(LAYERS)]

    def __call__(self, turn: int) -> Tensor:
        """Return the gradient; `turn` moves the input a little, so that no call repeats another."""
        vectors = (self.vectors + 1e-3 * (turn % 8)).requires_grad_(True)
        with torch.enable_grad():
            lengths = vectors.norm(dim=1, keepdim=True)
            filters = torch.exp(-((lengths - self.offsets) ** 2)) @ self.filters
            q, mu = self.start, self.start.new_zeros(len(self.start), 3, FEATURES)
            for layer, (first, second, mixing, third, fourth) in enumerate(self.weights):
                window = filters[:, 3 * FEATURES * layer : 3 * FEATURES * (layer + 1)]
                a, b, e = ((silu(q @ first) @ second)[self.neighbors] * window).chunk(3, dim=1)
                directed = b[:, None] * (vectors / lengths)[:, :, None] + e[:, None] * mu[self.neighbors]
                q, mu = q.index_add(0, self.centers, a), mu.index_add(0, self.centers, directed)
                v, u = (mu @ mixing).chunk(2, dim=2)
                norm = torch.sqrt(v.square().sum(1) + 1e-8)
                s, t, w = (silu(torch.cat([q, norm], dim=1) @ third) @ fourth).chunk(3, dim=1)
                q, mu = torch.tanh(q + s + w * (v * u).sum(1)), torch.tanh(mu + t[:, None] * u)
            (gradient,) = torch.autograd.grad(q.sum(), vectors)
        return gradient
