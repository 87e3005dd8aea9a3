"""`ase.Atoms` as they come in: one or many, and what the `info` of each says of charge, spin and task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from atomjet.errors import StructureError

LARGEST_CHARGE = 1_000_000
"""Total charges and spin multiplicities beyond are slips of the pen; kernels hold them in 32 bits."""


def frames_of(structures: Any) -> Sequence[Any]:
    """`ase.Atoms` one by one: a single one, or all of a list, generator or open trajectory.

    Raises:
        StructureError: something else, or something else among them.
    """
    if hasattr(structures, "get_positions"):
        return [structures]
    wrong = ""
    if isinstance(structures, Iterable) and not isinstance(structures, str | bytes):
        frames = structures if isinstance(structures, list | tuple) else list(structures)
        if all(hasattr(frame, "get_positions") for frame in frames):
            return frames
        place = next(place for place, frame in enumerate(frames) if not hasattr(frame, "get_positions"))
        wrong = f": structure {place} is {type(frames[place]).__name__}"
    raise StructureError(
        f"cannot read structures from {type(structures).__name__}{wrong}; give ase.Atoms, a list of them, or atomjet.System"
    )


def task_of(frame: Any) -> str:
    """Name of the task that one `ase.Atoms` says; "" where it says none."""
    task = frame.info.get("task")
    return "" if task is None else str(task)


def charge_and_spin_of(frame: Any, label: int) -> tuple[int, int]:
    """Total charge and spin multiplicity of one `ase.Atoms`; 0 where it says none."""
    values = []
    for name in ("charge", "spin"):
        value = frame.info.get(name, 0)
        try:
            number = float(value.item() if isinstance(value, np.ndarray) else value)
        except (TypeError, ValueError, OverflowError):
            raise StructureError(f"structure {label}: info[{name!r}] is {value!r}; it must be a whole number") from None
        if not abs(number) <= LARGEST_CHARGE or abs(number - round(number)) > 1e-3:
            raise StructureError(
                f"structure {label}: total {name} is {value}; it must be a whole number, of at most {LARGEST_CHARGE} either way"
            )
        values.append(round(number))
    return values[0], values[1]
