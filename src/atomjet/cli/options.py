"""What the options that commands share mean: a model loaded, an executor, files that may be written, warnings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomjet.cli.arguments import Computing, Executing
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.distill.executors import Executor


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
