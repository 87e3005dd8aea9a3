"""Conditions: the total charge, spin multiplicity and task for which a teacher is asked, as `Atoms.info` says them.

A teacher that knows them gives another energy for each; a student that does not can learn one of them only.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError

NOT_SAID = -1
"""Spin of a structure that says none: the teacher takes its default."""

LARGEST = 1000
"""Bound on the size of a charge and on a spin multiplicity: what lies beyond is a slip of the pen."""


class Conditions(NamedTuple):
    """Total charge, e; spin multiplicity 2S + 1 or `NOT_SAID`; name of the task, "" where none is said."""

    charge: int = 0
    spin: int = NOT_SAID
    task: str = ""

    def __str__(self) -> str:
        """Words for a message or a card."""
        spin = "spin not said" if self.spin == NOT_SAID else f"spin {self.spin}"
        return f"charge {self.charge}, {spin}" + (f", task {self.task}" if self.task else "")


def read_conditions(atoms: Atoms, where: str = "structure") -> Conditions:
    """Conditions in `atoms.info`.

    Raises:
        ConfigError: a charge or spin that is no whole number or absurdly large; names `where`.
    """
    info = atoms.info
    spin = NOT_SAID if info.get("spin") is None else _whole("spin", info["spin"], 0, where)
    charge = 0 if info.get("charge") is None else _whole("charge", info["charge"], -LARGEST, where)
    return Conditions(charge, spin, str(info.get("task") or ""))


def _whole(name: str, value: Any, lowest: int, where: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not (lowest <= number <= LARGEST and number == round(number)):
        raise ConfigError(
            f"{where}: info[{name!r}] is {str(value)[:40]!r}; it must be a whole number from {lowest} to {LARGEST}"
        )
    return int(number)


def unsaid(atoms: Atoms) -> str | None:
    """What a structure carries that its conditions do not say, and that no frame keeps; or None."""
    charge, moment = float(atoms.get_initial_charges().sum()), float(np.abs(atoms.get_initial_magnetic_moments()).sum())
    if moment > 0.01 and atoms.info.get("spin") is None:
        return "initial magnetic moments are not kept; set info['spin'] to the multiplicity 2S + 1"
    if abs(charge) > 0.5 and atoms.info.get("charge") is None:
        return f"initial charges (sum {charge:g}) are not kept; set info['charge'] to the total charge"
    return None


def set_conditions(atoms: Atoms, conditions: Conditions) -> None:
    """Tell a teacher: by `info`, and by initial charges and magnetic moments, which calculators like tblite read instead."""
    charge, spin, task = conditions
    atoms.info["charge"] = charge
    if charge:
        atoms.set_initial_charges(np.full(len(atoms), charge / len(atoms)))
    if spin != NOT_SAID:
        atoms.info["spin"] = spin
        if spin > 1:
            atoms.set_initial_magnetic_moments(np.full(len(atoms), (spin - 1) / len(atoms)))
    if task:
        atoms.info["task"] = task


class Conditioned(Protocol):
    """Frames as far as their conditions go: an entry of each array for each frame."""

    charge: np.ndarray
    spin: np.ndarray
    task: np.ndarray
    source: np.ndarray
    molecule: np.ndarray


def conditions_in(frames: Conditioned, default_task: str = "") -> dict[Conditions, list[int]]:
    """Frames of each different conditions; a task that was not said is `default_task`.

    A spin that was not said counts as the singlet where both occur. Free atoms are left aside: an atom alone is in a state of
    its own, and no other frame contradicts it.
    """
    found: dict[Conditions, list[int]] = {}
    for f in np.flatnonzero(frames.source != "free_atoms"):
        task = str(frames.task[f]) or default_task
        found.setdefault(Conditions(int(frames.charge[f]), int(frames.spin[f]), task), []).append(int(f))
    for conditions in [c for c in found if c.spin == NOT_SAID and c._replace(spin=1) in found]:
        found[conditions._replace(spin=1)] += found.pop(conditions)
    return found


def check_one(frames: Conditioned, default_task: str = "") -> None:
    """Refuse frames of different conditions, which a student that knows none of them would average.

    Raises:
        ConfigError: names the conditions, how many frames each has, and the first frame of each.
    """
    found = conditions_in(frames, default_task)
    if len(found) > 1:
        said = "; ".join(
            f"{conditions} ({len(where)} frames, the first is {where[0]}, {frames.molecule[where[0]]})"
            for conditions, where in list(found.items())[:4]
        )
        raise ConfigError(
            f"the data mix {len(found)} conditions: {said}; PaiNN knows neither charge, spin nor task and would average "
            "them: train one student for each, or leave frames out"
        )
