"""The steps of an eSCN-MD that stay within an atom or a system, each with its derivative by hand: x̄ = dE/dx from ȳ = dE/dy.

They take under a hundredth of the time, so each backward pass computes anew what it needs from the step's input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from atomjet.data import Graph
from atomjet.data.halo import summed
from atomjet.models.escn_md import blocks
from atomjet.models.escn_md.blocks import EPSILON, AtomWise, RMSNorm
from atomjet.models.escn_md.compiled import Compiled
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.escn_md.unified_radial import silu_derivative
from atomjet.ops.segment_sum import segment_sum


def norm(step: RMSNorm, x: Tensor) -> Tensor:
    """`RMSNorm`, compiled: x (N, M, C) to the same."""
    return _norm(x, step.affine_weight, step.affine_bias)


def norm_backward(step: RMSNorm, x: Tensor, y_bar: Tensor) -> Tensor:
    """Backward of y = norm(x): x (N, M, C), ȳ to x̄. With centered x_c, s = 1 / rms and the shares w_m of the coefficients,
    x̄_c = s A ȳ - s³ w x_c Σ (A ȳ ⊙ x_c), less its mean for l = 0.
    """
    return _norm_backward(x, y_bar, step.affine_weight)


def atom_wise(step: AtomWise, x: Tensor) -> Tensor:
    """`AtomWise`, compiled: x (N, M, C) to the same."""
    return _atom_wise(x, *step.weights)


def atom_wise_backward(step: AtomWise, x: Tensor, y_bar: Tensor) -> Tensor:
    """Backward of y = linear_2(gate(linear_1(x))): x (N, M, C), ȳ to x̄."""
    weight_scalar, bias_scalar, weight_1, bias_1, weight_2, _ = step.weights
    return _atom_wise_backward(x, y_bar, weight_scalar, bias_scalar, weight_1, bias_1, weight_2)


def _norm_backward_by_degree(x: Tensor, y_bar: Tensor, weight: Tensor) -> Tensor:
    count = len(weight)
    parts = blocks.centered(x, count)
    inverse = torch.rsqrt(blocks.mean_square(parts) + EPSILON)[:, None, None]
    bars = [bar * scale for bar, scale in zip(blocks.by_degree(y_bar, count), weight, strict=True)]
    along = torch.stack([(bar * part).sum((1, 2)) for bar, part in zip(bars, parts, strict=True)], dim=1).sum(1)
    along = along[:, None, None] * inverse**3 / (count * x.shape[2])
    scalars, *others = (bar * inverse - along / part.shape[1] * part for bar, part in zip(bars, parts, strict=True))
    return torch.cat([scalars - scalars.mean(2, keepdim=True), *others], dim=1)


def _atom_wise_backward_by_degree(
    x: Tensor,
    y_bar: Tensor,
    weight_scalar: Tensor,
    weight_scalar_bias: Tensor,
    weight_1: Tensor,
    weight_1_bias: Tensor,
    weight_2: Tensor,
) -> Tensor:
    count = len(weight_1)
    before = linear(x[:, 0], weight_scalar, weight_scalar_bias)
    gates = torch.sigmoid(silu(before)).unflatten(1, (count - 1, -1))
    scalars, *others = blocks.by_degree(blocks.degree_linear(x, weight_1, weight_1_bias), count)
    scalars_bar, *others_bar = blocks.by_degree(_degree_backward(y_bar, weight_2), count)
    gates_bar = torch.stack([(bar * part).sum(1) for bar, part in zip(others_bar, others, strict=True)], dim=1)
    before_bar = (gates_bar * gates * (1 - gates)).flatten(1) * silu_derivative(before)
    v_bar = [scalars_bar * silu_derivative(scalars), *(bar * gates[:, k, None] for k, bar in enumerate(others_bar))]
    x_bar = _degree_backward(torch.cat(v_bar, dim=1), weight_1)
    return torch.cat([x_bar[:, :1] + (before_bar @ weight_scalar)[:, None], x_bar[:, 1:]], dim=1)


def _degree_backward(y_bar: Tensor, weight: Tensor) -> Tensor:
    return torch.bmm(y_bar.transpose(0, 1), blocks.by_coefficient(weight)).transpose(0, 1)


_norm, _norm_backward = Compiled(blocks.rms_norm), Compiled(_norm_backward_by_degree)
_atom_wise, _atom_wise_backward = Compiled(blocks.atom_wise), Compiled(_atom_wise_backward_by_degree)


def balance_backward(config: EscnMdConfig, graph: Graph, y_bar: Tensor, system_ptr: Tensor) -> Tensor:
    """Backward of the shift of charge and spin channels: subtract from their ȳ (N, M, C) its mean over the system, in place."""
    index = graph.system_index[: graph.num_owned]
    atoms = summed(graph.halo, system_ptr.diff())
    for start, stop in (config.charge_channels, config.spin_channels):
        if stop > start:
            part = y_bar[:, 0, start:stop]
            means = summed(graph.halo, segment_sum(part, system_ptr, index)) / atoms[:, None]
            y_bar[:, 0, start:stop] = part - means[index]
    return y_bar


def read_out(model: EscnMd, scalars: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """(N, C) to energies (N,) float64 eV and their derivative (N, C)."""
    numbers = sorted({model.config.tasks.index(task) for task in graph.task})
    if len(numbers) == 1:
        # Nothing to ask the device, which would have to finish the forward pass before it is given the backward pass.
        return _read_out(model, scalars, numbers[0])
    energies = torch.zeros(len(scalars), dtype=torch.float64, device=scalars.device)
    scalars_bar = torch.empty_like(scalars)
    tasks = model.tasks_of(graph)[graph.system_index[: graph.num_owned]]
    for number in numbers:
        atoms = (tasks == number).nonzero().flatten()
        energies[atoms], scalars_bar[atoms] = _read_out(model, scalars[atoms], number)
    return energies, scalars_bar


def _read_out(model: EscnMd, scalars: Tensor, task: int) -> tuple[Tensor, Tensor]:
    """Energies (n,) eV and their derivative (n, C) for atoms of one task, given by its number."""
    (w_1, b_1), (w_2, b_2), (w_3, b_3) = ((layer.weights[task], layer.bias) for layer in model.head)  # type: ignore[index]
    first = linear(scalars, w_1, b_1)  # type: ignore[arg-type]
    second = linear(silu(first), w_2, b_2)  # type: ignore[arg-type]
    scale = model.scales[task]
    energies = linear(silu(second), w_3, b_3).squeeze(1).double() * scale  # type: ignore[arg-type]
    second_bar = silu_derivative(second) * (w_3 * scale).to(scalars.dtype)
    return energies, (silu_derivative(first) * (second_bar @ w_2)) @ w_1
