"""The graph of a call divided into chunks: whole rows of systems with one blend, as many edges as are taken together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.models.escn_md.experts import Blends, runs
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.row_chunks import row_chunks


class Product(NamedTuple):
    """The three products of a convolution, (in, out) each, and the bias of m = 0."""

    weights: tuple[Tensor, Tensor, Tensor]
    bias: Tensor


class Chunk(NamedTuple):
    """A run of whole rows and its edges, all of systems with one blend."""

    atoms: slice
    edges: slice
    row_ptr: Tensor  # starting at zero
    rows: Tensor  # (e,) center of each edge, counted from the first row
    center: Tensor  # (e,)
    neighbor: Tensor  # (e,)
    pairs: Tensor  # (e, 2) neighbor and center
    products: list[tuple[Product, Product]]  # of each layer


def divide(model: EscnMd, blends: Blends, graph: Graph, limit: int) -> tuple[list[Chunk], Tensor]:
    """The graph in chunks of about `limit` edges, and the embedding (N, C) of each atom's system, ghosts' too."""
    chunks, embeddings = [], []
    for run in runs(model, graph):
        embedding, products = blends.of(model, run.key)
        embeddings.append(embedding.expand(run.systems.stop - run.systems.start, -1))
        for atoms, edges in row_chunks(graph, limit, run.atoms, run.edges):
            center, neighbor = graph.centers[edges], graph.neighbors[edges]
            pairs = torch.stack([neighbor, center], dim=1)
            row_ptr = graph.row_ptr[atoms.start : atoms.stop + 1] - edges.start
            chunks.append(Chunk(atoms, edges, row_ptr, center - atoms.start, center, neighbor, pairs, products))
    return chunks, torch.cat(embeddings)[graph.system_index]
