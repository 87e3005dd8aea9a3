"""The steps of an eSCN-MD that stay within an atom or a system, each with its derivative by hand: x̄ = dE/dx from ȳ = dE/dy.

They take under a hundredth of the time, so each way back computes anew what it needs from the step's input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from atomjet.data import Graph
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.general import AtomWise, DegreeLinear, EscnMd, RMSNorm
from atomjet.models.escn_md.unified_radial import silu_derivative


def norm_backward(norm: RMSNorm, x: Tensor, y_bar: Tensor) -> Tensor:
    """Of y = norm(x): x (N, M, C), ȳ to x̄. With centered x_c, s = 1 / rms and the shares w_m of the coefficients,
    x̄_c = s A ȳ - s³ / C w x_c Σ (A ȳ ⊙ x_c), less its mean for l = 0.
    """
    count = len(norm.affine_weight)
    shares = x.new_tensor([1 / (count * (2 * degree + 1)) for degree in norm.degrees])
    centered = torch.cat([x[:, :1] - x[:, :1].mean(2, keepdim=True), x[:, 1:]], dim=1)
    square = torch.einsum("nmc,m->n", centered.square(), shares) / x.shape[2]
    inverse = torch.rsqrt(square + norm.epsilon)[:, None, None]
    scaled = y_bar * norm.affine_weight[norm.degrees]
    along = (scaled * centered).sum((1, 2), keepdim=True) * inverse**3 / x.shape[2]
    x_bar = scaled * inverse - along * shares[:, None] * centered
    x_bar[:, :1] -= x_bar[:, :1].mean(2, keepdim=True)
    return x_bar


def atom_wise_backward(step: AtomWise, x: Tensor, y_bar: Tensor) -> Tensor:
    """Of y = linear_2(gate(linear_1(x))): x (N, M, C), ȳ to x̄."""
    before = step.scalar(x[:, 0])
    gates = torch.sigmoid(silu(before)).unflatten(1, (len(step.linear_1.weight) - 1, -1))
    v = step.linear_1(x)
    w_bar = _degree_backward(step.linear_2, y_bar)
    gates_bar = torch.zeros_like(gates)
    for row, gate in enumerate(step.gates, start=1):
        gates_bar[:, gate] += w_bar[:, row] * v[:, row]
    before_bar = (gates_bar * gates * (1 - gates)).flatten(1) * silu_derivative(before)
    v_bar = torch.cat([w_bar[:, :1] * silu_derivative(v[:, :1]), w_bar[:, 1:] * gates[:, step.gates]], dim=1)
    x_bar = _degree_backward(step.linear_1, v_bar)
    x_bar[:, 0] += before_bar @ step.scalar.weight
    return x_bar


def _degree_backward(step: DegreeLinear, y_bar: Tensor) -> Tensor:
    parts = [y_bar[:, degree**2 : (degree + 1) ** 2] @ weight for degree, weight in enumerate(step.weight)]
    return torch.cat(parts, dim=1)


def balance_backward(config: EscnMdConfig, graph: Graph, y_bar: Tensor) -> Tensor:
    """Of the shift of charge and spin channels: takes from ȳ (N, M, C) its mean over the system, in place."""
    for start, stop in (config.charge_channels, config.spin_channels):
        if stop > start:
            part = y_bar[:, 0, start:stop]
            sums = part.new_zeros(graph.num_systems, stop - start).index_add_(0, graph.system_index, part)
            counts = torch.bincount(graph.system_index, minlength=graph.num_systems)
            y_bar[:, 0, start:stop] = part - (sums / counts[:, None])[graph.system_index]
    return y_bar


def read_out(model: EscnMd, scalars: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """(N, C) to energies (N,) float64 eV and their derivative (N, C)."""
    energies = torch.zeros(len(scalars), dtype=torch.float64, device=scalars.device)
    scalars_bar = torch.empty_like(scalars)
    tasks = model.tasks_of(graph)[graph.system_index]
    for number in sorted({model.config.tasks.index(task) for task in graph.task}):
        atoms = (tasks == number).nonzero().flatten()
        (w_1, b_1), (w_2, b_2), (w_3, b_3) = ((layer.weights[number], layer.bias) for layer in model.head)  # type: ignore[index]
        first = linear(scalars[atoms], w_1, b_1)  # type: ignore[arg-type]
        second = linear(silu(first), w_2, b_2)  # type: ignore[arg-type]
        scale = model.scales[number]
        energies[atoms] = linear(silu(second), w_3, b_3).squeeze(1).double() * scale  # type: ignore[arg-type]
        second_bar = silu_derivative(second) * (w_3 * scale).to(scalars.dtype)
        scalars_bar[atoms] = (silu_derivative(first) * (second_bar @ w_2)) @ w_1
    return energies, scalars_bar
