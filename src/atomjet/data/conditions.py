"""What a model knows of a structure beside its atoms and edges: four whole numbers, copied to the device with every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from atomjet.data.system import System

CONDITIONS = ("charge", "spin", "task", "slot")
"""Rows of the numbers: charge (e), spin multiplicity, row of the task in the model's tables, slot of the weights."""


class Lease(Protocol):
    """A hold on weights that a call uses, such as a blend of experts in its slot."""

    def renew(self) -> bool:
        """Hold them for one more call; False where they are gone, and the structures must be admitted anew."""
        ...

    def release(self) -> None:
        """Give up one hold; at any time, also while this thread is in another method, as when something is collected there."""
        ...


@dataclass(frozen=True, eq=False)
class Conditions:
    """What is staged of S structures, as their model's backend has admitted them.

    Attributes:
        values: (4, S) int32, in the order of `CONDITIONS`.
        lease: held until the call has finished; None where nothing is.
    """

    values: np.ndarray
    lease: Lease | None = None

    @classmethod
    def of(cls, system: System, tasks: Sequence[str] = ()) -> Conditions:
        """Take charges, spins and tasks of a system that its model has completed; `tasks` are the model's, in order."""
        rows = [tasks.index(name) for name in system.task] if tasks else [0] * system.num_systems
        values = np.zeros((len(CONDITIONS), system.num_systems), np.int32)
        values[0], values[1], values[2] = system.charge.cpu().numpy(), system.spin.cpu().numpy(), rows
        return cls(values)

    @classmethod
    def silent(cls, row: tuple[int, int, int, int] | None, systems: int) -> Conditions:
        """Conditions of structures that say nothing of themselves: `row` for each of them, zeros where it is None."""
        return cls(np.repeat(np.array(row or (0,) * len(CONDITIONS), np.int32)[:, None], systems, axis=1))

    def renew(self) -> bool:
        """Whether the same numbers may be used for one more call, and hold what it needs."""
        return self.lease is None or self.lease.renew()

    def release(self) -> None:
        """Say that a call has finished."""
        if self.lease is not None:
            self.lease.release()


@dataclass(frozen=True, eq=False)
class ConditionBuffers:
    """Conditions where kernels read them.

    Attributes:
        values: (4, Ŝ) int32, in the order of `CONDITIONS`.
        system_index: (N̂,) int32, the structure of each row; Ŝ for rows not in use.
    """

    values: Tensor
    system_index: Tensor

    @classmethod
    def empty(cls, systems: int, atoms: int, device: torch.device | str) -> ConditionBuffers:
        """Zeros for so many structures and rows."""
        return cls(
            torch.zeros(len(CONDITIONS), systems, dtype=torch.int32, device=device),
            torch.zeros(atoms, dtype=torch.int32, device=device),
        )

    @property
    def charge(self) -> Tensor:
        """(Ŝ,) int32, e."""
        return self.values[0]

    @property
    def spin(self) -> Tensor:
        """(Ŝ,) int32, multiplicity."""
        return self.values[1]

    @property
    def task(self) -> Tensor:
        """(Ŝ,) int32, row of the model's tables."""
        return self.values[2]

    @property
    def slot(self) -> Tensor:
        """(Ŝ,) int32, of the weights."""
        return self.values[3]
