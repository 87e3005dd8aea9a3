"""What dynamics of a solid or liquid shows: radial distribution functions, mean square displacements, diffusion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from atomjet.errors import ConfigError
from atomjet.md.dynamics import build_dynamics, take_step
from atomjet.md.settings import MDSettings
from atomjet.md.velocities import draw_velocities

Array = NDArray[np.float64]

EQUILIBRATION = 0.2
"""Share of a run that is left out at its beginning."""

FITTED = (0.1, 0.4)
"""Lags between which the slope of the mean square displacement is fitted, as shares of the run: later ones have few origins."""

MOST_FRAMES = 200
"""Frames of a run over which distances are counted."""

SQUARE_CM_PER_S = 0.1
"""Diffusion coefficient, cm²/s, of 1 Å²/fs."""


@dataclass(frozen=True)
class Run:
    """Dynamics at constant volume and temperature.

    Attributes:
        frames: equally spaced in time, in one cell; the beginning is left out.
        interval: fs between frames.
        temperature: K asked for.
        steps_per_second: NaN where the run was read from a file.
    """

    frames: list[Atoms]
    interval: float
    temperature: float
    steps_per_second: float = float("nan")


def run_nvt(
    calculator: Calculator,
    atoms: Atoms,
    temperature: float,
    steps: int,
    timestep: float,
    every: int = 10,
    seed: int = 0,
) -> Run:
    """Langevin dynamics as `atomjet md` runs it, by any calculator.

    Args:
        calculator: of student or teacher.
        atoms: start.
        temperature: K.
        steps: in all; a fifth of them is left out.
        timestep: fs.
        every: steps between frames.
        seed: of velocities and noise.
    """
    moving = atoms.copy()
    moving.calc = calculator
    settings = MDSettings(steps, timestep, "nvt", temperature, friction=5.0, seed=seed)
    settings.check(moving)
    generator = np.random.default_rng(seed)
    draw_velocities(moving, temperature, "nvt", generator)
    dynamics, forces, frames = build_dynamics(moving, settings, generator), None, []
    started = time.perf_counter()
    for step in range(1, steps + 1):
        forces = take_step(dynamics, forces)
        if step % every == 0:
            frames.append(moving.copy())
    return after_equilibration(frames, every * timestep, temperature, steps / (time.perf_counter() - started))


def after_equilibration(
    frames: Sequence[Atoms], interval: float, temperature: float, steps_per_second: float = float("nan")
) -> Run:
    """A run without its first fifth.

    Raises:
        ConfigError: too few frames to say anything, or frames of different cells or atoms.
    """
    start = round(EQUILIBRATION * len(frames))
    left = list(frames[start:])
    if len(left) < 20:
        raise ConfigError(f"a run of {len(frames)} frames is too short; give 25 or more")
    for number, frame in enumerate(left, start):
        if not np.array_equal(frame.numbers, left[0].numbers) or not np.allclose(frame.cell, left[0].cell):
            raise ConfigError(
                f"frame {number} has other atoms or another cell than the first; give a run in one cell (nvt)"
            )
    return Run(left, interval, temperature, steps_per_second)


def unwrapped(frames: Sequence[Atoms]) -> Array:
    """(T, N, 3) Å: positions followed from frame to frame through the periodic boundaries, less the drift of the whole."""
    pbc = frames[0].pbc
    cell = np.where(pbc[:, None], frames[0].cell.array, np.eye(3))
    positions = np.array([atoms.positions for atoms in frames])
    fractions = np.diff(positions, axis=0).reshape(-1, 3) @ np.linalg.inv(cell)
    jumps = np.where(pbc, np.round(fractions), 0.0) @ cell
    steps = np.diff(positions, axis=0) - jumps.reshape(len(frames) - 1, -1, 3)
    followed = positions[0] + np.concatenate([np.zeros((1, *positions[0].shape)), np.cumsum(steps, axis=0)])
    masses = frames[0].get_masses()[:, None]
    centre = (followed * masses).sum(1, keepdims=True) / masses.sum()
    return followed - centre + centre[0]


def mean_square_displacement(run: Run, element: int) -> tuple[Array, Array]:
    """Lags, ps, up to half the run, and the mean square displacement of an element's atoms, Å², over all origins."""
    positions = unwrapped(run.frames)[:, run.frames[0].numbers == element]
    lags = np.arange(1, len(positions) // 2 + 1)
    return lags * run.interval / 1000, _displacements(positions, lags).mean(1)


def _displacements(positions: Array, lags: NDArray[np.int64]) -> Array:
    """(lags, N) Å² of each atom, over all origins."""
    return np.array([((positions[lag:] - positions[:-lag]) ** 2).sum(2).mean(0) for lag in lags])


def diffusion(run: Run, element: int) -> tuple[float, float]:
    """Self-diffusion coefficient of an element, cm²/s, and its standard error from the scatter among its atoms.

    A sixth of the slope of the mean square displacement, fitted where lags are long enough and origins many. The error takes
    atoms as independent: where they move together it is larger.
    """
    positions = unwrapped(run.frames)[:, run.frames[0].numbers == element]
    low, high = (max(1, round(share * len(positions))) for share in FITTED)
    lags = np.arange(low, max(high, low + 2))
    slopes = np.polyfit(lags * run.interval, _displacements(positions, lags), 1)[0] / 6 * SQUARE_CM_PER_S
    return float(slopes.mean()), float(slopes.std() / np.sqrt(len(slopes)))


def radial_distributions(run: Run, most: float = 6.0, bins: int = 60) -> tuple[Array, dict[tuple[int, int], Array]]:
    """Distances, Å, and for each pair of elements g(r) of the second about the first, over 200 frames at most."""
    numbers = run.frames[0].numbers
    elements, kind = np.unique(numbers, return_inverse=True)
    edges, counts = np.linspace(0, most, bins + 1), np.zeros((len(elements), len(elements), bins))
    frames = run.frames[:: -(-len(run.frames) // MOST_FRAMES)]
    for frame in frames:
        centers, neighbors, lengths = neighbor_list("ijd", frame, most)
        place = np.minimum((lengths / most * bins).astype(int), bins - 1)
        np.add.at(counts, (kind[centers], kind[neighbors], place), 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3) / run.frames[0].get_volume() * len(frames)
    found, atoms = {}, np.bincount(kind)
    for i, first in enumerate(elements):
        for j, second in enumerate(elements[i:], start=i):
            # Images of an atom itself are neighbours like any other.
            found[int(first), int(second)] = counts[i, j] / (atoms[i] * atoms[j] * shells)
    return (edges[1:] + edges[:-1]) / 2, found
