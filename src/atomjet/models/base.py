"""What every model family gives, and what follows from it for all of them.

A family sees a `Graph` and nothing else. Its definition (`general.py`) gives atomic energies, which autograd differentiates with
respect to the edge vectors; its fast forms give energies and that derivative together, written by hand.

With g_e = dE/dr_e of edge e from i to j, r_e = x_j - x_i + S h:

    forces   F_i = sum over edges e leaving i of (g_e - g_reverse(e))
    virial   W_s = sum over edges e of structure s of r_e ⊗ g_e  (= dE/dstrain; stress = W / volume)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.ops.segment_sum import segment_sum


class Evaluator(Protocol):
    """A model on one backend: N atomic energies and E derivatives with respect to the edge vectors."""

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å."""
        ...

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        ...


class Definition(Protocol):
    """A family's definition: atomic energies that autograd can differentiate."""

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Return an upper estimate of what energies and their derivative take."""
        ...

    def atomic_energies(self, graph: Graph) -> Tensor:
        """Return (N,) eV without reference energies."""
        ...


class General:
    """The `general` backend of any family: its definition, differentiated by autograd."""

    def __init__(self, model: Definition) -> None:
        self.model = model

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å."""
        with torch.enable_grad():
            vectors = graph.vectors.detach().requires_grad_(True)
            energies = self.model.atomic_energies(graph.with_vectors(vectors))
            (gradients,) = torch.autograd.grad(energies.sum(), vectors, allow_unused=True)
        return energies.detach(), torch.zeros_like(vectors) if gradients is None else gradients

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        return self.model.bytes_by_autograd(graph)


def forces_from_gradients(graph: Graph, gradients: Tensor) -> Tensor:
    """Forces (N, 3) from dE/d(edge vectors) (E, 3); differentiable, and sums to zero as closely as addition allows."""
    return segment_sum(gradients - gradients[graph.reverse], graph.row_ptr, graph.centers)


def virials_from_gradients(graph: Graph, gradients: Tensor) -> Tensor:
    """dE/dstrain (S, 3, 3) in eV from dE/d(edge vectors) (E, 3), symmetric."""
    per_edge = graph.vectors[:, :, None] * gradients[:, None, :]
    per_atom = segment_sum(per_edge.reshape(-1, 9), graph.row_ptr, graph.centers)
    # Atoms of one structure stand together: a second segmented sum, over structures.
    atoms = torch.bincount(graph.system_index, minlength=graph.num_systems)
    system_ptr = torch.cat([atoms.new_zeros(1), torch.cumsum(atoms, 0)])
    virials = segment_sum(per_atom, system_ptr, graph.system_index).reshape(-1, 3, 3)
    return 0.5 * (virials + virials.transpose(1, 2))
