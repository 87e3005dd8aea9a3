"""Arguments and options that several commands take, each spelled once, and groups of those that go together."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
Structure = Annotated[
    Path,
    typer.Argument(
        help="Any file that ASE reads, .sdf, .smi, .parquet; - for standard input; or a SMILES.",
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


@dataclass(frozen=True)
class Reading:
    """How structures are taken from a file."""

    charge: Charge = None
    spin: Spin = None
    skip: Skip = False
    strict: Strict = False


@dataclass(frozen=True)
class Computing:
    """Which model computes, where, and how."""

    model: Model = DEFAULT_MODEL
    device: Device = None
    backend: Backend = "auto"
    precision: Precision = "default"
    task: Task = None
    seed: Seed = 0


@dataclass(frozen=True)
class Executing:
    """Where many independent tasks run."""

    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            help="processes of this machine, or ray: actors on the nodes of a Ray cluster.",
            metavar="processes|ray",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="How many. Default: as many as there are CPUs; on Ray one less.", metavar="N"),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="Head of the Ray cluster. Default: RAY_ADDRESS, the cluster of this machine, or one is started.",
            metavar="HOST:PORT",
            show_default=False,
        ),
    ] = None


READING = Reading()

EXECUTING = Executing()

COMPUTING = Computing()

IN_FLOAT64 = Computing(precision="float64")
"""For what is made of small differences."""


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer sees it: a parameter whose default is a group becomes an option for each field of the group.

    The group's own values are the options' defaults, so that `computing: Computing = IN_FLOAT64` makes a
    command whose --precision is float64 unless given.
    """
    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        group = parameter.default
        if not dataclasses.is_dataclass(group) or isinstance(group, type):
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        groups[name] = group
        fields = typing.get_type_hints(type(group), include_extras=True)
        parameters.extend(
            inspect.Parameter(field, parameter.kind, default=getattr(group, field), annotation=hint)
            for field, hint in fields.items()
        )

    @functools.wraps(command)
    def spelled_out(**given: Any) -> Any:
        for name, group in groups.items():
            values = {field.name: given.pop(field.name) for field in dataclasses.fields(group)}
            given[name] = type(group)(**values)
        return command(**given)

    spelled_out.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    spelled_out.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spelled_out
