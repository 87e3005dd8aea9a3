"""`atomjet phonons`: vibrations of a crystal, of any wavelength."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import IN_FLOAT64, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

if TYPE_CHECKING:
    from atomjet.md.phonons import Phonons

EXAMPLES = """Examples:

\b
  atomjet phonons crystal.cif --model my.safetensors --relax --plot bands.png
  atomjet phonons crystal.cif --model uma.pt --task omat --supercell 3 3 3 --csv thermal.csv
"""

AT_REST = 0.01
"""eV/Å. Above, a crystal is not at rest, and forces on its displaced atoms are those of something else too."""

RELAXED = 1e-3
"""eV/Å, to which --relax goes."""

MOST_NAMED = 5
"""Wave vectors with imaginary modes that are named."""

HOTTEST, STEP = 1000, 10
"""K, of the table of thermal properties."""


@grouped
def phonons(
    file: Structure,
    supercell: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            "--supercell", help="Repetitions of the cell. Default: 10 Å along each vector.", show_default=False
        ),
    ] = None,
    mesh: Annotated[
        tuple[int, int, int], typer.Option("--mesh", help="Wave vectors, for states and thermal properties.")
    ] = (20, 20, 20),
    step: Annotated[float, typer.Option("--step", help="Å, of each displacement.")] = 0.01,
    symprec: Annotated[float, typer.Option("--symprec", help="Å, within which atoms count as equivalent.")] = 1e-4,
    temperature: Annotated[float, typer.Option("--temperature", help="K, of the thermal properties.")] = 298.15,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax structure and cell first; the space group is kept.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Bands and density of states: .png, .pdf or .svg.", show_default=False),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Thermal properties from 0 to 1000 K.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="phonopy's own .yaml, to go on with in phonopy.", show_default=False),
    ] = None,
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = IN_FLOAT64,
) -> None:
    """Compute phonons of a crystal, and what follows from them.

    phonopy says which displacements the symmetry leaves; all displaced supercells are computed in one batch. Translations are
    made to cost nothing (acoustic sum rule). Long-range forces between charges are not treated apart: polar crystals lack the
    splitting of their optical modes at Γ. Needs the extra [phonons].
    """
    from atomjet.md.phonons import draw_bands
    from atomjet.md.phonons import phonons as compute

    options.check_positive(step=step, symprec=symprec, temperature=temperature)
    options.check_outputs((plot, csv, output), file, overwrite)
    options.check_picture(plot)
    atoms, engine = inputs.structure_and_engine(file, frame, reading, computing)
    with inputs.skipping(file, reading):
        if relax:
            inputs.bring_to_rest(engine, atoms, RELAXED, cell=True, fix_symmetry=True)
        found = compute(engine.predict, atoms, supercell, mesh, step, symprec)
    _print(found, temperature)
    if plot is not None:
        draw_bands(found, plot, f"{file.name}, {Path(computing.model).stem}")
        print(f"wrote {plot}")
    _write(found, csv, output)


def _write(found: Phonons, csv: Path | None, output: Path | None) -> None:
    """The files that were asked for."""
    from atomjet.writing import appears_whole, write_atomically

    if csv is not None:
        write_atomically(csv, _table(found))
        print(f"wrote {csv}")
    if output is not None:
        with appears_whole(output) as beside:
            found.crystal.save(beside)
        print(f"wrote {output}")


def _print(found: Phonons, temperature: float) -> None:
    import numpy as np

    from atomjet.md.phonons import INVERSE_CM_PER_THZ as FACTOR

    number, large = len(found.crystal.primitive), len(found.crystal.supercell)
    print(
        f"space group {found.crystal.space_group}; {found.supercells} displaced supercells of {large} atoms; primitive cell of "
        f"{number} atoms"
    )
    if found.residual_force > AT_REST:
        options.warn(
            f"without displacement the largest force is {found.residual_force:.3g} eV/Å: the crystal is not at rest; relax it, "
            "or give --relax"
        )
    acoustic = ", ".join(f"{value:.1e}" for value in found.acoustic)
    print(f"force of a translation {found.drift:.1e} eV/Å², then taken out; acoustic modes at Γ: {acoustic} THz")
    lowest, highest = found.frequencies.min(), found.frequencies.max()
    print(f"frequencies from {lowest:.3f} to {highest:.3f} THz ({lowest * FACTOR:.1f} to {highest * FACTOR:.1f} cm⁻¹)")
    for mode in found.imaginary[:MOST_NAMED]:
        where = ", ".join(f"{value:.4g}" for value in mode.wave_vector)
        symbols = found.crystal.primitive.symbols
        most = [atom for atom in mode.moves.argsort()[::-1][:3] if mode.moves[atom] > 0.1 * mode.moves.max()]
        names = ", ".join(f"{atom} ({symbols[atom]})" for atom in most)
        options.warn(
            f"imaginary mode at wave vector ({where}), {mode.frequency:.3f}i THz ({mode.frequency * FACTOR:.0f}i cm⁻¹): the energy "
            f"falls as it moves atoms {names} of the primitive cell"
        )
    if len(found.imaginary) > MOST_NAMED:
        options.warn(
            f"imaginary modes at {len(found.imaginary) - MOST_NAMED} more of {len(found.wave_vectors)} wave vectors; thermal "
            "properties are those of the other modes"
        )
    free, entropy, heat = (values[-1] for values in found.crystal.thermal_properties(np.array([temperature])))
    (zero_point,) = found.crystal.thermal_properties(np.array([0.0]))[0]
    print(f"per primitive cell of {number} atoms, harmonic")
    print(f"zero-point energy  {zero_point:14.6f} eV")
    print(f"at {temperature:g} K")
    print(f"free energy (A)    {free:14.6f} eV")
    print(f"entropy (S)        {1000 * entropy:14.6f} meV/K")
    print(f"heat capacity (Cv) {1000 * heat:14.6f} meV/K")


def _table(found: Phonons) -> str:
    import numpy as np

    temperatures = np.arange(0.0, HOTTEST + STEP, STEP)
    rows = zip(temperatures, *found.crystal.thermal_properties(temperatures), strict=True)
    lines = [f"{kelvin:g},{free:.8f},{entropy:.8e},{heat:.8e}" for kelvin, free, entropy, heat in rows]
    return "\n".join(["temperature_K,free_energy_eV,entropy_eV_per_K,heat_capacity_eV_per_K", *lines]) + "\n"
