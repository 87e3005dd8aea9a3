"""Molecules that were never trained on, let run: conserved energy, replicas that must hold together, time a step takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from atomjet.adapters.structures import bonds
from atomjet.data import System
from atomjet.distill.teacher import build_teacher
from atomjet.engine import Engine
from atomjet.errors import AtomJetError
from atomjet.md.device import Replicas
from atomjet.md.motion import HALTED, Flag
from atomjet.md.observables import FORCE_LIMIT
from atomjet.md.settings import DEFAULT_FRICTION, MDSettings
from atomjet.md.velocities import degrees_of_freedom, draw_velocities
from atomjet.units import AMU_A2_PER_FS2, BOLTZMANN
from atomjet.validate import dynamics
from atomjet.validate.check import Check
from atomjet.validate.organic.sets import Judged, by_molecule
from atomjet.validate.potential import Potential, system_of

KELVINS = (300.0, 500.0)

TIMESTEP = 0.5
"""Time step, fs."""

LOOK = 100
"""Steps between looks at the bonds."""

STRETCH = 0.5
"""Distance, Å, by which a bond may differ from that of the start; beyond, the run counts as failed (Fu et al., TMLR 2023)."""

RESTED = "acetone"
"""Molecule from whose minimum runs start that show the order of the integrator: half of its energy goes into bonds. In warmer
ones 1 fs is too long to show the order of hydrogen's stretches."""

ORDER, DRIFT = 0.05, 0.005
"""Deviation of the time-step order's ratio / 4 from 1; meV/atom/ps."""

SLOWEST = 1 / 3
"""Share of the teacher's time for a step, on one core."""

TIMED_ATOMS = 42
"""Size of the peptide whose steps are timed, or as near to it as there is."""

Fate = tuple[Atoms, str]
"""The last structure of a run, and why it failed, or ""."""


def constant_energy(judged: Judged) -> list[Check]:
    """Time-step order from a minimum, and drift of small molecules that were never trained on; in float64."""
    starts = [atoms for atoms in _starts(judged) if len(atoms) <= 25]
    rested = [atoms for atoms in judged.structures("frequencies") if atoms.info["molecule"] == RESTED]
    if not starts or not rested or not judged.size.order_fs:
        return []
    chosen = _spaced(starts, 4)
    names = [str(atoms.info["molecule"]) for atoms in chosen]
    exact, span = judged.exact, judged.size.order_fs
    order = dynamics.timestep_order(exact, rested[0], RESTED, span, judged.seed)
    state, masses = dynamics.start(exact, chosen, 300.0, judged.seed)
    run, _ = dynamics.run_nve(exact, state, masses, names, round(span / TIMESTEP), TIMESTEP)
    drift = dynamics.energy_drift(run, torch.float64, "float64")
    bound = drift.bound - dynamics.DRIFT[torch.float64] + DRIFT
    source = f"{DRIFT:g} meV/atom/ps, and what so short a run leaves open"
    return [replace(order, bound=ORDER), replace(drift, bound=bound, source=source)]


def replicas(judged: Judged) -> list[Check]:
    """Runs at constant temperature, of which none may fail."""
    starts, size = _starts(judged), judged.size
    chosen = _spaced(starts, size.replicas)
    if not chosen or not size.replica_fs:
        return []
    checks = []
    for kelvin in KELVINS:
        fates = thermal_run(judged.potential, chosen, kelvin, size.replica_fs, judged.seed)
        failed = {str(atoms.info["molecule"]): why for atoms, (_, why) in zip(chosen, fates, strict=True) if why}
        detail = "; ".join(f"{name}: {why}" for name, why in failed.items())
        name, unit = f"replicas at {kelvin:g} K", f"failed in {size.replica_fs / 1000:g} ps"
        checks.append(Check(name, f"{len(chosen)} molecules", float(len(failed)), unit, 0.0, "none may fail", detail))
    return checks


def _starts(judged: Judged) -> list[Atoms]:
    """The first frame of each unseen molecule, smallest molecules first."""
    frames = judged.structures("frames")
    firsts = [frames[places[0]] for places in by_molecule(frames).values()]
    return sorted(firsts, key=len)


def _spaced(structures: Sequence[Atoms], number: int) -> list[Atoms]:
    """So many of them, evenly chosen; all where there are fewer."""
    places = np.linspace(0, len(structures) - 1, min(number, len(structures))).round().astype(int)
    return [structures[k] for k in places]


def thermal_run(potential: Potential, structures: Sequence[Atoms], kelvin: float, fs: float, seed: int) -> list[Fate]:
    """Langevin dynamics of each structure on its own, all at once; on the device where the engine has the buffers for it."""
    steps, moving = round(fs / TIMESTEP), [atoms.copy() for atoms in structures]
    for k, atoms in enumerate(moving):
        draw_velocities(atoms, kelvin, "nvt", np.random.default_rng([seed, k]))
    settings = MDSettings(steps, TIMESTEP, "nvt", kelvin, seed=seed)
    if isinstance(potential, Engine) and potential.stages is not None:
        return _on_device(potential, moving, settings)
    return _Langevin(potential, moving, settings).run()


def _on_device(engine: Engine, frames: list[Atoms], settings: MDSettings) -> list[Fate]:
    """Steps on the device; what has stopped there for good has failed."""
    degrees = [degrees_of_freedom(atoms, "nvt") for atoms in frames]
    run = Replicas(engine, frames, settings, degrees, rows=1)
    run.evaluate()
    watch, why, turn, done = _Bonds(frames), [""] * len(frames), 0, 0
    positions = [atoms.positions for atoms in frames]
    while done < settings.steps:
        run.advance(min(LOOK, settings.steps - done))
        turn += 1
        seen = run.request(turn).wait()
        if (seen.flags & HALTED).any():
            run.settle(seen)
            turn += 1
            seen = run.request(turn).wait()
        for k, flag in enumerate(seen.flags.tolist()):
            if flag and not why[k]:
                why[k] = f"{Flag(flag).name or 'stopped'} after {int(seen.steps[k]) * TIMESTEP:g} fs".lower()
        positions = np.split(seen.positions, np.cumsum(run.counts)[:-1])
        watch.look(positions, why, int(seen.steps.max()))
        moving = seen.steps[seen.flags == 0]
        done = int(moving.min()) if len(moving) else settings.steps
    return _fates(frames, positions, why)


class _Langevin:
    """The BAOAB steps of `md/integrators.py` for any potential."""

    def __init__(self, potential: Potential, frames: list[Atoms], settings: MDSettings) -> None:
        self.potential, self.frames, self.settings = potential, frames, settings
        self.system = system_of(frames, potential)
        self.counts = [len(atoms) for atoms in frames]
        on_device = {"dtype": torch.float64, "device": self.system.device}
        masses = np.concatenate([atoms.get_masses() for atoms in frames])
        self.inverse = 1 / torch.as_tensor(masses * AMU_A2_PER_FS2, **on_device)[:, None]
        velocities = np.concatenate([atoms.get_velocities() * units.fs for atoms in frames])
        self.velocities = torch.as_tensor(velocities, **on_device)
        self.decay = float(np.exp(-DEFAULT_FRICTION * 1e-3 * settings.timestep))
        self.kick = torch.sqrt((1 - self.decay**2) * BOLTZMANN * settings.temperature * self.inverse)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.why = [""] * len(frames)

    def run(self) -> list[Fate]:
        """All steps."""
        watch, settings = _Bonds(self.frames), self.settings
        forces = self._forces(0)
        for step in range(1, settings.steps + 1):
            half = 0.5 * settings.timestep
            self.velocities += half * forces * self.inverse
            noise = torch.randn(self.velocities.shape, generator=self.generator, dtype=torch.float64)
            self.system = self.system.with_positions(self.system.positions + half * self.velocities)
            self.velocities = self.decay * self.velocities + self.kick * noise.to(self.kick.device)
            self._stop_failed()
            self.system = self.system.with_positions(self.system.positions + half * self.velocities)
            forces = self._forces(step)
            self.velocities += half * forces * self.inverse
            self._stop_failed()
            if step % LOOK == 0 or step == settings.steps:
                watch.look(self._positions(), self.why, step)
        return _fates(self.frames, self._positions(), self.why)

    def _stop_failed(self) -> None:
        """What has failed rests where it is."""
        if any(self.why):
            resting = torch.tensor([bool(why) for why in self.why], device=self.system.device)
            self.velocities[resting[self.system.system_index]] = 0.0

    def _forces(self, step: int) -> Tensor:
        """(N, 3) eV/Å; zero on what has failed, now or before."""
        try:
            forces = self.potential.predict(self.system).forces.double()
        except AtomJetError:
            forces = self._forces_of_each(step)
        index = self.system.system_index
        sizes = torch.nan_to_num(forces.norm(dim=1), nan=torch.inf)
        largest = sizes.new_zeros(len(self.frames)).scatter_reduce_(0, index, sizes, "amax")
        for k in (largest > FORCE_LIMIT).nonzero().flatten().tolist():
            self.why[k] = self.why[k] or f"a force of {float(largest[k]):.0f} eV/Å after {step * TIMESTEP:g} fs"
        failed = torch.tensor([bool(why) for why in self.why], device=index.device)
        return torch.where(failed[index][:, None], 0.0, forces)

    def _forces_of_each(self, step: int) -> Tensor:
        """Those of each structure alone, zero where it is refused."""
        found = []
        for k, count in enumerate(self.counts):
            part: System = self.system.part(k, k + 1)
            try:
                found.append(self.potential.predict(part).forces.double())
            except AtomJetError as error:
                self.why[k] = self.why[k] or f"refused after {step * TIMESTEP:g} fs: {error}"
                found.append(torch.zeros(count, 3, dtype=torch.float64, device=self.system.device))
        return torch.cat(found)

    def _positions(self) -> list[np.ndarray]:
        return np.split(self.system.positions.cpu().numpy(), np.cumsum(self.counts)[:-1])


class _Bonds:
    """Watches the bonds that structures start with; those of boxes are judged at the end, by `boxes.py`."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        self.pairs = [np.zeros((0, 2), int) if atoms.pbc.any() else bonds(atoms) for atoms in frames]
        self.start = [_lengths(atoms.positions, pairs) for atoms, pairs in zip(frames, self.pairs, strict=True)]

    def look(self, positions: Sequence[np.ndarray], why: list[str], step: int) -> None:
        """Note in `why` what has come apart."""
        for k, x in enumerate(positions):
            change = np.abs(_lengths(x, self.pairs[k]) - self.start[k])
            if len(change) and not change.max() <= STRETCH and not why[k]:
                why[k] = f"a bond changed by {change.max():.2f} Å within {step * TIMESTEP:g} fs"


def _lengths(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[pairs[:, 1]] - x[pairs[:, 0]], axis=1)


def _fates(frames: list[Atoms], positions: Sequence[np.ndarray], why: list[str]) -> list[Fate]:
    ended = []
    for atoms, x, reason in zip(frames, positions, why, strict=True):
        last = atoms.copy()
        last.positions = x
        ended.append((last, reason))
    return ended


def speed(judged: Judged, repeats: int = 20) -> list[Check]:
    """Time of a step of one molecule against the teacher's, and of many at once: the other axis of a Pareto plot.

    Processor time on a CPU, which others who compute there do not lengthen much; wall time where the student is on a GPU.
    """
    starts = [atoms for atoms in _starts(judged) if "peptide" in str(atoms.info["group"])]
    if not starts:
        return []
    atoms = min(starts, key=lambda one: abs(len(one) - TIMED_ATOMS))
    clock = time.perf_counter if judged.potential.device.type == "cuda" else time.process_time
    one = _seconds(lambda: judged.potential.predict(_shaken(atoms)).energy.cpu(), repeats, clock)
    many = [_shaken(atoms) for _ in range(512 if judged.potential.device.type == "cuda" else 32)]
    batch = _seconds(lambda: judged.potential.predict(many).energy.cpu(), max(3, repeats // 4), clock) / len(many)

    def teach() -> None:
        moved = _shaken(atoms)
        moved.calc = build_teacher(judged.answers.teacher)
        moved.get_forces()

    teacher = _seconds(teach, max(3, repeats // 4), time.process_time)
    figures = {
        "teacher / ms": 1e3 * teacher,
        "one molecule / ms": 1e3 * one,
        "batch / µs per atom": 1e6 * batch / len(atoms),
        "atoms": float(len(atoms)),
        "threads": float(torch.get_num_threads()),
    }
    detail = (
        f"{1e3 * one:.2f} ms a call on {judged.potential.device.type}, the teacher {1e3 * teacher:.1f} ms on this CPU"
    )
    name = str(atoms.info["molecule"])
    return [Check("time of a step", name, one / teacher, "of the teacher's", SLOWEST, "a third", detail, figures)]


def _shaken(atoms: Atoms) -> Atoms:
    """A copy at other positions, so that nothing that was computed before serves."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng().normal(0, 0.01, moved.positions.shape)
    return moved


def _seconds(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Median time of a call, after one for warming up."""
    call()
    taken = []
    for _ in range(repeats):
        began = clock()
        call()
        taken.append(clock() - began)
    return float(np.median(taken))
