"""AtomJet's neighbour search in fixed buffers, captured in a CUDA graph: what a step of the engine takes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.bench.captured_steps import capacity_for, captured
from atomjet.data import Capacity, Graph, System, SystemBuffers
from atomjet.data.capacity import has_images
from atomjet.neighbors import search
from atomjet.neighbors.buffered_search import BufferedSearch
from atomjet.neighbors.gpu import to_graph


class CapturedSearch:
    """Room for one system's size; made once, called with other positions of it."""

    def __init__(self, system: System, cutoff: float) -> None:
        edges = search(system, cutoff).num_edges
        largest = int(system.counts().max())
        images = bool(has_images(system.cell, system.pbc, cutoff))
        capacity = Capacity(system.num_systems, system.num_atoms, capacity_for(edges), largest, images)
        self.system, self.cutoff = system, cutoff
        self.searcher = BufferedSearch(capacity, cutoff, system.device)
        self.given = SystemBuffers.empty(capacity, system.device)
        self.given.fill(system)
        self.searcher.launch(self.given)  # compiles
        torch.cuda.synchronize(system.device)
        self.replay = captured(lambda: self.searcher.launch(self.given))

    def __call__(self, positions: Tensor) -> None:
        """Search anew; the edges are in `searcher.graph`."""
        self.given.positions.copy_(positions)
        self.replay()

    def check(self, positions: Tensor) -> int:
        """Search, and count the edges.

        Raises:
            RuntimeError: a search that did not end well.
        """
        self(positions)
        status, edges = torch.cat([self.searcher.graph.status.long(), self.searcher.graph.needed_edges]).tolist()
        if status:
            raise RuntimeError(f"a captured search of {edges} edges ended with status {status}")
        return edges

    def graph(self, positions: Tensor) -> Graph:
        """What a call finds, as any search would give it."""
        edges = self.check(positions)
        return to_graph(self.searcher, self.given, self.system.with_positions(positions), edges)
