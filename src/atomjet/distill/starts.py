"""Where the trajectories of a round begin: boxes packed of training molecules, and training frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.explore import Start
from atomjet.distill.frames import Frames
from atomjet.distill.molecules import generator
from atomjet.distill.packings import library, ordinary, pack_box
from atomjet.distill.recipe import Recipe
from atomjet.distill.train_config import RoundsConfig
from atomjet.errors import ConfigError

Array = NDArray[Any]


def starts_of(recipe: Recipe, settings: RoundsConfig, frames: Frames, number: int) -> list[Start]:
    """Packings first, then training frames, crystals last; no held-out molecule is among them.

    Args:
        recipe: with its seed.
        settings: how many of each.
        frames: all labelled frames.
        number: of the round.

    Raises:
        ConfigError: no frames to start from.
    """
    found: list[Start] = []
    packings = settings.packings
    if packings is not None:
        usable = library(frames, packings.max_atoms // 2)
        if not len(usable):
            raise ConfigError("rounds.packings needs training frames of single molecules; there are none, leave it out")
        for index in range(packings.boxes):
            rng = generator(recipe.seed, "packing", number, index)
            box, molecule, names, shrink = pack_box(frames, usable, packings, rng)
            found.append(
                Start(
                    box,
                    tuple(names),
                    kelvin=float(rng.choice(settings.temperatures)),
                    npt=rng.uniform() < settings.npt_share,
                    relax=rng.uniform() < settings.relax_share,
                    molecule=molecule,
                    shrink=shrink,
                )
            )
    return found + sorted(_from_frames(recipe, settings, frames, number), key=lambda start: bool(start.atoms.pbc.all()))


def _from_frames(recipe: Recipe, settings: RoundsConfig, frames: Frames, number: int) -> Iterator[Start]:
    """Training frames, half of them of single molecules or crystals and half of several together, each molecule as often."""
    usable = (frames.split == "train") & ordinary(frames)
    usable &= ~np.strings.endswith(frames.source, "-diverged") & (frames.counts > 1)
    together = np.array(["." in str(name) for name in frames.molecule], dtype=bool)
    halves = [
        half for half in (_by_molecule(frames, usable & ~together), _by_molecule(frames, usable & together)) if half
    ]
    if not halves:
        raise ConfigError("rounds need training frames of molecules or crystals to start from; there are none")
    for index in range(settings.starts):
        rng = generator(recipe.seed, "start", number, index)
        half = halves[index % len(halves)]
        f = int(rng.choice(half[rng.integers(len(half))]))
        atoms = frames.atoms(f)
        atoms.calc = None
        yield Start(
            atoms,
            (str(frames.molecule[f]),),
            kelvin=float(rng.choice(settings.temperatures)),
            npt=bool(atoms.pbc.all()) and rng.uniform() < settings.npt_share,
            relax=rng.uniform() < settings.relax_share,
        )


def _by_molecule(frames: Frames, mask: Array) -> list[Array]:
    """Frames of a mask, those of each molecule together."""
    chosen = np.flatnonzero(mask)
    _, inverse = np.unique(frames.molecule[chosen], return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(chosen[order], np.flatnonzero(np.diff(inverse[order])) + 1) if len(chosen) else []
