"""Options that every command takes, and what they mean for an engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine

DEFAULT_MODEL = "organic-xtb"

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
Structure = Annotated[Path, typer.Argument(help="Any file that ASE reads.", metavar="FILE", show_default=False)]
Frame = Annotated[
    int, typer.Option("--frame", help="Which frame of FILE; negative counts from the end. Default: the last.")
]


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


def read_frame(path: Path, frame: int) -> Atoms:
    """One structure of a file; say which, where there are several."""
    from atomjet.adapters.ase import read_structures
    from atomjet.errors import ConfigError

    frames = read_structures(path)
    if not -len(frames) <= frame < len(frames):
        raise ConfigError(
            f"frame {frame} is not in {path}, which has {len(frames)}; give {-len(frames)} ... {len(frames) - 1}"
        )
    atoms: Atoms = frames[frame]
    which = f", frame {frame % len(frames)} of 0 ... {len(frames) - 1}" if len(frames) > 1 else ""
    print(f"{one_line(str(path))}{which}: {atoms.get_chemical_formula()}, {len(atoms)} atoms, {_periodicity(atoms)}")
    return atoms


def check_output(output: Path, source: Path) -> None:
    """Refuse, before anything is computed, an output that cannot be written or would destroy the input."""
    from atomjet.errors import ConfigError

    if output.is_dir():
        raise ConfigError(f"cannot write {output}: it is a directory; give the name of a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(f"cannot write {output}: it is the input; choose another name")
    if not output.parent.is_dir():
        raise ConfigError(f"cannot write {output}: there is no directory {output.parent}; make it first")


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


def say_unused(command: str, **given: Any) -> None:
    """Say which of the options that every command takes were given and change nothing here."""
    for name, (value, default) in given.items():
        if value != default:
            warn(f"--{name} {value} has no effect on {command}")


def _periodicity(atoms: Atoms) -> str:
    axes = "".join("abc"[k] for k in range(3) if atoms.pbc[k])
    return f"periodic along {axes}" if axes else "not periodic"
