"""`simulate_replicas`: molecular dynamics on the device, many replicas at once, recorded and resumed as `simulate` does.

One replica writes the three files of `simulate`. Several write a trajectory and a log each, OUT-0000.traj and OUT-0000.csv and so
on, and one checkpoint for all of them. While the device computes, the host writes what it has seen before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms

from atomjet.engine import Engine
from atomjet.errors import ConfigError
from atomjet.md.device_stepper import DeviceStepper
from atomjet.md.run import Files, Handling, Summary, run
from atomjet.md.settings import MDSettings

MOST_REPLICAS = 400
"""Replicas of a run: each has two open files, and systems commonly allow a process 1024."""


def why_not_on_device(engine: Engine, atoms: Atoms, settings: MDSettings) -> str:
    """Why this run cannot be stepped on the device; empty where it can."""
    if engine.stages is None:
        return f"backend {engine.backend} does not work in fixed buffers"
    if settings.ensemble not in ("nve", "nvt"):
        return f"{settings.ensemble} has no integrator there"
    return "atoms are constrained" if atoms.constraints else ""


def replica_paths(trajectory: Path, log: Path, replicas: int) -> list[tuple[Path, Path]]:
    """Trajectory and log of each replica."""
    if replicas == 1:
        return [(trajectory, log)]

    def numbered(path: Path, replica: int) -> Path:
        return path.with_name(f"{path.stem}-{replica:04d}{path.suffix}")

    return [(numbered(trajectory, replica), numbered(log, replica)) for replica in range(replicas)]


def simulate_replicas(
    engine: Engine,
    atoms: Atoms,
    settings: MDSettings,
    trajectory: Path | str,
    log: Path | str | None = None,
    *,
    replicas: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    request: dict[str, Any] | None = None,
    checkpoint_seconds: float = 5.0,
    quiet: bool = False,
) -> Summary:
    """Run molecular dynamics on the device; `atoms` is left in the last state of the first replica.

    Args:
        engine: one that steps such a run itself, see `why_not_on_device`.
        atoms: start structure.
        settings: what to do; replica r draws velocities and noise of its own from the seed, the first as a single run does.
        replicas: copies that differ in their velocities and noise.
        trajectory, log, resume, overwrite, request, checkpoint_seconds, quiet: see `simulate`.

    Raises:
        ConfigError: files in the way, nothing that this run could resume, another run that is writing there, or replicas that would
            all be the same.
        StructureError: see `MDSettings.check`, and whatever the engine refuses.
        SimulationError: the run exploded; `ReplicasError` where some of several replicas have, after the others are done. What
            was good is kept.
    """
    check_replicas(replicas, settings)
    began: list[DeviceStepper] = []

    def begin(files: Files) -> DeviceStepper:
        began.append(DeviceStepper(engine, atoms, settings, files))
        return began[0]

    summary = run(
        atoms,
        settings,
        trajectory,
        log,
        about={"stepped": "on the device", "replicas": replicas},
        paths=lambda trajectory, log: replica_paths(trajectory, log, replicas),
        begin=begin,
        handling=Handling(resume, overwrite, request, checkpoint_seconds, quiet),
    )
    summary = replace(summary, uncertain=began[0].watch.share)
    began[0].complain(summary)
    return summary


def check_replicas(replicas: int, settings: MDSettings) -> None:
    """Refuse a number of replicas that cannot be run, or that would all be the same.

    Raises:
        ConfigError: says which, and the limit.
    """
    if not 1 <= replicas <= MOST_REPLICAS:
        raise ConfigError(f"replicas {replicas} is outside 1 ... {MOST_REPLICAS}; make several runs with other seeds")
    if replicas > 1 and settings.keep_velocities and settings.ensemble == "nve":
        raise ConfigError(
            f"{replicas} replicas that keep their velocities in nve would all be the same; draw velocities, or use nvt"
        )
