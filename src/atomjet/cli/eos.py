"""`atomjet eos`: equilibrium volume and bulk modulus of a crystal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import IN_FLOAT64, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

EXAMPLES = """Examples:

\b
  atomjet eos crystal.cif --model my.safetensors --relax
  atomjet eos crystal.cif --model uma.pt --task omat --strain 0.1 --form vinet --plot eos.png
"""

RELAXED = 1e-3
"""eV/Å, to which --relax goes."""


@grouped
def eos(
    file: Structure,
    strain: Annotated[
        float, typer.Option("--strain", help="Volumes from 1 - STRAIN to 1 + STRAIN of the one given.")
    ] = 0.06,
    points: Annotated[int, typer.Option("--points", help="Volumes, evenly apart.")] = 11,
    form: Annotated[
        str, typer.Option("--form", help="birchmurnaghan, birch, murnaghan, vinet or sj.", metavar="NAME")
    ] = "birchmurnaghan",
    relax: Annotated[bool, typer.Option("--relax", help="Relax structure and cell first.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Energy against volume: .png, .pdf or .svg.", show_default=False),
    ] = None,
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = IN_FLOAT64,
) -> None:
    """Fit an equation of state to energies at several volumes.

    The cell is stretched evenly in all directions and atoms move with it; they are not relaxed at each volume. All volumes are
    computed in one batch. Ends with status 1 where the energy is lowest at the smallest or the largest volume.
    """
    from atomjet.md.eos import equation_of_state

    options.check_outputs((plot,), file, overwrite)
    options.check_picture(plot)
    atoms, engine = inputs.structure_and_engine(file, frame, reading, computing)
    with inputs.skipping(file, reading):
        if relax:
            inputs.bring_to_rest(engine, atoms, RELAXED, cell=True)
        found = equation_of_state(engine.predict, atoms, strain, points, form, plot)
    print(f"{'volume / Å³':>12} {'energy / eV':>18}")
    for volume, energy in zip(found.volumes, found.energies, strict=True):
        print(f"{volume:12.4f} {energy:18.6f}")
    number = len(atoms)
    print(f"equilibrium volume {found.volume:12.4f} Å³   {found.volume / number:12.4f} Å³ an atom")
    print(f"energy there       {found.energy:12.6f} eV   {found.energy / number:12.6f} eV an atom")
    print(f"bulk modulus       {found.bulk_modulus:12.3f} GPa, {form}")
    if plot is not None:
        print(f"wrote {plot}")
