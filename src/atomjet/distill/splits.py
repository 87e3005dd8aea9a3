"""Splits: which molecules, and which frames of the training molecules, are held out. Each draw is a hash of the seed and of what is
drawn, so that it does not depend on what else is sampled.
"""

from __future__ import annotations

import hashlib

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomjet.distill.frames import Frames

ENOUGH_TO_HOLD_BACK = 5
"""Frames of a single system from which some are held out though the recipe names no share."""


def hold_back(frames: Frames, seed: int, share: float, among: NDArray[np.bool_]) -> None:
    """Tag a share of the training frames among these for in-distribution validation, by their content.

    Where no frame at all is held out, as with a single system, and there are enough to learn from the others, a tenth of them is:
    without any, the errors of the student could not be measured.
    """
    candidates = np.flatnonzero((frames.split == "train") & among)
    content = (frames.positions[frames.ptr[f] : frames.ptr[f + 1]].tobytes().hex() for f in candidates)
    drawn = np.array([draw_uniform(seed, "in_distribution", text) for text in content])
    frames.split[candidates[drawn < share]] = "in_distribution"
    if (frames.split == "train").all() and len(candidates) >= ENOUGH_TO_HOLD_BACK:
        frames.split[candidates[np.argsort(drawn, kind="stable")[: len(candidates) // 10 or 1]]] = "in_distribution"


def draw_split(seed: int, molecule: str, validation: float, test: float) -> str:
    """Split of a molecule, from the seed and its name alone: the same in every run, whatever else is sampled."""
    drawn = draw_uniform(seed, "split", molecule)
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def draw_uniform(seed: int, *parts: str) -> float:
    """A number in [0, 1) that belongs to the seed and the strings."""
    digest = hashlib.blake2b("\n".join([str(seed), *parts]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64


def connectivity_key(atoms: Atoms) -> str:
    """Formula and a digest of the bond graph that no order of the atoms changes (Weisfeiler-Lehman, 4 rounds)."""
    from ase.neighborlist import natural_cutoffs, neighbor_list

    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))  # pyright: ignore[reportArgumentType]
    colours = [str(number) for number in atoms.numbers]
    for _ in range(4):
        around: list[list[str]] = [[] for _ in colours]
        for i, j in zip(first, second, strict=True):
            around[i].append(colours[j])
        texts = (colour + "(" + ",".join(sorted(near)) + ")" for colour, near in zip(colours, around, strict=True))
        colours = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    digest = hashlib.blake2b(",".join(sorted(colours)).encode(), digest_size=6).hexdigest()
    return f"{atoms.get_chemical_formula()}-{digest}"
