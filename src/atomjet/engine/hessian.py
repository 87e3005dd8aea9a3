"""Second derivatives of the energy: analytic, in float64, from a model's definition.

The gradient of the energy is differentiated once more. Row k of the Hessian is the derivative of the gradient's k-th component.
A batch holds a copy of the structure for each row to compute, and every copy gives one row: two passes over a batch instead of one
pass a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.models.contract import Definition
from atomjet.ops.edge_vectors import Edges, edge_vectors

TWICE = 3
"""Bytes that a second derivative saves, as a multiple of those of energies and their first derivative."""

ATOMS_AT_ONCE_ON_CPU = 160
"""Atoms of all copies of a batch on a CPU, at most: as many as a core's cache holds; more are slower, not only larger."""


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
    graph = search(system)
    components = 3 * system.num_atoms
    each = max(1, TWICE * definition.bytes_by_autograd(graph))
    at_once = components if free is None else min(components, int(share * free / each))
    if system.device.type == "cpu":
        at_once = min(at_once, ATOMS_AT_ONCE_ON_CPU // system.num_atoms)
    at_once = max(1, at_once)
    rows = [
        _rows(definition, system, graph, torch.arange(first, min(first + at_once, components), device=system.device))
        for first in range(0, components, at_once)
    ]
    found = torch.cat(rows)
    return 0.5 * (found + found.T)


def _rows(definition: Definition, system: System, graph: Graph, wanted: Tensor) -> Tensor:
    """(R, 3N) rows `wanted` (R,), each from a copy of the structure."""
    number, atoms = len(wanted), system.num_atoms
    copies = repeat(graph, number)
    positions = system.positions.double().repeat(number, 1).requires_grad_(True)
    cell = system.cell.double().expand(number, 3, 3)
    edges = Edges(copies.centers, copies.neighbors, copies.shifts, copies.system_index[copies.centers])
    with torch.enable_grad():
        vectors = edge_vectors(positions, cell, edges)
        energy = definition.atomic_energies(copies.with_vectors(vectors)).sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        chosen = gradient.reshape(number, 3 * atoms).gather(1, wanted[:, None]).sum()
        if not chosen.requires_grad:  # atoms that see no others
            return positions.new_zeros(number, 3 * atoms)
        (second,) = torch.autograd.grad(chosen, positions)
    return second.reshape(number, 3 * atoms)


def repeat(graph: Graph, number: int) -> Graph:
    """So many copies of a graph of one structure, as one graph."""
    atoms, edges = graph.num_atoms, graph.num_edges
    copy = torch.arange(number, device=graph.centers.device)
    of_edge = copy.repeat_interleave(edges)
    row_ptr = (graph.row_ptr[:-1].repeat(number, 1) + edges * copy[:, None]).flatten()
    return Graph(
        centers=graph.centers.repeat(number) + atoms * of_edge,
        neighbors=graph.neighbors.repeat(number) + atoms * of_edge,
        shifts=graph.shifts.repeat(number, 1),
        vectors=graph.vectors.repeat(number, 1),
        row_ptr=torch.cat([row_ptr, row_ptr.new_tensor([edges * number])]),
        atomic_numbers=graph.atomic_numbers.repeat(number),
        system_index=copy.repeat_interleave(atoms),
        charge=graph.charge.repeat(number),
        spin=graph.spin.repeat(number),
        cutoff=graph.cutoff,
        task=graph.task * number,
    )
