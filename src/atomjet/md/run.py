"""`run`: a run of molecular dynamics, on the device or through ASE: files, checkpoints, resumption, progress, summary.

A run writes trajectories (frames), logs (one row of observables every few steps), and one checkpoint for all of them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError
from atomjet.locking import only_writer
from atomjet.md.checkpoint import Checkpoint
from atomjet.md.observables import drift, read_log
from atomjet.md.settings import MDSettings, check_checkpoint_seconds
from atomjet.progress import track


@dataclass(frozen=True)
class Summary:
    """Figures of a run at its end. Means and drift are over the whole log, speed over the steps done just now.

    Attributes:
        steps: steps done in all.
        resumed_at: step that this call began with.
        steps_per_second, ns_per_day: NaN where no step was done just now.
        mean_temperature: K.
        mean_potential: eV.
        drift: meV/atom/ps, slope of the total energy by least squares; NaN unless nve with three rows or more. Of several
            replicas the largest, where speeds are those of each.
        replicas: how many.
        uncertain: share of the steps looked at just now, of every replica, on which an ensemble's members disagree beyond the
            calibrated bound; NaN without one.
    """

    steps: int
    resumed_at: int
    steps_per_second: float
    ns_per_day: float
    mean_temperature: float
    mean_potential: float
    drift: float
    replicas: int = 1
    uncertain: float = float("nan")


@dataclass(frozen=True)
class Files:
    """Where a run writes, and where it goes on.

    Attributes:
        written: trajectory and log of each replica.
        checkpoint: file.
        request: what a resumed run must share.
        since: the checkpoint to go on from; None: start anew.
    """

    written: Sequence[tuple[Path, Path]]
    checkpoint: Path
    request: Mapping[str, Any]
    since: Checkpoint | None


@dataclass(frozen=True)
class Handling:
    """How the files of a run are treated; see `simulate`."""

    resume: bool = False
    overwrite: bool = False
    request: Mapping[str, Any] | None = None
    checkpoint_seconds: float = 5.0
    quiet: bool = False


class Stepper(Protocol):
    """Moves the atoms of a run and records them.

    Attributes:
        step: steps done.
    """

    step: int

    @property
    def running(self) -> bool:
        """Whether `advance` has something left to do."""
        ...

    def advance(self) -> None:
        """Go on by a step or a few, and record what falls due."""
        ...

    def checkpoint(self) -> None:
        """Write a checkpoint of this moment."""
        ...

    def finish(self) -> None:
        """Write a last checkpoint, then the last state whatever the intervals.

        In this order: a longer run resumed from it does not keep a last record that falls between its intervals.
        """
        ...

    def close(self) -> None:
        """Close all files."""
        ...


def run(
    atoms: Atoms,
    settings: MDSettings,
    trajectory: Path | str,
    log: Path | str | None,
    about: Mapping[str, Any],
    paths: Callable[[Path, Path], Sequence[tuple[Path, Path]]],
    begin: Callable[[Files], Stepper],
    handling: Handling,
) -> Summary:
    """Run molecular dynamics.

    Args:
        atoms: start structure.
        settings: what to do.
        trajectory, log: as the user named them.
        about: what this way of stepping adds to the request that a resumed run must share.
        paths: trajectory and log of each replica, from those that were named.
        begin: the stepper, its files opened; refuses before it touches a file.
        handling: of the files.

    Raises:
        ConfigError: files in the way, nothing that this run could resume, or another run that is writing there.
        StructureError, SimulationError: see `MDSettings.check`, and whatever the stepper raises.
    """
    settings.check(atoms)
    check_checkpoint_seconds(handling.checkpoint_seconds)
    trajectory = Path(trajectory)
    log = trajectory.with_suffix(".csv") if log is None else Path(log)
    identity = {"structure": fingerprint(atoms), "log": beside(trajectory, log)}
    request = settings.identity() | identity | dict(about) | dict(handling.request or {})
    written = paths(trajectory, log)
    with only_writer(trajectory):
        since = find_checkpoint(trajectory, written, settings, request, handling.resume, handling.overwrite)
        stepper = begin(Files(written, checkpoint_path(trajectory), request, since))
        resumed_at, started = stepper.step, time.perf_counter()
        with track("md", settings.steps, done=stepper.step, quiet=handling.quiet) as advance:
            drive(stepper, advance, handling.checkpoint_seconds)
        seconds = time.perf_counter() - started
        return summarise([path for _, path in written], settings, (resumed_at, stepper.step), seconds, len(atoms))


def drive(stepper: Stepper, advance: Callable[..., None], checkpoint_seconds: float) -> None:
    """Do the steps that are left, with a checkpoint every few seconds, and finish; close the files whatever ends it."""
    try:
        saved = time.monotonic()
        while stepper.running:
            before = stepper.step
            stepper.advance()
            advance(stepper.step - before)
            if time.monotonic() - saved >= checkpoint_seconds:
                stepper.checkpoint()
                saved = time.monotonic()
        stepper.finish()
    finally:
        stepper.close()


def checkpoint_path(trajectory: Path) -> Path:
    """Where the checkpoint of a run stands: beside its trajectory."""
    return trajectory.with_name(trajectory.name + ".checkpoint")


def find_checkpoint(
    trajectory: Path,
    written: Sequence[tuple[Path, Path]],
    settings: MDSettings,
    request: dict[str, Any],
    resume: bool,
    overwrite: bool,
) -> Checkpoint | None:
    """The checkpoint to go on from, or None to start anew; refuse what would lose data or mix two runs.

    Args:
        trajectory: that the user named.
        written: trajectory and log of every replica.
        settings, request, resume, overwrite: see `simulate`.
    """
    if trajectory.suffix != ".traj":
        raise ConfigError(
            f"trajectory {trajectory} does not end in .traj; name it .traj (`ase convert` makes other formats)"
        )
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other; give one")
    if overwrite:
        return None
    path = checkpoint_path(trajectory)
    if resume and path.exists():
        since = Checkpoint.load(path)
        since.check_request(request)
        if settings.steps < since.step:
            raise ConfigError(
                f"steps {settings.steps} is fewer than the {since.step} that {trajectory} has already; give more, "
                "or start again with overwrite"
            )
        return since
    for file in chain.from_iterable(written):
        if file.exists() and resume:
            raise ConfigError(f"cannot resume {file}: there is no {path}; start again with overwrite")
        if file.exists():
            raise ConfigError(
                f"{file} exists already; go on with resume, start again with overwrite, or choose another name"
            )
    return None


def beside(trajectory: Path, log: Path) -> str:
    """Where a log stands, seen from its trajectory: however the two are spelled, and wherever both are moved."""
    return os.path.relpath(log.resolve(), trajectory.resolve().parent)


def fingerprint(atoms: Atoms) -> str:
    """Hash of a start structure: atoms, masses, momenta, constraints and conditions."""
    digest = hashlib.sha256()
    parts = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses(), atoms.get_momenta()]
    for array in parts:
        digest.update(np.ascontiguousarray(array).tobytes())
    fixed = [constraint.todict() for constraint in atoms.constraints]
    digest.update(repr((fixed, atoms.info.get("charge"), atoms.info.get("spin"))).encode())
    return digest.hexdigest()


def summarise(logs: Sequence[Path], settings: MDSettings, done: tuple[int, int], seconds: float, atoms: int) -> Summary:
    """Figures of a run of one replica or many.

    Args:
        logs: of each replica.
        settings: of the run.
        done: first and last step of this call.
        seconds: wall time of it.
        atoms: of each replica.
    """
    rows = [read_log(log) for log in logs]
    speed = (done[1] - done[0]) / seconds if done[1] > done[0] else float("nan")
    nve = settings.ensemble == "nve"
    drifts = [drift(row["time_fs"], row["total_eV"], atoms) if nve else float("nan") for row in rows]
    return Summary(
        steps=done[1],
        resumed_at=done[0],
        steps_per_second=speed,
        ns_per_day=speed * 86400.0 * settings.timestep * 1e-6,
        mean_temperature=float(np.mean([row["temperature_K"].mean() for row in rows])),
        mean_potential=float(np.mean([row["potential_eV"].mean() for row in rows])),
        drift=max(drifts, key=abs),
        replicas=len(logs),
    )
