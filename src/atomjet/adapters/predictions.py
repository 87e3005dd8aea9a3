"""What an engine predicts of ASE's structures, some at a time: arrays first, which can travel, then structures with results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from atomjet.data import Prediction
from atomjet.engine import Engine
from atomjet.engine.streams import predicted
from atomjet.engine.uncertainty import watched
from atomjet.errors import AtomJetError, StructureError

ATOMS_AT_ONCE = 2000
"""Structures are computed together up to this many atoms, which bounds the memory."""

Predicted = dict[str, Any]
"""Arrays by name, and "refused": why, by the place of a structure; see `predict`."""


def predict(engine: Engine, structures: Sequence[Atoms]) -> Predicted:
    """Energies, forces and stress of S structures together, N atoms in all; where one is refused, of halves, down to that one.

    Returns:
        "energy" (S,) eV; "forces" (N, 3) eV/Å; "stress" (S, 3, 3) eV/Å³; of an ensemble also "energy_spread" (S,) and
        "forces_spread" (N,); "refused", why, by the place of each structure that is. These have NaN.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    refused: dict[str, str] = {}
    names = ("energy", "forces", "stress")
    with watched():
        for places, found in predicted(engine.predict, structures, sum(map(len, structures))):
            if isinstance(found, AtomJetError):
                refused[str(places[0])] = str(found).removeprefix("structure 0: ")
                parts.append(_not_computed(len(structures[places[0]])))
            else:
                parts.append(_arrays(found.to("cpu")))
                names = tuple(parts[-1])
    return {**{name: np.concatenate([part[name] for part in parts]) for name in names}, "refused": refused}


def _arrays(found: Prediction) -> dict[str, NDArray[Any]]:
    """A prediction on the CPU as arrays."""
    arrays = {name: getattr(found, name).numpy() for name in ("energy", "forces", "stress")}
    if found.spread is not None and found.energy_spread is not None:
        arrays |= {"forces_spread": found.spread.numpy(), "energy_spread": found.energy_spread.numpy()}
    return arrays


def _not_computed(atoms: int) -> dict[str, NDArray[Any]]:
    """NaN in place of everything that there could be of one structure."""
    shapes = {
        "energy": (1,),
        "forces": (atoms, 3),
        "stress": (1, 3, 3),
        "forces_spread": (atoms,),
        "energy_spread": (1,),
    }
    return {name: np.full(shape, np.nan) for name, shape in shapes.items()}


def results_of(record: Predicted, structures: Sequence[Atoms]) -> Iterator[Atoms | AtomJetError]:
    """A copy of each structure that carries what a record says of it, or why there is nothing."""
    if "error" in record:
        yield from (StructureError(record["error"]) for _ in structures)
        return
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    forces = np.split(record["forces"].astype(np.float64), ends)
    spread = np.split(record["forces_spread"].astype(np.float64), ends) if "forces_spread" in record else None
    for k, atoms in enumerate(structures):
        if reason := record["refused"].get(str(k)):
            yield StructureError(reason)
            continue
        results = {"energy": float(record["energy"][k]), "forces": forces[k]}
        if atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(record["stress"][k].astype(np.float64))
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        if spread is not None:
            copy.arrays["forces_spread"] = spread[k]
            copy.info["energy_spread"] = float(record["energy_spread"][k])
        yield copy
