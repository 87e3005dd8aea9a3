"""`BufferPool`: the sets of buffers that an engine keeps, each lent to one call at a time."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch

from atomjet.data import Capacity
from atomjet.engine.call_buffers import CallBuffers
from atomjet.engine.capacity import fits, free_bytes
from atomjet.engine.evaluation import Stages
from atomjet.engine.shared_buffers import SharedBuffers

Buffers = TypeVar("Buffers", CallBuffers, SharedBuffers)

CACHE_SHARE = 0.25
"""Share of a GPU's memory that buffers no call is using may hold; the least recently used are freed first."""

CACHE_BYTES_ON_CPU = 2 << 30
"""Bytes that buffers no call is using may hold on a CPU."""


class BufferPool:
    """Lends sets of buffers; makes one where none of that capacity is free and memory allows.

    Args:
        stages: what the calls evaluate with.
        capture: False for calls that never become CUDA graphs.
    """

    def __init__(self, stages: Stages, capture: bool = True) -> None:
        self.stages, self.capture = stages, capture
        self.cache_bytes = _cache_bytes(stages.device)
        # With their bytes, least recently used first.
        self._idle: OrderedDict[CallBuffers | SharedBuffers, int] = OrderedDict()
        self.lent = 0
        self._changed = threading.Condition()

    def acquire(self, capacity: Capacity, wait: bool = True) -> CallBuffers | None:
        """Lend a set of this capacity, for `release` to take back; None where memory does not allow one.

        With `wait`, None means that it never will: other calls that hold memory now are waited for. A call that holds buffers
        itself must not wait, lest two wait for each other.
        """
        return self._acquire(CallBuffers, self.stages.bytes_of, capacity, wait)

    def acquire_shared(self, capacity: Capacity) -> SharedBuffers | None:
        """Lend a set for a structure that processes share, which wait for each other; None where memory does not allow one now."""
        return self._acquire(SharedBuffers, functools.partial(SharedBuffers.bytes_of, self.stages), capacity, False)

    def _acquire(
        self, kind: type[Buffers], bytes_of: Callable[[Capacity], int], capacity: Capacity, wait: bool
    ) -> Buffers | None:
        with self._changed:
            while True:
                buffers = self._take(kind, capacity)
                if buffers is not None or self._free_for(bytes_of(capacity)):
                    break
                if not wait or not self.lent:
                    return None
                self._changed.wait()
            self.lent += 1
        if buffers is not None:
            return buffers
        try:
            return kind(self.stages, capacity, self.capture)
        except BaseException:
            self._give_back(None)
            raise

    def _take(self, kind: type[Buffers], capacity: Capacity) -> Buffers | None:
        """An idle set, the one used last, if there is any."""
        for buffers in reversed(self._idle):
            if isinstance(buffers, kind) and (buffers.capacity is capacity or buffers.capacity == capacity):
                del self._idle[buffers]
                return buffers
        return None

    def release(self, buffers: CallBuffers | SharedBuffers | None) -> None:
        """Take buffers back that nothing is running on; None for a set that is lost, as after a failure."""
        self._give_back(buffers)

    def has(self, capacity: Capacity) -> bool:
        """Whether a set of this capacity is idle, so that a call which takes it takes no memory."""
        with self._changed:
            return any(isinstance(each, CallBuffers) and each.capacity == capacity for each in self._idle)

    def free(self) -> int | None:
        """Bytes that a call could have, were all idle buffers dropped."""
        with self._changed:
            free = free_bytes(self.stages.device)
            return None if free is None else free + sum(self._idle.values())

    def free_for(self, needed: int) -> bool:
        """Give back idle buffers until so many bytes can be had; False where they cannot even then."""
        with self._changed:
            return self._free_for(needed)

    def drop_idle(self) -> None:
        """Give back what no call is using."""
        with self._changed:
            while self._idle:
                self._drop_oldest()

    def idle(self) -> list[Capacity]:
        """Capacities of the sets that no call is using, least recently used first."""
        with self._changed:
            return [buffers.capacity for buffers in self._idle]

    def _give_back(self, buffers: CallBuffers | SharedBuffers | None) -> None:
        with self._changed:
            self.lent -= 1
            if buffers is not None:
                self._idle[buffers] = buffers.bytes
                while len(self._idle) > 1 and sum(self._idle.values()) > self.cache_bytes:
                    self._drop_oldest()
            self._changed.notify_all()

    def _free_for(self, needed: int) -> bool:
        """Drop idle sets, oldest first, until so much fits; False where it does not even then."""
        while not fits(needed, free_bytes(self.stages.device)):
            if not self._idle:
                return False
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        buffers, _ = self._idle.popitem(last=False)
        buffers.drop()


def _cache_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CACHE_BYTES_ON_CPU
    return int(CACHE_SHARE * torch.cuda.get_device_properties(device).total_memory)
