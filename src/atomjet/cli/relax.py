"""`atomjet relax`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from atomjet.cli import inputs, options
from atomjet.cli.arguments import (
    COMPUTING,
    READING,
    Computing,
    Frame,
    Overwrite,
    Reading,
    Structure,
    grouped,
)

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet.md.relax import RelaxSettings, RelaxStep

EXAMPLES = """Examples:

\b
  atomjet relax ethanol.xyz -o relaxed.xyz
  atomjet relax crystal.cif --cell --fmax 0.005 -o relaxed.cif
  atomjet relax slab.cif --cell xy -o relaxed.cif
  atomjet relax crystal.cif --cell --fix-symmetry -o relaxed.cif
  atomjet relax library.sdf --all -o relaxed.extxyz
"""


class RelaxCommand(TyperCommand):
    """`--cell` may be followed by axes, or stand alone, in front of a file too: which no option of Click's can."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `--cell xy` as `--cell-axes xy`."""
        words = list(args)
        for k in range(len(words) - 1):
            if words[k] == "--cell" and words[k + 1] and set(words[k + 1]) <= set("xyz"):
                words[k] = "--cell-axes"
        return super().parse_args(ctx, words)


@grouped
def relax(
    file: Structure,
    output: Annotated[Path, typer.Option("--output", "-o", help="The relaxed structure, in any format ASE writes.")],
    fmax: Annotated[float, typer.Option("--fmax", help="Converged below this force on every atom, eV/Å.")] = 0.01,
    cell: Annotated[
        bool, typer.Option("--cell", help="Relax the cell too; --cell xy: only along x and y, such as a slab's.")
    ] = False,
    axes: Annotated[
        str | None,
        typer.Option("--cell-axes", help="What --cell xy stands for.", metavar="AXES", show_default=False),
    ] = None,
    fix_symmetry: Annotated[bool, typer.Option("--fix-symmetry", help="Keep the space group (needs spglib).")] = False,
    pressure: Annotated[float | None, typer.Option("--pressure", help="GPa, with --cell. Default: 0.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Most steps to take.")] = 500,
    optimizer: Annotated[str, typer.Option("--optimizer", help="auto, bfgs, lbfgs or fire.", metavar="NAME")] = "auto",
    everything: Annotated[
        bool, typer.Option("--all", help="Every frame of FILE, in batches, by FIRE; OUT gets all of them.")
    ] = False,
    trajectory: Annotated[
        Path | None, typer.Option("--trajectory", help="Every step of the way, as ASE .traj.", show_default=False)
    ] = None,
    frame: Frame = -1,
    reading: Reading = READING,
    overwrite: Overwrite = False,
    computing: Computing = COMPUTING,
) -> None:
    """Relax a structure, and with --cell its cell.

    Goes to the nearest minimum of the energy; constraints in FILE are kept. Ends with status 1 when it has not
    converged or broke down on the way; the last structure that could be computed is written all the same. With --all no
    frame holds up the others: those that are refused are left out, named at the end.
    """
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.adapters.structure_output import check_format
    from atomjet.cli.relax_all import relax_all
    from atomjet.md.relax import RelaxSettings

    settings = RelaxSettings(
        fmax, steps, cell or axes is not None, pressure, optimizer, axes or "xyz", fix_symmetry=fix_symmetry
    )
    options.check_outputs((output, trajectory), file, overwrite)
    check_format(output, results=everything)
    if everything:
        _check_all(settings, trajectory, frame)
        frames = inputs.read_frames(file, computing.seed, reading)
        tasks = {one.number: one.atoms.info.get("task") for one in frames if one.atoms is not None}
        engine = options.load_engine(computing)
        return relax_all(engine, inputs.check_for_model(frames, engine, reading.strict), settings, output, tasks)
    with inputs.skipping(file, reading):
        atoms = inputs.read_frame(file, frame, computing.seed, reading)
        check_format(output, [atoms])
        engine = options.load_engine(computing)
        own_task = atoms.info.get("task")
        atoms = inputs.check_atoms(atoms, file, engine, reading.strict)
        atoms.calc = AtomJetCalculator(engine, remarks=False)
        _relax(atoms, settings, output, trajectory, own_task)


def _check_all(settings: RelaxSettings, trajectory: Path | None, frame: int) -> None:
    """Refuse what only one structure at a time can have."""
    from atomjet.errors import ConfigError

    unserved = {
        "--cell": settings.cell,
        "--fix-symmetry": settings.fix_symmetry,
        "--trajectory": trajectory is not None,
        f"--optimizer {settings.optimizer}": settings.optimizer not in ("auto", "fire"),
        f"--frame {frame}": frame != -1,
    }
    for name, given in unserved.items():
        if given:
            raise ConfigError(
                f"{name} does not go with --all, which relaxes positions together by FIRE; relax frames one by one"
            )


def _relax(
    atoms: Atoms, settings: RelaxSettings, output: Path, trajectory: Path | None, own_task: object | None
) -> None:
    """Run, print every step, and write the last structure however it ends."""
    from atomjet.adapters.structure_output import write_structures
    from atomjet.errors import SimulationError
    from atomjet.md.relax import relax as run_relax
    from atomjet.stopping import stoppable

    print(f"{'step':>5} {'energy / eV':>18} {'largest force / eV/Å':>21}")
    last: RelaxStep | None = None

    def report(step: RelaxStep) -> None:
        nonlocal last
        last = step
        print(f"{step.step:5d} {step.energy:18.6f} {step.fmax:21.4g}", flush=True)

    def write() -> None:
        if own_task is not None:
            atoms.info["task"] = own_task
        write_structures(output, [atoms])

    with stoppable() as heard:
        try:
            converged, last = run_relax(atoms, settings, trajectory, report)
        except SimulationError as error:
            assert last is not None
            write()
            raise SimulationError(
                f"{error}; wrote the structure of step {last.step} to {output}: forces far above those of the start say "
                "that the model does not know it; start nearer to the minimum, try --optimizer fire, or keep every step with "
                "--trajectory"
            ) from error
        except BaseException:  # ctrl-C, or a device that failed: steps that were taken are not lost
            heard()
            if last is not None:
                write()
                print(f"wrote {output}: not converged, the structure after step {last.step}", flush=True)
            raise
    write()
    print(f"wrote {output}")
    if spread := _spread(atoms):
        print(spread)
    if converged:
        print(f"converged after {last.step} steps: {last.energy:.6f} eV, largest force {last.fmax:.4g} eV/Å")
        return
    where = f"after {last.step} steps: largest force {last.fmax:.4g} eV/Å, limit {settings.fmax:g} eV/Å"
    if last.noise is not None:
        raise SimulationError(
            f"not converged {where}, but turned in space the structure's forces differ by {last.noise:.2g} eV/Å: they are no "
            f"more exact than that; use --precision float64, or a larger --fmax"
        )
    raise SimulationError(f"not converged {where}; raise --steps, or go on from {output}")


def _spread(atoms: Atoms) -> str:
    """How far an ensemble's members are apart on a relaxed structure, and how often they were too far on the way."""
    watch, spread = getattr(atoms.calc, "watch", None), atoms.calc.results.get("forces_spread")  # type: ignore[union-attr]
    if spread is None:
        return ""
    worst = f"largest spread of a force {spread.max():.3g} eV/Å, atom {int(spread.argmax())}"
    if watch is None or watch.bound is None:
        return worst
    return f"{worst}; bound {watch.bound.largest:.3g} eV/Å, passed in {watch.beyond} of {watch.looked} evaluations"
