"""Energy conservation: velocity Verlet at constant energy, many structures at once on the potential's device.

The integrator here belongs to the checks: it gives them start velocities, time step and direction exactly.
x' = x + v dt + a dt²/2, v' = v + (a + a') dt/2, a = F / m.

What velocity Verlet conserves is not the total energy H, which oscillates with the square of the time step, but the energy

    H + dt² (v·V''·v / 12 - Σ F² / 24m) + O(dt⁴)        (V'' v = -dF/dt, from the forces one step before and after)

(Hairer, Lubich, Wanner, Acta Numerica 2003, 12, 399). Its slope is the drift: a hundred steps then say what H itself would
tell after ten thousand. Time-step order is judged by H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from atomjet.adapters.structures import bonds
from atomjet.data import System
from atomjet.errors import AtomJetError
from atomjet.md.observables import FORCE_LIMIT
from atomjet.md.velocities import draw_velocities
from atomjet.units import AMU_A2_PER_FS2
from atomjet.validate.check import Check
from atomjet.validate.potential import Potential, system_of

if TYPE_CHECKING:
    from ase import Atoms

TIMESTEP = 0.5
"""Time step, fs: usual for molecules with hydrogen."""

DRIFT = {torch.float64: 0.01, torch.float32: 0.1}
"""Largest drift of the total energy, meV/atom/ps, by dtype."""

LONG_RUN = 1000
"""Steps from which a run shows its progress."""

BLOCKS = 10

REMAINDER = 0.1
"""Share of the oscillation of the total energy that may be left in the conserved energy at 0.5 fs (molecules: 2 to 8 %)."""


@dataclass
class State:
    """Where a run is: positions (N, 3) Å, velocities (N, 3) Å/fs, accelerations (N, 3) Å/fs²."""

    system: System
    velocities: Tensor
    accelerations: Tensor
    potential_energy: Tensor  # (S,) eV


@dataclass(frozen=True)
class Run:
    """What a run recorded; T records, S structures.

    Attributes:
        time: (T,) fs. potential, kinetic: (T, S) eV. correction: (T, S) eV, what the conserved energy has beside them.
        largest_force: (T,) eV/Å, so far. positions: T times (N, 3) Å.
        failure: why it stopped early, or "".
    """

    time: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    correction: np.ndarray
    largest_force: np.ndarray
    positions: list[Tensor]
    system: System
    names: list[str]
    failure: str = ""

    @property
    def total(self) -> np.ndarray:
        """(T, S) eV."""
        return self.potential + self.kinetic

    @property
    def conserved(self) -> np.ndarray:
        """(T, S) eV: what velocity Verlet conserves up to the fourth power of the time step."""
        return self.total + self.correction


def start(potential: Potential, structures: list[Atoms], kelvin: float, seed: int) -> tuple[State, Tensor]:
    """Structures with Maxwell-Boltzmann velocities; return the state and the masses (N, 1), amu."""
    velocities, masses = [], []
    for k, atoms in enumerate(structures):
        moving = atoms.copy()
        draw_velocities(moving, kelvin, "nve", np.random.default_rng([seed, k]))
        # ASE's unit of time makes ½mv² an energy in eV.
        velocities.append(moving.get_velocities() / np.sqrt(AMU_A2_PER_FS2))
        masses.append(moving.get_masses())
    system = system_of(structures, potential)
    on_device = {"dtype": torch.float64, "device": system.device}
    mass = torch.as_tensor(np.concatenate(masses), **on_device)[:, None]
    state = State(system, torch.as_tensor(np.concatenate(velocities), **on_device), mass, mass[:0, 0])
    return _evaluate(potential, state, mass)[0], mass


def run_nve(
    potential: Potential,
    state: State,
    masses: Tensor,
    names: list[str],
    steps: int,
    timestep: float = TIMESTEP,
    every: int = 1,
    advance: Callable[..., None] = lambda steps=1: None,
) -> tuple[Run, State]:
    """Run; a potential that refuses a structure or gives NaN ends the run and is told in `Run.failure`."""
    time, rows, forces, positions, failure = [], [], [], [], ""
    largest, before = float((state.accelerations * masses).norm(dim=1).max()) * AMU_A2_PER_FS2, None
    # One step more than asked for: the conserved energy at a step needs the forces of the next.
    for step in range(steps + 2):
        try:
            after, now = _step(potential, state, masses, timestep)
        except AtomJetError as error:
            failure = f"step {step + 1}: {error}"
            break
        if not np.isfinite(now):
            failure = f"step {step + 1}: a force is not finite"
            break
        if before is not None and step % every == 0:
            time.append(step * timestep)
            rows.append(_energies(state, masses, before, after.accelerations, timestep))
            forces.append(largest)
            positions.append(state.system.positions)
        if step == steps:
            break
        before, state, largest = state.accelerations, after, max(largest, now)
        advance()
    potential_energy, kinetic, correction = np.array(rows).reshape(-1, 3, state.system.num_systems).transpose(1, 0, 2)
    series = (np.array(time), potential_energy, kinetic, correction, np.array(forces))
    return Run(*series, positions, state.system, names, failure), state


def energy_drift(run: Run, dtype: torch.dtype, label: str) -> Check:
    """Slope of the conserved energy, worst structure; also in % of the kinetic energy over the run.

    From a short run the slope is known only so well: its standard error, from the scatter of ten block means about the line,
    enters the bound three times; and what is left of the oscillation, which one part of a period
    can show as a slope, enters by its size over the length of the run.
    """
    counts = run.system.counts().cpu().numpy()
    if run.failure:
        return _failed(f"energy drift, {label}", run, "meV/atom/ps", DRIFT[dtype])
    slopes, errors = zip(*(_slope(run.time, run.conserved[:, s]) for s in range(len(counts))), strict=True)
    drifts, errors = np.abs(slopes) * 1e6 / counts, np.array(errors) * 1e6 / counts
    worst = int(np.argmax(drifts - 3 * errors))
    span = run.time[-1] - run.time[0]
    percent = 100 * np.abs(slopes) * span / run.kinetic.mean(0)
    gate = DRIFT[dtype]
    # What is left of the oscillation may rise from one end of the run to the other.
    feigned = 2e3 * REMAINDER * run.total.std(0)[worst] / counts[worst] / max(span / 1000, 1e-30)
    source = (
        f"{gate:g} meV/atom/ps ({str(dtype).removeprefix('torch.')}), three standard errors of the slope, and "
        f"{feigned:.2g} that the oscillation could feign over so short a run"
    )
    detail = (
        f"{len(run.time)} records over {span / 1000:g} ps, {len(counts)} structures; "
        f"{percent[worst]:.2g} % of the kinetic energy; total energy within "
        f"{1e3 * float((run.total.std(0) / counts).max()):.2g} meV/atom (std); slope known to {errors[worst]:.2g} meV/atom/ps"
    )
    figures = {"% of kinetic energy": float(percent.max()), "standard error / meV/atom/ps": float(errors[worst])}
    keep = slice(None, None, max(1, len(run.time) // 400))
    series = {"time / fs": run.time[keep].tolist()} | {
        f"{name}, meV/atom": (1e3 * (run.conserved[keep, s] - run.conserved[0, s]) / counts[s]).tolist()
        for s, name in enumerate(run.names)
    }
    bound = gate + 3 * float(errors[worst]) + float(feigned)
    name = f"energy drift, {label}"
    return Check(name, run.names[worst], float(drifts[worst]), "meV/atom/ps", bound, source, detail, figures, series)


def bounded_forces(run: Run, label: str) -> Check:
    """No force beyond what a structure that holds together can show, none NaN."""
    value = float("nan") if run.failure else float(run.largest_force[-1])
    source = "the limit at which `atomjet md` stops a run as exploded"
    detail = run.failure or f"largest force in {run.time[-1] / 1000:g} ps"
    return Check(f"bounded forces, {label}", ", ".join(run.names), value, "eV/Å", FORCE_LIMIT, source, detail)


def bond_stability(run: Run, structures: list[Atoms], label: str) -> Check:
    """No bond of the start structure (nearer than 1.25 x the covalent radii) changes by more than 0.5 Å."""
    worst, name = 0.0, run.names[0]
    offset = 0
    for atoms, structure in zip(structures, run.names, strict=True):
        pairs = bonds(atoms)
        for positions in run.positions:
            x = positions[offset : offset + len(atoms)].cpu().numpy()
            if not len(pairs) or atoms.pbc.any():
                continue
            now = np.linalg.norm(x[pairs[:, 1]] - x[pairs[:, 0]], axis=1)
            before = np.linalg.norm(atoms.positions[pairs[:, 1]] - atoms.positions[pairs[:, 0]], axis=1)
            change = float(np.abs(now - before).max())
            if not change <= worst:
                worst, name = change, structure
        offset += len(atoms)
    worst = float("nan") if run.failure else worst
    source = "Fu et al., TMLR 2023 (arXiv:2210.07237): a run has failed when a bond deviates by 0.5 Å"
    return Check(f"bonds hold, {label}", name, worst, "Å", 0.5, source, run.failure or "largest change of a bond")


def timestep_order(potential: Potential, atoms: Atoms, name: str, span: float, seed: int) -> Check:
    """Velocity Verlet's energy error falls with the square of the time step: only if forces are exactly -dE/dx."""
    kelvin, longest, spreads = 600.0, 1.0, []
    for halvings in range(3):
        timestep = longest / 2**halvings
        state, masses = start(potential, [atoms], kelvin, seed)
        run, _ = run_nve(potential, state, masses, [name], round(span / timestep), timestep, every=2**halvings)
        if run.failure:
            return _failed("time-step order", run, "", 0.1)
        spreads.append(float(run.total[:, 0].std()))
    ratios = [spreads[k] / max(spreads[k + 1], 1e-300) for k in range(2)]
    value = max(abs(ratio / 4 - 1) for ratio in ratios)
    bound = 0.1 if potential.dtype == torch.float64 else 0.25
    detail = (
        f"std of the total energy at 1, 0.5, 0.25 fs: {', '.join(f'{1e3 * s:.3g}' for s in spreads)} meV, "
        f"ratios {ratios[0]:.2f} and {ratios[1]:.2f}; {span:g} fs from {kelvin:g} K"
    )
    source = "second order gives 4; smooth potentials keep it to 1 %, a force error of 0.5 % misses it by 80 %"
    return Check("time-step order", name, value, "deviation of ratio / 4 from 1", bound, source, detail)


def reversibility(potential: Potential, atoms: Atoms, name: str, steps: int, seed: int) -> Check:
    """There and back: forwards, turn the velocities, the same number of steps; distance from the start."""
    state, masses = start(potential, [atoms], 600.0, seed)
    origin = state.system.positions
    bound = 1e-6 if potential.dtype == torch.float64 else 1e-2
    for _ in range(2):
        run, state = run_nve(potential, state, masses, [name], steps)
        if run.failure:
            return _failed("reversibility", run, "Å", bound)
        state.velocities = -state.velocities
    value = float((state.system.positions - origin).norm(dim=1).max())
    source = (
        f"velocity Verlet is reversible; rounding in {str(potential.dtype).removeprefix('torch.')} grows on the way"
    )
    return Check(
        "reversibility", name, value, "Å", bound, source, f"{steps} steps of {TIMESTEP} fs there, {steps} back"
    )


def _failed(name: str, run: Run, unit: str, bound: float) -> Check:
    return Check(name, ", ".join(run.names), float("nan"), unit, bound, "the run must end", run.failure)


def _evaluate(potential: Potential, state: State, masses: Tensor) -> tuple[State, float]:
    prediction = potential.predict(state.system)
    forces = prediction.forces.double()
    accelerations = forces / masses / AMU_A2_PER_FS2
    return State(state.system, state.velocities, accelerations, prediction.energy), float(forces.norm(dim=1).max())


def _step(potential: Potential, state: State, masses: Tensor, timestep: float) -> tuple[State, float]:
    positions = state.system.positions + timestep * state.velocities + 0.5 * timestep**2 * state.accelerations
    moved = State(state.system.with_positions(positions), state.velocities, state.accelerations, state.potential_energy)
    after, largest = _evaluate(potential, moved, masses)
    after.velocities = state.velocities + 0.5 * timestep * (state.accelerations + after.accelerations)
    return after, largest


def _kinetic(state: State, masses: Tensor) -> Tensor:
    per_atom = 0.5 * AMU_A2_PER_FS2 * (masses * state.velocities.square()).sum(1)
    energies = torch.zeros(state.system.num_systems, dtype=torch.float64, device=per_atom.device)
    return energies.index_add_(0, state.system.system_index, per_atom)


def _energies(state: State, masses: Tensor, before: Tensor, after: Tensor, timestep: float) -> np.ndarray:
    """(3, S) eV: potential, kinetic, and the correction that makes their sum the conserved energy."""
    curvature = -(state.velocities * (after - before) / (2 * timestep)).sum(1)
    squares = state.accelerations.square().sum(1)
    per_atom = AMU_A2_PER_FS2 * masses[:, 0] * timestep**2 * (curvature / 12 - squares / 24)
    correction = torch.zeros(state.system.num_systems, dtype=torch.float64, device=per_atom.device)
    correction.index_add_(0, state.system.system_index, per_atom)
    return torch.stack([state.potential_energy, _kinetic(state, masses), correction]).cpu().numpy()


def _slope(time: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope by least squares, and its standard error from the scatter of block means (records within a block correlate)."""
    time, values = time - time.mean(), values - values.mean()
    slope, offset = np.polyfit(time, values, 1)
    size = len(time) // BLOCKS
    if size == 0:  # fewer records than blocks: nothing is known of the error
        return float(slope), float("inf")
    rest = (values - slope * time - offset)[: size * BLOCKS].reshape(BLOCKS, size).mean(1)
    centres = time[: size * BLOCKS].reshape(BLOCKS, size).mean(1)
    error = np.sqrt((rest**2).sum() / (BLOCKS - 2) / ((centres - centres.mean()) ** 2).sum())
    return float(slope), float(error)
