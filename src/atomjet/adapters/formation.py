"""Formation energies through ASE: the energy of a calculator less that of the elements it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from atomjet.data.elements import SYMBOLS
from atomjet.errors import ConfigError, StructureError

MOST_BYTES = 1 << 20
"""Size of a table, at most: those of all elements and ten tasks take a tenth of it."""

Correction = Callable[[float, Atoms], float]
"""Makes of a total energy, eV, and its structure a corrected one, such as fairchem's `apply_mp_style_corrections`."""


class FormationEnergyCalculator(Calculator):
    """Another calculator's energy, less the reference energies of its elements; forces and stress are the same.

    What fairchem's calculator of this name gives: the energy, corrected if asked for, less the sum of one reference an atom. The
    energies of single atoms, where the calculator has them, are taken less theirs.

    Args:
        calculator: computes total energies, eV.
        references: eV an atom by symbol ({"Si": -5.4}), one such table for each task, or a YAML or JSON file of either, be it under
            the key "refs". UMA's is "form_elem_refs.yaml" beside its checkpoints.
        correction: for total energies, before references are taken off.

    Raises:
        ConfigError: a table that cannot be read.
        StructureError: while computing, an element or task without references.
    """

    def __init__(
        self,
        calculator: Calculator,
        references: Mapping[str, Any] | str | Path,
        correction: Correction | None = None,
    ) -> None:
        super().__init__()
        self.calculator, self.correction = calculator, correction
        self.where = "references" if isinstance(references, Mapping) else str(references)
        table = references if isinstance(references, Mapping) else _read(Path(references))
        self.by_task = _by_task(table, self.where)
        self.implemented_properties = calculator.implemented_properties

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last calculation, as the calculator has it."""
        return all_changes if self.atoms is None else self.calculator.check_state(atoms, tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None, "what is computed has atoms"
        references = self.references_of(self.atoms)
        self.calculator.calculate(self.atoms, properties or ["energy"], system_changes)
        self.results = dict(self.calculator.results)
        total = float(self.results["energy"])
        corrected = total if self.correction is None else float(self.correction(total, self.atoms))
        shift = corrected - total - float(references.sum())
        for name in {"energy", "free_energy"} & set(self.results):
            self.results[name] = self.results[name] + shift
        if "energies" in self.results:
            self.results["energies"] = self.results["energies"] - references + (corrected - total) / len(references)

    def references_of(self, atoms: Atoms) -> np.ndarray:
        """(N,) eV."""
        engine = getattr(self.calculator, "engine", None)
        task = str(atoms.info.get("task") or getattr(engine, "task", None) or "")
        table = self.by_task.get(task, self.by_task.get(""))
        if table is None:
            known = ", ".join(self.by_task)
            raise StructureError(f"{self.where} has no references for task {task!r}; it has those for {known}")
        missing = sorted(set(atoms.get_chemical_symbols()) - set(table))
        if missing:
            of_task = f" for task {task!r}" if task and "" not in self.by_task else ""
            raise StructureError(
                f"{self.where} has no reference energy of {', '.join(missing)}{of_task}; add it, eV an atom"
            )
        return np.array([table[symbol] for symbol in atoms.get_chemical_symbols()])


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES} bytes; a table of reference energies is smaller")
        return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # everything a text: No is nobelium
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = str(error).splitlines()[0][:200]
        raise ConfigError(f"cannot read reference energies from {path}: {line}; give YAML or JSON") from None


def _by_task(table: Any, where: str) -> dict[str, dict[str, float]]:
    """Tables by task; under "" the one of no task."""
    found = table.get("refs", table) if isinstance(table, Mapping) else None
    if isinstance(found, Mapping) and found:
        nested = {str(task): own for task, own in found.items() if isinstance(own, Mapping)}
        tables = nested if len(nested) == len(found) else {"": found}
        if all(_is_reference(symbol, value) for own in tables.values() for symbol, value in own.items()):
            return {task: {str(symbol): float(value) for symbol, value in own.items()} for task, own in tables.items()}
    raise ConfigError(
        f"{where} is no table of reference energies; give eV an atom by symbol, such as {{'Si': -5.4}}, or one such table for "
        "each task"
    )


def _is_reference(symbol: Any, value: Any) -> bool:
    try:
        return symbol in SYMBOLS[1:] and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
