"""What the options that commands share mean: a model loaded, structures read and judged, files that may be written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atomjet.cli.arguments import Computing, Executing, Reading
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.structure_files import Frame as Structured
    from atomjet.distill.executors import Executor

MOST_STEPS_TO_REST = 1000
"""Steps that a relaxation which precedes another task may take, at most."""


def load_engine(computing: Computing, quiet: bool = False) -> Engine:
    """Load the model and print what will run."""
    import atomjet

    # Words that are no setting are refused by name there.
    settings: dict[str, Any] = {
        "device": computing.device,
        "backend": computing.backend,
        "precision": computing.precision,
    }
    engine = atomjet.load(computing.model, task=computing.task, **settings)
    if not quiet:
        print(one_line(engine.describe()), flush=True)
    return engine


def load_engine_beside(executing: Executing, computing: Computing) -> Engine:
    """Load the model, and print what will run; on a CPU, to look at structures alone, where actors of Ray compute."""
    from dataclasses import replace

    if executing.executor == "ray":
        return load_engine(replace(computing, device="cpu", backend="auto"), quiet=True)
    return load_engine(computing)


def read_frames(source: Path, seed: int, reading: Reading) -> list[Structured]:
    """Every structure of a file, with the charge and spin given where it says none; warn of what it may not mean.

    With `reading.strict` a structure that would bring a warning is one that is refused.
    """
    from atomjet.adapters import structure_files
    from atomjet.adapters.structure_checks import apply_conditions

    frames = structure_files.read_frames(source, seed, note)
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
        engine = load_engine(computing, quiet)
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
        warn(f"{first.name}: {first.remarks[subject]}{more}")
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

    frames = read_frames(source, seed, note)
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


@contextmanager
def executor_of(executing: Executing, device: str | None = None) -> Iterator[Executor | None]:
    """The executor that the options ask for; None where they ask for none."""
    if executing == Executing():
        yield None
        return
    from atomjet.distill.executors import open_executor

    with open_executor(executing.executor or "processes", executing.workers, executing.ray_address, device) as executor:
        yield executor


def check_output(output: Path, source: Path, overwrite: bool = True) -> None:
    """Refuse, before anything is computed, an output that cannot be written, is the input, or exists and may not be lost."""
    from atomjet.errors import ConfigError

    if output.is_dir():
        raise ConfigError(f"cannot write {output}: it is a directory; give the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(f"cannot write {output}: it is the input; choose another name")
    if not output.parent.is_dir():
        raise ConfigError(f"cannot write {output}: there is no directory {output.parent}; make it first")
    if output.is_file() and not overwrite:  # a device is there to be written to
        raise ConfigError(f"{output} exists already; write over it with --overwrite, or choose another name")


def check_outputs(outputs: Iterable[Path | None], source: Path, overwrite: bool) -> None:
    """`check_output` for each that is given, which must be different files."""
    from atomjet.errors import ConfigError

    given = [output for output in outputs if output is not None]
    for output in given:
        check_output(output, source, overwrite)
    if len({output.resolve() for output in given}) < len(given):
        raise ConfigError(f"what is written must be different files; got {', '.join(map(str, given))}")


def check_picture(picture: Path | None) -> None:
    """Refuse, before anything is computed, a picture that could not be drawn."""
    from atomjet.errors import ConfigError

    if picture is not None and picture.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"plot {picture} ends in {picture.suffix or 'nothing'}; name it .png, .pdf or .svg")


def check_positive(**values: float | None) -> None:
    """Refuse numbers that mean nothing at zero and below.

    Raises:
        ConfigError: one is not above zero; names it.
    """
    from atomjet.errors import ConfigError

    for name, value in values.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name.replace('_', '-')} {value} is not above zero; give 1 or more")


def warn(message: str) -> None:
    """One line on standard error that does not stop anything."""
    print(f"warning: {one_line(message)}", file=sys.stderr)


MOST_UNCERTAIN = 20
"""Structures on which an ensemble's members disagree that are named one by one."""


def warn_uncertain(engine: Engine, named: Sequence[tuple[str, Atoms]]) -> None:
    """Warn of structures, with `arrays["forces_spread"]`, that are beyond an ensemble's bound; print how many there are."""
    held = [(name, atoms) for name, atoms in named if "forces_spread" in atoms.arrays]
    if engine.bound is None or not held:
        return
    found = 0
    for name, atoms in held:
        for doubt in engine.bound.doubts(atoms.arrays["forces_spread"], [len(atoms)]):
            found += 1
            if found <= MOST_UNCERTAIN:
                warn(engine.bound.line(doubt, name))
    if found > MOST_UNCERTAIN:
        warn(f"{found - MOST_UNCERTAIN} more structures are beyond the bound")
    print(f"uncertain: {found} of {len(held)} structures beyond the bound of {engine.bound.largest:.3g} eV/Å")


def note(message: str) -> None:
    """One line on standard error of what needs no care."""
    print(f"note: {one_line(message)}", file=sys.stderr)


def say_unused(command: str, **given: Any) -> None:
    """Say which of the options that every command takes were given and change nothing here."""
    for name, (value, default) in given.items():
        if value != default:
            warn(f"--{name} {value} has no effect on {command}")


def _periodicity(atoms: Atoms) -> str:
    axes = "".join("abc"[k] for k in range(3) if atoms.pbc[k])
    return f"periodic along {axes}" if axes else "not periodic"
