"""`atomjet vib`: frequencies, zero-point energy, thermochemistry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import IN_FLOAT64, READING, Computing, Frame, Overwrite, Reading, Structure, grouped

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.md.vibrations import Vibrations

EXAMPLES = """Examples:

\b
  atomjet vib CO --relax
  atomjet vib relaxed.xyz --temperature 400
  atomjet vib water.xyz --relax --symmetry 2 --modes modes.xyz
"""

AT_REST = 0.05
"""eV/Å. Above, a structure is no minimum, and its frequencies are not those of vibrations."""

RELAXED = 1e-3
"""eV/Å, to which --relax goes: a hundredth of that moves no frequency by 0.1 cm⁻¹."""

FRAMES_OF_A_MODE, AMPLITUDE = 16, 0.3
"""Pictures of one period of a mode, and how far its fastest atom goes in them, Å."""


@grouped
def vib(
    file: Structure,
    temperature: Annotated[float, typer.Option("--temperature", help="K, of the thermochemistry.")] = 298.15,
    pressure: Annotated[float, typer.Option("--pressure", help="bar, of the ideal gas.")] = 1.0,
    symmetry: Annotated[
        int | None,
        typer.Option(
            "--symmetry",
            help="Rotations that turn the molecule into itself. Default: as many as its geometry shows.",
            show_default=False,
        ),
    ] = None,
    relax: Annotated[bool, typer.Option("--relax", help="Relax the structure first.")] = False,
    step: Annotated[float, typer.Option("--step", help="Å, of the differences of forces.")] = 0.01,
    analytic: Annotated[
        bool, typer.Option("--analytic", help="The exact second derivatives instead of differences.")
    ] = False,
    modes: Annotated[
        Path | None,
        typer.Option("--modes", help="Moving pictures of every mode, one after the other.", show_default=False),
    ] = None,
    ir_free: Annotated[
        bool, typer.Option("--ir-free", help="Do not mention that there are no infrared intensities.")
    ] = False,
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = IN_FLOAT64,
) -> None:
    """Compute harmonic frequencies and what follows from them.

    A molecule's translations and rotations are projected out; it is taken for an ideal gas. Of a periodic structure only
    translations are, and its vibrations are those of this cell alone (see `atomjet phonons`). Atoms that FILE fixes stay where
    they are, and nothing is projected out. Every coordinate is moved up and down in one batch. A frequency that ends in i is
    imaginary: the energy falls along it.
    """
    from atomjet.adapters.structure_output import check_format, write_structures
    from atomjet.md.vibrations import hessian_by_differences, vibrations

    options.check_positive(temperature=temperature, pressure=pressure, symmetry=symmetry, step=step)
    options.check_outputs((modes,), file, overwrite)
    if modes is not None:
        check_format(modes)
    atoms, engine = inputs.structure_and_engine(file, frame, reading, computing)
    with inputs.skipping(file, reading):
        energy = _at_rest(engine, atoms, relax)
        hessian = engine.hessian(atoms).numpy() if analytic else hessian_by_differences(engine.predict, atoms, step)
        found = vibrations(atoms, hessian)
        _print_modes(atoms, found, ir_free)
        _print_thermochemistry(atoms, found, energy, temperature, pressure, symmetry)
        if modes is not None:
            write_structures(modes, _moving(atoms, found))
            print(f"wrote {modes}: {FRAMES_OF_A_MODE} frames for each of {len(found.energies)} modes")


def _at_rest(engine: Engine, atoms: Atoms, relax: bool) -> float:
    """Relax where it is asked for; warn where forces are left. Returns the energy, eV."""
    if relax:
        inputs.bring_to_rest(engine, atoms, RELAXED)
    from atomjet.md.vibrations import moving_atoms

    moving = moving_atoms(atoms)
    found = engine.predict(atoms)
    largest = float(found.forces[moving.tolist()].norm(dim=1).max())
    if largest > AT_REST:
        options.warn(
            f"the largest force is {largest:.3g} eV/Å: no minimum, so frequencies mean little; relax it, or give --relax"
        )
    return float(found.energy[0])


def _print_modes(atoms: Atoms, found: Vibrations, ir_free: bool) -> None:
    print(f"{'mode':>5} {'1/cm':>10} {'meV':>10}")
    for k, (wavenumber, energy) in enumerate(zip(found.wavenumbers, found.energies, strict=True)):
        sign = "i" if energy < 0 else " "
        print(f"{k:5d} {abs(wavenumber):9.2f}{sign} {1000 * abs(energy):9.3f}{sign}")
    for k in range(found.imaginary):
        moves = (found.modes[k] ** 2).sum(1)
        most = [atom for atom in moves.argsort()[::-1][:3] if moves[atom] > 0.1 * moves.max()]
        names = ", ".join(f"{atom} ({atoms.symbols[atom]})" for atom in most)
        options.warn(
            f"mode {k} is imaginary, {abs(found.wavenumbers[k]):.0f}i cm⁻¹: the energy falls as it moves atoms {names}"
        )
    if not ir_free:
        print("no infrared intensities: they need a dipole moment, which the model does not know")


def _print_thermochemistry(
    atoms: Atoms, found: Vibrations, energy: float, temperature: float, pressure: float, symmetry: int | None
) -> None:
    """ASE's ideal gas of molecules, its harmonic one of cells and of atoms among fixed ones; real frequencies only."""
    from ase.thermochemistry import HarmonicThermo, IdealGasThermo

    from atomjet.md.vibrations import is_linear, moving_atoms, symmetry_number
    from atomjet.units import BAR_IN_PASCAL, KCAL_PER_MOL

    real = found.energies[found.energies > 0]
    print(f"energy                {energy:16.6f} eV")
    zero_point = found.zero_point_energy
    print(f"zero-point energy     {zero_point:16.6f} eV  {zero_point / KCAL_PER_MOL:10.3f} kcal/mol")
    without = f", without {found.imaginary} imaginary mode{'s' * (found.imaginary > 1)}" if found.imaginary else ""
    moving = len(moving_atoms(atoms))
    if atoms.pbc.any() or moving < len(atoms):
        harmonic = HarmonicThermo(list(real), energy)
        inner = harmonic.get_internal_energy(temperature, verbose=False)
        entropy = harmonic.get_entropy(temperature, verbose=False)
        free = harmonic.get_helmholtz_energy(temperature, verbose=False)
        what = "of the cell" if moving == len(atoms) else f"of the {moving} of {len(atoms)} atoms that are not fixed"
        print(f"at {temperature:g} K, harmonic, {what}{without}")
        names = (("internal energy", inner), ("free energy (A)", free))
    else:
        geometry = "monatomic" if len(atoms) == 1 else "linear" if is_linear(atoms) else "nonlinear"
        multiplicity = int(atoms.info.get("spin") or 1)
        source = " (of its geometry)" if symmetry is None else ""
        symmetry = symmetry_number(atoms) if symmetry is None else symmetry
        gas = IdealGasThermo(list(real), geometry, energy, atoms, symmetry, (multiplicity - 1) / 2, vib_selection="all")
        enthalpy = gas.get_enthalpy(temperature, verbose=False)
        entropy = gas.get_entropy(temperature, pressure * BAR_IN_PASCAL, verbose=False)
        free = gas.get_gibbs_energy(temperature, pressure * BAR_IN_PASCAL, verbose=False)
        print(
            f"at {temperature:g} K and {pressure:g} bar, ideal gas, {geometry}, symmetry number {symmetry}{source}, "
            f"multiplicity {multiplicity}{without}"
        )
        names = (("enthalpy (H)", enthalpy), ("free energy (G)", free))
    (first, value), (last, free) = names
    print(f"{first:22}{value:16.6f} eV")
    print(f"{'entropy (S)':22}{1000 * entropy:16.6f} meV/K")
    print(f"{last:22}{free:16.6f} eV")


def _moving(atoms: Atoms, found: Vibrations) -> list[Atoms]:
    """One period of each mode, in a row."""
    import numpy as np

    frames = []
    for k, mode in enumerate(found.modes):
        unit = mode / np.linalg.norm(mode, axis=1).max() * AMPLITUDE
        for phase in np.arange(FRAMES_OF_A_MODE) / FRAMES_OF_A_MODE:
            moved = atoms.copy()
            moved.set_constraint()
            moved.positions += unit * np.sin(2 * np.pi * phase)
            moved.info |= {"mode": k, "wavenumber": float(found.wavenumbers[k])}
            frames.append(moved)
    return frames
