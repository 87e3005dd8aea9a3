"""A graph in chunks of whole rows."""

from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomjet import System
from atomjet.models.row_chunks import row_chunks
from atomjet.neighbors import search


@pytest.fixture(scope="module")
def graph():
    """Rows of unlike lengths, some without edges."""
    frames = [Atoms("H"), molecule("CH3CH2OH"), bulk("Cu", cubic=True), Atoms("He"), molecule("H2O")]
    return search(System.from_ase(frames), 4.0)


@pytest.mark.parametrize("limit", [1, 7, 20, 60, 10**6])
def test_whole_rows_in_order_and_no_more_than_fit(graph, limit):
    first, last = 2, graph.num_atoms - 1
    begin, end = graph.row_ptr[[first, last]].tolist()
    chunks = list(row_chunks(graph, limit, slice(first, last), slice(begin, end)))
    assert [atoms.start for atoms, _ in chunks] == [first, *(atoms.stop for atoms, _ in chunks[:-1])]
    assert chunks[-1][0].stop == last
    starts = graph.row_ptr.tolist()
    for atoms, edges in chunks:
        assert (edges.start, edges.stop) == (starts[atoms.start], starts[atoms.stop])
        assert edges.stop - edges.start <= limit or atoms.stop - atoms.start == 1
    # No chunk could have taken the next row too.
    for (_, edges), (after, _) in pairwise(chunks):
        assert starts[after.start + 1] - edges.start > limit
    assert np.diff(starts[first : last + 1]).sum() == end - begin
