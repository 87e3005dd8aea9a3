"""Neighbour search on a GPU: a `System` into cached buffers, one CUDA graph, a `Graph` of its own out of them.

A search for a size that this thread has searched before waits for the device once, to learn how many edges there are; by then the
copy of the edges is under way, into tensors for a few more edges than the last such search found.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from triton.runtime import driver

from atomjet.data import Capacity, Graph, Status, System, SystemBuffers
from atomjet.data.capacity import has_images, likely_edges
from atomjet.neighbors.brute_force import RESOLVED
from atomjet.neighbors.buffered_search import BufferedSearch
from atomjet.neighbors.canonical import Edges, Starts, buffer_for, even, move_edges
from atomjet.neighbors.cells import Cells
from atomjet.ops import edge_vectors
from atomjet.ops.cuda_graph import Replayed

CACHE_SHARE, CACHE_BYTES_ON_CPU = 0.05, 256 << 20
"""Memory that a thread's cached buffers may take, least recently used first out: a share of a GPU's memory; bytes on a CPU."""

SPARE = 1.02
"""Edges that a result is allocated for, as a multiple of those of the last search of its size."""

MARGIN, SPARE_NEIGHBORS = 1.1, 8
"""Factor on the edges that a cell's density says, and neighbours more for each atom: with a short cutoff they come in shells."""

COPIED = 200_000
"""Edges up to which the result is made in cached buffers, by the CUDA graph, and copied from there: the host is quicker with
a copy than with a kernel. With more, moving edges twice takes longer than that.
"""


def search(system: System, cutoff: float) -> Graph | None:
    """Find the same edges as `brute_force` does; None where something else than too many edges is in the way.

    Raises:
        StructureError: more edges than can be counted.
    """
    index = system.device.index
    if system.device.type == "cuda" and index is not None and index != torch.cuda.current_device():
        with torch.cuda.device(index):  # kernels are launched on the current one
            return search(system, cutoff)
    buffers = cache.buffers_for(system, float(cutoff))
    while True:
        result, max_edges = buffers.launch(system)
        status, needed = buffers.wait()
        if status == Status.EDGES:
            buffers = cache.larger(buffers, needed)
            continue
        if status:
            return None
        buffers.last = needed
        if needed > max_edges:
            result, max_edges = buffers.moved(system, needed)
        return _graph(system, cutoff, Edges.of(result, max_edges, system.num_atoms, needed))


def to_graph(finder: BufferedSearch, given: SystemBuffers, system: System, edges: int) -> Graph:
    """What a search has left in its buffers, of these structures, as a `Graph`."""
    starts = Starts(finder.graph, isinstance(finder.algorithm, Cells))
    starts.enqueue()
    result = buffer_for(system.num_atoms, even(edges), system.device)
    move_edges(starts, given, result, even(edges), system.num_atoms)
    return _graph(system, finder.cutoff, Edges.of(result, even(edges), system.num_atoms, edges))


def _graph(system: System, cutoff: float, edges: Edges) -> Graph:
    vectors = edges.vectors
    if system.positions.requires_grad or system.cell.requires_grad:
        exact = edge_vectors.Edges(edges.centers, edges.neighbors, edges.shifts, system.system_index[edges.centers])
        vectors = edge_vectors.edge_vectors(system.positions.double(), system.cell.double(), exact)
    return Graph(
        centers=edges.centers,
        neighbors=edges.neighbors,
        shifts=edges.shifts,
        vectors=vectors.to(system.dtype),
        row_ptr=edges.row_ptr,
        atomic_numbers=system.atomic_numbers,
        system_index=system.system_index,
        charge=system.charge,
        spin=system.spin,
        cutoff=float(cutoff),
        task=system.task,
        charge_given=system.charge_given,
        spin_given=system.spin_given,
    )


@dataclass(frozen=True)
class _Written:
    """Tensors, and how often each had been written to."""

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, *tensors: Tensor) -> _Written | None:
        """None for tensors that do not count it."""
        if any(tensor.is_inference() for tensor in tensors):
            return None
        return cls(tensors, tuple(tensor._version for tensor in tensors))

    def describes(self, *tensors: Tensor) -> bool:
        """Whether these are the same tensors, unchanged since."""
        for known, version, tensor in zip(self.tensors, self.versions, tensors, strict=True):
            if tensor is not known or tensor._version != version:
                return False
        return True


class _Buffers:
    """What a search of one size uses again and again.

    Attributes:
        key: where they may be used. last: edges of the last search. bytes: what is held.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device) -> None:
        on_gpu, self.key = device.type == "cuda", _key(device, cutoff)
        self.finder = BufferedSearch(capacity, cutoff, device)
        self.given = SystemBuffers.empty(capacity, device)
        self.starts = Starts(self.finder.graph, isinstance(self.finder.algorithm, Cells))
        self.max_edges = even(capacity.edges)
        self.result = buffer_for(capacity.atoms, self.max_edges, device) if capacity.edges <= COPIED else None
        self.status = torch.zeros(1, dtype=torch.int32, pin_memory=on_gpu)
        self.needed = torch.zeros(1, dtype=torch.int64, pin_memory=on_gpu)
        self.stream = torch.cuda.current_stream(device) if on_gpu else None
        self.known = torch.cuda.Event() if on_gpu else None
        self.replayed = Replayed(self._work, torch.cuda.Stream(device) if on_gpu else None)
        self.composition: _Written | None = None
        self.cell: _Written | None = None
        self.positions = self.given.positions
        self.last = 0
        owners = (self, self.finder.graph, self.finder.algorithm, self.given, self.starts)
        tensors = {id(x): x for owner in owners for x in vars(owner).values() if isinstance(x, Tensor)}
        self.bytes = sum(tensor.nbytes for tensor in tensors.values())

    @property
    def capacity(self) -> Capacity:
        """How much fits."""
        return self.finder.capacity

    def _work(self) -> None:
        graph = self.finder.launch(self.given)
        self.status.copy_(graph.status, non_blocking=True)
        self.needed.copy_(graph.needed_edges, non_blocking=True)
        self.starts.enqueue()
        if self.result is not None:
            move_edges(self.starts, self.given, self.result, self.max_edges, self.capacity.atoms)

    def launch(self, system: System) -> tuple[Tensor, int]:
        """Enqueue the search, and the move of about as many edges as the last one found: the buffer, and its capacity."""
        with torch.no_grad():
            self._fill(system)
        self.replayed.enqueue()
        if self.known is not None:
            self.known.record(self.stream)
        if self.result is not None:
            return self.result.clone(), self.max_edges
        return self.moved(system, min(self.capacity.edges, math.ceil(SPARE * self.last)))

    def moved(self, system: System, max_edges: int) -> tuple[Tensor, int]:
        """Enqueue the move of so many edges."""
        max_edges = even(max_edges)
        result = buffer_for(system.num_atoms, max_edges, system.device)
        move_edges(self.starts, self.given, result, max_edges, system.num_atoms)
        return result, max_edges

    def wait(self) -> tuple[int, int]:
        """Wait for the search: its status, and the edges that it found or needs."""
        if self.known is not None:
            self.known.synchronize()
        return int(self.status), int(self.needed)

    def _fill(self, system: System) -> None:
        positions = system.positions
        if system.dtype == torch.float32:
            # Copied into float64 nothing shows any more that digits are missing.
            limit = RESOLVED * self.finder.cutoff / torch.finfo(torch.float32).eps
            positions = torch.where(positions.abs() <= limit, positions, 1e30)
        if not self.holds(system):
            self.given.fill(system)
            self.composition, self.cell = _Written.of(*_composition(system)), _Written.of(system.cell)
            self.positions = self.given.positions[: system.num_atoms]
        elif self.cell is None or not self.cell.describes(system.cell):
            self.given.cell[: system.num_systems].copy_(system.cell)
            self.cell = _Written.of(system.cell)
        self.positions.copy_(positions)

    def holds(self, system: System) -> bool:
        """Whether these very atoms stand in the buffers, wherever they were."""
        return self.composition is not None and self.composition.describes(*_composition(system))


def _composition(system: System) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors that a search depends on, beside positions and cells."""
    return system.system_index, system.atomic_numbers, system.pbc


def _key(device: torch.device, cutoff: float) -> tuple[object, ...]:
    # The stream's address as Triton has it: the object takes ten times as long.
    if device.type != "cuda":
        return device, cutoff
    return device, cutoff, driver.active.get_current_stream(device.index)  # type: ignore[attr-defined]


class _Cache(threading.local):
    """The buffers of a thread, those used last at the end. What a search leaves there is copied out before the next."""

    def __init__(self) -> None:
        self.all: list[_Buffers] = []

    def buffers_for(self, system: System, cutoff: float) -> _Buffers:
        """Those that served such structures before, or new ones for as many edges as there should be."""
        key = _key(system.device, cutoff)
        for known in reversed(self.all):
            if known.key == key and known.holds(system):
                return self._used(known)
        wanted = _likely(system, cutoff)
        for known in reversed(self.all):
            if known.key == key and serves(known.capacity, wanted):
                return self._used(known)
        sizes = wanted.systems, wanted.atoms, wanted.edges, wanted.atoms_per_system
        systems, atoms, edges, largest = (_rounded(n) for n in sizes)
        return self._add(_Buffers(Capacity(systems, atoms, edges, largest, wanted.images), cutoff, system.device))

    def larger(self, buffers: _Buffers, needed: int) -> _Buffers:
        """Others in their place, for so many edges."""
        self.all = [each for each in self.all if each is not buffers]
        capacity = replace(buffers.capacity, edges=_rounded(needed))
        return self._add(_Buffers(capacity, buffers.finder.cutoff, buffers.finder.device))

    def _used(self, buffers: _Buffers) -> _Buffers:
        if buffers is not self.all[-1]:
            self.all.append(self.all.pop(self.all.index(buffers)))
        return buffers

    def _add(self, buffers: _Buffers) -> _Buffers:
        self.all.append(buffers)
        while self.all and sum(each.bytes for each in self.all) > _allowed(buffers.finder.device):
            self.all.pop(0)
        return buffers


cache = _Cache()


def _allowed(device: torch.device) -> float:
    if device.type != "cuda":
        return CACHE_BYTES_ON_CPU
    return CACHE_SHARE * torch.cuda.get_device_properties(device).total_memory


def serves(capacity: Capacity, wanted: Capacity) -> bool:
    """Whether a search of some capacity will do for another."""
    enough = all(getattr(capacity, name) >= getattr(wanted, name) for name in ("systems", "atoms", "edges"))
    alike = wanted.atoms_per_system <= capacity.atoms_per_system <= 2 * wanted.atoms_per_system + 64
    alike &= wanted.images == capacity.images
    return enough and alike and capacity.atoms <= 2 * wanted.atoms + 64 and capacity.systems <= 2 * wanted.systems + 64


def _rounded(number: int) -> int:
    """A little more, so that the next may be a little larger."""
    return number + number // 8


def _likely(system: System, cutoff: float) -> Capacity:
    """What structures will take: atoms of the largest, rather more edges than there should be, whether there are images."""
    if not system.num_systems:
        return Capacity(0, 0, 0, 0, False)
    counts = system.counts()
    edges = likely_edges(counts, system.cell, system.pbc, cutoff, MARGIN, SPARE_NEIGHBORS)
    found = counts.max().double(), edges.sum(), has_images(system.cell.detach(), system.pbc, cutoff).double()
    largest, edges, images = torch.stack(found).tolist()
    return Capacity(system.num_systems, system.num_atoms, int(edges), int(largest), bool(images))
