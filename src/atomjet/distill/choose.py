"""Which of the frames seen in a round are worth a label: those where students differ most, none twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.explore import Start
from atomjet.distill.frames import Frames, frames_from_record, pack
from atomjet.distill.molecules import bond_change
from atomjet.distill.recipe import Recipe
from atomjet.distill.train_config import RoundsConfig

Array = NDArray[Any]


class Seen:
    """All frames of a round, F of them.

    Args:
        records: of `explore`, each with the places of its starts among all.

    Attributes:
        start, spread, force, reason: (F,), see `explore`; the start among all.
    """

    def __init__(self, records: Sequence[tuple[dict[str, Any], Array]]) -> None:
        def joined(name: str) -> Array:
            return np.concatenate([record[name] for record, _ in records])

        self.start = np.concatenate([places[record["start"]] for record, places in records])
        self.spread, self.force, self.reason = joined("spread"), joined("force"), joined("reason")
        self.cell, self.pbc = joined("cell"), joined("pbc")
        self._numbers, self._positions, self._atom = joined("numbers"), joined("positions"), joined("atom")
        self._ptr = np.concatenate([[0], np.cumsum(joined("count"))])

    def __len__(self) -> int:
        """F."""
        return len(self.start)

    def frame(self, f: int) -> tuple[Array, Array, Array]:
        """Atomic numbers, positions (Å) and places in the start of the atoms of a frame."""
        part = slice(self._ptr[f], self._ptr[f + 1])
        return self._numbers[part], self._positions[part], self._atom[part]


def choose(seen: Seen, settings: RoundsConfig, most: int, force_limit: float) -> tuple[list[int], list[int]]:
    """Frames to label, those of the largest disagreement first; and diverged ones, those of the smallest force first.

    Args:
        seen: all frames.
        settings: bounds.
        most: frames in all.
        force_limit: eV/Å of the students' mean force; beyond it no ordinary frame is chosen.
    """
    finite = np.isfinite(seen.spread) & np.isfinite(seen.force)
    good = (seen.reason == 0) & finite & (seen.spread >= settings.disagreement[0]) & (seen.force <= force_limit)
    thinned = Thinned(seen, settings.apart)
    ordinary = thinned.take(_ordered(good, -seen.spread), most, settings.per_start)
    share = round(settings.diverged_share * most)
    diverged = thinned.take(_ordered(seen.reason > 0, np.nan_to_num(seen.force, nan=np.inf)), share, 1)
    return ordinary[: most - len(diverged)], diverged


def _ordered(mask: Array, by: Array) -> list[int]:
    index = np.flatnonzero(mask)
    return index[np.argsort(by[index], kind="stable")].tolist()


class Thinned:
    """Takes frames that no frame taken before is nearly identical to.

    Frames of the same atoms in the same order are compared by all their interatomic distances, which no rotation changes.
    """

    def __init__(self, seen: Seen, apart: float) -> None:
        self.seen, self.apart = seen, apart
        self.taken: dict[bytes, _GrowingArray] = defaultdict(_GrowingArray)

    def take(self, order: Sequence[int], most: int, per_start: int) -> list[int]:
        """At most so many frames, in this order, and of one start at most so many."""
        chosen: list[int] = []
        of_start: Counter[int] = Counter()
        for f in order:
            start = int(self.seen.start[f])
            if len(chosen) == most:
                break
            if of_start[start] < per_start and self._is_new(f):
                chosen.append(f)
                of_start[start] += 1
        return chosen

    def _is_new(self, f: int) -> bool:
        numbers, positions, _ = self.seen.frame(f)
        cell = self.seen.cell[f].ravel() if self.seen.pbc[f].any() else np.zeros(0)
        fingerprint = np.concatenate([_distances(positions), cell])
        others = self.taken[numbers.tobytes() + bytes(len(cell))]
        if len(others) and (np.square(others.array - fingerprint).mean(1) < self.apart**2).any():
            return False
        others.append(fingerprint)
        return True


class _GrowingArray:
    """(n, length) rows of one length, in an array whose capacity doubles when it is full."""

    def __init__(self) -> None:
        self._buffer, self._used = np.zeros((0, 0)), 0

    def __len__(self) -> int:
        return self._used

    @property
    def array(self) -> Array:
        return self._buffer[: self._used]

    def append(self, row: Array) -> None:
        if self._used == len(self._buffer):
            more = np.empty((max(4, self._used), len(row)))
            self._buffer = np.concatenate([self._buffer.reshape(-1, len(row)), more])
        self._buffer[self._used] = row
        self._used += 1


def _distances(positions: Array) -> Array:
    """(N (N - 1) / 2,) Å between all atoms."""
    first, second = np.triu_indices(len(positions), 1)
    return np.linalg.norm(positions[first] - positions[second], axis=1)


CONDITIONS = ("charge", "spin", "task")
"""What a frame takes over from the `info` of its start."""


def frames_of(recipe: Recipe, seen: Seen, starts: Sequence[Start], chosen: Sequence[int], source: str) -> Frames:
    """Chosen frames of the trajectories, unlabelled, in the split train, named after the molecules that are in them."""
    images, names, reactive = [], [], []
    for f in chosen:
        start = starts[int(seen.start[f])]
        _numbers, positions, atom = seen.frame(f)
        image = start.atoms[atom.tolist()]
        image.set_cell(seen.cell[f], scale_atoms=False)
        image.pbc, image.positions = seen.pbc[f], positions
        image.info = {name: start.atoms.info[name] for name in CONDITIONS if name in start.atoms.info}
        images.append(image)
        names.append(_name(start, atom))
        reactive.append(recipe.molecules is not None and _reacted(start, atom, positions))
    return frames_from_record(pack(images, names, reactive), "train", source)


def _name(start: Start, atom: Array) -> str:
    """The molecules that these atoms of the start belong to, with dots between."""
    if start.molecule is None:
        return start.names[0]
    return ".".join(sorted(start.names[m] for m in np.unique(start.molecule[atom])))


def _reacted(start: Start, atom: Array, positions: Array) -> bool:
    """Whether bonds are others than at the start; always False for crystals."""
    if start.atoms.pbc.any() and start.molecule is None:
        return False
    place = {int(a): n for n, a in enumerate(atom)}
    bonds = [(place[int(a)], place[int(b)]) for a, b in start.bonds if int(a) in place]
    return (
        bond_change(start.atoms.numbers[atom], positions.astype(float), np.array(bonds, int).reshape(-1, 2)) is not None
    )
