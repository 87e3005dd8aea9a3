"""All checks of a potential on a set of structures, in order of their cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomjet.adapters.ase import AtomJetCalculator
from atomjet.adapters.structure_files import read_structures
from atomjet.engine import Engine
from atomjet.errors import ConfigError, StructureError
from atomjet.progress import track
from atomjet.validate import agreement, derivatives, distributions, dynamics, smoothness, symmetry
from atomjet.validate.check import Check
from atomjet.validate.potential import Potential, in_float64

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

STRUCTURES = Path(__file__).parent / "structures.extxyz"
"""Water, ethanol, benzene, alanine dipeptide, six waters (relaxed with GFN2-xTB) and a periodic box of 27 waters."""

KELVIN = 600.0
"""Start of the constant-energy runs; half of it goes into the bonds of a relaxed structure."""

LARGE = 100
"""Atoms. Larger structures do not take part in the runs of 1,000 steps and more."""


@dataclass(frozen=True)
class Effort:
    """How long the runs are.

    Args:
        short, medium, long: steps of 0.5 fs at constant energy; 0 leaves a run out.
        nvt: steps at constant temperature; 0 leaves them out (they need physical_validation).
        order: fs of the time-step order check; 0 leaves it out.
        reverse: steps there and back; 0 leaves it out.
        seed: of every random number.
    """

    short: int = 100
    medium: int = 1000
    long: int = 10000
    nvt: int = 6000
    order: float = 250.0
    reverse: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)} is negative; give 0 or more")


@dataclass
class Report:
    """What was checked, of what, and what came out.

    Attributes:
        what: the potential. structures: their names. seconds: that it took.
        stopped: why it did not come to its end, or "".
        about: JSON-able; with what it was compared, and where it was measured.
    """

    what: str
    structures: list[str]
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    stopped: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check was done and passed, and there was one."""
        return bool(self.checks) and not self.stopped and all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        checks = [check.to_json() for check in self.checks]
        return {
            "passed": self.passed,
            "stopped": self.stopped,
            "what": self.what,
            "structures": self.structures,
            "seconds": self.seconds,
            "checks": checks,
        } | ({"about": self.about} if self.about else {})


def default_structures() -> list[Atoms]:
    """The structures checked where none are given."""
    return read_structures(STRUCTURES)


def run_checks(
    potential: Potential,
    structures: list[Atoms],
    effort: Effort | None = None,
    calculator: Calculator | None = None,
    teacher: Calculator | None = None,
) -> Iterator[Check]:
    """Yield every check that applies, as it is done.

    Args:
        potential: an `Engine`, or any potential (then give its `calculator` for the runs at constant temperature).
        structures: at least one; `info["name"]` names them.
        effort: how long the runs are.
        calculator: ASE's view of the potential; made from an `Engine`.
        teacher: to compare sampled geometries with.

    Raises:
        StructureError: no structures, or one that the potential refuses.
    """
    effort = effort or Effort()
    if not structures:
        raise StructureError("no structures to check; give at least one")
    names = [name_of(atoms, k) for k, atoms in enumerate(structures)]
    exact = in_float64(potential)
    generator = np.random.default_rng(effort.seed)
    elements = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
    for atoms, name in zip(structures, names, strict=True):
        yield from _static(exact, atoms, name, generator)
    yield symmetry.batch_independence(exact, structures)
    for check in (smoothness.cutoff_smoothness(exact, elements), smoothness.force_smoothness(exact, elements)):
        if check is not None:
            yield check
    yield from _constant_energy(potential, exact, structures, names, effort)
    if calculator is None and isinstance(potential, Engine):
        calculator = AtomJetCalculator(potential, remarks=False)
    atoms, name = _flexible(structures, names)
    if calculator is not None and effort.nvt and not atoms.pbc.any():
        yield from distributions.kinetic_energy(calculator, atoms, name, effort.nvt, effort.seed)
        if teacher is not None:
            yield from distributions.against_teacher(calculator, teacher, atoms, name, effort.nvt, effort.seed)


def validate(
    potential: Potential,
    structures: list[Atoms] | None = None,
    effort: Effort | None = None,
    calculator: Calculator | None = None,
    teacher: Calculator | None = None,
) -> Report:
    """Run all checks and return the report; see `run_checks`."""
    structures = default_structures() if structures is None else structures
    started = time.perf_counter()
    what = potential.describe() if isinstance(potential, Engine) else type(potential).__name__
    report = Report(what, [name_of(atoms, k) for k, atoms in enumerate(structures)])
    report.checks.extend(run_checks(potential, structures, effort, calculator, teacher))
    report.seconds = time.perf_counter() - started
    return report


def name_of(atoms: Atoms, index: int) -> str:
    """The structure's name, or its number and formula."""
    return str(atoms.info.get("name", f"structure {index} {atoms.get_chemical_formula()}"))


def _static(exact: Potential, atoms: Atoms, name: str, generator: np.random.Generator) -> Iterator[Check]:
    # Off the minimum, where symmetry would hide errors and forces vanish.
    atoms = atoms.copy()
    atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
    yield symmetry.equivariance(exact, atoms, name, generator)
    yield symmetry.translation(exact, atoms, name, generator)
    yield symmetry.permutation(exact, atoms, name, generator)
    yield symmetry.extensivity(exact, atoms, name)
    yield symmetry.net_force(exact, atoms, name)
    if not atoms.pbc.any():
        yield symmetry.net_torque(exact, atoms, name)
    yield derivatives.force_differences(exact, atoms, name, generator)
    if atoms.pbc.all():
        yield derivatives.stress_differences(exact, atoms, name)


def _constant_energy(
    potential: Potential, exact: Potential, structures: list[Atoms], names: list[str], effort: Effort
) -> Iterator[Check]:
    """Runs as the user would make them (in the precision given), order and reversal in float64."""
    free = [k for k, atoms in enumerate(structures) if not atoms.pbc.any() and len(atoms) <= LARGE]
    flexible, flexible_name = _flexible(structures, names)
    single = next(k for k, atoms in enumerate(structures) if atoms is flexible)
    for label, steps, chosen in (
        ("short", effort.short, list(range(len(structures)))),
        ("medium", effort.medium, free or [single]),
        ("long", effort.long, [single]),
    ):
        if not steps:
            continue
        some, some_names = [structures[k] for k in chosen], [names[k] for k in chosen]
        label = f"{label} ({steps:,} steps)"
        state, masses = dynamics.start(potential, some, KELVIN, effort.seed)
        every = max(1, steps // 2000)
        with track(f"run at constant energy, {label}", steps, quiet=steps < dynamics.LONG_RUN) as advance:
            run, _ = dynamics.run_nve(potential, state, masses, some_names, steps, every=every, advance=advance)
        yield dynamics.energy_drift(run, potential.dtype, label)
        yield dynamics.bounded_forces(run, label)
        yield dynamics.bond_stability(run, some, label)
        if isinstance(potential, Engine) and chosen == (free or [single]) and not run.failure:
            yield agreement.backend_agreement(potential, run, label)
    if effort.order:
        yield dynamics.timestep_order(exact, flexible, flexible_name, effort.order, effort.seed)
    if effort.reverse:
        yield dynamics.reversibility(exact, flexible, flexible_name, effort.reverse, effort.seed)


def _flexible(structures: list[Atoms], names: list[str]) -> tuple[Atoms, str]:
    """The molecule for the long runs: the largest of at most 12 atoms (ethanol before benzene), else the smallest."""
    order = sorted(range(len(structures)), key=lambda k: (structures[k].pbc.any(), len(structures[k])))
    small = [k for k in order if len(structures[k]) < 12 and not structures[k].pbc.any()]
    chosen = small[-1] if small else order[0]
    return structures[chosen], names[chosen]
