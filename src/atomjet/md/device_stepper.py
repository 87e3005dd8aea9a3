"""`DeviceStepper`: moves replicas on the device, a burst of steps at a time, and records what the last burst left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress

from atomjet.engine import Engine
from atomjet.engine.uncertainty import Watch
from atomjet.errors import SimulationError
from atomjet.md.checkpoint import Checkpoint, Recorded
from atomjet.md.device import PendingSnapshot, Replicas, Snapshot, placed
from atomjet.md.frames import FrameTemplate
from atomjet.md.motion import HALTED
from atomjet.md.observables import ROW, check_sane, exploded
from atomjet.md.output import Appender, ReplicaOutput
from atomjet.md.recorder import Recorder
from atomjet.md.run import Files, Summary
from atomjet.md.settings import MDSettings
from atomjet.md.velocities import bring_to_rest, degrees_of_freedom, draw_velocities
from atomjet.units import BOLTZMANN, GPA

LONGEST_BURST = 256
"""Steps that are enqueued at a time, and of which the device keeps the observables."""

FIRST_BURST, BURST_SECONDS = 8, 0.5
"""Steps at first; then more, as long as they take less than so long: a large system is to be checkpointed and shown in time."""


class ReplicasError(SimulationError):
    """Some replicas have exploded; `summary` is of all, those up to where they were good."""

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


class DeviceStepper:
    """Moves all replicas on the device, a burst of steps at a time; see `atomjet.md.run.Stepper`.

    The device does the next burst while the host records the last.
    """

    def __init__(self, engine: Engine, atoms: Atoms, settings: MDSettings, files: Files) -> None:
        """Start anew, or from a checkpoint."""
        since, written = files.since, files.written
        self.atoms, self.settings, self.files = atoms, settings, files
        self.degrees = degrees_of_freedom(atoms, settings.ensemble)
        self.masses = atoms.get_masses()[:, None]
        self.volume = float(atoms.get_volume()) if atoms.pbc.all() else float("nan")
        self.frames = starting_frames(atoms, settings, len(written))
        self.rows = min(LONGEST_BURST, max(settings.trajectory_interval, settings.log_interval))
        self.longest = min(FIRST_BURST, self.rows)
        degrees = [self.degrees] * len(written)
        self.replicas = Replicas(engine, self.frames, settings, degrees, self.rows)
        if since:
            self.replicas.restore(since.arrays)
        self.replicas.evaluate()  # what the model refuses, it refuses before any file is touched
        self.seen = self.replicas.request(0).wait()
        self.step = self.enqueued = since.step if since else 0
        self.turn, self.pending = 0, None
        self.broken: dict[int, SimulationError] = {}
        self.watch = Watch(engine.bound)
        self._look()
        for replica, frame in enumerate(self.frames):
            if not self.seen.flags[replica]:
                part, energy = self._part(replica), float(self.seen.energy[replica])
                placed(frame, self.seen, part)
                check_sane(frame, energy, self.seen.forces[part], self.step, self.degrees, settings.temperature)
        for path in (path for pair in written for path in pair):
            path.parent.mkdir(parents=True, exist_ok=True)
        if since is None:
            self._save()([Recorded()] * len(written))
        going_on = since is not None and since.recorded[0].trajectory_size > 0
        if not going_on:
            for replica, paths in enumerate(written):
                self._begin(replica, *paths)
        recorded = since.recorded if since and going_on else [None] * len(written)
        self.template = FrameTemplate(self.frames[0], bool(atoms.pbc.all()))
        self.output = ReplicaOutput([Appender(*paths, one) for paths, one in zip(written, recorded, strict=True)])

    @property
    def running(self) -> bool:
        """Whether a burst is under way or left to do."""
        return self.pending is not None or self._burst() > 0

    def advance(self) -> None:
        """Enqueue a burst, then take what the one before it has left."""
        began, following, burst = time.monotonic(), None, self._burst()
        if burst:
            self.replicas.advance(burst)
            self.enqueued += burst
            following = self._request()
        pending, self.pending = self.pending, following
        if pending is None:
            return
        self.take(pending.wait())
        if bool((self.seen.flags & HALTED).any()):
            if following is not None:
                following.wait()  # nothing has moved since
            self._settle()
        self.output.hand_over()
        self.longest = self._adapted(time.monotonic() - began)

    def checkpoint(self) -> None:
        """Write a checkpoint of what was seen last, while anything moves."""
        if self._moving():
            self.output.checkpoint(self._save())

    def finish(self) -> None:
        """Write a last checkpoint, then the last state of what moves, whatever the intervals."""
        if self._moving():
            self.output.checkpoint(self._save())
            self._record_frames(due=False)
            self._record_rows(due=False)
        placed(self.atoms, self.seen, self._part(0))

    def close(self) -> None:
        """Close the files of all replicas."""
        self.output.close()

    def complain(self, summary: Summary) -> None:
        """Say which replicas have exploded, if any.

        Raises:
            SimulationError: some have.
        """
        standing = np.flatnonzero(self.seen.flags).tolist()
        if not standing:
            return
        if len(self.frames) == 1:
            raise self._why(0)
        listed = "; ".join(f"replica {replica}: {self._why(replica)}" for replica in standing[:3])
        more = f"; and {len(standing) - 3} more" if len(standing) > 3 else ""
        raise ReplicasError(f"{len(standing)} of {len(self.frames)} replicas exploded: {listed}{more}", summary)

    def _request(self) -> PendingSnapshot:
        """What the device has left when it has done all that is enqueued; waits for nothing."""
        self.turn += 1
        return self.replicas.request(self.turn)

    def _burst(self) -> int:
        """Steps to enqueue next: up to the next frame, or as many as the device's record holds, or as a short time allows."""
        if not self._moving():
            return 0
        interval, enqueued = self.settings.trajectory_interval, self.enqueued
        stops = ((enqueued // interval + 1) * interval, enqueued + self.longest, self.settings.steps)
        return max(0, min(stops) - enqueued)

    def _adapted(self, seconds: float) -> int:
        """Longest burst from now on, for the time that the last took."""
        if seconds > BURST_SECONDS:
            return max(1, self.longest // 2)
        return min(2 * self.longest, self.rows) if seconds < 0.5 * BURST_SECONDS else self.longest

    def take(self, snapshot: Snapshot) -> None:
        """Record what has come from the device."""
        before, self.seen = self.step, snapshot
        moving = snapshot.steps[snapshot.flags & ~HALTED == 0]
        self.step = int(moving.max() if len(moving) else snapshot.steps.max())
        interval = self.settings.log_interval
        for step in range(before + 1 + -(before + 1) % interval, self.step + 1, interval):
            rows = snapshot.record[step % self.rows].tolist()
            for replica in np.flatnonzero(snapshot.steps >= step).tolist():
                self.output.files[replica].row(self._row(step, *rows[replica]))
        if self.step > before:
            self._look()
            self._record_frames(due=True)

    def _look(self) -> None:
        """Warn once of each replica on which an ensemble's members disagree; looked at where a burst of steps ends."""
        moving, spread = self._moving(), self.seen.spread
        if spread is None or not moving:
            return
        each = spread.reshape(len(self.frames), -1)[moving].ravel()
        names = [f"replica {replica}, step {self.step}" for replica in moving]
        self.watch.look_at(each, [len(self.atoms)] * len(moving), names, moving)

    def _settle(self) -> None:
        """All replicas are halted: let those go on that can, from where they stand."""
        self.broken |= self.replicas.settle(self.seen)
        self.seen = self._request().wait()
        self.enqueued, self.pending = self.step, None

    def _begin(self, replica: int, trajectory: Path, log: Path) -> None:
        """The first frame and row of a replica, by ASE."""
        part = self._part(replica)
        results = {"energy": float(self.seen.energy[replica]), "forces": self.seen.forces[part].copy()}
        if self.atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(self.seen.stress[replica])
        recorder = Recorder(trajectory, log)
        recorder.frame(placed(self.frames[replica], self.seen, part), results, 0, 0.0)
        recorder.close()
        with open(log, "a", encoding="utf-8") as file:
            file.write(self._row(0, *self._values(replica)))

    def _record_frames(self, due: bool) -> None:
        """Write a frame of each moving replica, if this step is one (due) or is none (not due) of those with a frame."""
        if (self.step % self.settings.trajectory_interval == 0) != due:
            return
        seen, moving = self.seen, self._moving()
        each = (len(self.frames), len(self.atoms), 3)
        # What `Atoms.set_velocities` makes of them.
        momenta = self.masses * (seen.velocities.reshape(each)[moving] / units.fs)
        arrays = {"positions.": seen.positions.reshape(each)[moving], "momenta.": momenta}
        arrays["forces."] = seen.forces.reshape(each)[moving].astype(np.float64)
        stresses = None
        if self.atoms.pbc.all():
            stresses = [full_3x3_to_voigt_6_stress(seen.stress[replica]).tolist() for replica in moving]
        places = [self.output.files[replica].place() for replica in moving]
        time_fs, energies = self.step * self.settings.timestep, seen.energy[moving].tolist()
        frames = self.template.frames(places, arrays, energies, stresses, self.step, time_fs)
        self.output.frames(moving, frames, self.template.text_at)

    def _record_rows(self, due: bool) -> None:
        """Write a row for each moving replica, as `_record_frames` does; for a step that the device keeps no record of."""
        if (self.step % self.settings.log_interval == 0) == due:
            for replica in self._moving():
                self.output.files[replica].row(self._row(self.step, *self._values(replica)))

    def _values(self, replica: int) -> tuple[float, float, float, float]:
        """The observables that the device records, of what was seen last."""
        part = self._part(replica)
        image = placed(self.frames[replica], self.seen, part)
        largest = float(np.linalg.norm(self.seen.forces[part], axis=1).max())
        trace = float(np.trace(self.seen.stress[replica]))
        return float(self.seen.energy[replica]), float(image.get_kinetic_energy()), largest, trace

    def _row(self, step: int, potential: float, kinetic: float, largest: float, trace: float) -> str:
        """A row of the log, with its end of line."""
        kelvin = 2.0 * kinetic / (self.degrees * BOLTZMANN) if self.degrees else 0.0
        # The momentum of the atoms is part of the pressure; stress is positive under tension. Without a volume both are NaN.
        pressure = (2.0 * kinetic / self.volume - trace) / 3.0 / GPA
        total = potential + kinetic
        return ROW % (
            step,
            step * self.settings.timestep,
            potential,
            kinetic,
            total,
            kelvin,
            largest,
            self.volume,
            pressure,
        )

    def _save(self) -> Callable[[Sequence[Recorded]], None]:
        """What writes a checkpoint of what was seen last, once it is told how much is on the disk."""
        step, seen = self.step, self.seen
        arrays = {name: getattr(seen, name).copy() for name in ("positions", "velocities", "flags", "steps")}

        def save(recorded: Sequence[Recorded]) -> None:
            Checkpoint(step, dict(self.files.request), {}, tuple(recorded), arrays).save(self.files.checkpoint)

        return save

    def _moving(self) -> list[int]:
        """Replicas that have not exploded."""
        return np.flatnonzero(self.seen.flags == 0).tolist()

    def _part(self, replica: int) -> slice:
        return slice(replica * len(self.atoms), (replica + 1) * len(self.atoms))

    def _why(self, replica: int) -> SimulationError:
        """What happened to a replica that stands still."""
        error = self.broken.get(replica) or self.replicas.explain(self.seen, replica)
        step = int(self.seen.steps[replica]) + 1
        return error or exploded(step, "a force or the temperature just passed its limit", self.settings.temperature)


def starting_frames(atoms: Atoms, settings: MDSettings, replicas: int) -> list[Atoms]:
    """Start structures with their velocities."""
    frames = [atoms.copy() for _ in range(replicas)]
    for replica, frame in enumerate(frames):
        if not settings.keep_velocities:
            generator = np.random.default_rng([settings.seed, replica] if replica else settings.seed)
            draw_velocities(frame, settings.temperature, settings.ensemble, generator)
        elif settings.ensemble != "nvt":
            bring_to_rest(frame)  # what is conserved is not counted among the degrees of freedom
    return frames
