"""`relax_many`: relax many molecules or crystals together, each by its own FIRE, in batches on the engine's device.

Structures that have converged leave the batch, and others take their place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from torch import Tensor

from atomjet.data import System
from atomjet.engine import Engine
from atomjet.engine.streams import ATOMS_OF_A_CALL
from atomjet.engine.uncertainty import watched
from atomjet.errors import AtomJetError, StructureError
from atomjet.md.fire import Fire

ATOMS_AT_ONCE = ATOMS_OF_A_CALL | {"cuda": 200_000}
"""Atoms that a batch holds at most, unless one structure has more, by type of device: enough to fill a GPU."""

RESTING = 0.1
"""Share of a batch that is done and yet computed with the others; above it they are taken out, which costs time too."""

REFILL = 0.5
"""Share of a batch that may have left before others take their places."""


@dataclass
class Relaxed:
    """What became of one structure.

    Attributes:
        index: its place in the list given.
        atoms: the last structure that could be computed; its constraints kept, no calculator.
        energy: eV. fmax: largest force on a free atom, eV/Å. Both NaN where nothing could be computed.
        steps: taken.
        converged: whether `fmax` is below the limit.
        error: why it was given up, if it was.
        spread: (N,) eV/Å of an ensemble, where `atoms` was computed; None of a single model, or where nothing was computed.
    """

    index: int
    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    converged: bool
    error: str | None = None
    spread: np.ndarray | None = None


def relax_many(
    engine: Engine,
    frames: Sequence[Atoms],
    fmax: float = 0.01,
    steps: int = 500,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Relaxed]:
    """Relax positions at fixed cells; yields each structure as soon as it is done, in the order in which they finish.

    Args:
        engine: computes.
        frames: any sizes, molecules and crystals mixed; FixAtoms and FixCartesian are kept.
        fmax: eV/Å; converged when no free atom feels more.
        steps: most steps of any structure.
        advance: called after each step of a batch.

    Raises:
        StructureError: another constraint.
    """
    for index, atoms in enumerate(frames):
        _check_constraints(index, atoms)
    limit = ATOMS_AT_ONCE[engine.device.type]
    waiting = list(range(len(frames)))[::-1]
    batch = _Batch(engine)
    while waiting or batch.running:
        free = limit - batch.num_atoms
        chosen: list[int] = []
        while waiting and (len(frames[waiting[-1]]) <= free or not (batch.running or chosen)):
            free -= len(frames[waiting[-1]])
            chosen.append(waiting.pop())
        yield from batch.add([(index, frames[index].copy()) for index in chosen])
        goal = int(REFILL * batch.running) if waiting else 0
        while batch.running > goal:
            yield from batch.step(fmax, steps)
            advance()


def _check_constraints(index: int, atoms: Atoms) -> None:
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixCartesian):
            raise StructureError(
                f"structure {index}: constraint {type(constraint).__name__} is not kept when structures are relaxed together, "
                "only FixAtoms and FixCartesian are; relax this one alone"
            )


class _Batch:
    """Structures that are relaxed now; those that are done stay, without moving, until there are enough to be taken out.

    Letters: S structures, N atoms, all of the batch.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []
        self.frames: list[Atoms] = []
        self.system: System | None = None
        self.state = Fire.fresh([], engine.device)
        self.running = 0

    @property
    def num_atoms(self) -> int:
        """N."""
        return 0 if self.system is None else self.system.num_atoms

    def add(self, entries: Sequence[tuple[int, Atoms]]) -> Iterator[Relaxed]:
        """Add structures; yields those without atoms, which have nothing to relax."""
        good = []
        for index, atoms in entries:
            if len(atoms):
                good.append((index, atoms))
            else:
                yield Relaxed(index, atoms, float("nan"), float("nan"), 0, False, "it has no atoms")
        if not good:
            return
        self._compact()
        frames = [atoms for _, atoms in good]
        fresh = System.from_ase(frames, device=self.engine.device, dtype=torch.float64)
        self.system = fresh if self.system is None else _joined(self.system, fresh)
        self.state = Fire.join(self.state, Fire.fresh(frames, self.engine.device))
        self.ids += [index for index, _ in good]
        self.frames += frames
        self.running += len(good)

    def step(self, fmax: float, steps: int) -> Iterator[Relaxed]:
        """Compute all, move those that are not done; yields those that are."""
        assert self.system is not None
        state = self.state
        try:
            with watched():
                found = self.engine.predict(self.system)
        except AtomJetError:
            yield from self._refused()
            return
        index = self.system.system_index
        forces = torch.where(state.fixed, 0.0, found.forces.double())
        largest = torch.zeros_like(state.largest).scatter_reduce_(0, index, forces.norm(dim=1), "amax")
        state.energy = torch.where(state.running, found.energy.double(), state.energy)
        state.largest = torch.where(state.running, largest, state.largest)
        state.computed = self.system.positions
        if found.spread is not None:
            state.spread = found.spread.double()
        done = state.running & ((largest < fmax) | (state.steps >= steps))
        state.running = state.running & ~done
        for k in done.nonzero().flatten().tolist():
            yield self._result(k, None, fmax)
        move = state.move(forces, index, self._row_ptr())
        self.system = self.system.with_positions(self.system.positions + move)
        if self.running < (1 - RESTING) * len(self.frames):
            self._compact()

    def _row_ptr(self) -> Tensor:
        """(S + 1,) where each structure's atoms begin."""
        assert self.system is not None
        bounds = torch.arange(len(self.frames) + 1, device=self.engine.device)
        return torch.searchsorted(self.system.system_index, bounds)

    def _result(self, k: int, error: str | None, fmax: float) -> Relaxed:
        """Structure k as it was last computed."""
        assert self.system is not None
        self.running -= 1
        atoms, state = self.frames[k], self.state
        first = int(torch.searchsorted(self.system.system_index, k))
        atoms.set_positions(state.computed[first : first + len(atoms)].cpu().numpy(), apply_constraint=False)
        energy, largest = float(state.energy[k]), float(state.largest[k])
        spread = state.spread[first : first + len(atoms)].cpu().numpy()
        return Relaxed(
            self.ids[k],
            atoms,
            energy,
            largest,
            int(state.steps[k]),
            error is None and largest < fmax,
            error,
            None if np.isnan(spread).any() else spread,
        )

    def _refused(self) -> Iterator[Relaxed]:
        """Compute each structure alone, and yield those that cannot be, as they last could."""
        assert self.system is not None
        for k in self.state.running.nonzero().flatten().tolist():
            try:
                with watched():
                    self.engine.predict(self.system.part(k, k + 1))
            except AtomJetError as error:
                self.state.running[k] = False
                yield self._result(k, str(error).removeprefix(f"structure {k}: "), 0.0)
        self._compact()

    def _compact(self) -> None:
        """Take out those that are done."""
        if self.system is None or self.running == len(self.frames):
            return
        chosen = self.state.running
        atoms = chosen[self.system.system_index]
        places = chosen.nonzero().flatten().tolist()
        self.system = _chosen(self.system, chosen, atoms) if places else None
        self.state = self.state.chosen(chosen, atoms)
        self.ids, self.frames = [self.ids[k] for k in places], [self.frames[k] for k in places]


def _chosen(system: System, structures: Tensor, atoms: Tensor) -> System:
    """Some structures, and their atoms, of a system."""
    number = torch.cumsum(structures, 0) - 1
    names = ("task", "charge_given", "spin_given")
    conditions = {name: tuple(itertools.compress(getattr(system, name), structures.tolist())) for name in names}
    return System(
        positions=system.positions[atoms],
        atomic_numbers=system.atomic_numbers[atoms],
        cell=system.cell[structures],
        pbc=system.pbc[structures],
        system_index=number[system.system_index[atoms]],
        charge=system.charge[structures],
        spin=system.spin[structures],
        **conditions,  # type: ignore[arg-type]
    )


def _joined(first: System, second: System) -> System:
    """The structures of one system, then those of another."""
    names = ("positions", "atomic_numbers", "cell", "pbc", "charge", "spin")
    joined = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names}
    index = torch.cat([first.system_index, second.system_index + first.num_systems])
    conditions = {name: getattr(first, name) + getattr(second, name) for name in ("task", "charge_given", "spin_given")}
    return System(**joined, **conditions, system_index=index)  # type: ignore[arg-type]
