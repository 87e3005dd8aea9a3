"""A fixed piece of work that stands for the machine: message passing with its gradient, as PaiNN does it, in plain PyTorch.

On a machine shared with others the same program takes half as long again at another hour. Measured in alternation with what is
to be judged, this work slows down alike, and their ratio stays. It uses nothing of AtomJet and must never change: results of
different revisions are compared in units of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

ATOMS, EDGES, FEATURES, LAYERS = 20, 320, 64, 2


class Yardstick:
    """Twenty atoms, 320 edges, 64 features, two layers; one call computes an energy and its gradient."""

    def __init__(self, device: torch.device | str) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).div(shape[0] ** 0.5).to(device)

        self.centers = torch.arange(ATOMS, device=device).repeat_interleave(EDGES // ATOMS)
        self.neighbors = torch.randint(0, ATOMS, (EDGES,), generator=generator).to(device)
        self.vectors = draw(EDGES, 3) * 20
        self.offsets = torch.linspace(0, 5, 20, device=device)
        self.start = draw(ATOMS, FEATURES)
        self.filters = [draw(20, 3 * FEATURES) for _ in range(LAYERS)]
        self.context = [(draw(FEATURES, FEATURES), draw(FEATURES, 3 * FEATURES)) for _ in range(LAYERS)]
        self.mixing = [draw(FEATURES, 2 * FEATURES) for _ in range(LAYERS)]

    def __call__(self, turn: int) -> Tensor:
        """Return the gradient; `turn` moves the input a little, so that no call repeats another."""
        vectors = (self.vectors + 1e-3 * (turn % 8)).requires_grad_(True)
        with torch.enable_grad():
            lengths = vectors.norm(dim=1, keepdim=True)
            basis = torch.exp(-((lengths - self.offsets) ** 2))
            q, mu = self.start, self.start.new_zeros(ATOMS, 3, FEATURES)
            for layer in range(LAYERS):
                first, second = self.context[layer]
                sent = (torch.nn.functional.silu(q @ first) @ second)[self.neighbors] * (basis @ self.filters[layer])
                a, b, e = sent.chunk(3, dim=1)
                directed = b[:, None] * (vectors / lengths)[:, :, None] + e[:, None] * mu[self.neighbors]
                q, mu = q.index_add(0, self.centers, a), mu.index_add(0, self.centers, directed)
                v, u = (mu @ self.mixing[layer]).chunk(2, dim=2)
                q = q + torch.sqrt(v.square().sum(1) + 1e-8) + (v * u).sum(1)
            (gradient,) = torch.autograd.grad(torch.tanh(q).sum(), vectors)
        return gradient
