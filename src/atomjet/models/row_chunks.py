"""A graph divided where its edges would not fit into memory, or into caches, all at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atomjet.data import Graph


def row_chunks(graph: Graph, limit: int, atoms: slice, edges: slice) -> Iterator[tuple[slice, slice]]:
    """Chunks of whole rows with at most `limit` edges, (atoms, edges) of each; a row that has more is a chunk by itself.

    Args:
        graph: its host copy of row bounds is made once, and only where there are several chunks.
        limit: edges of a chunk.
        atoms: a run of rows.
        edges: those of these rows.
    """
    if edges.stop - edges.start <= limit:
        yield atoms, edges
        return
    starts = graph.row_ptr[atoms.start : atoms.stop + 1].cpu().numpy()
    first = 0
    while first < len(starts) - 1:
        after = int(np.searchsorted(starts, starts[first] + limit, side="right")) - 1
        last = max(after, first + 1)
        yield slice(atoms.start + first, atoms.start + last), slice(int(starts[first]), int(starts[last]))
        first = last
