"""How wrong the student is: energies, forces, stresses and rows of the Hessian, each by a Huber loss.

S frames in the batch with n_s atoms each, N atoms in all. Energies E are those less the reference energies, eV; forces F in eV/Å;
Hessian rows H_(a) = d²E / dx_a dx (one coordinate a, all atoms) in eV/Å². With Huber's function of a length r ≥ 0,

    h_δ(r) = r² / (2 δ)  for r < δ,   r - δ / 2  beyond:        the length itself, but with a smooth minimum

    energy   L_E = 1/S Σ_s u_s h(|E_s - Ê_s| / n_s)             per atom, so that sizes count alike; eV/atom
    forces   L_F = 1/N Σ_i w_i h(‖F_i - F̂_i‖)                   the length of the error vector, not its components: the loss
                                                                must not depend on how the molecule is turned; eV/Å
    stress   L_S = 1/S Σ_s v_s h(‖W_s - Ŵ_s‖ / n_s)             virials W = V σ of the frames with a stress label; eV/atom
    Hessian  L_H = 1/N_H Σ_j w_j h(‖H_aj - Ĥ_aj‖)               over the N_H atoms j of the frames that have a row; eV/Å²
    total    L = c_E L_E + c_F L_F + c_S L_S + c_H L_H

The weights w_i = min(1, F_cap / ‖F_i‖) let large labels count by their relative error, and v_s is the smallest of them in the
frame: what happens at 50 eV/Å on a repulsive wall must not drown what happens at 1 eV/Å in a bond. u_s is v_s with a cap of its own
if the recipe has one; free atoms have less (`batches.py`). The Hessian of a bond exceeds
its forces per Å, so there w_j = min(1, F_cap / (‖H_aj‖ · 0.1 Å)): the force that a typical thermal displacement makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.distill.train_config import TrainConfig

THERMAL_DISPLACEMENT = 0.1
"""Typical displacement of an atom, Å: a force over it is the length of a Hessian row, eV/Å², up to which rows have full weight."""


class Student(Protocol):
    """What a loss needs of a model."""

    def atomic_energies(self, graph: Graph) -> Tensor:
        """Return (N,) eV without reference energies."""
        ...


@dataclass(frozen=True, eq=False)
class HessianRows:
    """At most one row of the teacher's Hessian for each frame of a batch."""

    direction: Tensor  # (N, 3) one at the coordinate a of each frame that has a row, zero elsewhere
    rows: Tensor  # (N, 3) eV/Å²; zero in frames without a row
    present: Tensor  # (N,) one for the atoms of frames that have a row, zero elsewhere
    atoms: int  # N_H, all ranks together


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames with their labels on the device. `frames` and `atoms` count the whole batch, all ranks together."""

    graph: Graph
    energy: Tensor  # (S,) eV, less the reference energies
    forces: Tensor  # (N, 3) eV/Å
    counts: Tensor  # (S,) atoms in each frame, floating
    strongest: Tensor  # (S,) eV/Å, the longest force vector in each frame
    frames: int
    atoms: int
    hessian: HessianRows | None = None
    virial: Tensor | None = None  # (S, 3, 3) eV, volume times stress; zero where not labelled
    has_virial: Tensor | None = None  # (S,) one for frames with a stress label
    energy_weight: Tensor | None = None  # (S,) less than one for free atoms where they are many; None: one for all


def energies_and_forces(model: Student, graph: Graph, differentiable: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return energies (S,), forces (N, 3) and the edge vectors (E, 3) they were differentiated by.

    With `differentiable`, autograd can go through the forces once more.
    """
    energies, gradients, vectors = derivatives(model, graph, differentiable)
    return energies, pairwise_to_atoms(graph, gradients), vectors


def derivatives(model: Student, graph: Graph, differentiable: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return energies (S,), their derivative with respect to edge vectors (E, 3), and those vectors."""
    with torch.enable_grad():
        vectors = graph.vectors.detach().requires_grad_(True)
        atomic = model.atomic_energies(graph.with_vectors(vectors))
        (gradients,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=differentiable)
    energies = atomic.new_zeros(graph.num_systems).index_add(0, graph.system_index, atomic)
    return energies, gradients, vectors


def virials(graph: Graph, gradients: Tensor, vectors: Tensor) -> Tensor:
    """(S, 3, 3) eV: derivative of the energy with respect to strain, Σ over edges of dE/dv ⊗ v; the volume times the stress."""
    each = gradients[:, :, None] * vectors[:, None, :]
    return each.new_zeros(graph.num_systems, 3, 3).index_add(0, graph.system_index[graph.centers], each)


def pairwise_to_atoms(graph: Graph, gradients: Tensor) -> Tensor:
    """Minus the derivative with respect to positions (N, 3), from that with respect to edge vectors (E, 3).

    The same as `atomjet.models.base.forces_from_gradients`, but twice differentiable on every device, and without looking for the
    reverse edges, which would make the host wait for the device in every step.
    """
    zeros = gradients.new_zeros(graph.num_atoms, 3)
    return zeros.index_add(0, graph.centers, gradients).index_add(0, graph.neighbors, -gradients)


def huber(square: Tensor, delta: float) -> Tensor:
    """h_δ of a length given by its square: no root is taken where its derivative has no value."""
    beyond = square.clamp(min=delta**2).sqrt() - 0.5 * delta
    return torch.where(square < delta**2, square / (2 * delta), beyond)


def cap_weights(lengths: Tensor, cap: float) -> Tensor:
    """min(1, cap / length)."""
    return cap / lengths.clamp(min=cap)


def losses(model: Student, batch: Batch, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return the total loss, and its parts (energy eV/atom, forces eV/Å, Hessian eV/Å², stress eV/atom) detached, (4,)."""
    energies, gradients, vectors = derivatives(model, batch.graph)
    forces = pairwise_to_atoms(batch.graph, gradients)
    energy = energy_loss(energies, batch, config)
    force = force_loss(forces, batch, config)
    hessian = torch.zeros_like(energy)
    if config.hessian_weight and batch.hessian is not None:
        hessian = hessian_loss(forces, vectors, batch.graph, batch.hessian, config)
    total = config.energy_weight * energy + config.force_weight * force + config.hessian_weight * hessian
    stress = torch.zeros_like(energy)
    if config.stress_weight and batch.virial is not None:
        stress = stress_loss(virials(batch.graph, gradients, vectors), batch, config)
        total = total + config.stress_weight * stress
    return total, torch.stack([energy, force, hessian, stress]).detach()


def energy_loss(energies: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """L_E, eV/atom."""
    error = (energies - batch.energy) / batch.counts
    weights = cap_weights(batch.strongest, config.energy_cap or config.force_cap)
    if batch.energy_weight is not None:
        weights = weights * batch.energy_weight
    return (weights * huber(error.square(), config.energy_delta)).sum() / batch.frames


def force_loss(forces: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """L_F, eV/Å."""
    square = (forces - batch.forces).square().sum(1)
    weights = cap_weights(torch.linalg.vector_norm(batch.forces, dim=1), config.force_cap)
    return (weights * huber(square, config.force_delta)).sum() / batch.atoms


def stress_loss(found: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """L_S, eV/atom; `found` (S, 3, 3) are the student's virials."""
    assert batch.virial is not None
    assert batch.has_virial is not None
    square = ((found - batch.virial) / batch.counts[:, None, None]).square().sum((1, 2))
    weights = batch.has_virial * cap_weights(batch.strongest, config.force_cap)
    return (weights * huber(square, config.stress_delta)).sum() / batch.frames


def hessian_loss(forces: Tensor, vectors: Tensor, graph: Graph, labels: HessianRows, config: TrainConfig) -> Tensor:
    """L_H, eV/Å². The student's rows are -dF_a/dx: frames do not see each other, so one pass gives one row of each frame."""
    (slopes,) = torch.autograd.grad(forces, vectors, labels.direction, create_graph=True)
    square = (pairwise_to_atoms(graph, slopes) - labels.rows).square().sum(1)
    lengths = torch.linalg.vector_norm(labels.rows, dim=1)
    weights = labels.present * cap_weights(lengths, config.force_cap / THERMAL_DISPLACEMENT)
    return (weights * huber(square, config.hessian_delta)).sum() / labels.atoms
