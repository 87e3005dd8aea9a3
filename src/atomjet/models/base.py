"""What follows from the contract (`contract.py`) for every family: the `general` backend, forces and virials, common refusals."""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.data.fields import recordable
from atomjet.errors import ConfigError, StructureError
from atomjet.models.contract import Definition
from atomjet.ops.segment_sum import scatter_sum, segment_sum


def no_task(task: str | None) -> None:
    """`Model.check_task` of families that know no tasks.

    Raises:
        ConfigError: a task was given.
    """
    if task is not None:
        raise ConfigError(f"task {task!r}: this model knows no tasks; leave it out")


def no_conditions(charge: int | None, spin: int | None) -> None:
    """`Model.check_conditions` of families that know neither charges nor spins.

    Raises:
        ConfigError: a charge other than 0, or a spin multiplicity other than 1.
    """
    for name, value, neutral in (("charge", charge, 0), ("spin", spin, 1)):
        if value not in (None, 0, neutral):
            raise ConfigError(f"{name} {value}: this model knows only {name} {neutral}; use a model that knows {name}")


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


class NeutralSinglets:
    """What a family answers that knows neither tasks nor charges nor spins; to inherit before `nn.Module`."""

    def check_task(self, task: str | None) -> str | None:
        """Refuse any task."""
        return no_task(task)

    def check_conditions(self, charge: int | None, spin: int | None) -> None:
        """Refuse any charge, and any spin but a singlet."""
        no_conditions(charge, spin)

    def complete(self, system: System, task: str | None = None) -> System:
        """Refuse structures with a task, a charge or a spin."""
        return neutral_singlets(system)

    def warn(self, system: System, graph: Graph) -> None:
        """Nothing to warn of: every neighbour inside the cutoff counts."""


class General:
    """The `general` backend of any family: its definition in the type of its weights, differentiated by autograd."""

    def __init__(self, model: Definition, precision: str = "high") -> None:
        self.model, self.exchanges = model, model.exchanges

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å.

        Raises:
            StructureError: a graph without all its rows.
        """
        graph.check_rows()
        # Hosts that want no derivatives call under `torch.inference_mode()`, which keeps autograd from recording.
        with torch.inference_mode(False), torch.enable_grad():
            graph = recordable(graph)
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
    per_atom = atomic_virials(graph, gradients)
    # Atoms of one structure stand together: a second segmented sum, over structures.
    owned = graph.system_index[: graph.num_owned]
    atoms = torch.bincount(owned, minlength=graph.num_systems)
    system_ptr = torch.cat([atoms.new_zeros(1), torch.cumsum(atoms, 0)])
    virials = segment_sum(per_atom, system_ptr, owned).reshape(-1, 3, 3)
    return 0.5 * (virials + virials.transpose(1, 2))


def atomic_virials(graph: Graph, gradients: Tensor) -> Tensor:
    """Shares (owned, 9) of the owned atoms in dE/dstrain, eV, not symmetric: an edge's share is that of its center."""
    per_edge = graph.vectors[:, :, None] * gradients[:, None, :]
    return segment_sum(per_edge.reshape(-1, 9), graph.row_ptr, graph.centers)
