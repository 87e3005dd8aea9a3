"""All checks of a student against its teacher on organic molecules, in order of what they tell, and the table that they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atomjet.distill.recipe import TeacherConfig
from atomjet.engine import Engine
from atomjet.errors import ConfigError
from atomjet.validate.check import Check
from atomjet.validate.organic.boxes import boxes
from atomjet.validate.organic.contacts import compressed_contacts, dimer_minima
from atomjet.validate.organic.energies import conformers, torsions
from atomjet.validate.organic.frames import unseen_molecules
from atomjet.validate.organic.minima import frequencies, relaxed_drugs
from atomjet.validate.organic.runs import constant_energy, replicas, speed
from atomjet.validate.organic.sets import Judged

IN_DISTRIBUTION = "training molecules, held-out frames"
IN_DISTRIBUTION_MAE = 18.0
"""Group of a card's errors, and meV/Å."""


def training_molecules(judged: Judged) -> list[Check]:
    """Force MAE on held-back frames of molecules that were trained on, as the student's card has it."""
    card = judged.potential.card if isinstance(judged.potential, Engine) else {}
    errors: dict[str, Any] = card.get("errors", {}).get(IN_DISTRIBUTION, {})
    if "force_mae_meV_A" not in errors:
        return []
    value, detail = float(errors["force_mae_meV_A"]), f"{errors.get('frames', '?')} frames; from the model's card"
    source = "the table that students are accepted by"
    return [
        Check("force MAE, trained molecules", "held-back frames", value, "meV/Å", IN_DISTRIBUTION_MAE, source, detail)
    ]


CHECKS: dict[str, tuple[Callable[[Judged], Iterable[Check]], ...]] = {
    "molecules": (unseen_molecules, training_molecules),
    "dimers": (dimer_minima,),
    "contacts": (lambda judged: [compressed_contacts(judged)],),
    "torsions": (torsions,),
    "conformers": (conformers,),
    "frequencies": (frequencies,),
    "drugs": (relaxed_drugs,),
    "boxes": (boxes,),
    "conservation": (constant_energy,),
    "replicas": (replicas,),
    "speed": (speed,),
}
"""Groups of checks by the name that `--only` takes."""


def chosen(only: str | None) -> list[str]:
    """Names of groups, from a list with commas.

    Raises:
        ConfigError: there is no such group.
    """
    names = [name.strip() for name in only.split(",")] if only else list(CHECKS)
    for name in names:
        if name not in CHECKS:
            raise ConfigError(f"there are no checks {name!r}; choose from {', '.join(CHECKS)}")
    return names


def run_against_teacher(judged: Judged, names: Sequence[str]) -> Iterator[Check]:
    """Yield the checks of some groups, as they are done."""
    for name in names:
        for function in CHECKS[name]:
            yield from function(judged)


def teacher_of(card: dict[str, Any], named: str | None) -> TeacherConfig:
    """The teacher that is named ("GFN2-xTB", or as a recipe names it), or else the one on the student's card.

    Raises:
        ConfigError: neither.
    """
    said = card.get("teacher") or {}
    if named is None and "calculator" not in said:
        raise ConfigError("the model's card names no teacher; name it with --teacher, for example --teacher GFN2-xTB")
    # The default accuracy of xTB leaves so much noise in the forces that the teacher's own energy drifts.
    if named is None or named == said.get("calculator"):
        return TeacherConfig(calculator=said["calculator"], options=said.get("options", {}))
    spec = named if ":" in named else f"tblite:{named}"
    return TeacherConfig(calculator=spec, options={"accuracy": 0.1} if spec.startswith("tblite:") else {})


@dataclass(frozen=True)
class Row:
    """One line of the table: a kind of check, and the structure on which it is worst, relative to its bound.

    Attributes:
        name: of the checks. value: the worst, unit and bound with it. structure: where.
        passed: how many. of: all. limit: the bound in words, of all.
    """

    name: str
    value: float
    unit: str
    bound: float
    structure: str
    passed: int
    of: int
    limit: str

    def __str__(self) -> str:
        """A line for the terminal."""
        state = "ok    " if self.passed == self.of else "FAILED"
        many = f"{self.passed} of {self.of}" if self.of > 1 else ""
        figure = f"{self.value:.3g} {self.unit} (at most {self.bound:.3g})"
        return f"{state} {self.name:36} {many:9} {figure:44} {self.structure}"


def table(checks: Iterable[dict[str, Any]]) -> list[Row]:
    """Rows of checks as `Check.to_json` gives them, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        groups.setdefault(check["name"], []).append(check)
    return [_row(name, group) for name, group in groups.items()]


def _row(name: str, group: list[dict[str, Any]]) -> Row:
    values = np.array([float(check["value"]) for check in group])
    bounds = np.array([float(check["bound"]) for check in group])
    # Where the bound is zero, as for what must never happen, any value counts by itself.
    relative = np.nan_to_num(values / np.where(bounds > 0, bounds, 1.0), nan=np.inf)
    worst = int(np.argmax(relative))
    check = group[worst]
    passed = sum(check["passed"] for check in group)
    limit = f"{bounds[0]:.3g} {check['unit']}" if np.ptp(bounds) == 0 else check["source"]
    where = float(values[worst]), check["unit"], float(bounds[worst]), check["structure"]
    return Row(name, *where, passed, len(group), limit)
