"""`atomjet conformers`: generate, relax, rank."""

from __future__ import annotations

import csv as comma_separated
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.adapters.smiles import Embedded
    from atomjet.md.conformers import Conformer, Search

EXAMPLES = """Examples:

\b
  atomjet conformers CCCCO -o conformers.extxyz
  atomjet conformers drug.sdf -n 300 --window 3 -o conformers.extxyz --csv energies.csv
  atomjet conformers zwitterion.xyz --charge 0 -o conformers.extxyz
"""

STARTS, MOST_STARTS = 20, 200
"""Geometries to start from unless the user says how many: so many and as many more for each bond that turns; at most."""

MOST_LINES = 30
"""Conformers of which each gets a line; all are in the files."""

MOST_NAMED = 10
"""Starts that are named one by one of those that led to no conformer."""


@grouped
def conformers(
    file: Structure,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Extended XYZ (or .traj) of all conformers, the lowest first.")
    ],
    number: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--number",
            help=f"Geometries to start from. Default: {STARTS} and {STARTS} more for each bond that turns, at most {MOST_STARTS}.",
            show_default=False,
        ),
    ] = None,
    window: Annotated[
        float, typer.Option("--window", help="kcal/mol above the lowest, beyond which none is kept.")
    ] = 6.0,
    temperature: Annotated[float, typer.Option("--temperature", help="K, of the Boltzmann weights.")] = 298.15,
    fmax: Annotated[float, typer.Option("--fmax", help="Converged below this force on every atom, eV/Å.")] = 0.005,
    steps: Annotated[int, typer.Option("--steps", help="Most steps of each relaxation.")] = 1000,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", help="One row a conformer: energy, weight, geometries that led to it.", show_default=False
        ),
    ] = None,
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Find the conformers of a molecule.

    RDKit makes geometries, which are relaxed in batches by the model; the lowest are turned about their bonds and relaxed again.
    Bonds and configuration are those of the SMILES or the .sdf; of other files they follow from the distances and the charge.
    Equal geometries are counted once, mirror images too; one whose bonds change is named and left out. Weights follow from
    energies and numbers of equal arrangements, without vibrations.
    """
    from atomjet.adapters.structure_output import check_format, write_structures
    from atomjet.md.conformers import find_conformers
    from atomjet.writing import write_atomically

    options.check_positive(number=number, window=window, temperature=temperature, fmax=fmax, steps=steps)
    options.check_outputs((output, csv), file, overwrite)
    check_format(output, results=True)
    engine, embedded = _embedded(file, number, frame, reading, computing)
    search = find_conformers(engine, embedded, window, temperature, fmax, steps, computing.seed, quiet=False)
    found = search.conformers
    _print(search, len(embedded.frames), window, temperature)
    _name_left_out(search.left_out)
    write_structures(output, [_labelled(one) for one in found])
    print(f"wrote {output}: {len(found)} conformers")
    if csv is not None:
        write_atomically(csv, _table(found))
        print(f"wrote {csv}: {len(found)} conformers")


def _embedded(
    file: Path, number: int | None, frame: int, reading: Reading, computing: Computing
) -> tuple[Engine, Embedded]:
    """The model, and geometries of the molecule to start from."""
    from atomjet.adapters.smiles import embed_many, torsions_of
    from atomjet.adapters.structure_files import molecule_of, read_frames

    with inputs.skipping(file, reading):
        atoms = inputs.read_frame(file, frame, computing.seed, reading)
        place = frame if frame >= 0 or not file.exists() else frame + len(read_frames(file, computing.seed))
        molecule = molecule_of(file, place, atoms)
        engine = options.load_engine(computing)
        atoms = inputs.check_atoms(atoms, file, engine, reading.strict)
    if number is None:
        number = min(STARTS * (1 + torsions_of(molecule)), MOST_STARTS)
    embedded = embed_many(molecule, number, computing.seed)
    for start in embedded.frames if reading.spin is not None else ():
        start.info["spin"] = atoms.info["spin"]
    if embedded.open_centres:
        options.warn(
            f"{file}: the configuration of {embedded.open_centres} centres is not said, so that conformers of several "
            "stereoisomers are ranked together; say it in the SMILES (@, /) or give a geometry"
        )
    return engine, embedded


def _name_left_out(reasons: Mapping[int, str]) -> None:
    """Starts that led to no conformer, and why."""
    for start, reason in list(reasons.items())[:MOST_NAMED]:
        print(f"left out: start {start}: {reason}", file=sys.stderr)
    if len(reasons) > MOST_NAMED:
        print(f"left out: {len(reasons) - MOST_NAMED} more starts", file=sys.stderr)


def _labelled(conformer: Conformer) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    conformer.atoms.calc = SinglePointCalculator(conformer.atoms, energy=conformer.energy)
    return conformer.atoms


def _print(search: Search, starts: int, window: float, temperature: float) -> None:
    found, left_out = search.conformers, len(search.left_out)
    above = starts - left_out - sum(len(one.starts) for one in found)
    print(
        f"{len(found)} conformers from {starts} starts; {above} starts end above {window:g} kcal/mol, {left_out} are left out"
    )
    print(f"{search.relaxations} relaxations, {search.evaluations} evaluations of energy and forces")
    print(
        f"{'conformer':>9} {'kcal/mol':>9} {f'weight at {temperature:g} K':>18} {'degeneracy':>10} {'starts':>6} {'turned':>6}"
    )
    for rank, one in enumerate(found[:MOST_LINES]):
        print(
            f"{rank:9d} {one.relative:9.3f} {100 * one.weight:16.2f} % {one.degeneracy:10d} {len(one.starts):6d} {one.turned:6d}"
        )
    if len(found) > MOST_LINES:
        print(f"and {len(found) - MOST_LINES} more, up to {found[-1].relative:.3f} kcal/mol")
    lowest = found[0]
    print(f"lowest: {lowest.energy:.6f} eV, from {len(lowest.starts)} of {starts} starts and {lowest.turned} turned")
    if len(lowest.starts) + lowest.turned == 1 and starts > 1:
        options.warn("only one geometry led to the lowest conformer; there may be lower ones: give a larger -n")


def _table(found: list[Conformer]) -> str:
    text = io.StringIO()
    writer = comma_separated.writer(text, lineterminator="\n")
    writer.writerow(("conformer", "energy_eV", "kcal_per_mol", "weight", "degeneracy", "starts", "turned"))
    for rank, one in enumerate(found):
        row = (
            f"{one.energy:.6f}",
            f"{one.relative:.4f}",
            f"{one.weight:.6f}",
            one.degeneracy,
            len(one.starts),
            one.turned,
        )
        writer.writerow((rank, *row))
    return text.getvalue()
