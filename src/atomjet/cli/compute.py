"""`atomjet predict` and `atomjet relax`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomjet.cli import options
from atomjet.cli.options import DEFAULT_MODEL, Backend, Device, Frame, Model, Precision, Seed, Structure, Task

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.data import Prediction

ATOMS_AT_ONCE = 2000
"""Frames are computed together up to this many atoms, which bounds the memory."""

PREDICT_EXAMPLES = """Examples:

\b
  atomjet predict ethanol.xyz
  atomjet predict frames.extxyz -o labelled.extxyz
  atomjet predict crystal.cif --model my.safetensors --precision float64
"""

RELAX_EXAMPLES = """Examples:

\b
  atomjet relax ethanol.xyz -o relaxed.xyz
  atomjet relax crystal.cif --cell --fmax 0.005 -o relaxed.cif
"""


def predict(
    file: Structure,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Extended XYZ (or .traj) with energy, forces and stress of every frame."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Device = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    task: Task = None,
    seed: Seed = 0,
) -> None:
    """Compute energy, forces and stress of every frame of a file.

    Forces are printed unless they are written with -o. A frame that cannot be computed ends the run; those before it are
    written.
    """
    from atomjet.adapters.ase import check_format, read_structures, write_structures
    from atomjet.stopping import stoppable

    if output is not None:
        options.check_output(output, file)
        check_format(output, results=True)
    frames = read_structures(file)
    engine = options.load_engine(model, device, backend, precision, task)
    print(f"{'frame':>5} {'atoms':>6} {'energy / eV':>18} {'largest force / eV/Å':>21} {'pressure / GPa':>15}  formula")
    labelled: list[Atoms] = []
    with stoppable() as heard:
        try:
            for index, atoms in enumerate(_predicted(engine, frames)):
                _print_frame(index, atoms, with_forces=output is None)
                if output is not None:
                    labelled.append(atoms)
        except BaseException:  # a frame that is refused, ctrl-C: those before it are not lost
            heard()
            if output is not None and labelled:
                write_structures(output, labelled)
                print(f"wrote {output}: the first {len(labelled)} of {len(frames)} frames", flush=True)
            raise
    if output is not None:
        write_structures(output, labelled)
        print(f"wrote {output}: {len(labelled)} frames")


def relax(
    file: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="The relaxed structure, in any format ASE writes.")],
    fmax: Annotated[float, typer.Option("--fmax", help="Converged below this force on every atom, eV/Å.")] = 0.01,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    pressure: Annotated[float | None, typer.Option("--pressure", help="GPa, with --cell. Default: 0.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Most steps to take.")] = 500,
    optimizer: Annotated[str, typer.Option("--optimizer", help="auto, bfgs, lbfgs or fire.", metavar="NAME")] = "auto",
    trajectory: Annotated[
        Path | None, typer.Option("--trajectory", help="Every step of the way, as ASE .traj.", show_default=False)
    ] = None,
    frame: Frame = -1,
    model: Model = DEFAULT_MODEL,
    device: Device = None,
    backend: Backend = "auto",
    precision: Precision = "default",
    task: Task = None,
    seed: Seed = 0,
) -> None:
    """Relax a structure, and with --cell its cell.

    Goes to the nearest minimum of the energy; constraints in FILE are kept. Ends with status 1 when it has not
    converged or broke down on the way; the last structure that could be computed is written all the same.
    """
    from atomjet.adapters.ase import AtomJetCalculator, check_format, write_structures
    from atomjet.errors import SimulationError
    from atomjet.md.relax import RelaxSettings, RelaxStep
    from atomjet.md.relax import relax as run_relax
    from atomjet.stopping import stoppable

    settings = RelaxSettings(fmax=fmax, steps=steps, cell=cell, pressure=pressure, optimizer=optimizer)
    for path in (output, trajectory):
        if path is not None:
            options.check_output(path, file)
    check_format(output)
    atoms = options.read_frame(file, frame)
    atoms.calc = AtomJetCalculator(options.load_engine(model, device, backend, precision, task))
    print(f"{'step':>5} {'energy / eV':>18} {'largest force / eV/Å':>21}")

    last: RelaxStep | None = None

    def report(step: RelaxStep) -> None:
        nonlocal last
        last = step
        print(f"{step.step:5d} {step.energy:18.6f} {step.fmax:21.4f}", flush=True)

    with stoppable() as heard:
        try:
            converged, _ = run_relax(atoms, settings, trajectory, report)
        except SimulationError as error:
            assert last is not None
            write_structures(output, [atoms])
            raise SimulationError(
                f"{error}; wrote the structure of step {last.step} to {output}: forces far above those of the start say "
                "that the model does not know it; start nearer to the minimum, try --optimizer fire, or keep every step with "
                "--trajectory"
            ) from error
        except BaseException:  # ctrl-C, or a device that failed: steps that were taken are not lost
            heard()
            if last is not None:
                write_structures(output, [atoms])
                print(f"wrote {output}: not converged, the structure after step {last.step}", flush=True)
            raise
    assert last is not None
    write_structures(output, [atoms])
    print(f"wrote {output}")
    if not converged:
        raise SimulationError(
            f"not converged after {last.step} steps: largest force {last.fmax:.4g} eV/Å, limit {fmax:g} eV/Å; "
            f"raise --steps, or go on from {output}"
        )
    print(f"converged after {last.step} steps: {last.energy:.6f} eV, largest force {last.fmax:.4g} eV/Å")


def _predicted(engine: Engine, frames: list[Atoms], first: int = 0) -> Iterator[Atoms]:
    """Copies of the frames, the first of which has this number, that carry what was predicted; computed in groups.

    Raises:
        AtomJetError: a frame that cannot be computed, after those before it; names the frame.
    """
    from atomjet.errors import AtomJetError

    for start, group in _groups(frames):
        try:
            prediction = engine.predict(group)
        except AtomJetError as error:
            if len(group) == 1:
                raise type(error)(f"frame {first + start}: {str(error).removeprefix('structure 0: ')}") from error
            for k, frame in enumerate(group):  # found again one by one: those before it are to be had
                yield from _predicted(engine, [frame], first + start + k)
        else:
            yield from _labelled(group, prediction)


def _groups(frames: list[Atoms]) -> Iterator[tuple[int, list[Atoms]]]:
    """Frames to be computed together, each with the index of its first."""
    first, atoms = 0, 0
    for index, frame in enumerate(frames):
        if index > first and atoms + len(frame) > ATOMS_AT_ONCE:
            yield first, frames[first:index]
            first, atoms = index, 0
        atoms += len(frame)
    if frames:
        yield first, frames[first:]


def _labelled(frames: list[Atoms], prediction: Prediction) -> Iterator[Atoms]:
    import torch
    from ase.calculators.singlepoint import SinglePointCalculator

    stresses = prediction.stress.to("cpu", torch.float64).numpy()
    for k, frame in enumerate(frames):
        results = {
            "energy": float(prediction.energy[k]),
            "forces": prediction.forces_of(k).to("cpu", torch.float64).numpy(),
        }
        if frame.pbc.all():
            results["stress"] = stresses[k][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # ASE's order: xx yy zz yz xz xy
        copy = frame.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        yield copy


def _print_frame(index: int, atoms: Atoms, with_forces: bool) -> None:
    """One line, and the forces where they are not written to a file."""
    from atomjet.units import GPA

    forces = atoms.get_forces(apply_constraint=False)
    largest = (forces**2).sum(1).max() ** 0.5
    stress = atoms.get_stress(apply_constraint=False) if atoms.pbc.all() else None
    pressure = "" if stress is None else f"{-stress[:3].mean() / GPA:.4f}"
    print(
        f"{index:5d} {len(atoms):6d} {atoms.get_potential_energy():18.6f} {largest:21.4f} {pressure:>15}"
        f"  {atoms.get_chemical_formula()}"
    )
    if with_forces:
        for atom, (symbol, force) in enumerate(zip(atoms.symbols, forces, strict=True)):
            print(f"      {atom:6d} {symbol:2} {force[0]:12.5f} {force[1]:12.5f} {force[2]:12.5f}  eV/Å")
        if stress is not None:
            print("      stress xx yy zz yz xz xy / eV/Å³: " + " ".join(f"{value:.6f}" for value in stress))
