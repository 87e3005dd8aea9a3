"""`atomjet validate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Overwrite, Reading, grouped
from atomjet.cli.judging import JUDGING, Judging, judge, model_file, side_by_side, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from atomjet.validate import Check, Report

EXAMPLES = """Examples:

\b
  atomjet validate
  atomjet validate molecules.xyz crystal.cif --model my.safetensors --report validation.md
  atomjet validate --long-steps 0 --nvt-steps 0       (seconds instead of minutes)
  atomjet validate ethanol.xyz --teacher GFN2-xTB     (compare what student and teacher sample)
  atomjet validate --against organic --json now.json  (dimers, torsions, unseen molecules ...: a student's table)
  atomjet validate --against organic --only dimers,torsions --model my.safetensors
  atomjet validate --read before.json --read now.json --report students.md      (side by side, with plots)
"""


@grouped
def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files that ASE reads. Default: molecules, a water cluster, a periodic box.", metavar="[FILES]"
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Every figure.", metavar="J", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Markdown, with plots beside it.", metavar="MD", show_default=False)
    ] = None,
    medium_steps: Annotated[int, typer.Option("--medium-steps", help="At constant energy, molecules. 0: none.")] = 1000,
    long_steps: Annotated[int, typer.Option("--long-steps", help="At constant energy, one molecule. 0: none.")] = 10000,
    nvt_steps: Annotated[int, typer.Option("--nvt-steps", help="At constant temperature. 0: none.")] = 6000,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="GFN2-xTB, or as a recipe names it: compare sampled geometries with it. With --against, default: the card's.",
            show_default=False,
        ),
    ] = None,
    judging: Judging = JUDGING,
    threads: Annotated[int, typer.Option("--threads", help="On a CPU; small molecules gain nothing from more.")] = 1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Check the physics of a model: symmetries, derivatives, smoothness, conserved energy, temperature.

    Each check prints its measured figure and its bound. Ends with status 1 if one fails. With --against a student is judged by its
    teacher: dimers, compressed contacts, torsions, conformers, frequencies, minima, unseen molecules, boxes, runs.
    """
    import torch

    from atomjet.validate import Effort, Report, run_checks
    from atomjet.validate.suite import name_of

    options.check_positive(threads=threads, workers=judging.workers, ps=judging.picoseconds)
    for output in (json_file, report):
        if output is not None:
            options.check_output(output, Path(), overwrite)
    if judging.read:
        side_by_side(judging.read, report)
        return
    torch.set_num_threads(threads)
    if judging.against is not None:
        _judge(judging, files, teacher, computing, json_file, report)
        return
    structures, skipped = _structures(files or [], computing.seed, reading)
    reference = None if teacher is None else _teacher(teacher)
    engine = options.load_engine(computing)
    effort = Effort(medium=medium_steps, long=long_steps, nvt=nvt_steps, seed=computing.seed)
    made = Report(engine.describe(), [name_of(atoms, k) for k, atoms in enumerate(structures)])
    _run(made, run_checks(engine, structures, effort, teacher=reference), json_file, report)
    if not made.passed or skipped:
        raise typer.Exit(1)


def _structures(files: list[Path], seed: int, reading: Reading) -> tuple[list[Atoms], bool]:
    """What files hold, or the default structures; and whether any was skipped."""
    from atomjet.validate import default_structures

    frames = [frame for file in files for frame in inputs.read_frames(file, seed, reading)]
    skipped = [frame for frame in frames if reading.skip and frame.atoms is None]
    for frame in skipped:
        options.warn(f"skipped {frame.name}: {frame.refusal}")
    structures = [inputs.structure_of(frame) for frame in frames if frame.atoms is not None or not reading.skip]
    if skipped and not structures:
        raise typer.Exit(1)
    return structures if files else default_structures(), bool(skipped)


def _judge(
    judging: Judging,
    files: list[Path] | None,
    teacher: str | None,
    computing: Computing,
    json_file: Path | None,
    report: Path | None,
) -> None:
    """A student against its teacher: the checks, then the table that they come to."""
    from atomjet.errors import ConfigError

    if files:
        raise ConfigError(f"--against {judging.against} brings its own structures; leave out {files[0]}")
    file = model_file(judging, computing.model)
    made, checks = judge(judging, options.load_engine(computing), teacher, computing.seed)
    try:
        _run(made, checks, json_file, None)
    finally:
        tell(made, report, file)
    if not made.passed:
        raise typer.Exit(1)


def _run(made: Report, checks: Iterator[Check], json_file: Path | None, report: Path | None) -> None:
    """Do the checks, print each, and tell what they come to, whatever ends them."""
    from atomjet.stopping import stoppable

    started = time.perf_counter()
    with stoppable() as heard:
        try:
            for check in checks:
                made.checks.append(check)
                _print_check(check)
        except BaseException as error:  # what was checked is told and written whatever ends it
            heard()
            made.stopped = " ".join(str(error).split()) or "interrupted"
            raise
        finally:
            made.seconds = time.perf_counter() - started
            _tell(made, json_file, report)


def _tell(made: Report, json_file: Path | None, report: Path | None) -> None:
    """Print what it comes to, and write what was asked for."""
    from atomjet.validate.report import advice, write_report
    from atomjet.writing import write_atomically

    failed = sum(not check.passed for check in made.checks)
    stopped = ", then it was stopped" if made.stopped else ""
    print(f"{len(made.checks) - failed} of {len(made.checks)} checks passed in {made.seconds:.0f} s{stopped}")
    for line in advice(made.checks):
        print(line)
    if json_file is not None:
        write_atomically(json_file, json.dumps(made.to_json(), indent=1) + "\n")
        print(f"wrote {json_file}")
    if report is not None:
        write_report(made, report)
        print(f"wrote {report}")


def _print_check(check: Check) -> None:
    state = "ok    " if check.passed else "FAILED"
    figure = f"{check.value:.3g} {check.unit} (bound {check.bound:.3g})"
    structure = check.structure if len(check.structure) < 40 else f"{check.structure.count(',') + 1} structures"
    print(f"{state} {check.name:42} {structure:18} {figure}", flush=True)
    if not check.passed:
        print(f"       {check.detail}; bound: {check.source}", flush=True)


def _teacher(name: str) -> Calculator:
    """The calculator of a teacher, "GFN2-xTB" or as a recipe names it."""
    from atomjet.distill.teacher import build_teacher
    from atomjet.validate.organic.suite import teacher_of

    return build_teacher(teacher_of({}, name))
