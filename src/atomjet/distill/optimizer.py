"""AdamW over all weights as one vector, with the running average that is evaluated and saved.

Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019. For the gradient g after clipping to norm c,

    m = β₁ m + (1 - β₁) g,   v = β₂ v + (1 - β₂) g²,   m̂ = m / (1 - β₁^t),  v̂ = v / (1 - β₂^t)
    x = x - lr (m̂ / (sqrt(v̂) + ε) + λ x),             λ only on matrices, not on biases and embeddings
    x̄ = d x̄ + (1 - d) x,                              d = min(decay, (1 + t) / (10 + t)): no memory of the random start

One vector, because a student is small (2 MB): ranks then exchange gradients in one message, and a step whose gradient is not
finite is left out *on the device*, by a factor of zero, so that the host need not wait to learn of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

ALIGNMENT = 64
"""Each weight starts at a multiple of so many numbers: matrix products want aligned operands."""

STATE = ("weights", "average", "first_moment", "second_moment", "counts")
"""The tensors that a checkpoint holds."""


class FlatAdamW:
    """The weights of `model` and their average in `averaged`; both modules become views of vectors held here.

    `counts` (3,) float32: steps done, steps skipped, steps skipped in a row until now.
    """

    def __init__(
        self, model: nn.Module, averaged: nn.Module, weight_decay: float, ema_decay: float, clip_norm: float
    ) -> None:
        self.weights = flatten(model)
        self.average = flatten(averaged)
        self.gradient = torch.zeros_like(self.weights)
        for parameter, part in _parts(model, self.gradient):
            parameter.grad = part
        self.decay = torch.zeros_like(self.weights)
        embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
        for parameter, part in _parts(model, self.decay):
            part.fill_(weight_decay if parameter.ndim > 1 and parameter not in embeddings else 0.0)
        self.ema_decay, self.clip_norm = ema_decay, clip_norm
        self.first_moment = torch.zeros_like(self.weights)
        self.second_moment = torch.zeros_like(self.weights)
        self.counts = torch.zeros(3, device=self.weights.device)

    @torch.no_grad()
    def step(self, learning_rate: float) -> Tensor:
        """Use `gradient` and clear it; return one, or zero where it was not finite and nothing was changed."""
        norm = torch.linalg.vector_norm(self.gradient)
        good = torch.isfinite(norm).float()
        clip = torch.nan_to_num(self.clip_norm / norm.clamp(min=self.clip_norm), nan=0.0)
        gradient = torch.nan_to_num(self.gradient, nan=0.0, posinf=0.0, neginf=0.0) * clip
        self.counts[0] += good
        self.counts[1] += 1 - good
        self.counts[2].add_(1).mul_(1 - good)
        done = self.counts[0].clamp(min=1)
        self.first_moment.lerp_(gradient, (1 - BETA1) * good)
        self.second_moment.lerp_(gradient.square(), (1 - BETA2) * good)
        scale = torch.sqrt(self.second_moment / (1 - BETA2**done)) + EPSILON
        change = self.first_moment / (1 - BETA1**done) / scale + self.decay * self.weights
        self.weights.sub_(change * (learning_rate * good))
        forget = 1 - ((1 + done) / (10 + done)).clamp(max=self.ema_decay)
        self.average.lerp_(self.weights, forget * good)
        self.gradient.zero_()
        return good

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {name: getattr(self, name) for name in STATE}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint held."""
        for name in STATE:
            getattr(self, name).copy_(state[name])


def flatten(model: nn.Module) -> Tensor:
    """Copy all weights into one vector, and make them views of it."""
    parameters = list(model.parameters())
    length = sum(padded_size(parameter) for parameter in parameters)
    vector = torch.zeros(length, dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in _parts(model, vector):
        part.copy_(parameter.detach())
        parameter.data = part
    return vector


def _parts(model: nn.Module, vector: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    """Each weight with its part of the vector, in its shape."""
    parts, start = [], 0
    for parameter in model.parameters():
        parts.append((parameter, vector[start : start + parameter.numel()].view(parameter.shape)))
        start += padded_size(parameter)
    return parts


def padded_size(parameter: Tensor) -> int:
    """Places that a weight takes in the vector."""
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
