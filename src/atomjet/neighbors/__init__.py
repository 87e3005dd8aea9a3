"""`System` to `Graph`: which atoms see each other."""

from __future__ import annotations

from typing import Any

import torch

from atomjet.data import Graph, System
from atomjet.errors import ConfigError
from atomjet.neighbors import cpu
from atomjet.neighbors.brute_force import brute_force, count_candidates

__all__ = ["brute_force", "neighbor_list", "search"]


def neighbor_list(structures: Any, cutoff: float, device: torch.device | str | None = None) -> Graph:
    """Find all pairs of atoms closer than the cutoff, periodic images included.

    Args:
        structures: ase.Atoms, a list of them, or a `System`.
        cutoff: Å; pairs strictly closer are edges.
        device: where the graph shall live. Default: where the `System` is, the CPU for ase.Atoms.

    Raises:
        StructureError: see `System`; also for a cell so thin that millions of images lie within the cutoff.
        ConfigError: the cutoff is not a positive number.
    """
    if not (isinstance(cutoff, int | float) and 0 < cutoff < float("inf")):
        raise ConfigError(f"cutoff is {cutoff!r}; it must be a positive number of Å")
    if device is None:
        device = structures.device if isinstance(structures, System) else "cpu"
    dtype = structures.dtype if isinstance(structures, System) else torch.float64
    return search(System.from_ase(structures, device=device, dtype=dtype), cutoff)


ALL_PAIRS = 5_000_000
"""Candidates (atoms² x images, over the batch) up to which testing all of them on a GPU beats a trip to the CPU and back."""


def search(system: System, cutoff: float) -> Graph:
    """Choose the route: vesin's cell lists on the CPU; on a GPU all pairs there while they are few, else the same and back."""
    if system.device.type == "cpu":
        return cpu.search(system, cutoff)
    if count_candidates(system, cutoff) <= ALL_PAIRS:
        return brute_force(system, cutoff)
    return cpu.search(system.to("cpu"), cutoff).to(system.device)
