"""ASE's calculator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from atomjet.adapters.structure_checks import remarks_for
from atomjet.data import Prediction
from atomjet.engine import Engine, load
from atomjet.engine.uncertainty import UncertaintyWarning, Watch, watched
from atomjet.errors import StructureError


class NoStressError(StructureError, PropertyNotImplementedError):
    """A stress asked of a structure that has none; ASE's own programs catch it by its second name."""


class AtomJetCalculator(Calculator):
    """AtomJet as an ASE calculator: float64 eV, eV/Å and eV/Å³ (Voigt order xx, yy, zz, yz, xz, xy, ASE's sign).

    A result is kept as long as positions, elements, cell, periodic directions, charge, spin and task stay exactly as they were;
    `info` is compared too, which ASE itself does not do. Stress exists for structures that are periodic in all three directions.

    An ensemble adds `results["forces_spread"]` (N,) eV/Å and `results["energy_spread"]` eV/atom, as `Prediction` defines them. A
    warning comes once of each composition where an ensemble's members disagree too much, or where the model is not made for the
    first structure: an odd number of electrons, periodic directions where training had none, or two atoms nearer than any of their
    elements were there.

    Args:
        model: a packaged model's name, a model file, several of either for an ensemble, or an `Engine`.
        remarks: False for those who have looked themselves at what the card says.
        options: as for `atomjet.load` (device, backend, precision, task, charge, spin, on_overlap); not with an `Engine`. Task,
            charge and spin are defaults: `atoms.info["task"]`, `["charge"]` and `["spin"]` go before them.

    Attributes:
        watch: counts the evaluations on which an ensemble's members disagreed.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]  # type: ignore[misc]

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] | Engine = "organic-xtb",
        *,
        remarks: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(model, Engine) and options:
            raise TypeError(f"options {sorted(options)} come with the engine; give them to atomjet.load")
        self.engine = model if isinstance(model, Engine) else load(model, **options)
        self.watch = Watch(self.engine.bound)
        self._remarks, self._known = remarks, set[bytes]()
        self._before: dict[str, Any] | None = None

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last calculation, in ASE's words; any difference counts, however small.

        ASE's own comparison allows tolerances and takes a fifth of a step of dynamics.
        """
        if self.atoms is None or self._before is None:
            return all_changes
        before, now = self._before, _state(atoms)
        return [name for name in now if not np.array_equal(before[name], now[name])]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`; everything comes from one evaluation."""
        super().calculate(atoms, properties, system_changes)
        self.results, self._before = {}, _state(self.atoms)  # type: ignore[arg-type]
        with watched():
            prediction = self.engine.predict(self.atoms).to("cpu")
        self._look(prediction)
        energy = float(prediction.energy[0])
        results = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction.atomic_energies.numpy(),
            "forces": prediction.forces.double().numpy(),
        }
        if prediction.spread is not None and prediction.energy_spread is not None:
            results["forces_spread"] = prediction.spread.double().numpy()
            results["energy_spread"] = float(prediction.energy_spread[0])
        if bool(np.all(self.atoms.pbc)):  # type: ignore[union-attr]
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].double().numpy())
        elif properties and "stress" in properties:
            pbc = self.atoms.pbc.tolist()  # type: ignore[union-attr]
            raise NoStressError(
                f"stress needs three periodic directions, this structure has pbc {pbc}; ask for forces only, "
                "or make it periodic with vacuum where it ends (atoms.center(vacuum=10, axis=2); atoms.pbc = True)"
            )
        self.results = results

    def _look(self, prediction: Prediction) -> None:
        """Warn, once of a composition, where the model is not made for it, and of an ensemble's members that disagree."""
        assert self.atoms is not None
        key = self.atoms.numbers.tobytes()
        if self._remarks and key not in self._known:
            self._known.add(key)
            for remark in remarks_for(self.engine, self.atoms).values():
                warnings.warn(f"{self.atoms.get_chemical_formula()} {remark}", UncertaintyWarning, stacklevel=3)
        if self.watch.bound is not None:
            self.watch.look(prediction, [self.atoms.get_chemical_formula()], [key])


def _state(atoms: Atoms) -> dict[str, Any]:
    """Everything that a prediction depends on, under ASE's names for changes; charge, spin and task go with those of initial
    charges and moments, which nothing depends on.
    """
    return {
        "positions": atoms.positions,
        "numbers": atoms.numbers,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "initial_charges": [str(atoms.info.get("charge"))],
        "initial_magmoms": [str(atoms.info.get("spin")), str(atoms.info.get("task"))],
    }
