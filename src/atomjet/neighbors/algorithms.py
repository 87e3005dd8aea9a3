# pyright: reportCallIssue=false, reportArgumentType=false
"""What all algorithms of the search share, and those that test all pairs: buffers, made once, and the kernels that they enqueue."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atomjet.data import Capacity, GraphBuffers, SystemBuffers
from atomjet.neighbors import all_pairs, few_atoms
from atomjet.neighbors.all_pairs import COUNTS
from atomjet.neighbors.cell_list import LIST_PER_ATOM
from atomjet.neighbors.cell_order import ONE_TABLE, TABLE_PER_ATOM
from atomjet.neighbors.lattice import FRAME
from atomjet.neighbors.rows import BLOCK, EDGES_PER_NUMBER, EDGES_PER_WORD, rows_kernel
from atomjet.ops.pdl import has_pdl

FREE_WORDS = 16
"""Words of 32 candidates each that the pool holds for every atom, beside one for every two edges; with all pairs also words for all
atoms of the structure."""

PER_ATOM = TABLE_PER_ATOM.value + LIST_PER_ATOM.value
"""Numbers of the tables of the cell list that every atom may take."""

UNEVEN = 16
"""Programs of a batch, at most, as a multiple of those that it would take if its structures were of one size."""


def groups(number: int, size: int) -> int:
    """How many groups of a size hold so many."""
    return -(-number // size) if size else 0


class Algorithm:
    """Buffers that every algorithm needs besides the graph's own."""

    MOST_SLOTS = 128

    def __init__(self, graph: GraphBuffers, cutoff: float) -> None:
        self.graph, self.device = graph, graph.row_ptr.device
        capacity = self.capacity = graph.capacity
        pieces = self.pieces_of(capacity)
        self.cutoff = torch.full((1,), cutoff, dtype=torch.float64, device=self.device)
        self.pool_free = capacity.atoms * self.words(capacity) + 4096
        self.pool_size = self.pool_free + capacity.edges // EDGES_PER_WORD.value
        self.pool = self.zeros(self.pool_size, torch.int64)
        self.table_free = PER_ATOM * capacity.atoms + ONE_TABLE.value * capacity.systems + 4096
        self.table_size = self.table_free + capacity.edges // EDGES_PER_NUMBER.value
        self.used, self.found = self.zeros(2, torch.int64), self.zeros(1)
        self.pieces = pieces
        # Whether kernels let the next one start early, and the one that places rows is such a one; see `atomjet.ops.pdl`.
        self.pdl = self.pdl_release = False
        self.degrees = self.zeros(capacity.atoms * pieces)
        self.piece_ptr = graph.row_ptr if pieces == 1 else self.zeros(capacity.atoms * pieces + 1)
        self.blocks = groups(capacity.atoms * pieces, BLOCK.value)
        self.sums = self.zeros(self.blocks + 1, torch.int64)
        self.frames = self.zeros(FRAME.value * capacity.systems, torch.float64)
        self.slots = max(
            16, min(self.MOST_SLOTS, triton.next_power_of_2(groups(capacity.edges, capacity.atoms * pieces)))
        )

    @classmethod
    def pieces_of(cls, capacity: Capacity) -> int:
        """Pieces that a row comes in: one, where a program counts whole rows."""
        return 1

    @classmethod
    def words(cls, capacity: Capacity) -> int:
        """Words of 32 candidates that an atom may take, beside one for every two edges."""
        return FREE_WORDS

    def launch(self, system: SystemBuffers) -> None:
        """Enqueue the search."""
        raise NotImplementedError

    def zeros(self, number: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """A buffer; never empty, so that it always has an address."""
        return torch.zeros(max(number, 1), dtype=dtype, device=self.device)

    def edges(self) -> dict[str, Tensor]:
        """What is written for each edge, by the names that kernels have for it."""
        graph = self.graph
        return {
            "neighbors": graph.neighbors,
            "shifts": graph.shifts,
            "vectors": graph.vectors,
            "reverse": graph.reverse,
        }

    def place_rows(self, system: SystemBuffers) -> None:
        """Degrees to rows."""
        graph, capacity = self.graph, self.capacity
        rows_kernel[(max(self.blocks, 1),)](
            degrees=self.degrees,
            sums=self.sums,
            used=self.used,
            found=self.found,
            system_ptr=system.system_ptr,
            piece_ptr=self.piece_ptr,
            row_ptr=graph.row_ptr,
            needed_edges=graph.needed_edges,
            status=graph.status,
            system_ptr_out=graph.system_ptr,
            blocks=self.blocks,
            systems=capacity.systems,
            atoms=capacity.atoms,
            max_edges=capacity.edges,
            pool_size=self.pool_size,
            pool_free=self.pool_free,
            table_size=self.table_size,
            table_free=self.table_free,
            PIECES=self.pieces,
            PDL=self.pdl,
            num_warps=4,
            launch_pdl=self.pdl_release,
        )


class AllPairs(Algorithm):
    """Three kernels: count, place, fill."""

    PIECES, FEW = 8, 8000
    """Pieces of a row, at most, that different programs count, and up to how many atoms, so that all of the device has work."""

    PDL_ATOMS = 512
    """Atoms up to which rows are placed by programs that start while others still count (Hopper and later): with more, those that
    wait take the place of those that work."""

    def __init__(self, graph: GraphBuffers, cutoff: float) -> None:
        capacity = graph.capacity
        super().__init__(graph, cutoff)
        self.pdl = has_pdl(self.device)
        self.pdl_release = self.pdl and (capacity.atoms <= self.PDL_ATOMS or self.pieces == 1)
        self.rows = 4 if capacity.atoms <= 256 else 8
        self.fill_rows, self.fill_warps = (8, 4) if self.pieces == 1 else (2, 1)
        # Programs for the largest structure, but not so many for every structure that most find nothing to do.
        fair = groups(UNEVEN * capacity.atoms, max(1, self.rows * capacity.systems))
        self.tiles = min(groups(capacity.atoms_per_system, self.rows), fair)
        self.counts = self.zeros(COUNTS.value * capacity.systems)
        self.word_ptr = self.zeros(capacity.atoms * self.pieces)

    @classmethod
    def pieces_of(cls, capacity: Capacity) -> int:
        """Pieces of a row: not more than it has words of candidates, and fewer in batches, which have many rows."""
        # All atoms of a structure or, where images are expected, some three for each edge: a cube and more around a sphere.
        around = 3 * groups(capacity.edges, capacity.atoms) if capacity.images else 0
        words = groups(max(capacity.atoms_per_system, around), 32)
        if words <= 1 or capacity.atoms > cls.FEW:
            return 1
        most = cls.PIECES if capacity.systems <= 4 or words >= 2 * cls.PIECES else cls.PIECES // 2
        return min(most, 1 << (words - 1).bit_length())

    @classmethod
    def words(cls, capacity: Capacity) -> int:
        """Words of 32 candidates that an atom may take: all of its structure, pieces that begin within a word, and some more."""
        return FREE_WORDS + cls.pieces_of(capacity) + groups(capacity.atoms_per_system, 32)

    def _given(self, system: SystemBuffers) -> dict[str, Tensor]:
        """What is read of the structures, by the names that kernels have for it."""
        return {
            "positions": system.positions,
            "numbers": system.atomic_numbers,
            "system_index": system.system_index,
            "system_ptr": system.system_ptr,
            "cell": system.cell,
        }

    def launch(self, system: SystemBuffers) -> None:
        """Enqueue."""
        graph, capacity = self.graph, self.capacity
        if capacity.systems * self.tiles:
            all_pairs.all_pairs_count_kernel[(capacity.systems * self.tiles * self.pieces,)](
                positions=system.positions,
                system_ptr=system.system_ptr,
                cell=system.cell,
                pbc=system.pbc,
                cutoff=self.cutoff,
                frames=self.frames,
                counts=self.counts,
                pool=self.pool,
                used=self.used,
                degrees=self.degrees,
                word_ptr=self.word_ptr,
                sums=self.sums,
                found=self.found,
                tiles=self.tiles,
                pool_size=self.pool_size,
                ROWS=self.rows,
                PIECES=self.pieces,
                PDL=self.pdl,
                num_warps=1,
                enable_fp_fusion=False,
            )
        self.place_rows(system)
        all_pairs.all_pairs_fill_kernel[(max(1, groups(capacity.atoms * self.pieces, self.fill_rows)),)](
            **self._given(system),
            frames=self.frames,
            counts=self.counts,
            pool=self.pool,
            word_ptr=self.word_ptr,
            piece_ptr=self.piece_ptr,
            **self.edges(),
            numbers_out=graph.atomic_numbers,
            status=graph.status,
            used=self.used,
            sums=self.sums,
            systems=capacity.systems,
            blocks=self.blocks,
            ROWS=self.fill_rows,
            SLOTS=self.slots,
            PIECES=self.pieces,
            PDL=self.pdl,
            num_warps=self.fill_warps,
            launch_pdl=self.pdl,
            enable_fp_fusion=False,
        )


class OneKernel(AllPairs):
    """All pairs in one kernel, for at most ALL atoms in SYSTEMS structures, which each program takes one after the other."""

    ALL, SYSTEMS = 64, 2
    WARPS, MOST_SLOTS = 4, 64
    COLUMNS = 16
    """Neighbors that each atom is tested with at once."""

    def __init__(self, graph: GraphBuffers, cutoff: float) -> None:
        super().__init__(graph, cutoff)
        self.rows, self.fill_rows = 32, 8  # where one program does everything

    @classmethod
    def pieces_of(cls, capacity: Capacity) -> int:
        """Rows are whole."""
        return 1

    def launch(self, system: SystemBuffers) -> None:
        """Enqueue."""
        graph, capacity = self.graph, self.capacity
        few_atoms.all_pairs_kernel[(max(1, capacity.atoms),)](
            **self._given(system),
            pbc=system.pbc,
            cutoff=self.cutoff,
            frames=self.frames,
            counts=self.counts,
            pool=self.pool,
            used=self.used,
            degrees=self.degrees,
            word_ptr=self.word_ptr,
            sums=self.sums,
            found=self.found,
            row_ptr=graph.row_ptr,
            **self.edges(),
            numbers_out=graph.atomic_numbers,
            system_ptr_out=graph.system_ptr,
            needed_edges=graph.needed_edges,
            status=graph.status,
            systems=capacity.systems,
            atoms=capacity.atoms,
            max_edges=capacity.edges,
            pool_size=self.pool_size,
            pool_free=self.pool_free,
            ALL=max(16, triton.next_power_of_2(capacity.atoms)),
            COLUMNS=self.COLUMNS,
            ROWS=self.rows,
            FILL_ROWS=self.fill_rows,
            SLOTS=self.slots,
            PDL=self.pdl,
            num_warps=self.WARPS,
            enable_fp_fusion=False,
        )
