"""`atomjet validate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Overwrite, Reading, grouped

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from atomjet.validate import Check, Report

EXAMPLES = """Examples:

\b
  atomjet validate
  atomjet validate molecules.xyz crystal.cif --model my.safetensors --report validation.md
  atomjet validate --long-steps 0 --nvt-steps 0       (seconds instead of minutes)
  atomjet validate ethanol.xyz --teacher GFN2-xTB     (compare what student and teacher sample)
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
        typer.Option("--teacher", help="GFN2-xTB or GFN1-xTB: compare sampled geometries with it.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", help="On a CPU; small molecules gain nothing from more.")] = 1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Check the physics of a model: symmetries, derivatives, smoothness, conserved energy, temperature.

    Each check prints its measured figure and its bound. Ends with status 1 if one fails.
    """
    import torch

    from atomjet.stopping import stoppable
    from atomjet.validate import Effort, Report, default_structures, run_checks
    from atomjet.validate.suite import name_of

    options.check_positive(threads=threads)
    for output in (json_file, report):
        if output is not None:
            options.check_output(output, Path(), overwrite)
    frames = [frame for file in files or [] for frame in options.read_frames(file, computing.seed, reading)]
    skipped = [frame for frame in frames if reading.skip and frame.atoms is None]
    for frame in skipped:
        options.warn(f"skipped {frame.name}: {frame.refusal}")
    structures = [options.structure_of(frame) for frame in frames if frame.atoms is not None or not reading.skip]
    if skipped and not structures:
        raise typer.Exit(1)
    structures = structures if files else default_structures()
    reference = _teacher(teacher)
    torch.set_num_threads(threads)
    engine = options.load_engine(computing)
    effort = Effort(medium=medium_steps, long=long_steps, nvt=nvt_steps, seed=computing.seed)
    made = Report(engine.describe(), [name_of(atoms, k) for k, atoms in enumerate(structures)])
    started = time.perf_counter()
    with stoppable() as heard:
        try:
            for check in run_checks(engine, structures, effort, teacher=reference):
                made.checks.append(check)
                _print_check(check)
        except BaseException as error:  # what was checked is told and written whatever ends it
            heard()
            made.stopped = " ".join(str(error).split()) or "interrupted"
            raise
        finally:
            made.seconds = time.perf_counter() - started
            _tell(made, json_file, report)
    if not made.passed or skipped:
        raise typer.Exit(1)


def _tell(made: Report, json_file: Path | None, report: Path | None) -> None:
    """Print what it comes to, and write what was asked for."""
    from atomjet.validate.report import advice, write_report

    failed = sum(not check.passed for check in made.checks)
    stopped = ", then it was stopped" if made.stopped else ""
    print(f"{len(made.checks) - failed} of {len(made.checks)} checks passed in {made.seconds:.0f} s{stopped}")
    for line in advice(made.checks):
        print(line)
    if json_file is not None:
        json_file.write_text(json.dumps(made.to_json(), indent=1) + "\n")
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


def _teacher(name: str | None) -> Calculator | None:
    """The teacher's calculator, where one is asked for."""
    if name is None:
        return None
    from atomjet.errors import ConfigError

    known = ("GFN2-xTB", "GFN1-xTB")
    if name not in known:
        raise ConfigError(f"teacher {name!r} is not known; choose one of {', '.join(known)}")
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise ConfigError(f"teacher {name} needs tblite; pip install 'atomjet[distill]'") from None
    # The default accuracy leaves so much noise in the forces that the teacher's own energy drifts.
    return TBLite(method=name, accuracy=0.1, verbosity=0)
