"""`atomjet neb`: the path of least energy between two minima, and its barrier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Overwrite, Reading, grouped

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.md.neb import MinimumEnergyPath

EXAMPLES = """Examples:

\b
  atomjet neb reactant.xyz product.xyz -o path.extxyz --relax-ends --plot path.png
  atomjet neb reactant.xyz product.xyz -o path.extxyz --images 15 --fmax 0.02
"""

SHALLOW = 0.01
"""eV, below both ends, from which an image shows another minimum."""


@grouped
def neb(
    first: Annotated[
        Path, typer.Argument(help="Where the path begins; its last frame.", metavar="FIRST", show_default=False)
    ],
    last: Annotated[
        Path,
        typer.Argument(
            help="Where it ends: the same atoms in the same order.",
            metavar="LAST",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Extended XYZ (or .traj) of all images with energy and forces.")
    ],
    images: Annotated[int, typer.Option("--images", help="Of the path, its two ends included.")] = 9,
    fmax: Annotated[float, typer.Option("--fmax", help="Converged below this force on every atom, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option("--steps", help="Most steps to take.")] = 500,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Put LAST's atoms in the order in which they stand nearest to FIRST's.")
    ] = False,
    relax_ends: Annotated[bool, typer.Option("--relax-ends", help="Relax FIRST and LAST before.")] = False,
    climb: Annotated[
        bool, typer.Option("--climb/--no-climb", help="Whether the highest image goes to the saddle point itself.")
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Energy along the path: .png, .pdf or .svg.", show_default=False),
    ] = None,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Find the path between two minima by a nudged elastic band with a climbing image.

    The images of each step are computed in one batch. Ends with status 1 when the band has not converged; as it stands it is
    written all the same.
    """
    from atomjet.adapters.structure_output import check_format, write_structures
    from atomjet.errors import SimulationError
    from atomjet.md.neb import find_path

    options.check_positive(fmax=fmax, steps=steps)
    for source in (first, last):
        options.check_outputs((output, plot), source, overwrite)
    options.check_picture(plot)
    check_format(output, results=True)
    ends, task, engine = _read_ends(first, last, output, reading, computing, reorder)
    _settle_ends(engine, ends, fmax, relax_ends)
    print(f"{'step':>5} {'barrier / eV':>14} {'largest force / eV/Å':>21}")
    path = find_path(engine.predict, ends[0], ends[1], images, fmax, steps, climb, _report)
    for image in path.images if task is not None else ():
        image.info["task"] = task
    write_structures(output, path.images)
    print(f"wrote {output}: {len(path.images)} images")
    _summary(path, plot)
    if not path.converged:
        raise SimulationError(
            f"not converged after {path.steps} steps, limit {fmax:g} eV/Å; raise --steps, or give more --images"
        )


def _read_ends(
    first: Path, last: Path, output: Path, reading: Reading, computing: Computing, reorder: bool
) -> tuple[list[Atoms], object, Engine]:
    """Both ends, the task that the first file names, and the model."""
    from atomjet.adapters.structure_output import check_format

    ends: list[Atoms] = []
    for source in (first, last):
        with inputs.skipping(source, reading):
            ends.append(inputs.read_frame(source, -1, computing.seed, reading))
    task = ends[0].info.get("task")
    check_format(output, ends, results=True)
    engine = options.load_engine(computing)
    for k, source in enumerate((first, last)):
        with inputs.skipping(source, reading):
            ends[k] = inputs.check_atoms(ends[k], source, engine, reading.strict)
    _order_atoms(ends, reorder)
    return ends, task, engine


def _order_atoms(ends: list[Atoms], reorder: bool) -> None:
    """Put the last end's atoms in the order that brings them nearest to the first's, or warn where another one clearly does."""
    from atomjet.md.neb import better_order

    order = better_order(*ends) if ends[0].numbers.tolist() == ends[1].numbers.tolist() else None
    if order is None:
        return
    others = [k for k, atom in enumerate(order) if k != atom]
    names = ", ".join(f"{k} ({ends[0].symbols[k]})" for k in others[:6]) + (", ..." if len(others) > 6 else "")
    if reorder:
        ends[1] = ends[1][order.tolist()]
        print(f"LAST's atoms put in another order: {names}")
        return
    options.warn(
        f"atoms {names} of LAST stand where others of their element do in FIRST: in this order they change places on the way; "
        "if that is not meant, give --reorder"
    )


def _settle_ends(engine: Engine, ends: list[Atoms], fmax: float, relax: bool) -> None:
    """Relax the ends, or warn of one that is no minimum."""
    if relax:
        for atoms in ends:
            inputs.bring_to_rest(engine, atoms, fmax)
        return
    found = engine.predict(ends)
    for k, name in enumerate(("FIRST", "LAST")):
        forces = found.forces_of(k).double().cpu().numpy()
        for constraint in ends[k].constraints:
            constraint.adjust_forces(ends[k], forces)
        largest = float((forces**2).sum(1).max() ** 0.5)
        if largest > fmax:
            options.warn(f"{name} feels forces up to {largest:.3g} eV/Å: no minimum; relax it, or give --relax-ends")


def _report(step: int, barrier: float, fmax: float) -> None:
    print(f"{step:5d} {barrier:14.6f} {fmax:21.4g}", flush=True)


def _summary(path: MinimumEnergyPath, plot: Path | None) -> None:
    from atomjet.md.neb import draw_path
    from atomjet.units import KCAL_PER_MOL

    if plot is not None:
        draw_path(path, plot)
        print(f"wrote {plot}")
    print(f"{'image':>5} {'energy / eV':>12} {'kcal/mol':>10}")
    for k, energy in enumerate(path.energies):
        print(f"{k:5d} {energy:12.6f} {energy / KCAL_PER_MOL:10.3f}")
    lowest = int(path.energies.argmin())
    if (below := min(path.energies[[0, -1]]) - path.energies[lowest]) > SHALLOW:
        options.warn(
            f"image {lowest} lies {below:.3f} eV below both ends: there is a minimum between; relax it, and take the paths to it"
        )
    back = path.barrier - path.energies[-1]
    print(f"barrier forward  {path.barrier:10.4f} eV {path.barrier / KCAL_PER_MOL:10.3f} kcal/mol")
    print(f"barrier backward {back:10.4f} eV {back / KCAL_PER_MOL:10.3f} kcal/mol")
