"""How many edges fit into memory at once; and how many bytes a call takes."""

from __future__ import annotations

import os

import torch

from atomjet.data import Graph
from atomjet.models.escn_md.config import EscnMdConfig

SHARE = {"cpu": 0.25, "cuda": 0.6}
"""Share of the memory that one evaluation may take, by type of device."""

SMALLEST = 1024
"""Edges of a chunk, at least, even where memory seems to be full: with fewer, launching kernels costs more than running them."""


def total_bytes(device: torch.device) -> int:
    """Memory of the GPU or of the machine. Not what is free of it now: equal calls shall be divided, and round, equally."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bytes_per_edge(config: EscnMdConfig, dtype: torch.dtype) -> int:
    """What autograd saves of one edge in one layer: inputs, products and outputs of every step, counted from their shapes."""
    counts = [config.lmax + 1 - m for m in range(config.mmax + 1)]
    rows = 2 * sum(counts) - counts[0]
    pair, hidden = 2 * config.channels, config.hidden_channels
    gathered = (config.lmax + 1) ** 2 * pair + rows * pair
    packed = rows * pair + sum(counts) * pair
    convolved = 3 * rows * hidden + 3 * config.lmax * hidden
    returned = rows * config.channels + (config.lmax + 1) ** 2 * config.channels
    radial = 8 * config.edge_channels
    return (gathered + packed + convolved + returned + radial) * dtype.itemsize


def edges_at_once(config: EscnMdConfig, device: torch.device, dtype: torch.dtype, layers: int) -> int:
    """Edges of which `layers` layers fit into the share of the memory."""
    share = SHARE[device.type] * total_bytes(device)
    return max(SMALLEST, int(share / (bytes_per_edge(config, dtype) * layers)))


def bytes_by_autograd(config: EscnMdConfig, graph: Graph, dtype: torch.dtype) -> int:
    """Upper estimate of what the definition takes for energies and their derivative; a test holds it against a measured peak."""
    device = graph.row_ptr.device
    fits = graph.num_edges <= edges_at_once(config, device, dtype, config.layers)
    at_once = config.layers * graph.num_edges if fits else 2 * edges_at_once(config, device, dtype, layers=2)
    lasting = 3 * (config.num_radial + 2 * config.edge_channels) + 4 * (config.lmax + 1) ** 4
    per_atom = 24 * config.layers * (config.lmax + 1) ** 2 * config.channels
    return bytes_per_edge(config, dtype) * at_once + dtype.itemsize * (
        lasting * graph.num_edges + per_atom * graph.num_atoms
    )


def bytes_dense(config: EscnMdConfig, graph: Graph, dtype: torch.dtype, at_once: int) -> int:
    """Upper estimate of the bytes that `fast_pytorch` takes, with `at_once` edges together."""
    networks = 1 + config.layers
    lasting = 2 * networks * config.edge_channels + 120
    if saves_outputs(config, graph.row_ptr.device, dtype, graph.num_edges):
        lasting += config.layers * (11 * config.hidden_channels + 21 * config.channels)
    passing = 6 * 18 * config.channels + 4 * 11 * config.hidden_channels + 6 * networks * config.edge_channels
    per_atom = (2 * config.layers + 24) * (config.lmax + 1) ** 2 * config.channels
    at_once = min(at_once, graph.num_edges)
    return dtype.itemsize * (lasting * graph.num_edges + passing * at_once + per_atom * graph.num_atoms)


def bytes_compiled(
    config: EscnMdConfig, graph: Graph, dtype: torch.dtype, storage_dtype: torch.dtype, at_once: int, tables: bool
) -> int:
    """Upper estimate of the bytes that `fast_pytorch` takes where its steps are compiled: features of edges are of the storage type
    `storage_dtype`, and none is saved but h and o; radial factors come from `tables`, or from the networks.
    """
    computed, stored, edges = dtype.itemsize, storage_dtype.itemsize, graph.num_edges
    hidden, channels = config.hidden_channels, config.channels
    lasting = 150 * computed + 18 * channels * stored  # what every edge gives its atoms, of one layer
    if not tables:
        lasting += 2 * (1 + config.layers) * config.edge_channels * computed
    if saves_outputs(config, graph.row_ptr.device, storage_dtype, edges):
        lasting += config.layers * (11 * hidden * stored + 9 * channels * computed)
    passing = (36 * channels + 31 * hidden) * stored + 9 * channels * computed
    if not tables:
        passing += (24 * channels + 6 * (1 + config.layers) * config.edge_channels) * computed
    per_atom = (2 * config.layers + 24) * (config.lmax + 1) ** 2 * channels * computed
    return lasting * edges + passing * min(at_once, edges) + per_atom * graph.num_atoms


def saves_outputs(config: EscnMdConfig, device: torch.device, dtype: torch.dtype, edges: int) -> bool:
    """Whether the outputs of every layer's products, 11 H + 21 C numbers an edge, fit into half of the share (lmax = mmax = 2)."""
    numbers = 11 * config.hidden_channels + 21 * config.channels
    return 2 * edges * config.layers * numbers * dtype.itemsize <= SHARE[device.type] * total_bytes(device)
