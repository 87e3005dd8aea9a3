"""`SharedBuffers`: one process's part of a structure in buffers of fixed size, and CUDA graphs between which rows travel."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from atomjet.data import Capacity, ConditionBuffers, Graph, GraphBuffers
from atomjet.engine.capacity import MARGIN, choose
from atomjet.engine.evaluation import Stages
from atomjet.models.contract import enqueue
from atomjet.models.ensemble import mean
from atomjet.models.skeleton import ShapesOnly
from atomjet.ops.compile_ahead import compile_ahead
from atomjet.ops.cuda_graph import Replayed


class SharedBuffers:
    """Everything that one call of `predict_shared` uses beside the halo.

    Each of the backend's segments becomes a CUDA graph of its own, which is replayed on the caller's stream; the halo fills ghosts'
    rows between two of them, on the same stream. Only the messages themselves may wait for the device.

    Args:
        stages: whose backend evaluates.
        capacity: of all buffers, ghosts among the atoms.
        capture: False to launch every time.
    """

    def __init__(self, stages: Stages, capacity: Capacity, capture: bool = True) -> None:
        self.capacity, self.bytes = capacity, self.bytes_of(stages, capacity)
        backend, device = stages.backend_for(capacity), stages.device
        assert backend.silent_conditions is not None, "structures that processes share are not staged"
        self.graph = GraphBuffers.empty(capacity, device, ghosts=True)
        conditions = ConditionBuffers.empty(capacity.systems, capacity.atoms, device)
        conditions.values.copy_(torch.tensor(backend.silent_conditions)[:, None])
        workspace = backend.workspace(capacity)
        segments = backend.segments(self.graph, conditions, workspace)
        assert sum(bool(segment.exchanged) for segment in segments) == backend.exchanges
        compile_ahead(lambda: enqueue(segments), device)
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._replayed = [Replayed(segment.launch, stream, capture) for segment in segments]
        self._segments = [
            replace(segment, launch=replayed.enqueue)
            for segment, replayed in zip(segments, self._replayed, strict=True)
        ]
        result = backend.result(workspace)
        self._members = (result, *result.others)

    @staticmethod
    def bytes_of(stages: Stages, capacity: Capacity) -> int:
        """Return what the buffers take, known before they are made."""
        with ShapesOnly():
            graph = GraphBuffers.empty(capacity, "meta", ghosts=True)
        tensors = [x for x in vars(graph).values() if isinstance(x, Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors) + stages.backend_for(capacity).bytes_of(capacity)

    @property
    def why_not(self) -> str:
        """Why nothing is captured; empty where segments are, or will be."""
        return next((replayed.why_not for replayed in self._replayed if replayed.why_not), "")

    def drop(self) -> None:
        """Give the CUDA graphs back; nothing may be running."""
        for replayed in self._replayed:
            replayed.drop()

    @torch.no_grad()
    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Enqueue an evaluation of a graph with a halo; collective.

        Returns:
            (owned,) eV without reference energies, NaN where a status says that something is wrong; and dE/d(vector) of every edge
            (E, 3), eV/Å; float64.
        """
        self.graph.fill(graph)
        enqueue(self._segments, graph.halo)
        energies, gradients = zip(*(member.of_owned(graph) for member in self._members), strict=True)
        return torch.where(self.graph.status == 0, mean(energies), torch.nan), mean(gradients)


def shared_capacity(graph: Graph, last: Capacity | None) -> Capacity:
    """Buffers for one process's part: those of the last call where they hold it and are not much too large.

    The numbers of ghosts and edges change in every step of a simulation; other buffers mean another capture.
    """
    atoms, edges = math.ceil(MARGIN * graph.num_atoms), math.ceil(MARGIN * graph.num_edges)
    wanted = choose(graph.num_systems, atoms, atoms, edges)
    if (
        last is not None
        and last.systems == wanted.systems
        and graph.num_atoms <= last.atoms <= 2 * wanted.atoms
        and graph.num_edges <= last.edges <= 2 * wanted.edges
    ):
        return last
    return wanted
