"""Real frames for the tests of training: ethanol and water, displaced at random, labelled by GFN2-xTB."""

from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from tblite.ase import TBLite

from atomjet.distill.frames import Frames, concatenate, make_frames
from atomjet.distill.recipe import Recipe


def label(atoms: Atoms) -> Atoms:
    """Energy and forces of the teacher."""
    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@cache
def labelled_frames() -> Frames:
    """12 frames each of ethanol and water to train on, 4 each of both in distribution, 4 of methanol held out."""
    rng = np.random.default_rng(7)
    parts = []
    for name, split, number in (
        ("CH3CH2OH", "train", 12),
        ("H2O", "train", 12),
        ("CH3CH2OH", "in_distribution", 4),
        ("H2O", "in_distribution", 4),
        ("CH3OH", "test", 4),
    ):
        for _ in range(number):
            atoms = molecule(name)
            atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
            part = make_frames([atoms], split, "displaced", name)
            atoms.positions = part.positions  # as rounded
            done = label(atoms)
            part.energy[:], part.forces[:] = done.get_potential_energy(), done.get_forces()
            parts.append(part)
    return concatenate(parts)


def write_frames(path: Path) -> None:
    """The same frames as a file that ASE reads."""
    import ase.io

    ase.io.write(path, list(labelled_frames()))


def recipe(output: Path, features: int = 16, **train: object) -> Recipe:
    """Train a small student on `output / "frames.extxyz"`, which is written."""
    output.mkdir(parents=True, exist_ok=True)
    data = output / "frames.extxyz"
    if not data.exists():
        write_frames(data)
    settings = {"epochs": 4, "batch_size": 8, "data": [{"path": data}], **train}
    return Recipe.model_validate(
        {
            "name": "small",
            "seed": 3,
            "output": output,
            "elements": ["H", "C", "O"],
            "molecules": "none.smi",
            "student": {"features": features, "layers": 2, "cutoff": 4.0},
            "train": settings,
        }
    )
