"""`atomjet ensemble` and `atomjet calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, DEFAULT_MODEL, Computing, Overwrite, Reading, grouped
from atomjet.cli.terminal import one_line

if TYPE_CHECKING:
    from ase import Atoms

ENSEMBLE_EXAMPLES = """Examples:

\b
  atomjet ensemble seed1.safetensors seed2.safetensors seed3.safetensors -o three.safetensors
  atomjet calibrate three.safetensors heldout.extxyz -o three.safetensors --overwrite
  atomjet md ethanol.xyz --steps 2000 -o run.traj --model three.safetensors
"""

CALIBRATE_EXAMPLES = """Examples:

\b
  atomjet calibrate three.safetensors heldout.extxyz --plot spread.png
  atomjet calibrate three.safetensors dataset/ -o calibrated.safetensors --json spread.json
"""


@grouped
def ensemble(
    files: Annotated[list[str], typer.Argument(help="Two models or more: names or files.", metavar="MODELS")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ensemble, .safetensors.")],
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Put several models into one file, an ensemble.

    It computes the mean of its members, and says how far they disagree: a measure of how uncertain it is. They must be of one
    family, with the same cutoff and elements; best are trainings from different seeds.
    """
    from atomjet.models import tensor_file
    from atomjet.models.load import read_ensemble
    from atomjet.models.registry import locate

    options.say_unused("ensemble", model=(computing.model, DEFAULT_MODEL))
    _check_model_output(output, overwrite)
    network, card = read_ensemble([locate(file) for file in files])
    tensor_file.write(output, network, card | {"name": output.stem})
    options.load_engine(replace(computing, model=str(output)))
    print(f"wrote {one_line(str(output))}: {len(files)} members; `atomjet calibrate` gives it a bound for warnings")


@grouped
def calibrate(
    ensemble: Annotated[str, typer.Argument(help="An ensemble: name or file.", metavar="MODEL", show_default=False)],
    frames: Annotated[
        Path,
        typer.Argument(
            help="Structures with forces that it was not trained on: a file that ASE reads, or a dataset, of which the held-out "
            "part is taken.",
            metavar="FRAMES",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The ensemble with its calibration in the card.", show_default=False),
    ] = None,
    quantile: Annotated[
        float, typer.Option("--quantile", help="Share of FRAMES that shall bring no warning; sets the bound.")
    ] = 0.95,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Every figure.", metavar="J", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Error against spread: .png, .pdf or .svg.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Find what an ensemble's spread means, and beyond which spread to warn.

    Compares spread and error on labelled structures. With -o both go into the model's card: predict, relax, md and the ASE
    calculator then warn of structures beyond the bound.
    """
    from atomjet.models import tensor_file
    from atomjet.models.load import read
    from atomjet.models.registry import locate
    from atomjet.validate import calibration
    from atomjet.writing import write_atomically

    options.say_unused("calibrate", model=(computing.model, DEFAULT_MODEL))
    options.check_outputs((json_file, plot), frames, overwrite)
    options.check_picture(plot)
    if output is not None:
        _check_model_output(output, overwrite)
    engine = options.load_engine(replace(computing, model=ensemble))
    compared = calibration.compare(engine, _labelled(frames, computing.seed))
    found = calibration.calibration(compared, quantile) | {"frames": frames.name}
    print(_spoken(found))
    if json_file is not None:
        write_atomically(json_file, json.dumps(found, indent=1) + "\n")
        print(f"wrote {json_file}")
    if plot is not None:
        calibration.plot(compared, found, f"{Path(ensemble).stem}, {frames.name}", plot)
        print(f"wrote {plot}")
    if output is not None:
        network, card = read(locate(ensemble))
        tensor_file.write(output, network, card | {"calibration": found})
        print(f"wrote {one_line(str(output))}")


def _check_model_output(output: Path, overwrite: bool) -> None:
    from atomjet.errors import ConfigError

    options.check_output(output, Path(), overwrite)
    if output.suffix != ".safetensors":
        raise ConfigError(f"output {output} does not end in .safetensors; name it so")


def _labelled(frames: Path, seed: int) -> list[tuple[Atoms, Any]]:
    """Structures with their forces; of a dataset those that are held out."""
    from atomjet.cli.labels import labels_of
    from atomjet.errors import ConfigError

    if frames.is_dir() or frames.suffix in (".h5", ".hdf5"):
        from atomjet.distill.dataset import read_dataset

        data = read_dataset(frames)
        held = data.select(data.split == "test")
        if not len(held):
            raise ConfigError(f"{frames} holds nothing back: none of its {len(data)} frames is in the split test")
        structures = [held.atoms(frame) for frame in range(len(held))]
    else:
        structures = [frame.atoms for frame in inputs.read_frames(frames, seed, Reading()) if frame.atoms is not None]
    return [(atoms, found["forces"]) for atoms in structures if "forces" in (found := labels_of(atoms))]


def _spoken(found: dict[str, Any]) -> str:
    columns = zip(*found["curve"].values(), strict=True)
    rows = "\n".join(f"{spread:14.4f} {error:14.4f} {expected:14.4f}" for spread, error, expected in columns)
    beyond = found["mean_error_beyond_bound"]
    return (
        f"{found['structures']} structures, {found['atoms']} atoms; root mean squares in {len(found['curve']['spread'])} bins:\n"
        f"{'spread / eV/Å':>14} {'error / eV/Å':>14} {'expected':>14}\n{rows}\n"
        f"scale {found['scale']:.3g} (expected error over spread), rank correlation {found['spearman']:.2f}\n"
        f"bound {found['bound']:.4g} eV/Å: {100 * found['warned_structures']:.1f} % of the structures are beyond it, with "
        f"{100 * found['worst_5_percent_in_warned_structures']:.0f} % of the worst 5 % of atoms; mean error "
        f"{found['mean_error']:.4f} eV/Å, of atoms beyond it {'none' if beyond is None else f'{beyond:.4f}'}\n"
        f"the 5 % of atoms of largest spread hold {100 * found['worst_5_percent_among_5_percent_of_largest_spread']:.0f} % of the "
        "worst 5 %"
    )
