"""What a check asks of the potential it judges: an `Engine` has it all, and so does any ASE calculator through its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from atomjet.data import Prediction, System
from atomjet.engine import Engine
from atomjet.errors import BackendError

if TYPE_CHECKING:
    from ase import Atoms


class Potential(Protocol):
    """Energies, forces and stress of structures."""

    @property
    def cutoff(self) -> float | None:
        """How far an atom sees, Å; None where it is not known."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """How finely forces are computed."""
        ...

    @property
    def device(self) -> torch.device:
        """Where structures are wanted."""
        ...

    def predict(self, structures: Any) -> Prediction:
        """Compute one or many structures."""
        ...


def in_float64(potential: Potential) -> Potential:
    """A potential with these weights in float64, on its own backend or another; the potential itself where there is none."""
    if not isinstance(potential, Engine) or potential.dtype == torch.float64:
        return potential
    for backend in (potential.backend, "auto"):
        try:
            return potential.with_settings(backend=backend, precision="float64")
        except BackendError:
            continue
    return potential


def definition(engine: Engine) -> Engine:
    """The reference of everything: `general` in float64 with the same weights."""
    return engine.with_settings(backend="general", precision="float64")


def system_of(structures: Atoms | Sequence[Atoms], potential: Potential) -> System:
    """Structures in float64 on the potential's device."""
    return System.from_ase(structures, device=potential.device, dtype=torch.float64)


def repeated(system: System, copies: int) -> System:
    """One structure many times over, as a batch."""
    return System(
        positions=system.positions.repeat(copies, 1),
        atomic_numbers=system.atomic_numbers.repeat(copies),
        cell=system.cell.repeat(copies, 1, 1),
        pbc=system.pbc.repeat(copies, 1),
        system_index=torch.arange(copies, device=system.device).repeat_interleave(system.num_atoms),
        charge=system.charge.repeat(copies),
        spin=system.spin.repeat(copies),
        task=system.task * copies,
        charge_given=system.charge_given * copies,
        spin_given=system.spin_given * copies,
    )
