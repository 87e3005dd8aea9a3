"""What competes in the search of neighbours: AtomJet's algorithms, and other libraries through its adapters or as they are."""

from __future__ import annotations

from importlib import import_module

from atomjet.bench.contender import Search, Unavailable
from atomjet.data import Graph, System
from atomjet.errors import BackendError
from atomjet.neighbors import OTHERS, cpu, search

BRUTE = {"cpu": 2000, "cuda": 20_000}
"""Atoms of one structure beyond which all pairs take minutes."""


def build(name: str, systems: list[System], cutoff: float) -> Search:
    """Make a search ready.

    Args:
        name: one of those that suite `neighbors` knows.
        systems: a case's structures, on the device, with all positions that it will be called with. cutoff: Å.

    Raises:
        Unavailable: not installed, or it does not serve such structures, so many atoms, or this device.
    """
    if name in ("vesin_torch", "vesin_torch_pairs", "torchmd_net"):
        return getattr(import_module("atomjet.bench.peers.searches"), name)(systems, cutoff)
    if name == "captured":
        return _captured(systems, cutoff)
    if name == "vesin":
        return _vesin(cutoff)
    device = systems[0].device.type
    if name == "brute_force" and int(systems[0].counts().max()) > BRUTE[device]:
        raise Unavailable(f"all pairs of more than {BRUTE[device]:,} atoms on {device}")
    return _search_by(name, systems[0], cutoff)


def _search_by(name: str, system: System, cutoff: float) -> Search:
    """A search that makes a `Graph` where the structures live."""
    algorithm = "auto" if name == "search" else name
    includes = {
        "search": "AtomJet's choice for this device; the list stays on the device",
        "brute_force": "all pairs, the definition; the list stays on the device",
    }.get(name) or f"{OTHERS[name]} on this device, tested again and brought into order by AtomJet's adapter"

    def call(system: System) -> Graph:
        return search(system, cutoff, algorithm)

    try:
        call(system)
    except BackendError as error:
        raise Unavailable(str(error)) from None
    return Search(call, call, includes)


def _vesin(cutoff: float) -> Search:
    def graph(system: System) -> Graph:
        return cpu.search(system.to("cpu"), cutoff)

    includes = "vesin on the CPU; positions copied from the device and edge vectors back to it"
    return Search(lambda system: graph(system).vectors.to(system.device), graph, includes)


def _captured(systems: list[System], cutoff: float) -> Search:
    if systems[0].device.type != "cuda":
        raise Unavailable("is a CUDA graph; it needs a GPU")
    from atomjet.bench.captured_search import CapturedSearch

    captured = CapturedSearch(systems[0], cutoff)
    for system in systems:  # all positions that calls will have: none of them may overflow in silence
        captured.check(system.positions)
    includes = (
        "positions copied into the fixed buffers, AtomJet's kernels replayed; rows, neighbors, shifts, vectors and reverse edges "
        "stay there, in the order of the search"
    )
    return Search(
        lambda moved: captured(moved.positions), lambda moved: captured.graph(moved.positions), includes, True
    )
