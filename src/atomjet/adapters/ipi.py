"""AtomJet in i-PI 3: path integrals and the like, the beads of a ring polymer in one call of the engine.

i-PI takes this file by its path, as `pes_path` of an `<ffdirect>` or behind `i-pi-py_driver -m custom -P`; `python -m
atomjet.adapters.ipi` prints the path. i-PI's units are Bohr and Hartree, its cell vectors are columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from atomjet.data import System
from atomjet.engine import load
from atomjet.engine.uncertainty import Watch, watched
from atomjet.errors import ConfigError, StructureError
from atomjet.units import BOHR, HARTREE

__DRIVER_NAME__ = "atomjet"
__DRIVER_CLASS__ = "AtomJetDriver"

Answer = tuple[float, np.ndarray, np.ndarray, str]
"""Energy (Hartree), forces (N, 3) (Hartree/Bohr), virial (3, 3) (Hartree) and remarks, of which there are none."""

WHOLE = ("charge", "spin")
"""Options of `atomjet.load` that i-PI may hand over as text or with a decimal point."""


class AtomJetDriver:
    """What i-PI calls for one structure, or for several in a list.

    Args:
        template: file with the elements of the atoms in i-PI's order, and in which directions they are periodic. Charge, spin and
            task that it gives go with every structure.
        model: see `atomjet.load`; `options` too.
        verbose, verbosity: i-PI's own; nothing depends on them.

    Raises:
        ConfigError: no template, or one that cannot be read.
        AtomJetError: as `atomjet.load`.
    """

    def __init__(
        self,
        template: str | None = None,
        model: str = "organic-xtb",
        *,
        verbose: Any = None,
        verbosity: Any = None,
        **options: Any,
    ) -> None:
        self.template = _read(template)
        options |= {name: _whole(name, options[name]) for name in WHOLE if name in options}
        self.engine = load(model, **options)
        self.watch = Watch(self.engine.bound)

    def __call__(
        self, cell: np.ndarray | Sequence[np.ndarray], positions: np.ndarray | Sequence[np.ndarray]
    ) -> Answer | list[Answer]:
        """Compute one structure, (3, 3) and (N, 3) in Bohr, or as many as the lists hold."""
        if isinstance(cell, np.ndarray):
            return self._compute([cell], [positions])[0]  # type: ignore[list-item]
        return self._compute(cell, positions)  # type: ignore[arg-type]

    def _compute(self, cells: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[Answer]:
        frames = [self._atoms(cell, x) for cell, x in zip(cells, positions, strict=True)]
        with watched():
            found = self.engine.predict(System.from_ase(frames)).to("cpu")
        self.watch.look(found)
        forces = found.forces.double().numpy().reshape(len(frames), -1, 3) * (BOHR / HARTREE)
        energies = found.energy.numpy() / HARTREE
        stress = np.nan_to_num(found.stress.double().numpy())  # of structures that have none
        return [
            (float(energy), force, -atoms.get_volume() * one / HARTREE if one.any() else one, "")
            for energy, force, one, atoms in zip(energies, forces, stress, frames, strict=True)
        ]

    def _atoms(self, cell: np.ndarray, positions: np.ndarray) -> Atoms:
        if len(positions) != len(self.template):
            raise StructureError(
                f"i-PI sends {len(positions)} atoms, the template has {len(self.template)}; give the file that i-PI starts from"
            )
        atoms = self.template.copy()
        atoms.set_cell(cell.T * BOHR)
        atoms.positions = positions * BOHR
        return atoms


def _read(template: str | None) -> Atoms:
    if not template:
        raise ConfigError("no template given; i-PI sends no elements, so give a file with the atoms in its order")
    try:
        return ase.io.read(template)  # type: ignore[return-value]
    except Exception as error:  # each format fails in its own way
        raise ConfigError(f"template {template} cannot be read: {' '.join(str(error).split())}") from None


def _whole(name: str, value: Any) -> int:
    try:
        number = float(value)
    except ValueError:
        number = 0.5
    if number != round(number):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number")
    return round(number)


if __name__ == "__main__":
    print(__file__)
