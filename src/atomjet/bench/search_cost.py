"""Declared cost of the neighbour search's kernels, by the rules of `cost`: each buffer is read once, each result written once.

What a kernel has written itself it reads again for nothing; single numbers and sums over blocks of rows are left out.

How much there is to test depends on the geometry, so it is counted in the buffers of a search. A test is a candidate tried, not an
edge found: which candidates an atom has is the choice of the algorithm (all atoms of its structure, or those of the cells around),
and a kernel is held against the work it was given. Arithmetic is that of floating point numbers, as the code has it; bits are
counted and atoms sorted with whole numbers, which cost none here. Operations in float64 count like any other, though a GPU does
fewer of them a second: a kernel may be closer to what the machine allows than its figures say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from atomjet.models.cost import Cost
from atomjet.neighbors.algorithms import AllPairs, OneKernel
from atomjet.neighbors.all_pairs import COUNTS
from atomjet.neighbors.buffered_search import BufferedSearch
from atomjet.neighbors.cell_list import INFO
from atomjet.neighbors.cell_order import GRID
from atomjet.neighbors.cells import Cells
from atomjet.neighbors.lattice import FRAME

FRACTION = 5
"""Operations of a scalar product: a position along one axis of the lattice. One if lattice vectors lie along Cartesian axes."""

OFFSET = 3 * (FRACTION + 1)
"""Operations of adding a lattice shift, whole numbers times a cell of any shape, to a vector."""

LATTICE = 240
"""Operations of a structure's frame: dual vectors of its lattice, and reaches along them."""

FINITE = 6
"""Operations of testing whether three numbers are finite."""


@dataclass(frozen=True)
class SearchSizes:
    """Sizes of one search: what is in use of its buffers, not their capacity.

    Attributes:
        systems, atoms, edges: S, N, E.
        rows: an atom has one, or with all pairs several pieces of one.
        words: of 32 candidates each, those of all atoms together; none where one kernel did without. tests: candidates, in words or
            not. hits: words that hold an edge.
        test_operations, edge_operations: of all of them, as all pairs work out images for each.
        cells: of the grids. around: cells to look at from each, together. listed: atoms in those, once for each cell.
    """

    systems: int
    atoms: int
    edges: int
    rows: int
    words: int
    tests: int
    hits: int
    test_operations: int = 0
    edge_operations: int = 0
    cells: int = 0
    around: int = 0
    listed: int = 0

    @classmethod
    def of(cls, search: BufferedSearch) -> SearchSizes:
        """Sizes of the last launch of a search, whose buffers must have sufficed; waits for the device."""
        algorithm, ends = search.algorithm, search.graph.system_ptr.long()
        atoms, edges = ends.diff(), search.graph.row_ptr[ends].long().diff()
        sizes = _of_pairs(algorithm, atoms, edges) if isinstance(algorithm, AllPairs) else _of_cells(algorithm)
        # The words in use lie beside each other: 32 bits each and, above them, how many came before.
        bits = algorithm.pool[: sizes["words"]] & 0xFFFFFFFF
        return cls(
            systems=int((atoms > 0).sum()),
            atoms=int(ends[-1]),
            edges=int(edges.sum()),
            rows=int(ends[-1]) * algorithm.pieces,
            hits=int((bits != 0).sum()),
            **sizes,
        )


def _of_pairs(algorithm: AllPairs, atoms: Tensor, edges: Tensor) -> dict[str, int]:
    """Sizes of an all-pairs search, from the lattices in its buffers and the atoms and edges of each structure.

    A test is three differences, their squares, two sums, a comparison. With images also the lowest shift along each axis, and
    theirs added; several of them take the number of each along each axis. An edge is three differences; with images the same
    again, and whether the shift can be stored; with several also as the neighbor sees them.
    """
    images, words_of_piece = algorithm.counts.view(-1, COUNTS.value)[: len(atoms), 2:4].long().unbind(1)
    frames = algorithm.frames.view(-1, FRAME.value)[: len(atoms)]
    periodic, several = (frames[:, 9:].sum(1) > 0).long(), (images > 1).long()  # reaches are zero along open directions
    skewed = (frames[:, [1, 2, 3, 5, 6, 7]] != 0).any(1)
    fraction = torch.where(skewed, FRACTION, 1)
    lowest, moved = 3 * (fraction + 2), 3 * (fraction + 1)
    tests = atoms**2 * images
    return {
        "words": int((atoms * words_of_piece).sum()) * algorithm.pieces,
        "tests": int(tests.sum()),
        "test_operations": int((tests * (9 + periodic * (lowest + moved) + several * 3)).sum()),
        "edge_operations": int((edges * (3 + periodic * (lowest + moved + 6) + several * (lowest + 13))).sum()),
    }


def _of_cells(algorithm: Cells) -> dict[str, int]:
    """Sizes of a search by cells, from the tables in its buffers; cells without atoms have none."""
    cells = int(algorithm.cells_end)
    members = algorithm.cell_ptr[: cells + 1].long().diff()
    candidates = torch.where(members > 0, algorithm.info.view(-1, INFO.value)[:cells, 2], 0).long()
    grids = algorithm.grid.view(-1, GRID.value)
    numbers = torch.arange(cells, dtype=torch.int32, device=grids.device)
    structure = torch.searchsorted(grids[:, 6].contiguous(), numbers, right=True) - 1
    around = (2 * grids[:, 3:6] + 1).prod(1)[structure]
    return {
        "words": int((members * ((candidates + 31) // 32)).sum()),
        "tests": int((members * candidates).sum()),
        "cells": cells,
        "around": int(around[members > 0].sum()),
        "listed": int(candidates.sum()),
    }


def search_costs(search: BufferedSearch) -> dict[str, Cost]:
    """Cost of the kernels of the last launch, by name."""
    sizes = SearchSizes.of(search)
    return {kernel: cost(sizes) for kernel, cost in KERNELS[type(search.algorithm)].items()}


def _pairs_count(s: SearchSizes) -> Cost:
    """Positions, cells and periodic directions to words; lattices, and of each row the degree and where its words are."""
    return Cost(
        24 * s.atoms + 200 * s.systems + 8 * s.words + 8 * s.rows, s.test_operations + LATTICE * s.systems, "arithmetic"
    )


def _rows(s: SearchSizes) -> Cost:
    """Degrees to where rows begin, and where pieces do if there are any; bounds of structures."""
    pieces = 4 * s.rows if s.rows > s.atoms else 0
    return Cost(4 * s.rows + pieces + 4 * s.atoms + 8 * s.systems, 0.0, "arithmetic")


def _pairs_fill(s: SearchSizes) -> Cost:
    """Words with edges, where those of a row begin and where its edges do; of an atom position, element and structure.

    Out go 24 bytes an edge. The search for an edge's word also looks at words without any, how many depends on where they are.
    """
    moved = 8 * s.hits + 8 * s.rows + 36 * s.atoms + 188 * s.systems + 24 * s.edges
    return Cost(moved, s.edge_operations, "arithmetic")


def _pairs_in_one(s: SearchSizes) -> Cost:
    """All of it in one kernel. Alone, a program also writes what it passes on to itself; else each writes its row and that is all.

    Every program then tests all pairs, but what was asked is one test of each: the rest is the price of a single launch.
    """
    passed_on = 8 * s.words + 8 * s.rows + 4 * s.atoms + 12 * s.systems if s.words else 0
    moved = 36 * s.atoms + 196 * s.systems + 24 * s.edges + passed_on
    return Cost(moved, s.test_operations + s.edge_operations + LATTICE * s.systems, "arithmetic")


def _frame(s: SearchSizes) -> Cost:
    """A lattice, the first atom's place in it, an empty bounding box."""
    return Cost(260 * s.systems, LATTICE * s.systems, "arithmetic")


def _box(s: SearchSizes) -> Cost:
    """Whether positions are finite. Along open directions also the fraction, rounded outward: a few operations, not counted."""
    return Cost(28 * s.atoms + 12 * s.systems, float(FINITE * s.atoms), "arithmetic")


def _grid(s: SearchSizes) -> Cost:
    """From lattice and bounding box to cells; the lattice in whole steps.

    How often cells are made coarser before they are few enough is not counted.
    """
    return Cost(264 * s.systems, 215.0 * s.systems, "arithmetic")


def _bin(s: SearchSizes) -> Cost:
    """Position and structure in; cell, number within it and shift of an atom out; each cell's count of atoms raised.

    Along each axis nine operations from the fraction to the cell; nine more on whether the shift can be stored.
    """
    per_atom = FINITE + 3 * (FRACTION + 9) + 9
    return Cost(40 * s.atoms + 208 * s.systems + 8 * s.cells, per_atom * s.atoms, "arithmetic")


def _scan(s: SearchSizes) -> Cost:
    """Counts of atoms in, zeros out; where each cell begins."""
    return Cost(12 * s.cells, 0.0, "arithmetic")


def _scatter(s: SearchSizes) -> Cost:
    """Cell and number within it in, atoms by cell out."""
    return Cost(12 * s.atoms + 4 * s.cells, 0.0, "arithmetic")


def _order(s: SearchSizes) -> Cost:
    """44 bytes of each atom in, gathered; 76 out, in the order of the cells.

    Its position goes out as given, within the cell, and in whole steps, which take five operations an axis.
    """
    return Cost(120 * s.atoms + 4 * s.cells + 96 * s.systems, (FINITE + 3 + OFFSET + 15) * s.atoms, "arithmetic")


def _table(s: SearchSizes) -> Cost:
    """Where cells begin in; five of the six numbers of each cell around, and from which of them each candidate comes, out."""
    return Cost(32 * s.cells + 20 * s.around + 4 * s.listed + 44 * s.systems, 0.0, "arithmetic")


def _cells_count(s: SearchSizes) -> Cost:
    """Tables, lists and wrapped positions to words, and how many edges came before each; two numbers of a table's entry.

    Of an entry four numbers go in and two out; a fifth, how many atoms there are, is little beside them and left out.

    A test is three fused multiply-adds, and comparisons with the cutoff and with the rounding. What is done once for a candidate
    and all rows of a program, and the few tests that float64 decides, are left out.
    """
    moved = 32 * s.cells + 24 * s.around + 4 * s.listed + 28 * s.atoms + 12 * s.words + 92 * s.systems
    return Cost(moved, 9.0 * s.tests, "arithmetic")


def _cells_fill(s: SearchSizes) -> Cost:
    """Rows, cells, positions in whole steps, words with edges and how many came before each in; 24 bytes an edge out.

    Of tables and lists only that is needed to which edges lead, little beside the edges themselves: left out, as are the
    images of the few edges that leave the cell.
    """
    moved = 24 * s.cells + 28 * s.atoms + 12 * s.hits + 36 * s.systems + 24 * s.edges
    return Cost(moved, 3.0 * s.edges, "arithmetic")


KERNELS: dict[type, dict[str, Callable[[SearchSizes], Cost]]] = {
    OneKernel: {"all_pairs_kernel": _pairs_in_one},
    AllPairs: {
        "all_pairs_count_kernel": _pairs_count,
        "rows_kernel": _rows,
        "all_pairs_fill_kernel": _pairs_fill,
    },
    Cells: {
        "cells_frame_kernel": _frame,
        "cells_box_kernel": _box,
        "cells_grid_kernel": _grid,
        "cells_bin_kernel": _bin,
        "cells_scan_kernel": _scan,
        "cells_scatter_kernel": _scatter,
        "cells_order_kernel": _order,
        "cells_table_kernel": _table,
        "cells_count_kernel": _cells_count,
        "rows_kernel": _rows,
        "cells_fill_kernel": _cells_fill,
    },
}
"""By algorithm and name: each is launched once."""
