"""The structures that a command reads: taken from files, judged for a model, brought to rest where the command needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atomjet.cli import options
from atomjet.cli.arguments import Computing, Reading
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.structure_files import Frame as Structured

MOST_STEPS_TO_REST = 1000
"""Steps that a relaxation which precedes another task may take, at most."""


def read_frames(source: Path, seed: int, reading: Reading) -> list[Structured]:
    """Every structure of a file, with the charge and spin given where it says none; warn of what it may not mean.

    With `reading.strict` a structure that would bring a warning is one that is refused.
    """
    from atomjet.adapters import structure_files
    from atomjet.adapters.structure_checks import apply_conditions

    frames = structure_files.read_frames(source, seed, options.note)
    for frame in frames:
        if frame.atoms is not None:
            frame.remarks.update(apply_conditions(frame.atoms, reading.charge, reading.spin))
    return judge(frames, reading.strict)


def structure_and_engine(
    source: Path, frame: int, reading: Reading, computing: Computing, quiet: bool = False
) -> tuple[Atoms, Engine]:
    """One structure of a file, and the model that computes it; warns where the model is not made for it.

    Raises:
        Exit: the structure is refused, and `reading.skip` says that this is no error; with status 1.
        StructureError: it is refused.
    """
    with skipping(source, reading):
        atoms = read_frame(source, frame, computing.seed, reading)
        engine = options.load_engine(computing, quiet)
        return check_atoms(atoms, source, engine, reading.strict), engine


def check_for_model(frames: list[Structured], engine: Engine, strict: bool = False) -> list[Structured]:
    """Warn of structures that the model was not made for; take out what is meant for other programs.

    Returns:
        The frames; those refused with `strict` without structure.
    """
    from dataclasses import replace

    from atomjet.adapters.structure_checks import foreign_task, remarks_for

    checked = []
    for frame in frames:
        atoms = frame.atoms
        if atoms is None:
            checked.append(frame)
            continue
        checked.append(replace(frame, remarks=remarks_for(engine, atoms)))
        if foreign_task(engine, atoms):
            atoms.info["task"] = ""
    return judge(checked, strict)


def judge(frames: list[Structured], strict: bool) -> list[Structured]:
    """One warning for each subject, naming the first structure and how many there are; if `strict`, a refusal of each instead."""
    from dataclasses import replace

    by_subject: dict[str, list[Structured]] = {}
    for frame in frames:
        for subject in frame.remarks:
            by_subject.setdefault(subject, []).append(frame)
    if strict:
        return [
            replace(frame, atoms=None, refusal=f"{'; '.join(frame.remarks.values())} (without --strict a warning)")
            if frame.remarks and frame.atoms is not None
            else frame
            for frame in frames
        ]
    for subject, concerned in by_subject.items():
        first, more = concerned[0], ""
        if len(concerned) > 1:
            listed = ", ".join(str(frame.number) for frame in concerned[1:6]) + (", ..." if len(concerned) > 6 else "")
            more = f"; likewise {len(concerned) - 1} more (frame{'s' * (len(concerned) > 2)} {listed})"
        options.warn(f"{first.name}: {first.remarks[subject]}{more}")
    return frames


def read_frame(source: Path, frame: int, seed: int, reading: Reading) -> Atoms:
    """One structure of a file; say which, where there are several. See `read_frames`.

    Raises:
        ConfigError: there is no such frame.
        StructureError: it cannot be read, or brings a warning and `reading.strict` is set.
    """
    from atomjet.adapters.structure_checks import apply_conditions
    from atomjet.adapters.structure_files import read_frames
    from atomjet.errors import ConfigError

    frames = read_frames(source, seed, options.note)
    if not -len(frames) <= frame < len(frames):
        raise ConfigError(
            f"frame {frame} is not in {source}, which has {len(frames)}; give {-len(frames)} ... {len(frames) - 1}"
        )
    chosen = frames[frame]
    if chosen.atoms is not None:
        chosen.remarks.update(apply_conditions(chosen.atoms, reading.charge, reading.spin))
    chosen = judge([chosen], reading.strict)[0]
    atoms = structure_of(chosen)
    which = f", frame {frame % len(frames)} of 0 ... {len(frames) - 1}" if len(frames) > 1 else ""
    print(f"{one_line(str(source))}{which}: {atoms.get_chemical_formula()}, {len(atoms)} atoms, {_periodicity(atoms)}")
    return atoms


def check_atoms(atoms: Atoms, source: Path, engine: Engine, strict: bool = False) -> Atoms:
    """`check_for_model` of one structure, which messages call by its file."""
    from atomjet.adapters.structure_files import Frame as Structured

    frame = Structured(0, f"{source} ({atoms.get_chemical_formula()})", atoms)
    return structure_of(check_for_model([frame], engine, strict)[0])


@contextmanager
def skipping(source: Path, reading: Reading) -> Iterator[None]:
    """With `reading.skip`, a structure that is refused ends the command with status 1 and one line, not as an error."""
    from atomjet.errors import StructureError

    try:
        yield
    except StructureError as error:
        if not reading.skip:
            raise
        print(f"skipped {one_line(f'{source}: {error}')}", file=sys.stderr)
        raise typer.Exit(1) from None


def bring_to_rest(engine: Engine, atoms: Atoms, fmax: float, cell: bool = False, fix_symmetry: bool = False) -> None:
    """Relax a structure in place before something else is done with it, and say so.

    Raises:
        SimulationError: it does not converge to `fmax`, eV/Å.
    """
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.errors import SimulationError
    from atomjet.md.relax import RelaxSettings, relax

    atoms.calc = AtomJetCalculator(engine, remarks=False)
    settings = RelaxSettings(fmax=fmax, steps=MOST_STEPS_TO_REST, cell=cell, fix_symmetry=fix_symmetry)
    converged, last = relax(atoms, settings)
    atoms.calc = None
    formula = atoms.get_chemical_formula()
    if not converged:
        raise SimulationError(
            f"{formula} does not relax below {fmax:g} eV/Å: {last.fmax:.3g} eV/Å after {last.step} steps; relax it with "
            "`atomjet relax` first, or use --precision float64"
        )
    print(f"{formula} relaxed in {last.step} steps: {last.energy:.6f} eV, largest force {last.fmax:.2g} eV/Å")


def structure_of(frame: Structured) -> Atoms:
    """Its structure.

    Raises:
        StructureError: it was refused.
    """
    from atomjet.errors import StructureError

    if frame.atoms is None:
        raise StructureError(f"{frame.name}: {frame.refusal}")
    return frame.atoms


def _periodicity(atoms: Atoms) -> str:
    axes = "".join("abc"[k] for k in range(3) if atoms.pbc[k])
    return f"periodic along {axes}" if axes else "not periodic"
