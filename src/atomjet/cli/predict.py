"""`atomjet predict`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import (
    COMPUTING,
    EXECUTING,
    READING,
    Computing,
    Executing,
    Overwrite,
    Reading,
    Structure,
    grouped,
)
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import AtomJetError, Engine
    from atomjet.adapters.structure_files import Frame as Structured
    from atomjet.cli.labels import Predicted
    from atomjet.distill.executors import Executor
    from atomjet.distill.journal import Record

MOST_LINES = 20
"""Frames of which each gets a line; more are summed up."""

HEADER = f"{'frame':>5} {'atoms':>6} {'energy / eV':>18} {'largest force / eV/Å':>21} {'pressure / GPa':>15}  formula"

EXAMPLES = """Examples:

\b
  atomjet predict ethanol.xyz
  atomjet predict frames.extxyz -o labelled.extxyz
  atomjet predict crystal.cif --model my.safetensors --precision float64
  atomjet predict molecules.sdf --skip --csv energies.csv
  atomjet predict labelled.extxyz --plot parity.png          (compares with the labels of the file)
  atomjet predict CCO
  atomjet predict library.parquet -o labelled.parquet --executor ray
"""


@grouped
def predict(
    file: Structure,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Extended XYZ, .traj or .parquet with energy, forces and stress of every frame."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="One row a frame: energy, largest force, pressure, label.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Predictions against the labels of FILE: .png, .pdf or .svg.", show_default=False),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="From .parquet to .parquet, the rows of one part.", metavar="K/N")
    ] = None,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
    executing: Executing = EXECUTING,
) -> None:
    """Compute energy, forces and stress of every frame of a file.

    Forces are printed unless they are written with -o or there are more than 20 frames, which are summed up. Labels that
    FILE holds are compared with, and kept in OUT as label_energy, label_forces and label_stress. A frame that cannot be
    computed ends the run, unless with --skip; those before it are written. Runs from .parquet to .parquet can be resumed.
    """
    from atomjet.adapters.structure_output import check_format, sample_of
    from atomjet.cli import bulk, labels
    from atomjet.errors import ConfigError

    options.check_outputs((output, csv, plot), file, overwrite)
    options.check_picture(plot)
    if output is not None:
        check_format(output, results=True)
    if bulk.takes(file, output, part, csv, plot) and output is not None:
        return bulk.predict_parquet(file, output, part, reading, computing, executing)
    frames = inputs.read_frames(file, computing.seed, reading)
    readable = [frame.atoms for frame in frames if frame.atoms is not None]
    if output is not None:
        check_format(output, sample_of(readable), results=True)
    if plot is not None and not any(labels.labels_of(atoms) for atoms in readable):
        raise ConfigError(f"plot {plot}: {file} holds no energies or forces to compare with; leave --plot out")
    tasks = {frame.number: frame.atoms.info.get("task") for frame in frames if frame.atoms is not None}
    engine = options.load_engine_beside(executing, computing)
    frames = inputs.check_for_model(frames, engine, reading.strict)
    if not (many := len(frames) > MOST_LINES):
        print(HEADER)
    with options.executor_of(executing, computing.device) as executor:
        done, skipped = _compute(engine, frames, reading.skip, tasks, (output, csv), computing, executor)
    _report(engine, done, many, output is None and csv is None)
    _write(done, output, csv, f"{len(done)} frames")
    if plot is not None:
        _plot(done, f"{file.name}, {Path(computing.model).stem}", plot)
    if skipped:
        print(f"skipped {len(skipped)} of {len(frames)} frames: {', '.join(map(str, skipped))}")
        raise typer.Exit(1)


def _plot(done: list[Predicted], title: str, picture: Path) -> None:
    from atomjet.cli import labels

    if any(frame.labels for frame in done):
        labels.plot(done, title, picture)
        print(f"wrote {picture}")


def _report(engine: Engine, done: list[Predicted], many: bool, nothing_written: bool) -> None:
    """What there is to say of all frames together."""
    from atomjet.cli import labels

    if many and done:
        print(labels.summary(done))
        if nothing_written:
            print("-o OUT.extxyz keeps energies and forces of every frame, --csv OUT.csv energies")
    if done and (table := labels.errors(done)) is not None:
        print(table)
    options.warn_uncertain(engine, [(f"frame {one.number}", one.atoms) for one in done])


def _compute(
    engine: Engine,
    frames: list[Structured],
    skip: bool,
    tasks: dict[int, Any],
    outputs: tuple[Path | None, Path | None],
    computing: Computing,
    executor: Executor | None,
) -> tuple[list[Predicted], list[int]]:
    """What was predicted, and the numbers of the frames that were skipped; what there is is written whatever ends it."""
    from atomjet.cli import labels
    from atomjet.errors import AtomJetError
    from atomjet.progress import track
    from atomjet.stopping import stoppable

    many = len(frames) > MOST_LINES
    done: list[Predicted] = []
    skipped: list[int] = []
    with stoppable() as heard, track("predict", len(frames), quiet=not many) as advance:
        try:
            for frame, result in _predicted(engine, frames, computing, executor, advance):
                if isinstance(result, AtomJetError):
                    text = f"frame {frame.number}: {str(result).removeprefix('structure 0: ')}"
                    if not skip:
                        raise type(result)(text) from result
                    print(f"skipped {one_line(text)}", file=sys.stderr)
                    skipped.append(frame.number)
                    continue
                if tasks[frame.number] is not None:
                    result.info["task"] = tasks[frame.number]
                assert frame.atoms is not None
                done.append(labels.Predicted(frame.number, result, labels.labels_of(frame.atoms)))
                labels.keep_labels(result, done[-1].labels)
                if not many:
                    _print_frame(frame.number, result, with_forces=outputs[0] is None)
        except BaseException:  # a frame that is refused, ctrl-C: those before it are not lost
            heard()
            _write(done, *outputs, f"the first {len(done)} of {len(frames)} frames")
            raise
    return done, skipped


def _predicted(
    engine: Engine,
    frames: list[Structured],
    computing: Computing,
    executor: Executor | None,
    advance: Callable[..., None],
) -> Iterator[tuple[Structured, Atoms | AtomJetError]]:
    """Each frame with a copy of its structure that carries what was predicted, or why there is none; computed in groups."""
    from atomjet.adapters.predictions import predict as predict_group
    from atomjet.adapters.predictions import results_of
    from atomjet.errors import StructureError

    groups = list(_groups(frames))
    structures = [[frame.atoms for frame in group if frame.atoms is not None] for group in groups]
    known = [group for group in structures if group]
    if executor is None:
        records = (predict_group(engine, group) for group in known)
    else:
        records = _by_executor(computing, known, executor, advance)
    for group, atoms in zip(groups, structures, strict=True):
        results = results_of(next(records), atoms) if atoms else iter([StructureError(group[0].refusal)])
        for frame, result in zip(group, results, strict=True):
            if executor is None or frame.atoms is None:
                advance()
            yield frame, result


def _by_executor(
    computing: Computing, groups: list[list[Atoms]], executor: Executor, advance: Callable[..., None]
) -> Iterator[Record]:
    """Records of all groups, in order, once all are computed."""
    import tempfile

    from atomjet.cli.bulk import settings_of
    from atomjet.distill.bulk import run_batches
    from atomjet.distill.journal import Journal

    with tempfile.TemporaryDirectory(prefix="atomjet-") as folder:
        keys = run_batches(settings_of(computing, executor), groups, Path(folder), executor, advance)
        with Journal(folder) as journal:
            yield from (journal[key] for key in keys)


def _groups(frames: list[Structured]) -> Iterator[list[Structured]]:
    """Frames to be computed together; one that was refused is alone."""
    from atomjet.adapters.predictions import ATOMS_AT_ONCE
    from atomjet.engine.streams import groups

    sizes = [ATOMS_AT_ONCE + 1 if frame.atoms is None else len(frame.atoms) for frame in frames]
    yield from ([frames[k] for k in which] for which in groups(sizes, ATOMS_AT_ONCE))


def _write(done: list[Predicted], output: Path | None, csv: Path | None, what: str) -> None:
    """What was predicted, into the files that were asked for; nothing where there is nothing."""
    from atomjet.adapters.structure_output import write_structures
    from atomjet.cli import labels
    from atomjet.writing import write_atomically

    if not done:
        return
    if output is not None:
        write_structures(output, [frame.atoms for frame in done])
        print(f"wrote {output}: {what}", flush=True)
    if csv is not None:
        write_atomically(csv, labels.table(done))
        print(f"wrote {csv}: {what}", flush=True)


def _print_frame(index: int, atoms: Atoms, with_forces: bool) -> None:
    """One line, and the forces where they are not written to a file."""
    from atomjet.cli import labels

    pressure = labels.pressure(atoms)
    print(
        f"{index:5d} {len(atoms):6d} {atoms.get_potential_energy():18.6f} {labels.largest_force(atoms):21.4f} "
        f"{'' if pressure is None else f'{pressure:.4f}':>15}  {atoms.get_chemical_formula()}"
    )
    if with_forces:
        forces = atoms.get_forces(apply_constraint=False)
        for atom, (symbol, force) in enumerate(zip(atoms.symbols, forces, strict=True)):
            print(f"      {atom:6d} {symbol:2} {force[0]:12.5f} {force[1]:12.5f} {force[2]:12.5f}  eV/Å")
        if atoms.pbc.all():
            stress = atoms.get_stress(apply_constraint=False)
            print("      stress xx yy zz yz xz xy / eV/Å³: " + " ".join(f"{value:.6f}" for value in stress))
