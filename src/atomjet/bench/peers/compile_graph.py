"""The definition compiled by torch.compile: edge vectors, energies and forces of all atoms, captured in one CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from atomjet.bench.captured_steps import captured
from atomjet.bench.contender import GRAPH_CALL, Unavailable, network, predicted
from atomjet.bench.measure import allocated
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine
from atomjet.engine.capacity import fits, free_bytes, refusal
from atomjet.neighbors import search
from atomjet.ops.matrix_products import matrix_products

MARGIN = 1.25
"""Edges captured for, in terms of those of the first structure: edges come and go as atoms move."""

SAVED_SHARE = 0.1
"""Share of what autograd saves for the derivative that compiled code needs at least: the filters of every layer alone are 3 of
PaiNN's 28 numbers an edge and channel.
"""

Prepared = tuple[System, Graph, Tensor]
"""Structures, their edges, and what periodic images add to the edge vectors (E, 3)."""


class Moved:
    """A graph with other edge vectors. `Graph.with_vectors` touches every field, and code would be compiled anew for one that
    matters to nothing, such as another number of structures.
    """

    def __init__(self, graph: Graph, vectors: Tensor) -> None:
        self.graph, self.vectors = graph, vectors

    def __getattr__(self, name: str) -> Any:
        """Everything else is the graph's."""
        return getattr(self.graph, name)


class Captured:
    """One graph a case; matrix products in TF32 where the engine's precision is "default"."""

    name = "compile_graph"
    includes = GRAPH_CALL + "; copy of positions and edges into the captured buffers"

    def __init__(self, engine: Engine) -> None:
        self.model, self.dtype = network(engine), engine.dtype
        self.products = "high" if engine.precision == "default" else "highest"
        self.energies = torch.compile(self._energies, dynamic=True)
        self.held: CompiledStep | None = None

    def prepare(self, system: System) -> Prepared:
        """Search the neighbours."""
        return self._prepared(system, search(system, self.model.cutoff))

    def _prepared(self, system: System, graph: Graph) -> Prepared:
        offsets = graph.vectors - (system.positions[graph.neighbors] - system.positions[graph.centers])
        return system, graph, offsets.to(self.dtype)

    def call(self, prepared: Prepared) -> Prediction:
        """Copy in, replay, read out."""
        system, graph, _ = prepared
        if self.held is None or not self.held.serves(graph):
            self.held = None  # its memory may be needed
            self.held = CompiledStep(self, prepared, int(graph.num_edges * MARGIN) + 32)
            self.replay = captured(self.held.evaluate)
        self.held.fill(prepared)
        self.held.move(system.positions)
        self.replay()
        return self.held.prediction(system)

    def step(self, systems: Sequence[System]) -> CompiledStep:
        """A step with the edges of the last of these structures.

        Raises:
            StructureError: so many edges that their derivatives cannot fit into memory.
        """
        system, device = systems[-1], systems[-1].device
        graph = search(system, self.model.cutoff)
        needed, free = int(SAVED_SHARE * self.model.bytes_by_autograd(graph)), free_bytes(device)
        if not fits(needed, free):
            raise refusal(graph.num_atoms, graph.num_edges, needed, free, device)
        return CompiledStep(self, self._prepared(system, graph), graph.num_edges)

    def _energies(self, positions: Tensor, offsets: Tensor, graph: Graph) -> Tensor:
        vectors = positions[graph.neighbors] - positions[graph.centers] + offsets
        return self.model.atomic_energies(Moved(graph, vectors))  # type: ignore[arg-type]


class CompiledStep:
    """One evaluation in buffers of fixed size; see `captured_steps.DeviceCall`.

    Edges beyond those there are lead from the last atom to itself at 1.01 x the cutoff, where the envelope is zero.
    """

    includes = (
        "copy of new positions from elsewhere on the device, edge vectors, energies and forces of all atoms, no stress; its edges "
        "are given; compiled with dynamic shapes, TF32 allowed (not with --precision high); captured and replayed as ours"
    )

    def __init__(self, peer: Captured, prepared: Prepared, capacity: int) -> None:
        system, graph, offsets = prepared
        before = allocated(system.device)
        torch.cuda.reset_peak_memory_stats(system.device)
        self.peer, self.edges = peer, graph.num_edges
        self.positions = torch.zeros_like(system.positions, dtype=peer.dtype, requires_grad=True)
        self.offsets = offsets.new_zeros(capacity, 3)
        centers = graph.centers.new_zeros(capacity)
        self.graph = replace(
            graph, centers=centers, neighbors=centers.clone(), atomic_numbers=graph.atomic_numbers.clone()
        )
        self.downhill = offsets.new_full((graph.num_atoms,), -1.0)
        self.fill(prepared)
        self.move(system.positions)
        side = torch.cuda.Stream(system.device)
        side.wait_stream(torch.cuda.current_stream(system.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.evaluate()
        torch.cuda.current_stream(system.device).wait_stream(side)
        torch.cuda.synchronize(system.device)
        self.held = torch.cuda.max_memory_allocated(system.device) - before

    def serves(self, graph: Graph) -> bool:
        """Whether these edges fit in."""
        return graph.num_atoms == len(self.positions) and graph.num_edges <= len(self.offsets)

    def fill(self, prepared: Prepared) -> None:
        """Put other edges in."""
        _, graph, offsets = prepared
        edges = graph.num_edges
        for held, given in ((self.graph.centers, graph.centers), (self.graph.neighbors, graph.neighbors)):
            held[:edges].copy_(given)
            held[edges:] = graph.num_atoms - 1
        self.offsets[:edges].copy_(offsets)
        self.offsets[edges:] = 1.01 * self.peer.model.cutoff / 3**0.5
        self.graph.atomic_numbers.copy_(graph.atomic_numbers)

    def move(self, positions: Tensor) -> None:
        """Enqueue the copy of other positions."""
        self.positions.detach().copy_(positions)

    def evaluate(self) -> None:
        """Enqueue energies and forces."""
        with matrix_products(self.peer.products):
            energies = self.peer.energies(self.positions, self.offsets, self.graph)
            (self.forces,) = torch.autograd.grad(energies, self.positions, self.downhill)
        self.atomic = energies.detach()

    def take(self, positions: Tensor) -> None:
        """Enqueue both."""
        self.move(positions)
        self.evaluate()

    def prediction(self, system: System) -> Prediction:
        """Copies of what stands in the buffers."""
        atoms = system.num_atoms
        return predicted(system, self.atomic[:atoms], self.forces[:atoms].clone(), self.peer.model)

    def check(self, every: Sequence[Tensor]) -> None:
        """Nothing can overflow."""


def build(engine: Engine) -> Any:
    """Only where there are CUDA graphs."""
    if engine.device.type != "cuda":
        raise Unavailable("CUDA graphs need a CUDA device")
    return Captured(engine)
