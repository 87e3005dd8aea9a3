"""The contract between the engine and a model family, on one page.

A family sees edges and nothing else. Its definition gives atomic energies, which autograd differentiates with respect to the edge
vectors; a `Backend` gives energies and that derivative together, for any graph; a `CapturedBackend` gives them in buffers of fixed
size too, without waiting for the device, so that a CUDA graph can hold a call. What stands here is all that the engine may assume:
it names no family, no backend and no kernel.

With g_e = dE/dr_e of edge e from i to j, r_e = x_j - x_i + S h:

    forces   F_i = sum over edges e leaving i of (g_e - g_reverse(e))
    virial   W_s = sum over edges e of structure s of r_e ⊗ g_e  (= dE/dstrain; stress = W / volume)

A call on the captured path:

    admit      on the host: refuse, or say what is staged of each structure (`Conditions`); loads weights that must be there
    segments   enqueued: search, then the family's segments, then references, forces, virials and the status
    result     where the family leaves energies and gradients, and which edge a gradient belongs to
    release    on the host, when the call has finished: weights that were leased may go
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, Halo, System


class Definition(Protocol):
    """A family's definition: atomic energies that autograd can differentiate."""

    @property
    def exchanges(self) -> int | None:
        """See `Backend`; forward and backward together."""
        ...

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Return an upper estimate of what energies and their derivative take."""
        ...

    def atomic_energies(self, graph: Graph) -> Tensor:
        """Return (N,) eV without reference energies."""
        ...


class Model(Definition, Protocol):
    """What a family's definition, an `nn.Module`, is asked for beside energies.

    Attributes:
        family: its name. config: its configuration, a pydantic model.
    """

    family: str
    config: Any

    @property
    def reference_energies(self) -> Tensor:
        """(Z,) or (rows, Z) float64, eV, by atomic number; rows are chosen by a structure's task row."""
        ...

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

    def check_conditions(self, charge: int | None, spin: int | None) -> None:
        """Refuse a charge and a spin that the model does not know, for structures without their own."""
        ...

    def complete(self, system: System, task: str | None) -> System:
        """Fill in what the structures leave open, or say what in them the model does not know."""
        ...

    def warn(self, system: System, graph: Graph) -> None:
        """Warn of what the edges of a structure mean for its result, if anything."""
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


def lacking(model: object) -> list[str]:
    """Names of `Model` that an object does not have."""
    wanted = {name for part in (Definition, Model) for name in (*vars(part), *part.__annotations__) if name[0] != "_"}
    return sorted(name for name in wanted if not hasattr(model, name))


class Backend(Protocol):
    """A model on one backend, for any graph."""

    @property
    def exchanges(self) -> int | None:
        """How often rows travel through a graph's halo, forces aside; None where processes cannot share a structure."""
        ...

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å: dE/d(vector) of every edge."""
        ...

    def bytes_needed(self, graph: Graph) -> int:
        """Return an upper estimate of the memory that the call will take, beside weights and graph."""
        ...


@dataclass(frozen=True)
class Segment:
    """Work that is enqueued in one go: it waits for nothing, and allocates nothing that lasts.

    Attributes:
        launch: enqueues it on the current stream.
        exchanged: tensors with a row for each atom whose ghost rows must be filled from their owners' before `launch`; none
            before the first. In one process there are no ghosts, and one CUDA graph holds all segments; where processes share a
            structure each segment is one.
    """

    launch: Callable[[], object]
    exchanged: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Atomic:
    """What a family leaves of an evaluation, in its workspace.

    Attributes:
        energies: (N̂,) eV without references, in the graph's order.
        gradients: (P, Ê, 4) eV/Å in P parts to be added; the fourth number is zero. What is not in use may hold anything.
        of_reverse: whether at edge e stands the derivative with respect to the vector of its *reverse* edge, else of e itself.
        others: what the further members of an ensemble leave, whose mean is the result; the numbers above are its first member's.
    """

    energies: Tensor
    gradients: Tensor
    of_reverse: bool
    others: tuple[Atomic, ...] = ()

    def of_owned(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """(owned,) eV, and dE/d(vector) of every edge (E, 3), eV/Å, of a graph with a halo; float64.

        What stands at e for its reverse, p_e, is given as -p_e of e itself: the reverse may be with another process, and forces and
        virials, sums over all edges, are the same.
        """
        gradients = self.gradients[:, : graph.num_edges, :3].sum(0, dtype=torch.float64)
        return self.energies[: graph.num_owned].double(), -gradients if self.of_reverse else gradients


Choices = Mapping[str, Mapping[str, int]]
"""A value for each choice of each kernel, such as {"message": {"warps": 2}}."""


@dataclass(frozen=True)
class TuningSpace:
    """What `atomjet tune` may try of a backend.

    Attributes:
        key: what the best choices depend on beside device and size, such as "painn 128 float16"; names entries of the table.
        rounds: kernel and its choices; tried one round after the other, each with the best of those before.
        tiles: what is in force for a capacity, of all kernels.
        with_tiles: a copy of the backend, sharing its weights, with some choices changed; those that its kernels do not know
            are left out.
    """

    key: str
    rounds: tuple[tuple[str, Mapping[str, tuple[int, ...]]], ...]
    tiles: Callable[[Capacity], Choices]
    with_tiles: Callable[[Capacity, Choices], CapturedBackend]


@runtime_checkable
class CapturedBackend(Backend, Protocol):
    """A backend that also runs in buffers of fixed size."""

    @property
    def precision(self) -> str:
        """As `Settings` has it: "default", "high" or "float64"."""
        ...

    @property
    def storage_dtype(self) -> torch.dtype:
        """In which what travels between atoms and edges is kept."""
        ...

    @property
    def tuning(self) -> TuningSpace | None:
        """None for kernels without choices."""
        ...

    @property
    def silent_conditions(self) -> tuple[int, int, int, int] | None:
        """Charge, spin, task row and slot of a structure that says nothing of itself, where they are the same whatever its atoms;
        None where each structure must be admitted.
        """
        ...

    def admit(self, system: System, task: str | None) -> Conditions | None:
        """On the host, before anything is enqueued: refuse, or say what is staged of each structure.

        Whatever an evaluation needs beside its workspace (blends, tables) is made here, never after a capture, and leased until the
        call has finished. The engine has checked elements, and keeps the answer for calls with equal structures, each of which
        renews the lease.

        Args:
            system: on any device.
            task: of structures that name none.

        Returns:
            None where the structures need more weights at once than can be held beside those of calls under way: the engine then
            waits for one of these, or divides the structures.

        Raises:
            StructureError, ConfigError: what the model does not know, in the words of `Model.complete`.
        """
        ...

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates; less with `capacity.recompute`, where the backend has such a form."""
        ...

    def workspace(self, capacity: Capacity) -> Any:
        """Allocate, once, everything that segments write."""
        ...

    def segments(self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: Any) -> Sequence[Segment]:
        """Return an evaluation over these buffers, to be enqueued any number of times, whatever they hold then.

        With a status other than zero the graph has no edges. A structure whose weights are in no slot sets `Status.SLOT`.
        """
        ...

    def result(self, workspace: Any) -> Atomic:
        """Return where the segments leave their result; always the same tensors."""
        ...


def enqueue(segments: Sequence[Segment], halo: Halo | None = None) -> None:
    """Enqueue an evaluation once; with a halo, which is collective, the rows of ghosts are filled before whoever reads them."""
    for segment in segments:
        if halo is not None and segment.exchanged:
            halo.fill(*(rows[: halo.total] for rows in segment.exchanged))
        segment.launch()


def evaluate(
    backend: CapturedBackend,
    graph: GraphBuffers,
    conditions: ConditionBuffers,
    workspace: Any,
    halo: Halo | None = None,
) -> Atomic:
    """Enqueue all segments once; return where they leave their result."""
    enqueue(backend.segments(graph, conditions, workspace), halo)
    return backend.result(workspace)
