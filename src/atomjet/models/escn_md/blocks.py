"""The parts of a layer of eSCN-MD: their weights, and what they compute as functions of tensors. Equations: `general.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.experts import MixedLinear

EPSILON = 1e-5
"""Number added to the mean square under the square root of a norm, so that a row of zeros is not divided by zero."""


class RadialNetwork(nn.Sequential):
    """Radial input (E, num_radial + 2 edge channels) to (E, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )


class RMSNorm(nn.Module):
    """Center the scalars, divide by the root mean square in which each degree counts the same, scale by degree."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, M, C) to the same."""
        return rms_norm(x, self.affine_weight, self.affine_bias)


class SO2Convolution(nn.Module):
    """Linear maps between coefficients of the same |m|; `extra` further scalars come first of the outputs."""

    def __init__(self, config: EscnMdConfig, inputs: int, outputs: int, extra: int) -> None:
        super().__init__()
        self.outputs, self.extra = outputs, extra
        self.degrees = [config.lmax + 1 - m for m in range(config.mmax + 1)]  # how many l there are for each m
        self.m0 = MixedLinear(
            max(1, config.experts), self.degrees[0] * inputs, self.degrees[0] * outputs + extra, bias=True
        )
        self.m = nn.ModuleList(
            MixedLinear(max(1, config.experts), count * inputs, 2 * count * outputs, bias=False)
            for count in self.degrees[1:]
        )

    def by_order(self, x: Tensor) -> list[Tensor]:
        """(E, R, inputs) m-major to m = 0 (E, lmax + 1, inputs), and m and -m (E, 2, lmax + 1 - m, inputs)."""
        first, *others = x.split([self.degrees[0], *(2 * count for count in self.degrees[1:])], dim=1)
        return [first, *(both.unflatten(1, (2, -1)) for both in others)]

    def forward(self, x: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Coefficients by order and the blends of m = 0, 1 ... to (E, extra) and coefficients by order."""
        count = self.degrees[0]
        extra, first = linear(x[0].flatten(1), weights[0], self.m0.bias).split(
            [self.extra, count * self.outputs], dim=1
        )
        parts = [first.unflatten(1, (count, -1))]
        for both, weight in zip(x[1:], weights[1:], strict=True):
            w_1, w_2 = weight.chunk(2)
            turning = torch.cat([torch.cat([w_1, -w_2], dim=1), torch.cat([w_2, w_1], dim=1)])
            parts.append(linear(both.flatten(1), turning).unflatten(1, (2, both.shape[2], -1)))
        return extra, parts


class AtomWise(nn.Module):
    """Two linear maps by degree with a gate between."""

    def __init__(self, config: EscnMdConfig) -> None:
        super().__init__()
        self.scalar = nn.Linear(config.channels, config.lmax * config.hidden_channels)
        self.linear_1 = DegreeLinear(config.lmax, config.channels, config.hidden_channels)
        self.linear_2 = DegreeLinear(config.lmax, config.hidden_channels, config.channels)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """What `atom_wise` takes."""
        pairs = ((layer.weight, layer.bias) for layer in (self.scalar, self.linear_1, self.linear_2))
        return tuple(weight for pair in pairs for weight in pair)

    def forward(self, x: Tensor) -> Tensor:
        """(N, M, C) to the same."""
        return atom_wise(x, *self.weights)


class DegreeLinear(nn.Module):
    """One matrix for each degree; a bias for l = 0."""

    def __init__(self, lmax: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(lmax + 1, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))


class Block(nn.Module):
    """The weights of one layer."""

    def __init__(self, config: EscnMdConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.hidden_channels
        self.norm_1 = RMSNorm(config.lmax, channels)
        self.conv_1 = SO2Convolution(config, 2 * channels, hidden, extra=config.lmax * hidden)
        self.conv_2 = SO2Convolution(config, hidden, channels, extra=0)
        self.radial = RadialNetwork(
            config.num_radial + 2 * config.edge_channels, config.edge_channels, 2 * channels * sum(self.conv_1.degrees)
        )
        self.norm_2 = RMSNorm(config.lmax, channels)
        self.atom_wise = AtomWise(config)


class TaskLinear(nn.Module):
    """One matrix for each task and one bias."""

    def __init__(self, tasks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(tasks, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))


def rms_norm(x: Tensor, weight: Tensor, weight_bias: Tensor) -> Tensor:
    """(N, M, C) by degree's weight (lmax + 1, C) and the bias (C,) of l = 0 to the same."""
    parts = centered(x, len(weight))
    inverse = torch.rsqrt(mean_square(parts) + EPSILON)[:, None, None]
    scalars, *others = (part * inverse * scale for part, scale in zip(parts, weight, strict=True))
    return torch.cat([scalars + weight_bias, *others], dim=1)


def centered(x: Tensor, count: int) -> list[Tensor]:
    """(N, M, C) by degree, less their mean for l = 0."""
    scalars, *others = by_degree(x, count)
    return [scalars - scalars.mean(2, keepdim=True), *others]


def mean_square(parts: list[Tensor]) -> Tensor:
    """(N,) in which each degree counts the same."""
    squares = [part.square().mean((1, 2)) for part in parts]
    return torch.stack(squares, dim=1).mean(1)


def by_degree(x: Tensor, count: int) -> list[Tensor]:
    """(N, M, C) to (N, 2l + 1, C) for `count` degrees."""
    return list(x.split([2 * degree + 1 for degree in range(count)], dim=1))


def atom_wise(
    x: Tensor,
    weight_scalar: Tensor,
    weight_scalar_bias: Tensor,
    weight_1: Tensor,
    weight_1_bias: Tensor,
    weight_2: Tensor,
    weight_2_bias: Tensor,
) -> Tensor:
    """linear_2(gate(linear_1(x))), the same map for every m of a degree; gates from l = 0."""
    gates = torch.sigmoid(silu(linear(x[:, 0], weight_scalar, weight_scalar_bias))).unflatten(
        1, (len(weight_1) - 1, -1)
    )
    scalars, *others = by_degree(degree_linear(x, weight_1, weight_1_bias), len(weight_1))
    y = [silu(scalars), *(part * gates[:, k, None] for k, part in enumerate(others))]
    return degree_linear(torch.cat(y, dim=1), weight_2, weight_2_bias)


def degree_linear(x: Tensor, weight: Tensor, weight_bias: Tensor) -> Tensor:
    """(N, M, inputs) by (lmax + 1, outputs, inputs), one matrix for each degree, and a bias of l = 0 to (N, M, outputs)."""
    y = torch.bmm(x.transpose(0, 1), by_coefficient(weight).mT).transpose(0, 1)
    return torch.cat([y[:, :1] + weight_bias, y[:, 1:]], dim=1)


def by_coefficient(weight: Tensor) -> Tensor:
    """(lmax + 1, ...) to (M, ...): that of its degree for every coefficient."""
    return torch.cat([part.expand(2 * degree + 1, *part.shape) for degree, part in enumerate(weight)])


def gated_by_order(gates: Tensor, x: list[Tensor]) -> list[Tensor]:
    """silu on l = 0 of coefficients by order; sigmoid of the gates (E, lmax C) of their degree times the others."""
    factors = torch.sigmoid(gates).unflatten(1, (-1, x[0].shape[2]))
    scalars, others = x[0].split([1, factors.shape[1]], dim=1)
    first = torch.cat([silu(scalars), others * factors], dim=1)
    return [first, *(part * factors[:, None, m:] for m, part in enumerate(x[1:]))]
