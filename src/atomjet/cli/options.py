"""Options that every command takes, and what they mean for an engine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.structure_files import Frame as Structured

DEFAULT_MODEL = "organic-xtb"

MOST_STEPS_TO_REST = 1000
"""Steps that a relaxation which precedes another task may take, at most."""

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Packaged model (see `atomjet info`) or path of a model file.", metavar="NAME"),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N. Default: CUDA where there is one.", metavar="DEVICE"),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend", help="auto, general, fast_pytorch or fast_gpu: how the model is computed.", metavar="NAME"
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", help="default, high (float32 everywhere) or float64 (the reference).", metavar="NAME"),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random number that is drawn.")]
Task = Annotated[str | None, typer.Option("--task", help="For models that know several.", metavar="NAME")]
Structure = Annotated[
    Path,
    typer.Argument(
        help="Any file that ASE reads, .sdf, .smi; - for standard input; or a SMILES.",
        metavar="FILE",
        show_default=False,
    ),
]
Frame = Annotated[
    int, typer.Option("--frame", help="Which frame of FILE; negative counts from the end. Default: the last.")
]
Charge = Annotated[
    int | None,
    typer.Option("--charge", help="Total charge, e, of structures that say none.", metavar="Q", show_default=False),
]
Spin = Annotated[
    int | None,
    typer.Option("--spin", help="Multiplicity 2S+1 of structures that say none.", metavar="M", show_default=False),
]
Skip = Annotated[bool, typer.Option("--skip", help="Leave out structures that are refused; status 1 if any was.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse structures that only bring a warning otherwise.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over files that exist.")]


def load_engine(
    model: str, device: str | None, backend: str, precision: str, task: str | None = None, quiet: bool = False
) -> Engine:
    """Load the model and print what will run."""
    import atomjet

    # Words that are no setting are refused by name there.
    settings: dict[str, Any] = {"device": device, "backend": backend, "precision": precision}
    engine = atomjet.load(model, task=task, **settings)
    if not quiet:
        print(one_line(engine.describe()), flush=True)
    return engine


def read_frames(
    source: Path, seed: int = 0, charge: int | None = None, spin: int | None = None, strict: bool = False
) -> list[Structured]:
    """Every structure of a file, with the charge and spin given where it says none; warn of what it may not mean.

    With `strict` a structure that would bring a warning is one that is refused.
    """
    from atomjet.adapters import structure_files
    from atomjet.adapters.structure_checks import apply_conditions

    frames = structure_files.read_frames(source, seed, note)
    for frame in frames:
        if frame.atoms is not None:
            frame.remarks.update(apply_conditions(frame.atoms, charge, spin))
    return judge(frames, strict)


def check_for_model(frames: list[Structured], engine: Engine, strict: bool = False) -> list[Structured]:
    """Warn of structures that are not of the kind that the model computes; take out what is meant for other programs.

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
    """One warning a kind of remark, naming the first structure and how many there are; or a refusal for each."""
    from dataclasses import replace

    kinds: dict[str, list[Structured]] = {}
    for frame in frames:
        for kind in frame.remarks:
            kinds.setdefault(kind, []).append(frame)
    if strict:
        return [
            replace(frame, atoms=None, refusal=f"{'; '.join(frame.remarks.values())} (without --strict a warning)")
            if frame.remarks and frame.atoms is not None
            else frame
            for frame in frames
        ]
    for kind, concerned in kinds.items():
        first, more = concerned[0], ""
        if len(concerned) > 1:
            listed = ", ".join(str(frame.number) for frame in concerned[1:6]) + (", ..." if len(concerned) > 6 else "")
            more = f"; likewise {len(concerned) - 1} more (frame{'s' * (len(concerned) > 2)} {listed})"
        warn(f"{first.name}: {first.remarks[kind]}{more}")
    return frames


def read_frame(
    source: Path,
    frame: int,
    seed: int = 0,
    charge: int | None = None,
    spin: int | None = None,
    strict: bool = False,
) -> Atoms:
    """One structure of a file; say which, where there are several. See `read_frames`.

    Raises:
        ConfigError: there is no such frame.
        StructureError: it cannot be read, or brings a warning and `strict` is set.
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
        chosen.remarks.update(apply_conditions(chosen.atoms, charge, spin))
    chosen = judge([chosen], strict)[0]
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
def skipping(source: Path, skip: bool) -> Iterator[None]:
    """With `skip`, a structure that is refused ends the command with status 1 and one line, not as an error."""
    from atomjet.errors import StructureError

    try:
        yield
    except StructureError as error:
        if not skip:
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

    atoms.calc = AtomJetCalculator(engine)
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
