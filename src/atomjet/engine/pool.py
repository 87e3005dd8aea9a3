"""`BufferPool`: the sets of buffers that an engine keeps, each lent to one call at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from atomjet.data import Capacity
from atomjet.engine.call_buffers import CallBuffers
from atomjet.engine.capacity import fits, free_bytes
from atomjet.engine.evaluation import Stages

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
        self._idle: OrderedDict[CallBuffers, int] = OrderedDict()  # with their bytes, least recently used first
        self.lent = 0
        self._changed = threading.Condition()

    def acquire(self, capacity: Capacity, wait: bool = True) -> CallBuffers | None:
        """Lend a set of this capacity, for `release` to take back; None where memory does not allow one.

        With `wait`, None means that it never will: other calls that hold memory now are waited for. A call that holds buffers
        itself must not wait, lest two wait for each other.
        """
        with self._changed:
            while True:
                buffers = next(
                    (each for each in reversed(self._idle) if each.capacity is capacity or each.capacity == capacity),
                    None,
                )
                if buffers is not None:
                    del self._idle[buffers]
                    break
                if self._free_for(self.stages.bytes_of(capacity)):
                    break
                if not wait or not self.lent:
                    return None
                self._changed.wait()
            self.lent += 1
        if buffers is not None:
            return buffers
        try:
            return CallBuffers(self.stages, capacity, self.capture)
        except BaseException:
            self._give_back(None)
            raise

    def release(self, buffers: CallBuffers) -> None:
        """Take buffers back that nothing is running on."""
        self._give_back(buffers)

    def has(self, capacity: Capacity) -> bool:
        """Whether a set of this capacity is idle, so that a call which takes it takes no memory."""
        with self._changed:
            return any(buffers.capacity == capacity for buffers in self._idle)

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

    def kept(self) -> list[Capacity]:
        """Capacities that are ready, least recently used first."""
        with self._changed:
            return [buffers.capacity for buffers in self._idle]

    def _give_back(self, buffers: CallBuffers | None) -> None:
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
