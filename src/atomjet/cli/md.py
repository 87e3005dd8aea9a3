"""`atomjet md`."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomjet.cli import inputs, options
from atomjet.cli.arguments import COMPUTING, READING, Computing, Frame, Reading, Structure, grouped

if TYPE_CHECKING:
    from ase import Atoms

    from atomjet import Engine
    from atomjet.md import MDSettings, Summary

EXAMPLES = """Examples:

\b
  atomjet md ethanol.xyz --steps 2000 -o run.traj --plot run.png
  atomjet md ethanol.xyz --steps 2000 --ensemble nvt --temperature 500 -o hot.traj
  atomjet md crystal.cif --steps 10000 --ensemble npt --pressure 1 -o npt.traj
  atomjet md ethanol.xyz --steps 4000 -o run.traj --resume     (go on: after a kill, or for longer)
  atomjet md ethanol.xyz --steps 100000 --device cuda --replicas 64 -o many.traj     (many-0000.traj, many-0001.traj, ...)

With the backend fast_gpu, nve and nvt are stepped on the GPU; everything else is stepped by ASE.
A run that was killed goes on with the same command and --resume, and ends as if nothing had happened.
"""


@dataclass(frozen=True)
class Dynamics:
    """How atoms move, and how often that is written down."""

    timestep: Annotated[float, typer.Option("--timestep", help="fs.")] = 0.5
    temperature: Annotated[
        float, typer.Option("--temperature", help="K, of the start velocities and of the thermostat.")
    ] = 300.0
    ensemble: Annotated[
        str,
        typer.Option("--ensemble", help="nve (energy conserved), nvt (Langevin), npt (isotropic).", metavar="NAME"),
    ] = "nve"
    pressure: Annotated[float | None, typer.Option("--pressure", help="GPa, npt only. Default: 0.")] = None
    friction: Annotated[float | None, typer.Option("--friction", help="1/ps, nvt only. Default: 10.")] = None
    log_interval: Annotated[int, typer.Option("--log-interval", help="Steps between rows of the log.")] = 10
    traj_interval: Annotated[int, typer.Option("--traj-interval", help="Steps between frames.")] = 10
    keep_velocities: Annotated[
        bool, typer.Option("--keep-velocities", help="Start with the velocities in FILE instead of new ones.")
    ] = False

    def settings(self, steps: int, seed: int) -> MDSettings:
        """The settings of a run of so many steps."""
        from atomjet.md.settings import MDSettings

        given = asdict(self)
        return MDSettings(steps=steps, trajectory_interval=given.pop("traj_interval"), seed=seed, **given)


DYNAMICS = Dynamics()


@grouped
def md(
    file: Structure,
    steps: Annotated[int, typer.Option("--steps", help="Time steps in all, those before --resume included.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory, ASE .traj.")],
    dynamics: Dynamics = DYNAMICS,
    log: Annotated[
        Path | None, typer.Option("--log", help="CSV of the observables. Default: OUTPUT with the ending .csv.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Energy and temperature (npt: volume, pressure, density too): .png, .pdf or .svg."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew over existing files.")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option("--checkpoint-seconds", help="Seconds of wall time between checkpoints.")
    ] = 5.0,
    replicas: Annotated[
        int,
        typer.Option(
            "--replicas",
            help="Runs at once on a GPU, each with velocities and noise of its own, files OUTPUT-0000 and so on.",
        ),
    ] = 1,
    frame: Frame = -1,
    reading: Reading = READING,
    computing: Computing = COMPUTING,
) -> None:
    """Run molecular dynamics.

    Ends with status 1 if the run explodes; what was good until then is kept.
    """
    from atomjet.md.replicas import check_replicas, replica_paths
    from atomjet.md.settings import check_checkpoint_seconds

    settings = dynamics.settings(steps, computing.seed)
    check_checkpoint_seconds(checkpoint_seconds)
    check_replicas(replicas, settings)
    log = output.with_suffix(".csv") if log is None else log
    _check_paths(file, output, log, plot)
    with inputs.skipping(file, reading):
        atoms = inputs.read_frame(file, frame, computing.seed, reading)
        for line in settings.check(atoms):
            options.warn(line)
        engine = options.load_engine(computing)
        atoms = inputs.check_atoms(atoms, file, engine, reading.strict)
        how = {"resume": resume, "overwrite": overwrite, "checkpoint_seconds": checkpoint_seconds}
        how["request"] = _request(engine, reading, computing)
        summary = _run(atoms, settings, output, log, engine, replicas, how)
    print(_spoken(summary, settings))
    written = replica_paths(output, log, replicas)
    more = f", and so on to {written[-1][0]}" if replicas > 1 else ""
    print(f"wrote {written[0][0]} and {written[0][1]}{more}")
    if plot is not None:
        _draw(written[0][1], plot, atoms, settings, Path(computing.model).stem)


def _draw(log: Path, plot: Path, atoms: Atoms, settings: MDSettings, model: str) -> None:
    """The plot of a run's log."""
    from atomjet.md.plot import plot_log

    ensemble = settings.ensemble if settings.ensemble == "nve" else f"{settings.ensemble} at {settings.temperature:g} K"
    title = f"{atoms.get_chemical_formula()}, {model}, {ensemble}, {settings.timestep:g} fs"
    plot_log(log, plot, atoms, settings, title)
    print(f"wrote {plot}")


def _run(
    atoms: Atoms,
    settings: MDSettings,
    output: Path,
    log: Path,
    engine: Engine,
    replicas: int,
    how: dict[str, Any],
) -> Summary:
    """Run, on the device or through ASE; say how to go on when interrupted."""
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.md import simulate, simulate_replicas
    from atomjet.md.device_stepper import ReplicasError
    from atomjet.md.run import checkpoint_path

    on_device = _steps_on_device(engine, atoms, settings, replicas)
    length = f"{settings.steps} steps of {settings.timestep:g} fs = {settings.steps * settings.timestep * 1e-3:g} ps"
    start = "velocities kept" if settings.keep_velocities else f"start at {settings.temperature:g} K"
    many = f", {replicas} replicas" if replicas > 1 else ""
    print(f"{settings.ensemble}, {length}, {start}, seed {settings.seed}{many}", flush=True)
    if how["resume"] and not how["overwrite"] and not checkpoint_path(output).exists():
        options.warn(f"there is nothing to resume at {output}; starting from step 0")
    try:
        if on_device:
            return simulate_replicas(engine, atoms, settings, output, log, replicas=replicas, **how)
        atoms.calc = AtomJetCalculator(engine, remarks=False)
        return simulate(atoms, settings, output, log, **how)
    except ReplicasError as error:
        print(_spoken(error.summary, settings))
        raise
    except (KeyboardInterrupt, OSError):  # a full disk
        if checkpoint_path(output).exists():
            print(f"to go on with {output}, repeat the command with --resume", file=sys.stderr)
        raise


def _steps_on_device(engine: Engine, atoms: Atoms, settings: MDSettings, replicas: int) -> bool:
    """Whether the device steps itself; where a GPU does not, say why."""
    from atomjet.errors import ConfigError
    from atomjet.md.replicas import why_not_on_device

    reason = why_not_on_device(engine, atoms, settings)
    if reason and replicas != 1:
        raise ConfigError(
            f"replicas {replicas} need dynamics on a GPU, but {reason}; "
            "use backend fast_gpu with nve or nvt, or make several runs with other seeds"
        )
    if reason and engine.device.type == "cuda":
        print(f"stepped by ASE: {reason}")
    return not reason


def _request(engine: Engine, reading: Reading, computing: Computing) -> dict[str, Any]:
    """What decides the forces, and so must be the same when a run is resumed."""
    from atomjet.models.registry import locate

    conditions = {"charge": reading.charge, "spin": reading.spin}
    return {  # not the model's name: a path may be spelled in many ways, and its weights say all
        "weights": hashlib.sha256(locate(computing.model).read_bytes()).hexdigest(),
        "device": str(engine.device),
        "backend": engine.backend,
        "precision": engine.precision,
        "task": computing.task,
    } | {name: value for name, value in conditions.items() if value is not None}


def _check_paths(file: Path, output: Path, log: Path, plot: Path | None) -> None:
    """Refuse before anything is computed what could not be written at the end."""
    from atomjet.errors import ConfigError

    written = [path for path in (output, log, plot) if path is not None]
    for path in written:
        options.check_output(path, file)
    if len({path.resolve() for path in written}) < len(written):
        raise ConfigError(f"trajectory, log and plot must be different files; got {', '.join(map(str, written))}")
    options.check_picture(plot)


def _spoken(summary: Summary, settings: MDSettings) -> str:
    """The closing lines."""
    lines = []
    if summary.resumed_at:
        lines.append(f"resumed at step  {summary.resumed_at}")
    if summary.steps > summary.resumed_at:
        each = f", each of {summary.replicas} replicas" if summary.replicas > 1 else ""
        lines.append(f"speed            {summary.steps_per_second:.1f} steps/s, {summary.ns_per_day:.3f} ns/day{each}")
    lines.append(f"mean temperature {summary.mean_temperature:.1f} K")
    if settings.ensemble == "nve":
        value = "needs three rows of the log" if summary.drift != summary.drift else f"{summary.drift:.4f} meV/atom/ps"
        lines.append(f"energy drift     {value}")
    else:
        lines.append(f"mean potential   {summary.mean_potential:.4f} eV")
    if summary.uncertain == summary.uncertain:
        lines.append(
            f"uncertain        {100 * summary.uncertain:.3g} % of the steps looked at were beyond the ensemble's bound"
        )
    return "\n".join(lines)
