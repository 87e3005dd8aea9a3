"""`Admission`: what is staged of structures beside atoms, the weights that calls hold with it, and whoever waits for them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from atomjet.data import Conditions, System
from atomjet.errors import BackendError

REMEMBERED = 4096
"""Compositions whose conditions are remembered."""

LONGEST = 2048
"""Bytes of atomic numbers that are remembered as they are; of more, 32 bytes that no others have."""

CONDITION_NAMES = ("charge", "spin", "task")
"""Names of what `info` may say of a structure."""

Admit = Callable[[System], Conditions | None]
"""Refuses structures, or says what is staged of them; None where they need more weights at once than can be held now."""


class Admission:
    """Admits equal structures once. Threads may share it.

    Args:
        admit: of structures whose elements the model serves.
        device: for messages.
        has_silent: whether the backend has `silent_conditions`, which need no admission.
    """

    def __init__(self, admit: Admit, device: torch.device, has_silent: bool) -> None:
        self.has_silent = has_silent
        self._admit, self._device = admit, device
        self._remembered: dict[tuple[Any, ...], Conditions] = {}
        self._changed, self._holders = threading.Condition(), 0

    def silent(self, frames: Sequence[Any]) -> bool:
        """Whether none of these `ase.Atoms` says anything of itself beside its atoms, and need not."""
        return self.has_silent and not any(
            name in atoms.info for atoms in frames if atoms.info for name in CONDITION_NAMES
        )

    def knows(self, frames: Sequence[Any], counts: list[int]) -> bool:
        """Whether equal structures were admitted before."""
        return bool(self._remembered) and _key(frames, counts) in self._remembered

    def of_frames(
        self, frames: Sequence[Any], counts: list[int], labels: Sequence[int] | None, wait: bool
    ) -> Conditions | None:
        """What is staged of `ase.Atoms` that are known to be served; None as `admit` has it."""
        key = _key(frames, counts)
        known = None if key is None else self._remembered.get(key)
        if known is not None and self.renew(known):
            return known
        found = self.admit(System.from_ase(frames, labels=labels), wait)
        if found is not None and key is not None:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def admit(self, system: System, wait: bool) -> Conditions | None:
        """Admit structures, a single one after waiting for other calls where it must; None where it would have to, or where several
        are too unlike.
        """
        with self._changed:
            while True:
                found = self._admit(system)
                if found is not None:
                    self._holders += found.lease is not None
                    return found
                if not wait or system.num_systems > 1:
                    return None
                if not self._holders:
                    raise BackendError(
                        f"{system.name(0)}: there is no room for its weights on {self._device}; use another backend or device"
                    )
                self._changed.wait()

    def renew(self, conditions: Conditions) -> bool:
        """Hold what was admitted before once more; False where it is gone."""
        if conditions.lease is None:
            return True
        with self._changed:
            there = conditions.renew()
            self._holders += there
            return there

    def release(self, conditions: Conditions | None) -> None:
        """A call has finished."""
        if conditions is not None and conditions.lease is not None:
            with self._changed:
                conditions.release()
                self._holders -= 1
                self._changed.notify_all()


def _key(frames: Sequence[Any], counts: list[int]) -> tuple[Any, ...] | None:
    """A key of what the conditions follow from; None where `info` holds something other than a number or text."""
    said = [atoms.info.get(name) for atoms in frames for name in CONDITION_NAMES]
    if not all(value is None or isinstance(value, int | float | str | np.number) for value in said):
        return None
    numbers = b"".join([atoms.numbers.tobytes() for atoms in frames])
    numbers = numbers if len(numbers) <= LONGEST else hashlib.sha256(numbers).digest()
    return tuple(counts), numbers, tuple(said)
