"""`simulate`: molecular dynamics through ASE, recorded, watched at every step, and resumable to the last bit.

A run writes three files: OUT.traj (frames), a log (one row of observables every few steps) and OUT.traj.checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from atomjet.errors import AtomJetError, ConfigError, SimulationError, StructureError
from atomjet.locking import only_writer
from atomjet.md.checkpoint import Checkpoint, Recorded
from atomjet.md.dynamics import build_dynamics, get_state, set_state, take_step
from atomjet.md.observables import check_sane, drift, measure, read_log, refused
from atomjet.md.recorder import Recorder, results_of
from atomjet.md.settings import MDSettings, check_checkpoint_seconds
from atomjet.md.velocities import bring_to_rest, degrees_of_freedom, draw_velocities, temperature
from atomjet.progress import track


@dataclass(frozen=True)
class Summary:
    """What a run says at the end. Means and drift are over the whole log, speed over the steps done just now.

    Attributes:
        steps: steps done in all.
        resumed_at: step that this call began with.
        steps_per_second, ns_per_day: NaN where no step was done just now.
        mean_temperature: K.
        mean_potential: eV.
        drift: meV/atom/ps, slope of the total energy by least squares; NaN unless nve with three rows or more. Of several
            replicas the largest, where speeds are those of each.
        replicas: how many.
    """

    steps: int
    resumed_at: int
    steps_per_second: float
    ns_per_day: float
    mean_temperature: float
    mean_potential: float
    drift: float
    replicas: int = 1


def checkpoint_path(trajectory: Path) -> Path:
    """Where the checkpoint of a run stands: beside its trajectory."""
    return trajectory.with_name(trajectory.name + ".checkpoint")


def simulate(
    atoms: Atoms,
    settings: MDSettings,
    trajectory: Path | str,
    log: Path | str | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    request: dict[str, Any] | None = None,
    checkpoint_seconds: float = 5.0,
    quiet: bool = False,
) -> Summary:
    """Run molecular dynamics; `atoms` (with its calculator) is left in the last state.

    Args:
        atoms: start structure with a calculator.
        settings: what to do.
        trajectory: .traj file to write: frames with energy, forces, velocities, and stress where periodic.
        log: CSV file; default: the trajectory's name with the ending .csv.
        resume: go on from the checkpoint where there is one; start where there is nothing yet. The same settings and
            structure are needed, except that `steps` may grow. The result is that of an undisturbed run, bit by bit on
            a CPU.
        overwrite: start anew over existing files.
        request: further JSON values that a resumed run must share, such as the model's name.
        checkpoint_seconds: seconds between checkpoints; also written at the start and at the end.
        quiet: no progress bar.

    Raises:
        ConfigError: files in the way, nothing that this run could resume, or another run that is writing there.
        StructureError: see `MDSettings.check`, and whatever the calculator refuses.
        SimulationError: the run exploded; frames before that are kept.
    """
    settings.check(atoms)
    check_checkpoint_seconds(checkpoint_seconds)
    trajectory = Path(trajectory)
    log = trajectory.with_suffix(".csv") if log is None else Path(log)
    request = settings.identity() | {"structure": fingerprint(atoms), "log": beside(trajectory, log)} | (request or {})
    with only_writer(trajectory):
        since = find_checkpoint(trajectory, [(trajectory, log)], settings, request, resume, overwrite)
        run = _Run(atoms, settings, trajectory, log, request, since)
        started = time.perf_counter()
        with track("md", settings.steps, done=run.step, quiet=quiet) as advance:
            run.go(advance, checkpoint_seconds)
        return _summary(run, time.perf_counter() - started)


class _Run:
    """The moving parts of one run."""

    def __init__(
        self,
        atoms: Atoms,
        settings: MDSettings,
        trajectory: Path,
        log: Path,
        request: dict[str, Any],
        since: Checkpoint | None,
    ) -> None:
        """Start anew, or from a checkpoint."""
        self.atoms, self.settings, self.request = atoms, settings, request
        self.checkpoint_file = checkpoint_path(trajectory)
        _measure_bonds(atoms)
        self.degrees = degrees_of_freedom(atoms, settings.ensemble)
        self.generator = np.random.default_rng(settings.seed)
        self.step = self.resumed_at = since.step if since else 0
        if since:
            self._restore(since)
        elif not settings.keep_velocities:
            draw_velocities(atoms, settings.temperature, settings.ensemble, self.generator)
        else:
            atoms.set_momenta(atoms.get_momenta())  # less what the constraints forbid
            if settings.ensemble != "nvt":
                bring_to_rest(atoms)  # what is conserved is not counted among the degrees of freedom
        self.dynamics = _continued(build_dynamics(atoms, settings, self.generator), since)
        self.forces = atoms.get_forces(md=True)  # what the model refuses, it refuses before any file is touched
        self._check()
        trajectory.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        if since is None:
            # Before the files: killed between the two, the run would otherwise leave files that nothing vouches for.
            self._save(Recorded())
        self.recorder = Recorder(trajectory, log, since.recorded[0] if since else None)
        if since is None or since.recorded[0].trajectory_size == 0:
            self._record()

    def go(self, advance: Callable[..., None], checkpoint_seconds: float) -> None:
        """Do the steps that are left, then record the last state whatever the intervals."""
        try:
            saved = time.monotonic()
            while self.step < self.settings.steps:
                self._advance()
                advance()
                if time.monotonic() - saved >= checkpoint_seconds:
                    self._save(self.recorder.on_disk())
                    saved = time.monotonic()
            # The checkpoint comes first: a longer run resumed from it does not keep a last record that falls between
            # its intervals.
            self._save(self.recorder.on_disk())
            self._record(due=False)
        finally:
            self.recorder.close()

    def _advance(self) -> None:
        """One time step, checked and recorded."""
        energy, momenta = self._energy(), self.atoms.get_momenta()
        try:
            self.forces = take_step(self.dynamics, self.forces)
        except StructureError as error:
            self.atoms.set_momenta(momenta, apply_constraint=False)
            kelvin = temperature(self.atoms, self.degrees)
            raise refused(error, self.step + 1, kelvin, energy, self.settings.temperature) from error
        except AtomJetError as error:
            raise SimulationError(f"the run broke down at step {self.step + 1}: {error}") from error
        self.step += 1
        self._check()
        self._record()

    def _check(self) -> None:
        check_sane(self.atoms, self._energy(), self.forces, self.step, self.degrees, self.settings.temperature)

    def _energy(self) -> float | None:
        """Potential energy of the last forces, eV, without asking the calculator, which would compare all atoms first."""
        return getattr(self.atoms.calc, "results", {}).get("energy")

    def _record(self, due: bool = True) -> None:
        """Write frame and row where they are due at this step; or, with due=False, where they are not."""
        time_fs = self.step * self.settings.timestep
        if (self.step % self.settings.trajectory_interval == 0) == due:
            self.recorder.frame(self.atoms, results_of(self.atoms), self.step, time_fs)
        if (self.step % self.settings.log_interval == 0) == due:
            self.recorder.row(measure(self.atoms, self.step, time_fs, self.degrees))

    def _save(self, on_disk: Recorded) -> None:
        """Write a checkpoint of this moment."""
        arrays = {
            "positions": self.atoms.positions,
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array,
        }
        noise = dict(self.generator.bit_generator.state)
        Checkpoint(self.step, self.request, noise, (on_disk,), arrays | get_state(self.dynamics)).save(
            self.checkpoint_file
        )

    def _restore(self, since: Checkpoint) -> None:
        """Put atoms and noise back to where the checkpoint was taken, past any constraint."""
        self.atoms.set_cell(since.arrays["cell"], scale_atoms=False)
        self.atoms.positions[:] = since.arrays["positions"]
        self.atoms.set_momenta(since.arrays["momenta"], apply_constraint=False)
        self.generator.bit_generator.state = since.noise


def _measure_bonds(atoms: Atoms) -> None:
    """Let constraints on bond lengths measure them now, and so in a resumed run as in the one that it continues."""
    trial = atoms.copy()
    trial.set_constraint([])
    for constraint in atoms.constraints:
        constraint.adjust_momenta(trial, np.zeros((len(trial), 3)))


def _continued(dynamics: MolecularDynamics, since: Checkpoint | None) -> MolecularDynamics:
    """The integrator, going on from the checkpoint where there is one."""
    if since:
        set_state(dynamics, since.arrays)
    return dynamics


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
    """Hash of what makes a start structure this one."""
    digest = hashlib.sha256()
    parts = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses(), atoms.get_momenta()]
    for array in parts:
        digest.update(np.ascontiguousarray(array).tobytes())
    fixed = [constraint.todict() for constraint in atoms.constraints]
    digest.update(repr((fixed, atoms.info.get("charge"), atoms.info.get("spin"))).encode())
    return digest.hexdigest()


def _summary(run: _Run, seconds: float) -> Summary:
    """Speed of what was done just now; means and drift of the whole log."""
    return summarise([run.recorder.log], run.settings, (run.resumed_at, run.step), seconds, len(run.atoms))


def summarise(logs: Sequence[Path], settings: MDSettings, done: tuple[int, int], seconds: float, atoms: int) -> Summary:
    """What is said of a run of one replica or many.

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
