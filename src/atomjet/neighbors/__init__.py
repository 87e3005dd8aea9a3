"""`System` to `Graph`: which pairs of atoms are edges."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from typing import Any

import torch

from atomjet.data import Graph, System
from atomjet.data.device import checked_device
from atomjet.errors import BackendError, ConfigError
from atomjet.neighbors import cpu
from atomjet.neighbors.brute_force import brute_force, check_resolution

__all__ = ["OTHERS", "brute_force", "check_resolution", "check_search", "neighbor_list", "search"]

OTHERS = {
    "brute_force": "atomjet",
    "vesin": "vesin",
    "torch_cluster": "torch-cluster",
    "nvalchemi": "nvalchemi-toolkit-ops",
}
"""Searches that a user may choose by name, and the package that holds each; "auto" is AtomJet's own choice."""


LONGEST_CUTOFF = 1e9
"""Å. Squares of anything longer leave the range in which distances are compared."""


def neighbor_list(
    structures: Any, cutoff: float, device: torch.device | str | None = None, neighbors: str = "auto"
) -> Graph:
    """Find all pairs of atoms closer than the cutoff, periodic images included.

    Args:
        structures: ase.Atoms, a list of them, or a `System`.
        cutoff: Å; pairs strictly closer are edges.
        device: where the graph shall live. Default: where the `System` is, the CPU for ase.Atoms.
        neighbors: what searches: "auto", or one of `OTHERS`, which find the same edges, to compare.

    Raises:
        StructureError: see `System`; also for a cell so thin that millions of images lie within the cutoff, and for atoms so far
            out that their coordinates no longer resolve a thousandth of it.
        ConfigError: the cutoff is not a positive number, or the search or the device is not known.
        BackendError: a device that is not there; a search that is not installed, or does not serve these structures.
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, Real) or not 0 < cutoff <= LONGEST_CUTOFF:
        raise ConfigError(f"cutoff is {cutoff!r}; it must be a positive number of Å, of at most {LONGEST_CUTOFF:g}")
    cutoff = float(cutoff)
    if device is not None:
        device = checked_device(device)
    else:
        device = structures.device if isinstance(structures, System) else "cpu"
    dtype = structures.dtype if isinstance(structures, System) else torch.float64
    return search(System.from_ase(structures, device=device, dtype=dtype), cutoff, neighbors)


def search(system: System, cutoff: float, neighbors: str = "auto") -> Graph:
    """Edges of a `System` within the cutoff, as `neighbor_list` finds them, on the device that it is on.

    "auto" takes vesin's cell lists on the CPU. On a GPU it takes AtomJet's kernels; what those cannot hold (atoms hundreds of cells
    away from their own, no Triton) goes to the CPU and back.
    """
    if neighbors != "auto":
        check_resolution(system, cutoff)
        return _other(neighbors)(system, cutoff)
    if system.device.type == "cuda" and find_spec("triton"):
        from atomjet.neighbors import gpu

        found = gpu.search(system, cutoff)
        if found is not None:
            return found
    check_resolution(system, cutoff)
    return _by_vesin(system, cutoff)


def check_search(name: str) -> None:
    """Refuse an unknown search.

    Raises:
        ConfigError: neither "auto" nor one of `OTHERS`.
    """
    if name != "auto" and name not in OTHERS:
        raise ConfigError(f"neighbors {name!r} is unknown; choose one of auto, {', '.join(OTHERS)}")


def _by_vesin(system: System, cutoff: float) -> Graph:
    return cpu.search(system.to("cpu"), cutoff).to(system.device)


def _other(name: str) -> Any:
    """The function of the search with this name."""
    check_search(name)
    if name in ("brute_force", "vesin"):
        return brute_force if name == "brute_force" else _by_vesin
    try:
        return import_module(f"atomjet.neighbors.{name}").search
    except ImportError as error:
        raise BackendError(
            f"neighbors={name!r} needs {OTHERS[name]} ({error}); pip install {OTHERS[name]}, or leave the choice to AtomJet"
        ) from None
