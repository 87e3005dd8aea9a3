"""`atomjet info` and `atomjet convert`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from atomjet.cli import options
from atomjet.cli.arguments import (
    COMPUTING,
    DEFAULT_MODEL,
    Backend,
    Computing,
    Device,
    Overwrite,
    Precision,
    Seed,
    grouped,
)
from atomjet.cli.terminal import one_line

AT_LENGTH = ("recipe", "settings", "student", "options")
"""Parts of a card that are shown with --full only."""

WEIGHTS_ONLY = (
    "weights only: an older format, whose SHA-256 leaves configuration and card out; `atomjet convert` renews it"
)

INFO_EXAMPLES = """Examples:

\b
  atomjet info                    (the packaged models)
  atomjet info organic-xtb        (one model's card: elements, teacher, errors on held-out data ...)
  atomjet info my.safetensors
"""

CONVERT_EXAMPLES = """Examples:

\b
  atomjet convert uma-s-1p2p1.pt -o uma-s.safetensors
  atomjet convert best_model.pt --config config.json -o student.safetensors
  atomjet convert old.safetensors -o renewed.safetensors    (a model file of an older format)

A fairchem checkpoint brings its configuration with it (every command also takes the .pt as it is, with --task).
For SchNetPack's weights the JSON file holds the hyperparameters by their own names: n_atom_basis, n_interactions,
radial_basis, n_rbf, cutoff, cutoff_fn, activation, shared_interactions, shared_filters, epsilon, max_z; optionally
atomrefs and mean.
"""


def info(
    name: Annotated[
        str | None, typer.Argument(help="Packaged model or path of a model file.", metavar="[MODEL]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The same as the argument.", metavar="NAME")
    ] = None,
    device: Device = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    seed: Seed = 0,
    full: Annotated[
        bool, typer.Option("--full", help="The whole card, recipe and training settings included.")
    ] = False,
) -> None:
    """List the packaged models, or show one model's card.

    The card: elements, cutoff, teacher, data, errors on held-out data, number of parameters, licence.
    """
    from ase.data import chemical_symbols

    from atomjet.errors import ConfigError
    from atomjet.models.load import read, whole_file_is_protected
    from atomjet.models.registry import PURPOSES, locate, packaged

    if name is not None and model is not None and name != model:
        raise ConfigError(f"two models are named, {name} and --model {model}; give one")
    name = name or model
    if name is None:
        for known, path in packaged().items():
            _, card = read(path)  # a damaged file is better said here than at first use
            print(f"{known:22} {' '.join(card.get('elements', [])):20} {one_line(card.get('summary', ''))}")
            if known in PURPOSES:
                print(f"{'':22} {PURPOSES[known]}")
        print("`atomjet info NAME` shows one; every command takes --model NAME or a path.")
        return
    engine = options.load_engine(Computing(name, device, backend, precision))
    module, _ = read(locate(name))
    card = {key: value for key, value in engine.card.items() if key != "elements"}
    facts = {
        "name": card.pop("name", name),
        "summary": card.pop("summary", None),
        "elements": " ".join(chemical_symbols[z] for z in engine.elements),
        "cutoff": f"{engine.cutoff:g} Å",
        "parameters": f"{sum(parameter.numel() for parameter in module.parameters()):,}",
        "protection": None if whole_file_is_protected(locate(name)) else WEIGHTS_ONLY,
    }
    first = {key: card.pop(key) for key in ("licence", "errors", "limits") if key in card}
    _print_card(facts | first | card, full)
    if not full:
        print("--full shows the recipe and the settings of the training too")


@grouped
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="A fairchem UMA checkpoint (.pt), a SchNetPack 2.x PaiNN state_dict (.safetensors, .pt), "
            "or a model file of an older format.",
            metavar="FILE",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Our model file, .safetensors.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="SchNetPack's hyperparameters as JSON.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Turn a foreign checkpoint into a model file of ours.

    The result is loaded once to see that it runs. Pickled code is never run.
    """
    from atomjet.errors import ConfigError
    from atomjet.models import load

    options.say_unused("convert", model=(computing.model, DEFAULT_MODEL))
    options.check_output(output, file, overwrite)
    if output.suffix != ".safetensors":
        raise ConfigError(f"output {output} does not end in .safetensors; name it so")
    load.convert(file, config, output)
    options.load_engine(replace(computing, model=str(output)))
    print(f"wrote {one_line(str(output))}")


def _print_card(card: dict[str, Any], full: bool, indent: int = 0) -> None:
    """Nested values, one a line, names in a column; below the second level only in full."""
    for key, value in card.items():
        label = " " * indent + one_line(key.replace("_", " "))
        if value in (None, "", {}, []):
            continue
        if isinstance(value, dict):
            if full or indent == 0 or key not in AT_LENGTH:
                print(label)
                _print_card(value, full, indent + 2)
        elif isinstance(value, list) and any(isinstance(item, str) and " " in item for item in value):
            print(label)
            for item in value:
                print(" " * (indent + 2) + one_line(str(item)))
        else:
            print(f"{label:28} {one_line(_spoken(value), limit=10_000)}")


def _spoken(value: Any) -> str:
    """Lists on one line, floats with four digits."""
    if isinstance(value, list):
        return " ".join(map(_spoken, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
