"""What eSCN-MD needs to know of a structure beyond its atoms: task, charge, spin; filled in or refused before anything runs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from atomjet.data import System
from atomjet.errors import ConfigError, StructureError
from atomjet.models.escn_md.config import EscnMdConfig

MAX_CHARGE = 100
"""Charges from -100 to 100 have an embedding."""

MAX_SPIN = 100
"""Spin multiplicities from 1 to 100 have an embedding; 0 stands for "not said" and has one too."""

MOLECULES = "omol"
"""The dataset whose energies depend on the spin: the one task for which a spin that was not said is filled in."""


def complete(config: EscnMdConfig, system: System, task: str | None) -> System:
    """Give every structure a task and a spin; check task, charge and spin.

    A structure's own task (`System.task`, `info["task"]`) goes before `task`. For molecules ("omol") a spin that was not said
    becomes 1, a singlet, as in fairchem; for all others it stays 0, "not said".

    Raises:
        ConfigError: a structure names no task, and `task` is None.
        StructureError: an unknown task or a charge or spin out of range; names the structure.
    """
    known = ", ".join(config.tasks)
    tasks = tuple(own or task or "" for own in system.task)
    for structure, name in enumerate(tasks):
        if not name:
            raise ConfigError(f"{system.name(structure)}: this model knows several tasks; give task= one of {known}")
        if name not in config.tasks:
            raise StructureError(f"{system.name(structure)}: task {name!r} is unknown; this model knows {known}")
    for name, low, high in (("charge", -MAX_CHARGE, MAX_CHARGE), ("spin", 0, MAX_SPIN)):
        values = getattr(system, name)
        bad = (values < low) | (values > high)
        if bool(bad.any()):
            structure = int(bad.nonzero()[0])
            raise StructureError(
                f"{system.name(structure)}: {name} {int(values[structure])} lies outside {low} ... {high}; correct info[{name!r}]"
            )
    if not config.single_atoms:
        _refuse_single_atoms(config, system)
    return replace(system, task=tasks, spin=_spins(system, tasks))


def check_task(config: EscnMdConfig, task: str | None) -> str | None:
    """Return the task of structures that name none: the one given, or the only one there is, or None.

    Raises:
        ConfigError: the model does not know it.
    """
    if task is not None and task not in config.tasks:
        raise ConfigError(f"task {task!r} is unknown; this model knows {', '.join(config.tasks)}")
    return config.tasks[0] if task is None and len(config.tasks) == 1 else task


def _spins(system: System, tasks: tuple[str, ...]) -> torch.Tensor:
    molecules = torch.tensor([name == MOLECULES for name in tasks], dtype=torch.bool, device=system.device)
    unsaid = molecules & (system.spin == 0)
    return torch.where(unsaid, 1, system.spin)


def warn_of_spins(before: System, after: System) -> None:
    """Say that a spin was filled in, and where first."""
    structure = int((before.spin != after.spin).nonzero()[0])
    warnings.warn(
        f"{before.name(structure)}: task {MOLECULES!r} without a spin; taken as 1, a singlet, here and in what follows. Set "
        "info['spin'] to the multiplicity 2S + 1",
        stacklevel=4,
    )


def _refuse_single_atoms(config: EscnMdConfig, system: System) -> None:
    lone = (system.counts() == 1) & ~system.pbc.any(1)
    if bool(lone.any()):
        raise StructureError(
            f"{system.name(int(lone.nonzero()[0]))} is a single isolated atom, which {config.model_id or 'this model'} was not "
            "trained on; take its energy from a reference table"
        )
