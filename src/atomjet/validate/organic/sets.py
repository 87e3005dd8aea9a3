"""The structures on which students are judged, and how many of them are taken."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.io import read

from atomjet.engine import Engine
from atomjet.validate.organic.answers import Answers
from atomjet.validate.potential import Potential, in_float64

FOLDER = Path(__file__).parent

Name = Literal["dimers", "molecules", "frequencies", "crystals", "drugs", "torsions", "conformers", "frames"]


@dataclass(frozen=True)
class Size:
    """How much is looked at.

    Args:
        frames: of molecular dynamics of each unseen molecule, at each temperature.
        contacts: random dimers that are squeezed.
        drugs: molecules that are relaxed.
        waters: molecules of each box of water.
        liquids: organic liquids; in_box: molecules of each.
        box_steps: steps of a box's relaxation, at most; box_fs: of dynamics at 300 K after it.
        replicas: unseen molecules that run at 300 and at 500 K. replica_fs: for how long.
        order_fs: of the runs at constant energy.
    """

    frames: int
    contacts: int
    drugs: int
    waters: tuple[int, ...]
    liquids: int
    in_box: int
    box_steps: int
    box_fs: float
    replicas: int
    replica_fs: float
    order_fs: float


SIZES = {
    "quick": Size(2, 60, 20, (27,), 4, 8, 150, 0.0, 10, 500.0, 250.0),
    "full": Size(3, 200, 20, (27, 64, 125, 216), 20, 27, 500, 100_000.0, 50, 100_000.0, 2000.0),
}


@dataclass(frozen=True)
class Judged:
    """A student on trial.

    Attributes:
        potential: the student. answers: its teacher's. size: how much is looked at. seed: of what is drawn.
    """

    potential: Potential
    answers: Answers
    size: Size
    seed: int = 0

    @property
    def exact(self) -> Potential:
        """The student in float64."""
        return in_float64(self.potential)

    def structures(self, name: Name) -> list[Atoms]:
        """A set, less what holds elements that the student does not know; `info["molecule"]` names each."""
        return [atoms for atoms in load(name) if self.knows(atoms)]

    def knows(self, atoms: Atoms) -> bool:
        """Whether the student serves all elements of a structure."""
        served = self.potential.elements if isinstance(self.potential, Engine) else None
        return served is None or set(atoms.numbers.tolist()) <= set(served)


@contextmanager
def overlaps_allowed(potential: Potential) -> Iterator[Potential]:
    """A student without its refusal of atoms that come too near, and without its warnings: what is judged is what it would say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield potential.with_settings(on_overlap="warn") if isinstance(potential, Engine) else potential


def load(name: Name) -> list[Atoms]:
    """All structures of a set."""
    found = read(FOLDER / f"{name}.extxyz.gz", ":", format="extxyz")
    assert isinstance(found, list)
    return found


def by_molecule(frames: Iterable[Atoms]) -> dict[str, list[int]]:
    """Places of the structures of each molecule."""
    found: dict[str, list[int]] = {}
    for k, atoms in enumerate(frames):
        found.setdefault(str(atoms.info["molecule"]), []).append(k)
    return found


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """(3, 3), evenly distributed."""
    q = generator.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
