"""`PaddedSystem` to `PaddedGraph`: the search that a CUDA graph can hold. Kernels only; nothing waits, nothing is allocated."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from atomjet.data import Capacity, PaddedGraph, PaddedSystem
from atomjet.neighbors import all_pairs, cell_list
from atomjet.neighbors.cell_list import ATOMS_PER_CELL, GRID, ONE_TABLE, SCALE, TABLE_PER_ATOM
from atomjet.neighbors.lattice import FRAME
from atomjet.neighbors.rows import BLOCK, EDGES_PER_ENTRY, rows_kernel

ONE_PROGRAM = 64
"""Atoms up to which one program finds everything."""

ALL_PAIRS = 3000
"""Atoms of the largest structure up to which testing all pairs beats building cells."""

FREE_WORDS = 4
"""Words of 32 candidates that every atom may take, besides one for every four edges (and all of its structure with all pairs)."""


class PaddedSearch:
    """Finds all pairs closer than the cutoff, again and again, in the same buffers.

    `launch` does not clear `graph.status`; whoever starts an evaluation does. If `Status.EDGES` is set, all rows are empty and
    `graph.needed_edges` says which capacity will do. Results are the same bits from launch to launch.

    Args:
        capacity: how much `launch` will be given at most. Decides the route: one program for everything, all pairs, or cells.
        cutoff: Å; pairs strictly closer are edges.
        device: where; the kernels also run in Triton's interpreter on the CPU.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device | str) -> None:
        self.capacity, self.cutoff = capacity, float(cutoff)
        self.device = torch.device(device)
        self.graph = PaddedGraph.empty(capacity, device)
        if capacity.atoms_per_system > ALL_PAIRS:
            self.route = Cells(self.graph, cutoff)
        elif capacity.atoms <= ONE_PROGRAM:
            self.route = OneProgram(self.graph, cutoff)
        else:
            self.route = AllPairs(self.graph, cutoff)

    def launch(self, system: PaddedSystem) -> PaddedGraph:
        """Enqueue the search on the current stream; returns `self.graph`, the same buffers every time.

        Args:
            system: buffers of this search's capacity.
        """
        if system.capacity != self.capacity:
            raise ValueError(f"a search for {self.capacity} was given a system of {system.capacity}")
        self.route.launch(system)
        return self.graph


class _Route:
    """Buffers that every route needs besides the graph's own."""

    def __init__(self, graph: PaddedGraph, cutoff: float, free_words: int) -> None:
        self.graph, self.device = graph, graph.row_ptr.device
        capacity = self.capacity = graph.capacity
        self.cutoff = torch.full((1,), cutoff, dtype=torch.float64, device=self.device)
        self.pool_free = 2 * capacity.atoms * free_words + 4096
        self.pool_size = self.pool_free + capacity.edges
        self.pool = self.zeros(self.pool_size)
        self.table_free = TABLE_PER_ATOM.value * capacity.atoms + ONE_TABLE.value * capacity.systems + 4096
        self.table_size = self.table_free + capacity.edges // EDGES_PER_ENTRY.value
        self.used = self.zeros(2, torch.int64)
        self.degrees = self.zeros(capacity.atoms)
        self.word_ptr = self.zeros(capacity.atoms)
        self.blocks = _groups(capacity.atoms, BLOCK.value)
        self.sums = self.zeros(self.blocks + 1, torch.int64)
        self.frames = self.zeros(FRAME.value * capacity.systems, torch.float64)
        self.slots = max(16, min(128, triton.next_power_of_2(_groups(capacity.edges, capacity.atoms))))

    def zeros(self, number: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """A buffer; never empty, so that it always has an address."""
        return torch.zeros(max(number, 1), dtype=dtype, device=self.device)

    def edges(self) -> tuple[Tensor, ...]:
        """What is written for each edge."""
        return self.graph.neighbors, self.graph.shifts, self.graph.vectors, self.graph.reverse

    def place_rows(self, system: PaddedSystem) -> None:
        """Degrees to rows."""
        graph, capacity = self.graph, self.capacity
        rows_kernel[(max(self.blocks, 1),)](
            self.degrees,
            self.sums,
            self.used,
            system.system_ptr,
            graph.row_ptr,
            graph.needed_edges,
            graph.status,
            graph.system_ptr,
            self.blocks,
            capacity.systems,
            capacity.atoms,
            capacity.edges,
            self.pool_size,
            self.pool_free,
            self.table_size,
            self.table_free,
            num_warps=4,
        )


class AllPairs(_Route):
    """Three kernels: count, place, fill."""

    ROWS, FILL_ROWS, WARPS, FILL_WARPS = 8, 8, 1, 4

    def __init__(self, graph: PaddedGraph, cutoff: float) -> None:
        capacity = graph.capacity
        super().__init__(graph, cutoff, FREE_WORDS + _groups(capacity.atoms_per_system, 32))
        self.tiles = _groups(capacity.atoms_per_system, self.ROWS)
        self.counts = self.zeros(4 * capacity.systems)

    def _given(self, system: PaddedSystem) -> tuple[Any, ...]:
        return system.positions, system.atomic_numbers, system.system_index, system.system_ptr, system.cell

    def launch(self, system: PaddedSystem) -> None:
        """Enqueue."""
        graph, capacity = self.graph, self.capacity
        if capacity.systems * self.tiles:
            all_pairs.all_pairs_count_kernel[(capacity.systems * self.tiles,)](
                system.positions,
                system.system_ptr,
                system.cell,
                system.pbc,
                self.cutoff,
                self.frames,
                self.counts,
                self.pool,
                self.used,
                self.degrees,
                self.word_ptr,
                self.sums,
                graph.status,
                self.tiles,
                self.pool_size,
                ROWS=self.ROWS,
                num_warps=self.WARPS,
                enable_fp_fusion=False,
            )
        self.place_rows(system)
        all_pairs.all_pairs_fill_kernel[(max(1, _groups(capacity.atoms, self.FILL_ROWS)),)](
            *self._given(system),
            self.frames,
            self.counts,
            self.pool,
            self.word_ptr,
            graph.row_ptr,
            *self.edges(),
            graph.atomic_numbers,
            graph.status,
            self.used,
            self.sums,
            capacity.systems,
            self.blocks,
            ROWS=self.FILL_ROWS,
            SLOTS=self.slots,
            num_warps=self.FILL_WARPS,
            enable_fp_fusion=False,
        )


class OneProgram(AllPairs):
    """The same in one kernel."""

    ROWS, FILL_ROWS, WARPS = 32, 16, 4

    def launch(self, system: PaddedSystem) -> None:
        """Enqueue."""
        graph, capacity = self.graph, self.capacity
        all_pairs.all_pairs_kernel[(1,)](
            *self._given(system),
            system.pbc,
            self.cutoff,
            self.frames,
            self.counts,
            self.pool,
            self.used,
            self.degrees,
            self.word_ptr,
            self.sums,
            graph.row_ptr,
            *self.edges(),
            graph.atomic_numbers,
            graph.system_ptr,
            graph.needed_edges,
            graph.status,
            capacity.systems,
            self.tiles,
            capacity.atoms,
            capacity.edges,
            self.pool_size,
            self.pool_free,
            ALL=ONE_PROGRAM,
            ROWS=self.ROWS,
            FILL_ROWS=self.FILL_ROWS,
            SLOTS=self.slots,
            num_warps=self.WARPS,
            enable_fp_fusion=False,
        )


class Cells(_Route):
    """Ten kernels: lattices, boxes, grids; bin, scan, scatter, order; count, place, fill."""

    ROWS, FILL_ROWS, WARPS, FILL_WARPS, LANES, SCAN = 32, 4, 1, 4, 256, 4096

    def __init__(self, graph: PaddedGraph, cutoff: float) -> None:
        super().__init__(graph, cutoff, FREE_WORDS)
        capacity = graph.capacity
        systems, atoms = capacity.systems, capacity.atoms
        cells = atoms // ATOMS_PER_CELL.value + systems
        float64 = torch.float64
        self.lengths, self.home = self.zeros(3 * systems, float64), self.zeros(3 * systems, float64)
        self.bad, self.box, self.grid = self.zeros(systems), self.zeros(6 * systems), self.zeros(GRID.value * systems)
        self.scale = self.zeros(SCALE.value * systems, float64)
        self.cells_end, self.cell_counts, self.cell_ptr = self.zeros(1), self.zeros(cells), self.zeros(cells + 1)
        self.table_ptr, self.table = self.zeros(cells), self.zeros(self.table_size)
        self.cell_of, self.ranks, self.outside, self.members = (self.zeros(atoms) for _ in range(4))
        self.cell_sorted, self.outside_sorted = self.zeros(atoms), self.zeros(atoms)
        self.given, self.wrapped = self.zeros(3 * atoms, float64), self.zeros(3 * atoms, float64)
        self.programs = 4
        if self.device.type == "cuda":
            self.programs = 16 * torch.cuda.get_device_properties(self.device).multi_processor_count

    def launch(self, system: PaddedSystem) -> None:
        """Enqueue."""
        graph, capacity = self.graph, self.capacity
        systems, lanes = capacity.systems, self.LANES
        per_system, per_lane = (systems,), (_groups(capacity.atoms, lanes),)
        cell_list.cells_frame_kernel[per_system](
            system.positions,
            system.system_ptr,
            system.cell,
            system.pbc,
            self.cutoff,
            self.frames,
            self.lengths,
            self.bad,
            self.home,
            self.box,
            graph.status,
            num_warps=1,
            enable_fp_fusion=False,
        )
        cell_list.cells_box_kernel[per_lane](
            system.positions,
            system.system_index,
            system.system_ptr,
            system.pbc,
            self.frames,
            self.box,
            graph.status,
            systems,
            LANES=lanes,
            enable_fp_fusion=False,
        )
        cell_list.cells_grid_kernel[per_system](
            system.system_ptr,
            system.pbc,
            self.cutoff,
            self.frames,
            self.lengths,
            self.bad,
            self.box,
            self.grid,
            self.scale,
            self.cells_end,
            graph.status,
            systems,
            num_warps=1,
        )
        cell_list.cells_bin_kernel[per_lane](
            system.positions,
            system.system_index,
            system.system_ptr,
            self.frames,
            self.home,
            self.grid,
            self.scale,
            self.cell_counts,
            self.cell_of,
            self.ranks,
            self.outside,
            graph.status,
            systems,
            LANES=lanes,
            enable_fp_fusion=False,
        )
        cell_list.cells_scan_kernel[(1,)](
            self.cell_counts, self.cell_ptr, self.cells_end, CELLS=self.SCAN, num_warps=16
        )
        cell_list.cells_scatter_kernel[per_lane](
            system.system_ptr, self.cell_of, self.ranks, self.cell_ptr, self.members, systems, LANES=lanes
        )
        cell_list.cells_order_kernel[per_lane](
            system.positions,
            system.atomic_numbers,
            system.system_index,
            system.system_ptr,
            system.cell,
            self.cell_of,
            self.cell_ptr,
            self.members,
            self.home,
            self.outside,
            graph.order,
            self.cell_sorted,
            self.given,
            self.wrapped,
            self.outside_sorted,
            graph.atomic_numbers,
            systems,
            capacity.atoms,
            LANES=lanes,
            enable_fp_fusion=False,
        )
        cell_list.cells_count_kernel[(self.programs,)](
            system.system_index,
            system.cell,
            system.pbc,
            self.cutoff,
            self.grid,
            self.scale,
            self.cells_end,
            self.cell_ptr,
            self.given,
            self.wrapped,
            self.outside_sorted,
            self.table,
            self.table_ptr,
            self.pool,
            self.used,
            self.degrees,
            self.word_ptr,
            self.sums,
            self.pool_size,
            self.table_size,
            capacity.atoms,
            ROWS=self.ROWS,
            num_warps=self.WARPS,
            enable_fp_fusion=False,
        )
        self.place_rows(system)
        cell_list.cells_fill_kernel[(_groups(capacity.atoms, self.FILL_ROWS),)](
            system.system_index,
            system.system_ptr,
            system.cell,
            self.grid,
            self.cell_ptr,
            self.cell_sorted,
            self.given,
            self.outside_sorted,
            self.table,
            self.table_ptr,
            self.pool,
            self.word_ptr,
            graph.row_ptr,
            *self.edges(),
            self.used,
            self.sums,
            systems,
            self.blocks,
            ROWS=self.FILL_ROWS,
            SLOTS=self.slots,
            num_warps=self.FILL_WARPS,
            enable_fp_fusion=False,
        )


def _groups(number: int, size: int) -> int:
    """How many groups of a size hold so many."""
    return -(-number // size) if size else 0
