"""What eSCN-MD needs to know of a structure beyond its atoms: task, charge, spin; filled in or refused before anything runs."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from atomjet.data import Graph, System
from atomjet.errors import ConfigError, StructureError
from atomjet.models.escn_md import neighbor_limit
from atomjet.models.escn_md.config import EscnMdConfig

LIMITS = {"charge": (-100, 100), "spin": (0, 100)}
"""Charges and spin multiplicities that have an embedding; spin 0 is "none", which every task but that of molecules takes."""

MOLECULES = "omol"
"""Task whose energies depend on charge and spin: the one task for which a spin that was not given becomes a singlet."""

ASSUMED = {
    "spin": "without a spin; taken as 1, a singlet (multiplicity 2S + 1)",
    "charge": "without a charge; taken as 0",
}

LARGEST_MOVE = 0.5
"""Distance, Å, that atoms may move between two calls for their structure to be known again: more than in a step of dynamics or
relaxation."""

MOST_KNOWN = 1000
"""Structures that are remembered; the oldest is dropped first."""

MOST_WARNED = 4096
"""Assumptions that are told of; of insertions and reactions, whose compositions do not end, no more are told, nor kept."""

Warned = set[tuple[str, ...]]
"""Names of what was assumed, each with the composition that was warned of, so that the next step of a simulation is silent."""


def complete(config: EscnMdConfig, system: System, task: str | None) -> System:
    """Give every structure a task and a spin; check task, charge and spin.

    A structure's own task (`System.task`, `info["task"]`) goes before `task`. For molecules ("omol") a spin that was not given
    becomes 1, a singlet; for all others it stays 0. A spin of 0 that was given stays for all. All this as in fairchem.

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
    for name, (low, high) in LIMITS.items():
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


def check_conditions(charge: int | None, spin: int | None) -> None:
    """Refuse a charge or spin without an embedding.

    Raises:
        ConfigError: names it and its range.
    """
    for name, value in (("charge", charge), ("spin", spin)):
        low, high = LIMITS[name]
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} {value} lies outside {low} ... {high}")


def _spins(system: System, tasks: tuple[str, ...]) -> torch.Tensor:
    singlets = [name == MOLECULES and not given for name, given in zip(tasks, system.spin_given, strict=True)]
    if not any(singlets):
        return system.spin
    return torch.where(torch.tensor(singlets, device=system.device), 1, system.spin)


def warn_of_conditions(system: System, warned: Warned) -> None:
    """Say which molecules give no spin or no charge, and what is assumed instead: once a composition, by its first structure."""
    if len(warned) >= MOST_WARNED:
        return
    molecules = [structure for structure, task in enumerate(system.task) if task == MOLECULES]
    given = {"spin": system.spin_given, "charge": system.charge_given}
    missing = {structure: [name for name in given if not given[name][structure]] for structure in molecules}
    compositions = _compositions(system) if any(missing.values()) else []
    for structure, names in missing.items():
        news = [name for name in names if (name, compositions[structure]) not in warned]
        warned.update((name, compositions[structure]) for name in news)
        if news:
            assumed = "; ".join(ASSUMED[name] for name in news)
            remedy = " and ".join(f"info[{name!r}]" for name in news)
            warnings.warn(
                f"{system.name(structure)}: task {MOLECULES!r} {assumed}; here and for its like. Set {remedy}",
                stacklevel=7,
            )


class KnownStructures:
    """Structures as they were last, by which their next steps are recognised."""

    def __init__(self) -> None:
        self._last: dict[bytes, list[Tensor]] = {}

    def news(self, structures: list[tuple[Tensor, Tensor]]) -> list[bool]:
        """Which are new, of structures of one call, each with numbers (n,) and positions (n, 3) Å; from now on they are known."""
        found, places = [], []
        for numbers, positions in structures:
            key = numbers.numpy().tobytes()
            alike = self._last.get(key, [])
            place = next(
                (k for k, last in enumerate(alike) if float((last - positions).abs().max()) < LARGEST_MOVE), None
            )
            found.append(place is None)
            places.append((key, place, positions))
        for key, place, positions in places:
            if place is not None:
                self._last[key][place] = positions
            else:
                self._last.setdefault(key, []).append(positions)
        while sum(map(len, self._last.values())) > MOST_KNOWN:
            self._last.pop(next(iter(self._last)))
        return found


def warn_of_limit(config: EscnMdConfig, system: System, graph: Graph, known: KnownStructures) -> None:
    """Say in which structures some atoms have more neighbours than count: once for each structure, however it moves on."""
    counted = neighbor_limit.weights(graph, config.max_neighbors)
    if counted is None or bool(counted.all()):
        return
    atoms = graph.centers[counted == 0]
    structures = graph.system_index[atoms]
    bound, counts = structures.unique().tolist(), system.counts().tolist()
    numbers, positions = (x.detach().cpu().split(counts) for x in (system.atomic_numbers, system.positions))
    news = known.news([(numbers[structure], positions[structure]) for structure in bound])
    for structure in itertools.compress(bound, news):
        atom = int(atoms[structures == structure][0])
        first = int((system.system_index < structure).sum())
        count = int(graph.row_ptr[atom + 1] - graph.row_ptr[atom])
        warnings.warn(
            f"{system.name(structure)}: atom {atom - first} has {count} neighbours within {config.cutoff:g} Å, of which this model "
            f"takes about the nearest {config.max_neighbors} (its max_neighbors), as in its training; the energy is not smooth "
            "where one neighbour takes another's place",
            stacklevel=6,
        )


def _compositions(system: System) -> list[str]:
    """Atoms of each structure by element, as one word."""
    numbers = system.atomic_numbers.cpu().split(system.counts().tolist())
    return [",".join(map(str, own.sort().values.tolist())) for own in numbers]


def _refuse_single_atoms(config: EscnMdConfig, system: System) -> None:
    lone = (system.counts() == 1) & ~system.pbc.any(1)
    if bool(lone.any()):
        raise StructureError(
            f"{system.name(int(lone.nonzero()[0]))} is a single isolated atom, which {config.model_id or 'this model'} was not "
            "trained on; take its energy from a reference table"
        )
