# pyright: reportCallIssue=false, reportArgumentType=false
"""The search by cells: its buffers, made once, and the kernels that it enqueues."""

from __future__ import annotations

import torch

from atomjet.data import GraphBuffers, SystemBuffers
from atomjet.neighbors import cell_list, cell_order
from atomjet.neighbors.algorithms import Algorithm, groups
from atomjet.neighbors.cell_list import INFO
from atomjet.neighbors.cell_order import ATOMS_PER_CELL, GRID, PLACE, SCALE


class Cells(Algorithm):
    """Eleven kernels: lattices, boxes, grids; bin, scan, scatter, order; tables, count, place, fill."""

    LANES, SCAN = 256, 4096
    FEW = 50_000
    """Atoms up to which the rows of a cell are shared out to several programs, so that all of the device has work."""

    SHARED, WHOLE = (8, 4), (32, 1)
    """Rows a program takes at once, programs a cell."""

    REGISTERS = 128
    """Registers of a thread of the counting kernel, at most: without a limit the compiler takes more, and fewer programs run at a
    time."""

    def __init__(self, graph: GraphBuffers, cutoff: float) -> None:
        super().__init__(graph, cutoff)
        capacity = graph.capacity
        systems, atoms = capacity.systems, capacity.atoms
        cells = atoms // ATOMS_PER_CELL.value + systems
        float64 = torch.float64
        self.home = self.zeros(3 * systems, float64)
        self.bad, self.box, self.grid = self.zeros(systems), self.zeros(6 * systems), self.zeros(GRID.value * systems)
        self.scale = self.zeros(SCALE.value * systems, float64)
        self.cells_end, self.cell_counts, self.cell_ptr = self.zeros(1), self.zeros(cells), self.zeros(cells + 1)
        self.info, self.table = self.zeros(INFO.value * cells), self.zeros(self.table_size)
        self.starts = self.zeros(self.pool_size)
        self.cell_of, self.ranks, self.outside, self.members = (self.zeros(atoms) for _ in range(4))
        self.cell_sorted, self.lattice = self.zeros(atoms), self.zeros(9 * systems)
        self.given, self.wrapped = self.zeros(3 * atoms, float64), self.zeros(3 * atoms, float64)
        self.places = self.zeros(PLACE.value * atoms)
        self.rows, self.split = self.SHARED if atoms <= self.FEW else self.WHOLE
        self.programs = 4
        if self.device.type == "cuda":
            self.programs = 16 * torch.cuda.get_device_properties(self.device).multi_processor_count

    def launch(self, system: SystemBuffers) -> None:
        """Enqueue."""
        self._lay_out_cells(system)
        self._sort_into_cells(system)
        self._list_edges(system)

    def _lay_out_cells(self, system: SystemBuffers) -> None:
        """Frame, bounding box and grid of each structure."""
        systems = self.capacity.systems
        per_system = (systems,)
        cell_order.cells_frame_kernel[per_system](
            positions=system.positions,
            system_ptr=system.system_ptr,
            cell=system.cell,
            pbc=system.pbc,
            cutoff=self.cutoff,
            frames=self.frames,
            bad_out=self.bad,
            home=self.home,
            box=self.box,
            found=self.found,
            num_warps=1,
            enable_fp_fusion=False,
        )
        cell_order.cells_box_kernel[self._lanes()](
            positions=system.positions,
            system_index=system.system_index,
            system_ptr=system.system_ptr,
            pbc=system.pbc,
            frames=self.frames,
            box=self.box,
            found=self.found,
            systems=systems,
            LANES=self.LANES,
            enable_fp_fusion=False,
        )
        cell_order.cells_grid_kernel[per_system](
            system_ptr=system.system_ptr,
            cell=system.cell,
            pbc=system.pbc,
            cutoff=self.cutoff,
            frames=self.frames,
            bad_in=self.bad,
            box=self.box,
            grids=self.grid,
            scale=self.scale,
            lattice=self.lattice,
            cells_end=self.cells_end,
            found=self.found,
            systems=systems,
            num_warps=1,
        )

    def _sort_into_cells(self, system: SystemBuffers) -> None:
        """Atoms in the order of their cells."""
        graph, capacity = self.graph, self.capacity
        systems, lanes, per_lane = capacity.systems, self.LANES, self._lanes()
        cell_order.cells_bin_kernel[per_lane](
            positions=system.positions,
            system_index=system.system_index,
            system_ptr=system.system_ptr,
            frames=self.frames,
            home=self.home,
            grids=self.grid,
            scale=self.scale,
            counts=self.cell_counts,
            cell_of=self.cell_of,
            ranks=self.ranks,
            outside=self.outside,
            found=self.found,
            systems=systems,
            LANES=lanes,
            enable_fp_fusion=False,
        )
        cell_order.cells_scan_kernel[(1,)](
            counts=self.cell_counts, cell_ptr=self.cell_ptr, cells_end=self.cells_end, CELLS=self.SCAN, num_warps=16
        )
        cell_order.cells_scatter_kernel[per_lane](
            system_ptr=system.system_ptr,
            cell_of=self.cell_of,
            ranks=self.ranks,
            cell_ptr=self.cell_ptr,
            members=self.members,
            systems=systems,
            LANES=lanes,
        )
        cell_order.cells_order_kernel[per_lane](
            positions=system.positions,
            numbers=system.atomic_numbers,
            system_index=system.system_index,
            system_ptr=system.system_ptr,
            cell=system.cell,
            cell_of=self.cell_of,
            cell_ptr=self.cell_ptr,
            members=self.members,
            home=self.home,
            outside=self.outside,
            cutoff=self.cutoff,
            order=graph.order,
            cell_sorted=self.cell_sorted,
            given=self.given,
            wrapped=self.wrapped,
            places=self.places,
            numbers_out=graph.atomic_numbers,
            systems=systems,
            atoms=capacity.atoms,
            LANES=lanes,
            enable_fp_fusion=False,
        )

    def _list_edges(self, system: SystemBuffers) -> None:
        """Boxes around each cell, how many neighbors an atom has, and where they stand."""
        graph, capacity = self.graph, self.capacity
        cell_list.cells_table_kernel[(2 * self.programs,)](
            system_index=system.system_index,
            pbc=system.pbc,
            grids=self.grid,
            cells_end=self.cells_end,
            cell_ptr=self.cell_ptr,
            table=self.table,
            info=self.info,
            used=self.used,
            pool_size=self.pool_size,
            table_size=self.table_size,
            num_warps=1,
        )
        cell_list.cells_count_kernel[(self.programs,)](
            system_index=system.system_index,
            cell=system.cell,
            cutoff=self.cutoff,
            grids=self.grid,
            cells_end=self.cells_end,
            cell_ptr=self.cell_ptr,
            given=self.given,
            wrapped=self.wrapped,
            places=self.places,
            table=self.table,
            info=self.info,
            pool=self.pool,
            starts=self.starts,
            degrees=self.degrees,
            sums=self.sums,
            atoms=capacity.atoms,
            ROWS=self.rows,
            SPLIT=self.split,
            maxnreg=self.REGISTERS,
            num_warps=1,
            enable_fp_fusion=False,
        )
        self.place_rows(system)
        cell_list.cells_fill_kernel[(max(1, capacity.atoms),)](
            system_index=system.system_index,
            cutoff=self.cutoff,
            lattice=self.lattice,
            cell_ptr=self.cell_ptr,
            cell_sorted=self.cell_sorted,
            places=self.places,
            table=self.table,
            info=self.info,
            pool=self.pool,
            starts=self.starts,
            row_ptr=graph.row_ptr,
            **self.edges(),
            used=self.used,
            sums=self.sums,
            blocks=self.blocks,
            SLOTS=self.slots,
            num_warps=1,
            enable_fp_fusion=False,
        )

    def _lanes(self) -> tuple[int]:
        """Programs that take LANES atoms each."""
        return (groups(self.capacity.atoms, self.LANES),)
