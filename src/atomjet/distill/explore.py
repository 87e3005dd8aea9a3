"""A batch of trajectories that a student drives, relaxations and MD, and how far the students differ along them.

Everything that a batch gives depends on its arguments alone; a batch is a job for one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from atomjet.data import System
from atomjet.distill.journal import Record
from atomjet.distill.measure import disagreement, engines_of, largest
from atomjet.distill.packings import bonds_of, carve, squeeze
from atomjet.distill.train_config import RoundsConfig
from atomjet.distill.walkers import FLOWN, REFUSED, SPREAD, STRONG, Walkers
from atomjet.engine import Engine
from atomjet.md.relax_many import relax_many

Array = NDArray[Any]

RELAX_STAGES, RELAX_STEPS, RELAX_FMAX = 6, 25, 0.02
"""Looks at a relaxation, FIRE's steps between two of them, eV/Å at which it ends. A packing is squeezed before each."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a trajectory begins, and what it is to do.

    Attributes:
        atoms: the structure.
        names: of its molecules.
        molecule: (N,) the molecule of each atom of a packing; None elsewhere.
        shrink: factor by which the lengths of a packing shrink in all.
        kelvin: of its MD.
        npt: whether its cell changes too.
        relax: relaxed instead of MD; packings are relaxed before.
    """

    atoms: Atoms
    names: tuple[str, ...]
    kelvin: float
    npt: bool = False
    relax: bool = False
    molecule: Array | None = None
    shrink: float = 1.0

    @cached_property
    def bonds(self) -> Array:
        """(B, 2) pairs of atoms that are bonded; none in crystals, where bonds are not defined."""
        if self.molecule is None and self.atoms.pbc.any():
            return np.zeros((0, 2), int)
        return bonds_of(self.atoms.numbers, self.atoms.positions, self.molecule)


def explore(
    models: tuple[str, ...], starts: Sequence[Start], settings: RoundsConfig, force_limit: float, seed: int, device: str
) -> Record:
    """Follow a batch of trajectories.

    Args:
        models: files of the students; the first drives.
        starts: where from.
        settings: how far.
        force_limit: eV/Å; a trajectory with a larger force has diverged.
        seed: of velocities and noise.
        device: computes.

    Returns:
        The frames seen, as arrays, F frames of A atoms in all: "start" (F,) the place in `starts`; "spread" (F,) the largest
        disagreement of an atom, "force" (F,) the largest mean force, eV/Å; "reason" (F,) 0, or the code of why the trajectory
        ended with it; "count" (F,), "numbers", "positions", "atom" (A,) their places in the start; "cell", "pbc".
    """
    batch = _Batch(engines_of(models, device), starts, settings, force_limit)
    packed = [k for k, start in enumerate(starts) if start.molecule is not None]
    relaxing = packed + [k for k, start in enumerate(starts) if start.relax and start.molecule is None]
    frames = [start.atoms.copy() for start in starts]
    relaxed = batch.relax(relaxing, [frames[k] for k in relaxing])
    moving = {k: frames[k] for k, start in enumerate(starts) if not start.relax and start.molecule is None}
    moving |= {k: atoms for k, atoms in relaxed.items() if not starts[k].relax}
    batch.move(sorted(moving), [moving[k] for k in sorted(moving)], seed)
    return batch.record()


@dataclass(eq=False)
class _Batch:
    engines: Sequence[Engine]
    starts: Sequence[Start]
    settings: RoundsConfig
    force_limit: float
    seen: list[dict[str, Any]] = field(default_factory=list)

    def relax(self, which: Sequence[int], frames: Sequence[Atoms]) -> dict[int, Atoms]:
        """Relax in stages, looking at each; returns those that have not diverged."""
        going = dict(zip(which, frames, strict=True))
        rest: dict[int, Atoms] = {}
        for _ in range(RELAX_STAGES):
            for k, atoms in going.items():
                if (molecule := self.starts[k].molecule) is not None:
                    squeeze(atoms, molecule, self.starts[k].shrink ** (1 / RELAX_STAGES))
            order = list(going)
            reasons, done = np.zeros(len(order), int), np.zeros(len(order), bool)
            for found in relax_many(self.engines[0], [going[k] for k in order], RELAX_FMAX, RELAX_STEPS):
                going[order[found.index]] = found.atoms
                refused = found.error is not None or not np.isfinite(found.fmax)
                reasons[found.index] = REFUSED if refused else STRONG if found.fmax > self.force_limit else 0
                done[found.index] = found.converged and self.starts[order[found.index]].molecule is None
            reasons = self.look(order, [going[k] for k in order], reasons)
            rest |= {k: going[k] for k, finished in zip(order, done, strict=True) if finished}
            going = {k: going[k] for k, out in zip(order, (reasons > 0) | done, strict=True) if not out}
        return rest | going

    def move(self, which: Sequence[int], frames: Sequence[Atoms], seed: int) -> None:
        """MD, looking at it now and then, until all have stopped or the steps are done."""
        if not which:
            return
        settings, starts = self.settings, [self.starts[k] for k in which]
        first = np.cumsum([0, *map(len, frames)])
        bonds = [start.bonds + begin for start, begin in zip(starts, first, strict=False)]
        joined = np.concatenate(bonds)
        radii = covalent_radii[np.concatenate([atoms.numbers for atoms in frames])]
        limits = torch.as_tensor(FLOWN * radii[joined].sum(1))
        walkers = Walkers(
            self.engines[0],
            frames,
            [start.kelvin for start in starts],
            [start.npt for start in starts],
            torch.as_tensor(joined),
            limits,
            settings.timestep,
            settings.pressure,
            self.force_limit,
            seed,
        )
        known = np.zeros(len(which), bool)  # to have stopped
        for _ in range(max(1, settings.steps // settings.keep_every)):
            walkers.run(settings.keep_every)
            going = np.flatnonzero(~known)
            reasons = walkers.stopped.cpu().numpy()[going]
            images = list(_images(walkers.system, frames, going))
            differing = None if self.carves else self.differing(walkers.system)
            part = None if differing is None else (differing[0][going], differing[1][going])
            reasons = self.look([which[k] for k in going], images, reasons, part)
            known[going] = reasons > 0
            walkers.stop(torch.as_tensor(known, device=walkers.stopped.device), SPREAD)
            if known.all():
                return

    @property
    def carves(self) -> bool:
        """Whether frames are finite spheres from packings."""
        packed = any(start.molecule is not None for start in self.starts)
        return packed and self.settings.packings is not None and self.settings.packings.carve is not None

    def differing(self, system: System) -> tuple[Array, Array]:
        """(S,) eV/Å of structures: the largest disagreement of an atom, and the largest mean force."""
        spread, force = (largest(x, system).cpu().numpy() for x in disagreement(self.engines, system))
        return spread, force

    def look(
        self,
        which: Sequence[int],
        frames: Sequence[Atoms],
        reasons: Array,
        differing: tuple[Array, Array] | None = None,
    ) -> Array:
        """Note how far the students differ on these frames; returns the reasons, with those of frames beyond the bound."""
        if not which:
            return reasons
        atoms: list[Array] = [np.arange(len(frame)) for frame in frames]
        shown = list(frames)
        if self.carves:
            self._carve(which, shown, atoms)
        if differing is None:
            device = self.engines[0].device
            differing = self.differing(System.from_ase(shown, device=device, dtype=torch.float64))
        spread, force = differing
        wild = spread > self.settings.disagreement[1]
        strong = ~(force <= self.force_limit)
        reasons = np.where(reasons > 0, reasons, np.where(wild, SPREAD, np.where(strong, STRONG, 0)))
        for k, frame, places, s, f, reason in zip(which, shown, atoms, spread, force, reasons, strict=True):
            self.seen.append({"start": k, "frame": frame, "atom": places, "spread": s, "force": f, "reason": reason})
        return reasons

    def _carve(self, which: Sequence[int], shown: list[Atoms], atoms: list[Array]) -> None:
        """In place of each packing the finite sphere around the atom of the largest disagreement."""
        assert self.settings.packings is not None
        assert self.settings.packings.carve is not None
        most = self.settings.packings.carve
        packed = [n for n, k in enumerate(which) if self.starts[k].molecule is not None]
        if not packed:
            return
        system = System.from_ase([shown[n] for n in packed], device=self.engines[0].device, dtype=torch.float64)
        spread = disagreement(self.engines, system)[0].cpu().numpy()
        ends = np.cumsum(system.counts().cpu().numpy())
        for n, part in zip(packed, np.split(spread, ends[:-1]), strict=True):
            molecule = self.starts[which[n]].molecule
            assert molecule is not None
            box = shown[n]
            atoms[n], positions = carve(box, molecule, int(np.argmax(part)), most)
            shown[n] = Atoms(box.numbers[atoms[n]], positions, info=box.info)

    def record(self) -> Record:
        """What was seen."""
        frames = [one["frame"] for one in self.seen]
        return {
            **{name: np.array([one[name] for one in self.seen], np.float64) for name in ("spread", "force")},
            **{name: np.array([one[name] for one in self.seen], np.int64) for name in ("start", "reason")},
            "count": np.array([len(frame) for frame in frames], np.int64),
            "numbers": _joined([frame.numbers for frame in frames], np.uint8, ()),
            "positions": _joined([frame.positions for frame in frames], np.float32, (3,)),
            "atom": _joined([one["atom"] for one in self.seen], np.int32, ()),
            "cell": np.array([frame.cell.array for frame in frames], np.float64).reshape(-1, 3, 3),
            "pbc": np.array([frame.pbc for frame in frames], bool).reshape(-1, 3),
        }


def _joined(arrays: Sequence[Array], dtype: Any, shape: tuple[int, ...]) -> Array:
    return np.concatenate([np.zeros((0, *shape)), *arrays]).astype(dtype)


def _images(system: System, frames: Sequence[Atoms], which: Array) -> Iterator[Atoms]:
    """Some structures as they are on the device."""
    positions, cells = system.positions.cpu().numpy(), system.cell.cpu().numpy()
    first = np.cumsum([0, *map(len, frames)])
    for k in which:
        image = frames[k].copy()
        image.set_cell(cells[k], scale_atoms=False)
        image.positions = positions[first[k] : first[k + 1]]
        yield image
