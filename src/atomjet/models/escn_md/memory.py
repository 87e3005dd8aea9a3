"""How many edges fit into memory at once, and how a graph is cut where they do not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from atomjet.data import Graph
from atomjet.models.escn_md.config import EscnMdConfig

SHARE = {"cpu": 0.25, "cuda": 0.6}
"""Part of the memory that one evaluation may take."""

SMALLEST = 1024
"""Edges that are taken together even where memory seems to be full."""


def total_bytes(device: torch.device) -> int:
    """Memory of the GPU or of the machine. Not what is free of it now: equal calls shall be cut, and round, equally."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bytes_per_edge(config: EscnMdConfig, dtype: torch.dtype) -> int:
    """What autograd keeps of one edge in one layer: inputs, products and outputs of every step, counted from their shapes."""
    counts = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    rows = 2 * sum(counts) - counts[0]
    pair, hidden = 2 * config.channels, config.hidden_channels
    gathered = 2 * (config.lmax + 1) ** 2 * pair
    packed = 4 * rows * pair + sum(counts) * pair
    convolved = 2 * 4 * rows * hidden + 2 * config.lmax * hidden
    returned = 2 * rows * config.channels + 2 * (config.lmax + 1) ** 2 * config.channels
    radial = 8 * config.edge_channels
    return (gathered + packed + convolved + returned + radial) * dtype.itemsize


def edges_at_once(config: EscnMdConfig, device: torch.device, dtype: torch.dtype, layers: int) -> int:
    """Edges of which `layers` layers fit into the share of the memory."""
    share = SHARE[device.type] * total_bytes(device)
    return max(SMALLEST, int(share / (bytes_per_edge(config, dtype) * layers)))


def keeps(config: EscnMdConfig, device: torch.device, dtype: torch.dtype, edges: int) -> bool:
    """Whether what the products of every layer give, 11 H + 21 C numbers an edge, fits into half of the share (lmax = mmax = 2)."""
    numbers = 11 * config.hidden_channels + 21 * config.channels
    return 2 * edges * config.layers * numbers * dtype.itemsize <= SHARE[device.type] * total_bytes(device)


def rows(graph: Graph, atoms: slice, edges: slice, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut a run of atoms into pieces of whole rows with about `limit` edges: (atoms, edges) of each; one row may exceed it."""
    if edges.stop - edges.start <= limit:
        yield atoms, edges
        return
    starts = graph.row_ptr[atoms.start : atoms.stop + 1]
    first = atoms.start
    while first < atoms.stop:
        begin = int(starts[first - atoms.start])
        after = int(torch.searchsorted(starts, begin + limit, right=True)) + atoms.start - 1
        last = min(max(after, first + 1), atoms.stop)
        yield slice(first, last), slice(begin, int(starts[last - atoms.start]))
        first = last
