"""`atomjet compare`: a student against its teacher on one crystal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from atomjet.validate.crystal import Figure
    from atomjet.validate.diffusion import Run

EXAMPLES = """Examples:

\b
  atomjet compare crystal.cif --model my.safetensors --teacher chgnet.model.dynamics:CHGNetCalculator
  atomjet compare crystal.cif --model my.safetensors --teacher ase.calculators.emt:EMT --temperature 300 --steps 2000
  atomjet compare crystal.cif --model my.safetensors --teacher chgnet.model.dynamics:CHGNetCalculator \\
    --temperature 600 --teacher-run teacher_600.traj --mobile Li --json figures.json --plot figures.png
"""

Runs = list[Path] | None


@dataclass(frozen=True)
class Dynamics:
    """Which runs are compared, and how long those are that are made here."""

    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", help="Dynamics at it, K; may be repeated.", show_default=False),
    ] = None
    steps: Annotated[int, typer.Option("--steps", help="Of dynamics, for whom no run is given.")] = 5000
    timestep: Annotated[float, typer.Option("--timestep", help="fs")] = 2.0
    every: Annotated[int, typer.Option("--every", help="Steps between the frames of runs.")] = 10
    teacher_run: Annotated[
        Runs, typer.Option("--teacher-run", help="Its run, one file a temperature, in their order.", show_default=False)
    ] = None
    student_run: Annotated[Runs, typer.Option("--student-run", help="The student's, likewise.", show_default=False)] = (
        None
    )
    mobile: Annotated[
        str | None, typer.Option("--mobile", help="Element that diffuses. Default: the lightest.", show_default=False)
    ] = None


@dataclass(frozen=True)
class Teacher:
    """Who taught, as a recipe names it."""

    options: Annotated[
        str, typer.Option("--teacher-options", help="Keyword options of the teacher, JSON.", metavar="JSON")
    ] = "{}"
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", help="A Python file that the teacher may come from.", show_default=False),
    ] = None


@grouped
def compare(
    file: Structure,
    teacher: Annotated[
        str, typer.Option("--teacher", help="As in a recipe: package.module:factory, tblite:METHOD ...")
    ],
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="Compare labels on these frames; their own are used.", show_default=False),
    ] = None,
    static: Annotated[bool, typer.Option("--static/--no-static", help="Lattice and elastic constants.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Every figure and curve.", metavar="J", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Curves: .png, .pdf or .svg.", show_default=False)] = None,
    teaching: Teacher = Teacher(),
    dynamics: Dynamics = Dynamics(),
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Compare a student with its teacher on one crystal: labels, lattice, elastic constants, structure, diffusion, speed.

    Both are asked for the same; figures of both stand side by side. Judging them is left to you.
    """
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.validate import crystal
    from atomjet.writing import write_atomically

    options.check_outputs((json_file, plot), file, overwrite)
    options.check_picture(plot)
    options.check_positive(steps=dynamics.steps, timestep=dynamics.timestep, every=dynamics.every)
    reference = _teacher(teacher, teaching)
    atoms, engine = inputs.structure_and_engine(file, frame, reading, computing)
    student, found = AtomJetCalculator(engine), []
    print(f"{'':40} {'student':>12} {'teacher':>12}")
    if frames is not None:
        _tell(crystal.compare_labels(student, reference, _read_all(frames)), found)
    if static:
        _tell(crystal.compare_crystal(student, reference, atoms), found)
    for number in range(len(dynamics.temperature or ())):
        mine = _run(student, atoms, dynamics, dynamics.student_run, number, computing.seed)
        theirs = _run(reference, atoms, dynamics, dynamics.teacher_run, number, computing.seed)
        _tell(crystal.compare_runs(mine, theirs, _element(atoms, dynamics.mobile)), found)
    if json_file is not None:
        about = {"model": engine.card.get("name", computing.model), "teacher": teacher, "engine": engine.describe()}
        figures = [_as_json(figure) for figure in found]
        write_atomically(json_file, json.dumps(about | {"figures": figures}, indent=1) + "\n")
        print(f"wrote {json_file}")
    if plot is not None:
        from atomjet.validate.crystal_plot import plot_figures

        plot_figures(found, plot)
        print(f"wrote {plot}")


def _teacher(name: str, teaching: Teacher) -> Calculator:
    from atomjet.distill.teacher import make_teacher
    from atomjet.errors import ConfigError

    try:
        settings = json.loads(teaching.options)
    except ValueError as error:
        raise ConfigError(f"--teacher-options is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError('--teacher-options must be a JSON object, such as {"use_device": "cpu"}')
    return make_teacher(name, settings, [path.resolve() for path in teaching.trust or ()])


def _tell(figures: Iterator[Figure], found: list[Figure]) -> None:
    """Print each as it comes, and keep it."""
    for figure in figures:
        found.append(figure)
        print(_line(figure), flush=True)


def _line(figure: Figure) -> str:
    error = f" ± {figure.error:.2g}" if figure.error is not None else ""
    return f"{figure.name:40} {figure.student:12.5g} {figure.teacher:12.5g} {figure.unit}{error}"


def _as_json(figure: Figure) -> dict[str, Any]:
    """Fields of a figure; what is no number is null, as JSON has it."""
    numbers = {"student": figure.student, "teacher": figure.teacher, "error": figure.error}
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()}
    return {"name": figure.name, "unit": figure.unit, **finite, "series": dict(figure.series or {})}


def _element(atoms: Atoms, symbol: str | None) -> int:
    from ase.data import atomic_numbers

    from atomjet.errors import ConfigError

    if symbol is None:
        return int(atoms.numbers[atoms.get_masses().argmin()])
    if atomic_numbers.get(symbol) not in atoms.numbers:
        raise ConfigError(f"--mobile {symbol}: the structure has none; it has {atoms.get_chemical_formula()}")
    return atomic_numbers[symbol]


def _run(calculator: Calculator, atoms: Atoms, dynamics: Dynamics, files: Runs, number: int, seed: int) -> Run:
    """The run at one temperature: read where files are given, else made."""
    from atomjet.errors import ConfigError
    from atomjet.validate import diffusion

    temperatures = dynamics.temperature or []
    if files and len(files) != len(temperatures):
        raise ConfigError(f"{len(files)} runs for {len(temperatures)} temperatures; give one for each, in their order")
    kelvin, timestep, every = temperatures[number], dynamics.timestep, dynamics.every
    if files:
        return diffusion.after_equilibration(_read_all(files[number]), every * timestep, kelvin)
    return diffusion.run_nvt(calculator, atoms, kelvin, dynamics.steps, timestep, every, seed)


def _read_all(file: Path) -> list[Atoms]:
    """Every frame, with the labels that it carries."""
    from atomjet.adapters.structure_files import read_structures

    return read_structures(file)
