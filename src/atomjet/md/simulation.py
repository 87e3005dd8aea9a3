"""`simulate`: molecular dynamics through ASE, recorded, watched at every step, and resumable to the last bit.

A run writes three files: OUT.traj (frames), a log (one row of observables every few steps) and OUT.traj.checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from atomjet.engine.uncertainty import Watch
from atomjet.errors import AtomJetError, SimulationError, StructureError
from atomjet.md.checkpoint import Checkpoint, Recorded
from atomjet.md.dynamics import build_dynamics, get_state, set_state, take_step
from atomjet.md.observables import check_sane, measure, refused
from atomjet.md.recorder import Recorder, results_of
from atomjet.md.run import Files, Handling, Summary, run
from atomjet.md.settings import MDSettings
from atomjet.md.velocities import bring_to_rest, degrees_of_freedom, draw_velocities, temperature


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
    watch = getattr(atoms.calc, "watch", Watch(None))  # of other calculators nothing is known
    looked, beyond = watch.looked, watch.beyond
    summary = run(
        atoms,
        settings,
        trajectory,
        log,
        about={},
        paths=lambda trajectory, log: [(trajectory, log)],
        begin=lambda files: AseStepper(atoms, settings, files),
        handling=Handling(resume, overwrite, request, checkpoint_seconds, quiet),
    )
    if watch.looked == looked:
        return summary
    return replace(summary, uncertain=(watch.beyond - beyond) / (watch.looked - looked))


class AseStepper:
    """Moves the atoms by ASE's integrators, one step at a time; see `atomjet.md.run.Stepper`."""

    def __init__(self, atoms: Atoms, settings: MDSettings, files: Files) -> None:
        """Start anew, or from a checkpoint."""
        since = files.since
        ((trajectory, log),) = files.written
        self.atoms, self.settings, self.files = atoms, settings, files
        _measure_bonds(atoms)
        self.degrees = degrees_of_freedom(atoms, settings.ensemble)
        self.generator = np.random.default_rng(settings.seed)
        self.step = since.step if since else 0
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

    @property
    def running(self) -> bool:
        """Whether steps are left."""
        return self.step < self.settings.steps

    def checkpoint(self) -> None:
        """Write a checkpoint of this moment."""
        self._save(self.recorder.on_disk())

    def finish(self) -> None:
        """Write a last checkpoint, then the last state whatever the intervals."""
        self.checkpoint()
        self._record(due=False)

    def close(self) -> None:
        """Close both files."""
        self.recorder.close()

    def advance(self) -> None:
        """Do one time step; check and record it."""
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
        state = arrays | get_state(self.dynamics)
        Checkpoint(self.step, dict(self.files.request), noise, (on_disk,), state).save(self.files.checkpoint)

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
