"""`Replicas`: structures that move on the device, many steps without the host, and what the host sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from atomjet.data import Capacity, Status, System, SystemBuffers
from atomjet.engine import Engine
from atomjet.engine.uncertainty import watched
from atomjet.errors import AtomJetError, SimulationError, StructureError
from atomjet.md.integrators import advance, advance_reference, finish
from atomjet.md.motion import HALTED, Flag, Motion
from atomjet.md.noise import replica_seeds
from atomjet.md.observables import check_sane, refused, temperature_limit
from atomjet.md.settings import DEFAULT_FRICTION, MDSettings
from atomjet.md.velocities import temperature
from atomjet.ops.cuda_graph import Replayed
from atomjet.units import BOLTZMANN

AT_ONCE = 8
"""Steps of one CUDA graph: replaying costs the host and the device some time of their own."""


@dataclass(frozen=True)
class Snapshot:
    """Replicas at one moment, on the host. N atoms of all R replicas, one after the other.

    Attributes:
        positions: (N, 3) Å. velocities: (N, 3) Å/fs.
        energy: (R,) eV. forces: (N, 3) eV/Å. stress: (R, 3, 3) eV/Å³; of replicas that move.
        flags: (R,) see `Flag`. steps: (R,).
        record: (rows, R, COLUMNS), see `Motion`.
        spread: (N,) eV/Å, of an ensemble; None of a single model.
    """

    positions: np.ndarray
    velocities: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    flags: np.ndarray
    steps: np.ndarray
    record: np.ndarray
    spread: np.ndarray | None = None


class Replicas:
    """Structures moving independently of each other, all in one captured step: integrator, search, model, forces, integrator.

    Args:
        engine: one with `stages`.
        frames: start structures with their velocities; of any sizes, one for each replica.
        settings: of the run; nve or nvt.
        degrees: of freedom, of each replica.
        rows: steps of which the observables are kept on the device.

    Raises:
        StructureError: what the engine refuses.
    """

    def __init__(
        self, engine: Engine, frames: Sequence[Atoms], settings: MDSettings, degrees: Sequence[int], rows: int
    ) -> None:
        """Allocate everything and compute the first forces."""
        self.engine, self.frames, self.settings, self.degrees = engine, frames, settings, degrees
        self.counts = [len(atoms) for atoms in frames]
        self.stream = torch.cuda.Stream(engine.device) if engine.device.type == "cuda" else None
        self.evaluation = engine.reserve(frames)
        self.motion = Motion.start(
            self.evaluation.system,
            torch.as_tensor(velocities_of(frames), device=engine.device),
            torch.as_tensor(np.concatenate([atoms.get_masses() for atoms in frames]), device=engine.device),
            replica_seeds(settings.seed, len(frames)).to(engine.device),
            torch.tensor(_hottest(settings, degrees), dtype=torch.float64, device=engine.device),
            settings.timestep,
            _thermostat(settings),
            rows,
        )
        self._views = (PendingSnapshot(self), PendingSnapshot(self))
        self._record_steps()
        if self.stream is not None:
            torch.cuda.current_stream(engine.device).synchronize()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go back to positions, velocities, flags and steps of a snapshot."""
        total, replicas = sum(self.counts), len(self.counts)
        with self._on_stream():
            self.motion.system.positions[:total] = torch.as_tensor(arrays["positions"])
            self.motion.velocities[:total] = torch.as_tensor(arrays["velocities"])
            self.motion.flags[:replicas] = torch.as_tensor(arrays["flags"], dtype=torch.int32)
            self.motion.steps[:replicas] = torch.as_tensor(arrays["steps"])

    def evaluate(self) -> None:
        """Forces at the positions as they are, in buffers that are large enough.

        Raises:
            StructureError: what the model refuses.
        """
        while True:
            with self._on_stream():
                self.evaluation.launch()
                status = int(self.evaluation.prediction.status)
            if status == 0:
                return
            if status != Status.EDGES:
                with watched():
                    self.engine.predict([self._where(replica) for replica in range(len(self.frames))])
                raise SimulationError(
                    f"the device refuses what the model serves ({Status(status)!r}); use fast_pytorch"
                )
            self._enlarge()

    def advance(self, steps: int) -> None:
        """Enqueue so many steps."""
        with self._on_stream():
            for _ in range(steps // AT_ONCE):
                self._several.enqueue()
            for _ in range(steps % AT_ONCE):
                self._single.enqueue()

    def request(self, turn: int) -> PendingSnapshot:
        """Enqueue copies to the host; `turn` says into which of two sets of buffers, so that one can be read meanwhile."""
        with self._on_stream():
            self._views[turn % 2].enqueue(self)
        return self._views[turn % 2]

    def settle(self, snapshot: Snapshot) -> dict[int, SimulationError]:
        """After a `Status` has halted all replicas: enlarge the buffers, or set the replicas aside that the model refuses.

        Raises:
            SimulationError: neither helps.
        """
        halted = np.flatnonzero(snapshot.flags & HALTED)
        status = Status(int(snapshot.flags[halted[0]]))
        broken: dict[int, SimulationError] = {}
        if status != Status.EDGES:
            for replica in halted.tolist():
                error = self.explain(snapshot, replica)
                if error is not None:
                    broken[replica] = error
            if not broken:
                step = int(snapshot.steps[halted[0]]) + 1
                raise SimulationError(
                    f"the run broke down at step {step}: the device says {status!r}; wrap the positions into the cell, "
                    "or use backend 'fast_pytorch'"
                )
        else:
            # How many edges there were is gone with the positions that had them: the next size up, as often as it takes.
            self._enlarge()
        flags = snapshot.flags.copy()
        flags[halted] = 0
        flags[list(broken)] = int(Flag.REFUSED)
        with self._on_stream():
            self.motion.flags[: len(flags)] = torch.as_tensor(flags, dtype=torch.int32)
        self.evaluate()
        return broken

    @watched()
    def explain(self, snapshot: Snapshot, replica: int) -> SimulationError | None:
        """Why the next step of a replica that stands still goes wrong: the step taken once more, alone and watched."""
        atoms, step = self._where(replica, snapshot), int(snapshot.steps[replica])
        degrees = self.degrees[replica]
        system = SystemBuffers.empty(Capacity(1, len(atoms), 1, len(atoms)), "cpu")
        system.fill(System.from_ase(atoms))
        motion = Motion.start(
            system,
            torch.as_tensor(velocities_of([atoms])),
            torch.as_tensor(atoms.get_masses()),
            self.motion.seeds[replica : replica + 1].cpu(),
            torch.tensor([torch.inf]),
            self.settings.timestep,
            _thermostat(self.settings),
            rows=1,
        )
        motion.steps[0] = step
        target, moved = self.settings.temperature, atoms.copy()
        try:
            before = self.engine.predict(atoms).to("cpu")
            advance_reference(motion, before.forces.double())
            moved.positions = system.positions.numpy()
            try:
                after = self.engine.predict(moved).to("cpu")
            except StructureError as error:
                return refused(error, step + 1, temperature(atoms, degrees), float(before.energy[0]), target)
            push = after.forces.double() * motion.inverse_masses[:, None]
            moved.set_velocities((motion.velocities + 0.5 * self.settings.timestep * push).numpy() / units.fs)
            check_sane(moved, float(after.energy[0]), after.forces.numpy(), step + 1, degrees, target)
        except SimulationError as error:
            return error
        except AtomJetError as error:
            return SimulationError(f"the run broke down at step {step + 1}: {error}")
        return None

    def _enlarge(self) -> None:
        """Larger buffers for the edges, filled on the stream that uses them."""
        with self._on_stream():
            self.evaluation = self.engine.enlarge(self.evaluation)
        self._record_steps()

    def _record_steps(self) -> None:
        """Graphs of one step and of several, over the buffers there are now."""
        captures = self.engine.captures
        self._single = Replayed(self.one_step, self.stream, captures)
        self._several = Replayed(lambda: [self.one_step() for _ in range(AT_ONCE)], self.stream, captures)

    def one_step(self) -> None:
        """Enqueue a step of every replica."""
        advance(self.motion, self.evaluation.prediction.forces)
        self.evaluation.launch()
        finish(self.motion, self.evaluation.prediction)

    def _on_stream(self) -> Any:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _where(self, replica: int, snapshot: Snapshot | None = None) -> Atoms:
        """One replica as atoms, at a snapshot or as it is on the device."""
        first = sum(self.counts[:replica])
        atoms, part = self.frames[replica].copy(), slice(first, first + self.counts[replica])
        if snapshot is None:
            atoms.positions = self.motion.system.positions[part].cpu().numpy()
            return atoms
        return placed(atoms, snapshot, part)


class PendingSnapshot:
    """Buffers that a snapshot is copied into, and from which it is read until they are used again."""

    def __init__(self, replicas: Replicas) -> None:
        on_gpu = replicas.stream is not None
        self.atoms, self.replicas = sum(replicas.counts), len(replicas.counts)
        self._views = replicas.evaluation.prediction.like

        def like(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)

        self._copies = [like(source) for source in _sources(replicas)]
        self._event = torch.cuda.Event() if on_gpu else None

    def enqueue(self, replicas: Replicas) -> None:
        """Copy everything on the current stream."""
        for copied, source in zip(self._copies, _sources(replicas), strict=True):
            copied.copy_(source, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def wait(self) -> Snapshot:
        """Wait for the copies."""
        if self._event is not None:
            self._event.synchronize()
        positions, velocities, answer, flags, steps, record = self._copies
        prediction = self._views(answer)
        spread = prediction.spread
        return Snapshot(
            positions=positions[: self.atoms].numpy(),
            velocities=velocities[: self.atoms].numpy(),
            energy=prediction.energy[: self.replicas].numpy(),
            forces=prediction.forces[: self.atoms].numpy(),
            stress=prediction.stress[: self.replicas].numpy(),
            flags=flags[: self.replicas].numpy(),
            steps=steps[: self.replicas].numpy(),
            record=record[:, : self.replicas].numpy(),
            spread=None if spread is None else spread[: self.atoms].numpy(),
        )


def _sources(replicas: Replicas) -> list[Tensor]:
    motion = replicas.motion
    answer = replicas.evaluation.prediction.buffer
    return [motion.system.positions, motion.velocities, answer, motion.flags, motion.steps, motion.record]


def velocities_of(frames: Sequence[Atoms]) -> np.ndarray:
    """(N, 3) Å/fs of all frames."""
    return np.concatenate([atoms.get_velocities() for atoms in frames]) * units.fs


def placed(atoms: Atoms, snapshot: Snapshot, part: slice) -> Atoms:
    """Give atoms, in place, the positions and velocities of their part of a snapshot, and return them."""
    atoms.positions = snapshot.positions[part]
    atoms.set_velocities(snapshot.velocities[part] / units.fs)
    return atoms


def _thermostat(settings: MDSettings) -> tuple[float, float] | None:
    friction = DEFAULT_FRICTION if settings.friction is None else settings.friction
    return (friction, settings.temperature) if settings.ensemble == "nvt" else None


def _hottest(settings: MDSettings, degrees: Sequence[int]) -> list[float]:
    """Kinetic energy of each replica at the temperature that `check_sane` allows, eV."""
    limit = temperature_limit(settings.temperature)
    return [0.5 * number * BOLTZMANN * limit if number else float("inf") for number in degrees]
