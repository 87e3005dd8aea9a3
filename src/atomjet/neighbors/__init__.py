"""`System` to `Graph`: which atoms see each other."""

from __future__ import annotations

from typing import Any

import torch

from atomjet.data import Graph, System
from atomjet.errors import ConfigError
from atomjet.neighbors import cpu
from atomjet.neighbors.brute_force import brute_force

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


def search(system: System, cutoff: float) -> Graph:
    """Choose the route: vesin's cell lists for structures on the CPU, all pairs on the device for those on a GPU."""
    return cpu.search(system, cutoff) if system.device.type == "cpu" else brute_force(system, cutoff)
