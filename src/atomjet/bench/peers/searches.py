"""Other libraries' neighbour searches on the device, as they are: nothing tested again, nothing brought into order."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from atomjet.bench.captured_steps import capacity_for, captured
from atomjet.bench.contender import Search, Unavailable
from atomjet.bench.measure import synchronize
from atomjet.data import Graph, System
from atomjet.neighbors import search
from atomjet.neighbors.brute_force import assemble, canonical_order, complete_cells

ALL_PAIRS = 20_000
"""Atoms beyond which all pairs are not tried."""

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""Result of torchmd-net, padded to its capacity of P pairs: atoms (2, P), x_i - x_j of the nearest image (P, 3), lengths (P,), and
how many pairs there are (1,), whether the buffers hold them or not.
"""


def vesin_torch_pairs(systems: list[System], cutoff: float) -> Search:
    """vesin-torch 0.6 for less than `neighbor_list` returns: pairs and shifts, no vectors, no order; what it does at its fastest.

    Raises:
        Unavailable: see `vesin_torch`.
    """
    return vesin_torch(systems, cutoff, vectors=False)


def vesin_torch(systems: list[System], cutoff: float, vectors: bool = True) -> Search:
    """vesin-torch 0.6, for what `neighbor_list` returns too: its vectors, or its pairs and vectors from those, whichever is faster.

    Without `vectors` its pairs alone.

    Raises:
        Unavailable: not installed or not for this version of PyTorch; several structures.
    """
    try:
        from vesin_torch import NeighborList
    except (ImportError, OSError) as error:
        raise Unavailable(f"vesin-torch cannot be loaded ({error}); pip install vesin-torch") from None
    if systems[0].num_systems > 1:
        raise Unavailable("vesin-torch searches one structure at a time")
    finder = NeighborList(cutoff=cutoff, full_list=True)
    cell, pbc = complete_cells(systems[0])[0].to(systems[0].dtype), systems[0].pbc[0]

    def its_vectors(system: System) -> list[Tensor]:
        return finder.compute(system.positions, cell, pbc, "ijSD", copy=True)

    def vectors_from_pairs(system: System) -> list[Tensor]:
        i, j, shifts = pairs(system)
        x = system.positions
        return [i, j, shifts, torch.addmm(x.index_select(0, j) - x.index_select(0, i), shifts.to(x.dtype), cell)]

    def pairs(system: System) -> list[Tensor]:
        return finder.compute(system.positions, cell, pbc, "ijS", copy=True)

    methods = {"its own vectors": its_vectors, "pairs, and vectors worked out from them": vectors_from_pairs}
    if not vectors:
        methods = {"pairs alone": pairs}
    for method in methods.values():
        method(systems[0])
    chosen = min(methods, key=lambda name: _seconds(lambda: methods[name](systems[0]), systems[0].device))

    def graph(system: System) -> Graph:
        centers, neighbors, shifts = methods[chosen](system)[:3]
        return _graph(system, centers.long(), neighbors.long(), shifts.long(), cutoff)

    includes = (
        f"vesin-torch on this device, in float64, asked for {chosen}: centers, neighbors, shifts{' and vectors' * vectors} "
        "in tensors of their own, in no order"
    )
    return Search(methods[chosen], graph, includes)


def torchmd_net(systems: list[System], cutoff: float) -> Search:
    """torchmd-net 3: all pairs, or cells where they serve, whichever is faster on the case; on a GPU in a CUDA graph.

    Raises:
        Unavailable: not installed, or boxes that it does not know.
        RuntimeError: more pairs than the buffers hold.
    """
    try:  # its extensions alone, which need Warp and nothing else that its package asks for
        from torchmdnet.extensions.neighbor_utils import get_cell_dimensions
        from torchmdnet.extensions.warp_ops.neighbors import warp_neighbor_pairs
    except ImportError as error:
        reason = f"torchmd-net cannot be imported ({error}); pip install --no-deps torchmd-net warp-lang"
        raise Unavailable(reason) from None
    first = systems[0]
    strategies, periodic = strategies_for(first), bool(first.pbc.any())
    box = _box(first, cutoff)
    cells = int(get_cell_dimensions(*box[0].diagonal(), cutoff).prod())
    capacity = capacity_for(search(first, cutoff).num_edges)
    positions = first.positions.clone()

    def work(strategy: str) -> Found:
        return warp_neighbor_pairs(
            strategy, positions, first.system_index, box, periodic, 0.0, cutoff, capacity, False, True, cells
        )

    ready = {strategy: replayed_work(lambda s=strategy: work(s), first.device) for strategy in strategies}
    chosen = min(ready, key=lambda strategy: _seconds(ready[strategy], first.device))
    run = ready[chosen]

    def call(system: System) -> Found:
        positions.copy_(system.positions)
        return run()

    def graph(system: System) -> Graph:
        pairs, offsets, _, number = call(system)
        _check(number, capacity)
        centers, neighbors = pairs[:, : int(number)]
        # It says no shift: what its vectors have beyond the positions is whole cells.
        beyond = system.positions[centers] - system.positions[neighbors] - offsets[: len(centers)]
        inverse = torch.linalg.inv(complete_cells(system))[system.system_index[centers]]
        shifts = torch.einsum("ea,eak->ek", beyond.double(), inverse).round().long()
        return _graph(system, centers, neighbors, shifts, cutoff)

    for system in systems:  # all positions that calls will have: none of them may lose pairs in silence
        _check(call(system)[3], capacity)
    graphed = ", replayed as a CUDA graph" if first.device.type == "cuda" else ""
    includes = (
        f"positions copied into a fixed buffer, torchmd-net's strategy {chosen} in {str(first.dtype)[6:]}{graphed}: pairs, vectors "
        "and lengths, in no order and padded; no shifts"
    )
    return Search(call, graph, includes, enqueues=True)


def strategies_for(system: System) -> list[str]:
    """Names of torchmd-net's strategies that serve such structures."""
    periodic, cell = system.pbc.any(), system.cell
    if periodic and not system.pbc.all():
        raise Unavailable("torchmd-net knows boxes that are periodic in all directions or in none")
    if bool(cell.triu(1).any()):
        raise Unavailable("torchmd-net knows boxes whose first vector is along x, the second in the plane of x and y")
    served = ["brute"] if system.num_atoms <= ALL_PAIRS else []
    if not periodic or (system.num_systems == 1 and not bool(cell.tril(-1).any())):
        served.append("cell")
    if not served:
        raise Unavailable(
            f"torchmd-net's cells serve one rectangular box or none; all pairs of more than {ALL_PAIRS:,} atoms are not tried"
        )
    return served


def _box(system: System, cutoff: float) -> Tensor:
    """(S, 3, 3) boxes; without any (1, 3, 3), what its cells divide: around the origin, atoms outside are in those at the edge."""
    if system.pbc.any():
        return system.cell.to(system.dtype)
    side = max(3 * cutoff, 2 * float(system.positions.abs().max()))
    return side * torch.eye(3, dtype=system.dtype, device=system.device)[None]


def replayed_work(work: Callable[[], Found], device: torch.device) -> Callable[[], Found]:
    """The work, compiled; on a GPU as a CUDA graph, whose results are always in the same place."""
    work()
    if device.type != "cuda":
        return work
    synchronize(device)
    found: list[Found] = []
    replay = captured(lambda: found.append(work()))

    def replayed() -> Found:
        replay()
        return found[0]

    return replayed


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of the fastest of three calls, s; each is waited for."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _check(number: Tensor, capacity: int) -> None:
    if int(number) > capacity:
        raise RuntimeError(f"torchmd-net found {int(number):,} pairs and had room for {capacity:,}; make SPARE larger")


def _graph(system: System, centers: Tensor, neighbors: Tensor, shifts: Tensor, cutoff: float) -> Graph:
    order = canonical_order(centers, neighbors, shifts, system.num_atoms)
    return assemble(system, centers[order], neighbors[order], shifts[order], cutoff)
