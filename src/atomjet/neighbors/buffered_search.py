# pyright: reportCallIssue=false, reportArgumentType=false
"""`SystemBuffers` to `GraphBuffers`: the search that a CUDA graph can hold. Kernels only; nothing waits, nothing is allocated."""

from __future__ import annotations

import torch

from atomjet.data import Capacity, GraphBuffers, SystemBuffers
from atomjet.errors import StructureError
from atomjet.neighbors.algorithms import PER_ATOM, AllPairs, OneKernel
from atomjet.neighbors.cells import Cells
from atomjet.ops.compile_notice import announce_compilations

ALL_PAIRS = 3000
"""Atoms of the largest structure up to which testing all pairs beats building cells."""

MOST = 2**31 - 1
"""Edges, and numbers in a buffer, are counted in 32 bits."""


class BufferedSearch:
    """Finds all pairs closer than the cutoff, again and again, in the same buffers.

    `launch` leaves in `graph.status` what went wrong in it, whatever stood there before. If `Status.EDGES` is set, all rows are
    empty and `graph.needed_edges` says which capacity will do. Results are the same bits from launch to launch.

    Args:
        capacity: how much `launch` will be given at most. Decides the algorithm: one kernel for everything, all pairs, or cells.
        cutoff: Å; pairs strictly closer are edges.
        device: where; the kernels also run in Triton's interpreter on the CPU.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device | str) -> None:
        algorithm = Cells if capacity.atoms_per_system > ALL_PAIRS else AllPairs
        if capacity.atoms <= OneKernel.ALL and capacity.systems <= OneKernel.SYSTEMS and not capacity.images:
            algorithm = OneKernel
        if capacity.edges + max(algorithm.words(capacity), PER_ATOM) * capacity.atoms > MOST:
            raise StructureError(
                f"{capacity.edges} edges of {capacity.atoms} atoms in structures of up to {capacity.atoms_per_system} "
                f"are more than one search can hold ({MOST} numbers); search fewer structures at once, or a shorter cutoff"
            )
        self.capacity, self.cutoff = capacity, float(cutoff)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            announce_compilations()
        self.graph = GraphBuffers.empty(capacity, device)
        self.algorithm = algorithm(self.graph, cutoff)

    def launch(self, system: SystemBuffers) -> GraphBuffers:
        """Enqueue the search on the current stream; returns `self.graph`, the same buffers every time, its status included.

        Args:
            system: buffers of this search's capacity.
        """
        if system.capacity != self.capacity:
            raise ValueError(f"a search for {self.capacity} was given a system of {system.capacity}")
        self.algorithm.launch(system)
        return self.graph
