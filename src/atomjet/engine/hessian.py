"""Second derivatives of the energy: analytic, in float64, from a model's definition.

The gradient of the energy is differentiated once more. Row k of the Hessian is the derivative of the gradient's k-th component. The
gradient is computed once, and many rows follow from it in one pass of PyTorch's `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.data.fields import recordable
from atomjet.models.contract import Definition
from atomjet.ops.edge_vectors import Edges, edge_vectors

TWICE = 3
"""Bytes that a second derivative saves, as a multiple of those of energies and their first derivative."""

ATOMS_AT_ONCE_ON_CPU = 80
"""Atoms of all rows of a pass on a CPU, at most: as many as a core's cache holds; more are slower, not only larger."""


def hessian(
    definition: Definition, system: System, search: Callable[[System], Graph], free: int | None, share: float
) -> Tensor:
    """(3N, 3N) eV/Å², symmetric, float64: d²E / dx_a dx_b with components in the order x y z of atom 0, of atom 1, ...

    Args:
        definition: of a model, in float64.
        system: one structure.
        search: finds its edges.
        free: bytes that may be used; None where that is not known.
        share: of them, how much is taken.
    """
    system = recordable(system)
    graph = search(system)
    components = 3 * system.num_atoms
    each = max(1, TWICE * definition.bytes_by_autograd(graph))
    at_once = components if free is None else min(components, int(share * free / each))
    if system.device.type == "cpu":
        at_once = min(at_once, ATOMS_AT_ONCE_ON_CPU // system.num_atoms)
    at_once = max(1, at_once)
    positions = system.positions.double().requires_grad_(True)
    edges = Edges(graph.centers, graph.neighbors, graph.shifts, graph.system_index[graph.centers])
    with torch.enable_grad():
        vectors = edge_vectors(positions, system.cell.double(), edges)
        energy = definition.atomic_energies(graph.with_vectors(vectors)).sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    if not gradient.requires_grad:  # atoms that see no others
        return positions.new_zeros(components, components)
    chosen = torch.eye(components, dtype=torch.float64, device=system.device).reshape(components, -1, 3)
    rows = [
        torch.autograd.grad(gradient, positions, some, retain_graph=True, is_grads_batched=True)[0]
        for some in chosen.split(at_once)
    ]
    found = torch.cat(rows).reshape(components, components)
    return 0.5 * (found + found.T)
