"""`PaddedRoute`: structures to predictions through buffers of fixed size and CUDA graphs.

What a structure must satisfy is checked where it costs least: elements, charges and tasks on the host before anything is
enqueued; everything that follows from geometry on the device, in the same pass as the answer. A status that says "no" sends the
structures down the slow way, which names atom and limit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomjet.data import Capacity, PaddedSystem, Prediction, Status, System, frames_of
from atomjet.data.padded import has_images
from atomjet.engine import streams
from atomjet.engine.capacity import choose, fits, grown, likely_edges, refusal
from atomjet.engine.evaluation import Evaluation, Stages
from atomjet.engine.pool import StepPool
from atomjet.engine.step import Composition, Step
from atomjet.errors import StructureError
from atomjet.neighbors.brute_force import complete_cells

REMEMBERED, LARGEST_REMEMBERED = 4096, 256
"""Sizes whose capacity is remembered, so that an overflow happens once; compositions that are known to be served, of so many atoms
at most."""

EVERYWHERE = [True, True, True]

SAID = ("charge", "spin", "task")
"""What a structure may say of itself, and must then be checked."""


@dataclass(frozen=True)
class _Batch:
    """`ase.Atoms` that are computed together, their atoms, and their places in the list they are picked from, if they are."""

    frames: Sequence[Any]
    counts: list[int]
    labels: Sequence[int] | None = None

    def pick(self, which: Sequence[int]) -> _Batch:
        """Some of them."""
        labels = which if self.labels is None else [self.labels[k] for k in which]
        return _Batch([self.frames[k] for k in which], [self.counts[k] for k in which], labels)


@dataclass(frozen=True)
class _Call:
    """A batch under way, or without a step one that turned out too large."""

    step: Step | None
    batch: _Batch


@dataclass(frozen=True)
class _Asked:
    """What was asked of a `System`'s device, and of which atoms."""

    atoms: Composition
    counts: list[int]
    periodic: list[bool]


class PaddedRoute:
    """The way of an engine whose evaluator works in buffers of fixed size. Threads may share it.

    Args:
        stages: what evaluates.
        cutoff: Å.
        elements: atomic numbers that are served.
        check: raises `StructureError` for a system that the model does not serve.
        slow: the same answer with every check, for what the device refuses.
        capture: False to launch every kernel every time.
        lenient: for `reserve`, stages that say nothing of overlapping atoms, where these shall not stop anything.
    """

    def __init__(
        self,
        stages: Stages,
        cutoff: float,
        elements: Sequence[int],
        check: Callable[[System], object],
        slow: Callable[[System], Prediction],
        capture: bool = True,
        lenient: Stages | None = None,
    ) -> None:
        self.lenient = lenient or stages
        self.stages, self.cutoff, self.check, self.slow = stages, cutoff, check, slow
        self.pool = StepPool(stages, capture)
        self._served = np.zeros(max(elements) + 2, bool)
        self._served[list(elements)] = True
        self._served[-1] = False
        self._asked: _Asked | None = None
        self._served_there = torch.from_numpy(self._served).to(stages.device)
        self._good: set[bytes] = set()
        self._capacities: dict[tuple[int, int, int, bool], Capacity] = {}
        self.why_not = "" if stages.device.type == "cuda" else "not on a CUDA device"

    # ------------------------------------------------------------------ from the host

    def predict(self, structures: Any) -> Prediction:
        """Compute what `frames_of` takes, with the result on the CPU; or a `System`, with the result where it is."""
        if isinstance(structures, System):
            return self._predict_system(structures)
        frames = frames_of(structures)
        return self._predict_batch(_Batch(frames, self._check(frames)))

    def _predict_batch(self, whole: _Batch) -> Prediction:
        """Compute structures that are known to be served, in as many parts as memory and the host's work suggest."""
        if len(whole.counts) == 1:
            return _settled(self._finish(self._start(whole, wait=True)))

        @functools.cache
        def share() -> int | None:
            free = self.pool.free()
            return None if free is None else free // streams.IN_FLIGHT

        def affordable(which: list[int]) -> bool:
            capacity = self._capacity(whole.pick(which))
            return self.pool.has(capacity) or fits(self.stages.bytes_of(capacity), share())

        batches = streams.pack(whole.counts, affordable)
        if len(batches) == 1:
            return _settled(self._finish(self._start(whole, wait=True)))
        parts = streams.run(
            batches, lambda which, wait: self._start(whole.pick(which), wait), self._finish, self._abandon
        )
        return streams.in_order([_settled(part) for part in parts], batches, whole.counts)

    def _check(self, frames: Sequence[Any]) -> list[int]:
        """Atoms of each structure; what the model does not serve is refused by its usual words."""
        if frames:
            numbers = [atoms.numbers for atoms in frames]
            counts = [len(own) for own in numbers]
            silent = not any(name in atoms.info for atoms in frames if atoms.info for name in SAID)
            if silent and all(counts) and self._serves(numbers[0] if len(numbers) == 1 else np.concatenate(numbers)):
                return counts
        system = System.from_ase(frames, device=self.stages.device)
        self.check(system)
        return system.counts().tolist()

    def _serves(self, numbers: np.ndarray) -> bool:
        """Whether all these elements are known to the model; of few atoms, what was found good is remembered."""
        key = numbers.tobytes() if len(numbers) <= LARGEST_REMEMBERED else b""
        if key in self._good:
            return True
        if not self._served.take(numbers, mode="clip").all():
            return False
        if len(self._good) >= REMEMBERED:
            self._good.clear()
        if key:
            self._good.add(key)
        return True

    def _start(self, batch: _Batch, wait: bool) -> _Call | None:
        """Enqueue; None where memory is lent out and this call may not wait for it."""
        capacity = self._capacity(batch)
        step = self.pool.acquire(capacity, wait)
        if step is None and not wait:
            return None
        if step is None:
            if len(batch.counts) == 1:
                raise self._refusal(batch.counts[0], capacity, batch.labels)
            return _Call(None, batch)
        try:
            step.start(batch.frames, batch.counts)
        except BaseException:
            self._abandon(_Call(step, batch))
            raise
        return _Call(step, batch)

    def _finish(self, call: _Call | None) -> Prediction | Callable[[], Prediction]:
        """Wait; take the result, or the way to it that the status says, to be gone when this call holds no buffers any more."""
        assert call is not None, "a call that may wait always starts or raises"
        batch = call.batch
        if call.step is None:
            size = len(batch.counts)
            halves = batch.pick(range(size // 2)), batch.pick(range(size // 2, size))
            return lambda: Prediction.join([self._predict_batch(half) for half in halves])
        needed = 0
        try:
            status = call.step.finish()
            if status == 0:
                return call.step.take()
            if status == Status.EDGES:
                needed = call.step.evaluation.needed_edges()
        finally:
            self._release(call.step)
        if status != Status.EDGES:
            frames, device = list(batch.frames), self.stages.device
            return lambda: self._slowly(System.from_ase(frames, device, labels=batch.labels), status).to("cpu")
        self._remember(batch, grown(call.step.capacity, needed))
        return lambda: self._predict_batch(batch)

    def _abandon(self, call: _Call | None) -> None:
        if call is not None and call.step is not None:
            call.step.finish()
            self._release(call.step)

    def _release(self, step: Step) -> None:
        self.why_not = step.replayed.why_not
        self.pool.release(step)

    # ------------------------------------------------------------------ on the device

    def _predict_system(self, given: System) -> Prediction:
        """The same for tensors, copied to the device and the result back where that is not where they are."""
        system = given.to(self.stages.device, torch.float64)
        prediction = self._on_device(system, *self._sizes(system))
        return prediction if given.device == system.device else prediction.to(given.device)

    def _on_device(self, system: System, counts: list[int], periodic: list[bool]) -> Prediction:
        capacity = self._capacity_of_system(system, counts, periodic)
        step = self._try(capacity) if len(counts) > 1 else self.pool.acquire(capacity)
        if step is None:
            if len(counts) == 1:
                raise self._refusal(counts[0], capacity, system.labels)
            middle = len(counts) // 2
            halves = ((0, middle), (middle, len(counts)))
            return Prediction.join([self._on_device(system.part(a, b), counts[a:b], periodic[a:b]) for a, b in halves])
        needed = 0
        try:
            status, prediction = step.predict(system)
            if status == Status.EDGES:
                needed = step.evaluation.needed_edges()
        finally:
            self._release(step)
        if status == 0:
            return prediction
        if status != Status.EDGES:
            return self._slowly(system, status)
        key, _ = self._known(counts, periodic[0])
        self._capacities[key] = grown(capacity, needed)
        return self._on_device(system, counts, periodic)

    def _try(self, capacity: Capacity) -> Step | None:
        """A step for a batch that can still be divided: None also where a search cannot count so many edges."""
        try:
            return self.pool.acquire(capacity)
        except StructureError:
            return None

    def _slowly(self, system: System, status: int) -> Prediction:
        """What the device refuses: refused by name and limit, or computed where it does fit."""
        return self.slow(wrapped(system) if status & Status.SHIFTS else system)

    # ------------------------------------------------------------------ for whoever evaluates the same atoms many times

    def reserve(self, structures: Any) -> Evaluation:
        """Buffers outside the pool, filled with these structures; see `Engine.reserve`."""
        system = System.from_ase(structures, device=self.stages.device, dtype=torch.float64)
        counts, periodic = self._sizes(system)
        capacity = self._capacity_of_system(system, counts, periodic)
        self._afford(sum(counts), capacity)
        evaluation = Evaluation(self.lenient, PaddedSystem.empty(capacity, self.stages.device))
        evaluation.system.fill(system)
        return evaluation

    def enlarged(self, evaluation: Evaluation) -> Evaluation:
        """The same structures with room for the edges that the last search found."""
        capacity = grown(evaluation.capacity, evaluation.needed_edges())
        self._afford(int(evaluation.system.system_ptr[-1]), capacity)
        return Evaluation(self.lenient, replace(evaluation.system, capacity=capacity))

    def _afford(self, atoms: int, capacity: Capacity) -> None:
        if not self.pool.make_room(self.stages.bytes_of(capacity)):
            raise self._refusal(atoms, capacity)

    # ------------------------------------------------------------------ sizes

    def _sizes(self, system: System) -> tuple[list[int], list[bool]]:
        """Atoms of each structure, and whether it is periodic in three directions; everything else is checked.

        One question to the device settles all of it, where the answer is that all is well. It is not asked again of the very
        tensors that it was asked of last, if nothing was written to them: new positions for the same atoms are the usual case.
        """
        atoms, asked = Composition.of(system), self._asked
        if atoms is not None and asked is not None and atoms.same(asked.atoms):
            return asked.counts, asked.periodic
        bounds = torch.arange(system.num_systems + 1, device=system.device)
        counts = torch.searchsorted(system.system_index, bounds).diff()
        served = self._served_there[system.atomic_numbers.clamp(max=len(self._served) - 1)].all()
        well = served & (counts > 0).all() & (system.charge == 0).all() & (system.spin <= 1).all()
        *numbers, good = torch.cat([counts, system.pbc.all(1), well[None]]).tolist()
        if not good or not numbers or any(system.task):
            self.check(system)
        counts, periodic = numbers[: system.num_systems], [flag == 1 for flag in numbers[system.num_systems :]]
        if atoms is not None and good:
            self._asked = _Asked(atoms, counts, periodic)
        return counts, periodic

    def _capacity_of_system(self, system: System, counts: list[int], periodic: list[bool]) -> Capacity:
        """The same as `_capacity` for tensors."""
        key, capacity = self._known(counts, periodic[0])
        if capacity is not None:
            return capacity
        return self._likely(key, counts, system.cell.detach().cpu(), system.pbc.cpu())

    def _capacity(self, batch: _Batch) -> Capacity:
        """Buffers for these structures: those that served this size before, or likely ones."""
        key, capacity = self._known(batch.counts, batch.frames[0].pbc.tolist() == EVERYWHERE)
        if capacity is not None:
            return capacity
        cell = torch.from_numpy(np.array([atoms.cell.array for atoms in batch.frames]))
        pbc = torch.from_numpy(np.array([atoms.pbc for atoms in batch.frames]))
        return self._likely(key, batch.counts, cell, pbc)

    def _known(self, counts: list[int], periodic: bool) -> tuple[tuple[int, int, int, bool], Capacity | None]:
        key = (len(counts), sum(counts), max(counts), periodic)
        return key, self._capacities.get(key)

    def _likely(self, key: tuple[int, int, int, bool], counts: list[int], cell: Tensor, pbc: Tensor) -> Capacity:
        """From cells (S, 3, 3) and periodic directions (S, 3) on the CPU: a GPU would load a library for the volumes."""
        volumes, periodic = torch.linalg.det(cell).abs().tolist(), pbc.all(1).tolist()
        edges = sum(
            likely_edges(n, volume if flag else None, self.cutoff)
            for n, volume, flag in zip(counts, volumes, periodic, strict=True)
        )
        capacity = choose(key[0], key[1], key[2], edges, bool(has_images(cell, pbc, self.cutoff)))
        if len(self._capacities) >= REMEMBERED:
            self._capacities.clear()
        self._capacities[key] = capacity
        return capacity

    def _remember(self, batch: _Batch, capacity: Capacity) -> None:
        key, _ = self._known(batch.counts, batch.frames[0].pbc.tolist() == EVERYWHERE)
        self._capacities[key] = capacity

    def _refusal(self, atoms: int, capacity: Capacity, labels: Sequence[int] | None = None) -> StructureError:
        needed = self.stages.bytes_of(capacity)
        return refusal(atoms, capacity.edges, needed, self.pool.free(), self.stages.device, labels)


def _settled(found: Prediction | Callable[[], Prediction]) -> Prediction:
    return found if isinstance(found, Prediction) else found()


def wrapped(system: System) -> System:
    """The same structures with every atom in its cell: shifts then are as small as they can be."""
    cell = complete_cells(system)
    fractions = torch.einsum("nk,nka->na", system.positions, torch.linalg.inv(cell)[system.system_index])
    outside = torch.where(system.pbc[system.system_index], fractions.floor(), 0.0)
    moved = torch.einsum("nk,nka->na", outside, cell[system.system_index])
    return system.with_positions(system.positions - moved)
