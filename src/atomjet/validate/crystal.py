"""A student against its teacher on one crystal: labels, lattice, elastic constants, structure and diffusion in dynamics, speed.

Both are ASE calculators here and are treated alike: what the teacher can do, the student is asked for, in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from atomjet.errors import SimulationError
from atomjet.units import GPA, MEV
from atomjet.validate.diffusion import Run, diffusion, mean_square_displacement, radial_distributions

Array = NDArray[np.float64]

RELAXED = 0.005
"""Force, eV/Å, to which cells and strained cells are relaxed."""

RELAX_STEPS = 500

STRAIN = 0.005
"""Strain of each of the six components, to both sides."""


@dataclass(frozen=True)
class Figure:
    """One figure of both; `series` are curves for a picture: name -> values, the first is the abscissa."""

    name: str
    unit: str
    student: float
    teacher: float
    error: float | None = None  # standard error of the difference, where there is one
    series: Mapping[str, list[float]] | None = None


def compare_labels(student: Calculator, teacher: Calculator, frames: Sequence[Atoms]) -> Iterator[Figure]:
    """Errors of energy, less their mean, force and stress on frames; teacher's labels that frames carry are taken as they are."""
    errors: dict[str, list[Array]] = {"energy": [], "forces": [], "stress": []}
    for frame in frames:
        labels = frame.calc if frame.calc is not None and "stress" in frame.calc.results else teacher
        found = [_labels(frame, calculator) for calculator in (student, labels)]
        for name, mine, theirs in zip(errors, *found, strict=True):
            errors[name].append(np.ravel(mine - theirs))
    energy, forces, stress = (np.concatenate(values) for values in errors.values())
    yield Figure("energy, MAE less the mean", "meV/atom", float(np.abs(energy - energy.mean()).mean() / MEV), 0.0)
    yield Figure("force, MAE", "meV/Å", float(np.abs(forces).mean() / MEV), 0.0)
    yield Figure("stress, MAE", "GPa", float(np.abs(stress).mean() / GPA), 0.0)


def _labels(frame: Atoms, calculator: Calculator) -> tuple[Array, Array, Array]:
    copy = frame.copy() if calculator is not frame.calc else frame
    copy.calc = calculator
    return np.array([copy.get_potential_energy() / len(copy)]), copy.get_forces(), copy.get_stress()


def relaxed_cell(calculator: Calculator, atoms: Atoms) -> Atoms:
    """The crystal with positions and cell at its minimum.

    Raises:
        SimulationError: no minimum within 500 steps.
    """
    moved = atoms.copy()
    moved.calc = calculator
    if not FIRE(FrechetCellFilter(moved), logfile=None).run(fmax=RELAXED, steps=RELAX_STEPS):  # type: ignore[arg-type]
        raise SimulationError(
            f"the cell was not relaxed to {RELAXED} eV/Å after {RELAX_STEPS} steps; start nearer to its minimum"
        )
    return moved


def elastic_constants(crystal: Atoms) -> Array:
    """(6, 6) GPa in Voigt's order, of a relaxed crystal with its calculator: stress over strain, atoms relaxed at each strain."""
    columns = []
    for component in range(6):
        sides = []
        for sign in (1, -1):
            strain = np.zeros(6)
            strain[component] = sign * STRAIN
            moved = crystal.copy()
            moved.calc = crystal.calc
            moved.set_cell(crystal.cell.array @ _deformation(strain), scale_atoms=True)
            FIRE(moved, logfile=None).run(fmax=RELAXED, steps=RELAX_STEPS)  # type: ignore[arg-type]
            sides.append(moved.get_stress())
        columns.append((sides[0] - sides[1]) / (2 * STRAIN) / GPA)
    found = np.array(columns)
    return (found + found.T) / 2


def _deformation(strain: Array) -> Array:
    """(3, 3) symmetric deformation of six strains in Voigt's order; shears are the engineer's, twice the tensor's."""
    xx, yy, zz, yz, xz, xy = strain
    return np.eye(3) + np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])


def compare_crystal(student: Calculator, teacher: Calculator, atoms: Atoms) -> Iterator[Figure]:
    """Lattice and elastic constants of both, each at its own minimum."""
    minima = [relaxed_cell(calculator, atoms) for calculator in (student, teacher)]
    cells = [minimum.cell.cellpar() for minimum in minima]
    for number, name in enumerate(("a", "b", "c", "alpha", "beta", "gamma")):
        unit = "Å" if number < 3 else "°"
        yield Figure(f"lattice constant {name}", unit, float(cells[0][number]), float(cells[1][number]))
    volumes = [minimum.get_volume() / len(atoms) for minimum in minima]
    yield Figure("volume of an atom", "Å³", volumes[0], volumes[1])
    mine, theirs = (elastic_constants(minimum) for minimum in minima)
    for i, j in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (3, 3), (4, 4), (5, 5)]:
        yield Figure(f"elastic constant C{i + 1}{j + 1}", "GPa", float(mine[i, j]), float(theirs[i, j]))
    yield Figure("bulk modulus (Voigt)", "GPa", float(mine[:3, :3].mean()), float(theirs[:3, :3].mean()))


def compare_runs(student: Run, teacher: Run, mobile: int) -> Iterator[Figure]:
    """Radial distribution functions of all pairs of elements, and mean square displacement and diffusion of one element.

    The figure of a pair of elements is the mean of |g - g'| over distances: 0 would be the teacher.
    """
    at = f"{student.temperature:g} K"
    distances, mine = radial_distributions(student)
    for (first, second), theirs in radial_distributions(teacher)[1].items():
        ours = mine[first, second]
        name = f"g(r) {chemical_symbols[first]}-{chemical_symbols[second]}, {at}"
        curves = {"r / Å": distances.tolist(), "student": ours.tolist(), "teacher": theirs.tolist()}
        yield Figure(name, "mean |difference|", float(np.abs(ours - theirs).mean()), 0.0, series=curves)
    symbol = chemical_symbols[mobile]
    (lags, ours), (others, theirs) = (mean_square_displacement(run, mobile) for run in (student, teacher))
    curves = {
        "t / ps": others.tolist(),
        "student": np.interp(others, lags, ours).tolist(),
        "teacher": theirs.tolist(),
    }
    yield Figure(
        f"MSD of {symbol} at the longest lag, {at}", "Å²", curves["student"][-1], curves["teacher"][-1], series=curves
    )
    (found, error), (expected, scatter) = (diffusion(run, mobile) for run in (student, teacher))
    yield Figure(f"diffusion of {symbol}, {at}", "cm²/s", found, expected, float(np.hypot(error, scatter)))
    yield Figure(f"dynamics, {at}", "steps/s", student.steps_per_second, teacher.steps_per_second)
