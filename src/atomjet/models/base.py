"""What every model family gives, and what follows from it for all of them.

A family sees a `Graph` and nothing else. Its definition (`general.py`) gives atomic energies, which autograd differentiates with
respect to the edge vectors; its fast forms give energies and that derivative together, written by hand.

With g_e = dE/dr_e of edge e from i to j, r_e = x_j - x_i + S h:

    forces   F_i = sum over edges e leaving i of (g_e - g_reverse(e))
    virial   W_s = sum over edges e of structure s of r_e ⊗ g_e  (= dE/dstrain; stress = W / volume)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from atomjet.data import Capacity, Graph, PaddedGraph, System
from atomjet.errors import ConfigError, StructureError
from atomjet.ops.segment_sum import scatter_sum, segment_sum


class Evaluator(Protocol):
    """A model on one backend: N atomic energies and E derivatives with respect to the edge vectors."""

    @property
    def exchanges(self) -> int | None:
        """How often rows travel through a graph's halo, forces aside; None where processes cannot share a structure."""
        ...

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å."""
        ...

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        ...


class PaddedEvaluator(Evaluator, Protocol):
    """An evaluator that also works in buffers of fixed size, without waiting for the device, so that a CUDA graph can hold it."""

    def workspace(self, capacity: Capacity) -> Any:
        """Allocate, once, everything that `launch` writes."""
        ...

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        ...

    def launch(self, graph: PaddedGraph, workspace: Any) -> tuple[Tensor, Tensor]:
        """Enqueue one evaluation; return (N̂,) float32 eV without references, in the graph's order, and (P, Ê, 4) float32
        eV/Å: at each edge, dE/d(vector) of its *reverse* edge, in P parts to be added. Both are part of the workspace.
        """
        ...


class Definition(Protocol):
    """A family's definition: atomic energies that autograd can differentiate."""

    @property
    def exchanges(self) -> int | None:
        """See `Evaluator`; forward and backward together."""
        ...

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Return an upper estimate of what energies and their derivative take."""
        ...

    def atomic_energies(self, graph: Graph) -> Tensor:
        """Return (N,) eV without reference energies."""
        ...


class Model(Definition, Protocol):
    """What a family's definition, an `nn.Module`, is asked for beside energies."""

    family: str
    config: Any
    reference_energies: Tensor

    @property
    def cutoff(self) -> float:
        """Å."""
        ...

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model serves."""
        ...

    def check_task(self, task: str | None) -> str | None:
        """Return the task that structures without their own get; refuse one that the model does not know."""
        ...

    def complete(self, system: System, task: str | None) -> System:
        """Fill in what the structures leave open, or say what in them the model does not know."""
        ...

    def references(self, graph: Graph) -> Tensor:
        """Return (N,) float64, eV, to be added to the learned energies."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...


def no_task(task: str | None) -> None:
    """`Model.check_task` of families that know no tasks.

    Raises:
        ConfigError: a task was given.
    """
    if task is not None:
        raise ConfigError(f"task {task!r}: this model knows no tasks; leave it out")


def neutral_singlets(system: System) -> System:
    """`Model.complete` of families that know neither tasks nor charges nor spins.

    Raises:
        StructureError: a structure has a task, a charge or a spin; names it.
    """
    for structure, name in enumerate(system.task):
        if name:
            raise StructureError(
                f"{system.name(structure)}: task {name!r}, but this model knows no tasks; remove info['task']"
            )
    for name, bad, neutral in (
        ("charge", system.charge != 0, "neutral structures (charge 0)"),
        ("spin", system.spin > 1, "singlets (spin multiplicity 1, or 0 for not said)"),
    ):
        if bool(bad.any()):
            structure = int(bad.nonzero()[0])
            value = int(getattr(system, name)[structure])
            raise StructureError(
                f"{system.name(structure)}: {name} {value}, but this model knows only {neutral}; use a model that knows {name}"
            )
    return system


class General:
    """The `general` backend of any family: its definition in the type of its weights, differentiated by autograd."""

    def __init__(self, model: Definition, precision: str = "high") -> None:
        self.model, self.exchanges = model, model.exchanges

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
    """Forces (owned, 3) from dE/d(edge vectors) (E, 3); differentiable, and sums to zero as closely as addition allows.

    With a halo what edges do to ghosts goes home to their owners, one exchange; not differentiable then.
    """
    if graph.halo is not None:
        forces = scatter_sum(-gradients, graph.neighbors, graph.num_atoms)
        forces[: graph.num_owned] += segment_sum(gradients, graph.row_ptr, graph.centers)
        graph.halo.fold(forces)
        return forces[: graph.num_owned]
    return segment_sum(gradients - gradients[graph.reverse], graph.row_ptr, graph.centers)


def virials_from_gradients(graph: Graph, gradients: Tensor) -> Tensor:
    """dE/dstrain (S, 3, 3) in eV from dE/d(edge vectors) (E, 3), symmetric; with a halo the share of this process."""
    per_edge = graph.vectors[:, :, None] * gradients[:, None, :]
    per_atom = segment_sum(per_edge.reshape(-1, 9), graph.row_ptr, graph.centers)
    # Atoms of one structure stand together: a second segmented sum, over structures.
    owned = graph.system_index[: graph.num_owned]
    atoms = torch.bincount(owned, minlength=graph.num_systems)
    system_ptr = torch.cat([atoms.new_zeros(1), torch.cumsum(atoms, 0)])
    virials = segment_sum(per_atom, system_ptr, owned).reshape(-1, 3, 3)
    return 0.5 * (virials + virials.transpose(1, 2))
