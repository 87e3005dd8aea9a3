"""Where an ensemble's members disagree more than they did on held-out structures that they were right about, said in one line.

The bound is calibrated (`atomjet calibrate`) and stands in the model's card; without it nothing is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from atomjet.data import Prediction

MOST_NAMED = 5
"""Structures of one call that are named; the others are counted."""


_watched: ContextVar[bool] = ContextVar("_watched", default=False)


@contextmanager
def watched() -> Iterator[None]:
    """Within, predictions bring no warnings: for those who look at the spread themselves, as a `Watch` does."""
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


class UncertaintyWarning(UserWarning):
    """The members of an ensemble disagree on a structure."""


@dataclass(frozen=True)
class Doubt:
    """A structure beyond the bound.

    Attributes:
        structure: its place. atom: the one of largest spread, counted within the structure. spread: of its force, eV/Å.
    """

    structure: int
    atom: int
    spread: float


@dataclass(frozen=True)
class Bound:
    """How far members may disagree, and what a disagreement means.

    Attributes:
        largest: eV/Å, spread of a force above which the structure is warned of.
        scale: expected error of a force over its spread.
        remedy: what to do.
    """

    largest: float
    scale: float
    remedy: str

    @classmethod
    def of(cls, card: dict[str, Any]) -> Bound | None:
        """That of a model's card; None where it was not calibrated."""
        calibration = card.get("calibration")
        if not calibration:
            return None
        teacher = (card.get("teacher") or {}).get("calculator")
        remedy = f"check it with {teacher}" if teacher else "check it with the method that the model was trained on"
        return cls(
            float(calibration["bound"]), float(calibration["scale"]), f"{remedy}, or train on structures like it"
        )

    def doubts(self, spread: NDArray[Any], counts: Sequence[int]) -> list[Doubt]:
        """Structures beyond the bound, in their order.

        Args:
            spread: (N,) eV/Å. counts: atoms of each structure.
        """
        if not (spread > self.largest).any():
            return []
        found, first = [], 0
        for structure, number in enumerate(counts):
            own = spread[first : first + number]
            first += number
            if number and own.max() > self.largest:
                found.append(Doubt(structure, int(own.argmax()), float(own.max())))
        return found

    def of_prediction(self, prediction: Prediction) -> list[Doubt]:
        """`doubts` of a prediction; of one on a GPU no more is copied than has to be, unless there are any."""
        spread = prediction.spread
        if spread is None or not bool((spread > self.largest).any()):
            return []
        counts = prediction.system_index.bincount(minlength=len(prediction.energy))
        return self.doubts(spread.detach().cpu().numpy(), counts.tolist())

    def line(self, doubt: Doubt, name: str) -> str:
        """What is said of a structure that is called `name`."""
        return (
            f"{name}: the ensemble's members differ by {doubt.spread:.3g} eV/Å on the force of atom {doubt.atom}, more than the "
            f"{self.largest:.3g} eV/Å up to which they were found reliable (expected error {self.scale * doubt.spread:.2g} eV/Å); "
            f"{self.remedy}"
        )

    def warn(self, prediction: Prediction) -> None:
        """Warn of the structures of a prediction that are beyond the bound, of many by their number; not where it is `watched`."""
        if _watched.get():
            return
        found = self.of_prediction(prediction)
        for doubt in found[:MOST_NAMED]:
            say(self.line(doubt, f"structure {doubt.structure}"))
        if len(found) > MOST_NAMED:
            more = ", ".join(str(doubt.structure) for doubt in found[MOST_NAMED : 4 * MOST_NAMED])
            dots = ", ..." if len(found) > 4 * MOST_NAMED else ""
            say(
                f"{len(found) - MOST_NAMED} more structures are beyond the bound of {self.largest:.3g} eV/Å: {more}{dots}"
            )


def say(text: str) -> None:
    """Warn as Python does; the command line makes one plain line of it."""
    warnings.warn(text, UncertaintyWarning, stacklevel=4)


class Watch:
    """Looks at the same structures again and again, as dynamics does; says once of each that it is beyond the bound, and counts.

    Args:
        bound: None looks at nothing.
        speak: gets the line.

    Attributes:
        looked: structures looked at, each time. beyond: those beyond the bound.
    """

    def __init__(self, bound: Bound | None, speak: Callable[[str], None] = say) -> None:
        self.bound, self.speak = bound, speak
        self.looked = self.beyond = 0
        self._said: set[Hashable] = set()

    @property
    def share(self) -> float:
        """Share of what was looked at that was beyond the bound; NaN where nothing was."""
        return self.beyond / self.looked if self.looked else float("nan")

    def look(
        self, prediction: Prediction, names: Sequence[str] | None = None, keys: Sequence[Hashable] | None = None
    ) -> None:
        """Look at a prediction.

        Args:
            prediction: of any structures.
            names: what they are called; default: by their places.
            keys: which structures are one and the same as before; default: those in the same place.
        """
        if self.bound is not None and prediction.spread is not None:
            self._count(len(prediction.energy), self.bound.of_prediction(prediction), names, keys)

    def look_at(
        self, spread: NDArray[Any], counts: Sequence[int], names: Sequence[str], keys: Sequence[Hashable]
    ) -> None:
        """`look` at numbers on the host: (N,) eV/Å, and the atoms of each structure."""
        if self.bound is not None:
            self._count(len(counts), self.bound.doubts(spread, counts), names, keys)

    def _count(
        self, number: int, found: list[Doubt], names: Sequence[str] | None, keys: Sequence[Hashable] | None
    ) -> None:
        self.looked += number
        self.beyond += len(found)
        for doubt in found:
            key = doubt.structure if keys is None else keys[doubt.structure]
            if key not in self._said:
                self._said.add(key)
                assert self.bound is not None
                name = f"structure {doubt.structure}" if names is None else names[doubt.structure]
                self.speak(self.bound.line(doubt, name))
