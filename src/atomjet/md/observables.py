"""What a run measures at each recorded step, and what it says of them at the end."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError, SimulationError
from atomjet.md.velocities import temperature
from atomjet.units import BOLTZMANN, GPA

FORCE_LIMIT = 200.0
"""Largest force, eV/Å, of a run that has not exploded. The hardest collision of an 850 K molecule stays below 15 eV/Å; two
nuclei at half a bond length exceed this."""

TEMPERATURE_LIMIT = 10_000.0
"""Highest temperature, K, of a run that has not exploded; ten times that asked for where it is more. Nothing stays bound there."""


@dataclass(frozen=True)
class Observables:
    """One row of the log; volume and pressure are NaN where the structure is not periodic in three directions."""

    step: int
    time_fs: float
    potential_eV: float
    kinetic_eV: float
    total_eV: float
    temperature_K: float
    max_force_eV_A: float
    volume_A3: float
    pressure_GPa: float

    def row(self) -> str:
        """The values as one line of the log. Digits suffice to tell energies 1e-8 eV apart."""
        return ",".join(str(value) if isinstance(value, int) else f"{value:.8f}" for value in astuple(self))


COLUMNS = tuple(field.name for field in fields(Observables))
ROW = ",".join("%d" if field.type == "int" else "%.8f" for field in fields(Observables)) + "\n"
"""Format of a row, which `Observables.row` has too."""


def measure(atoms: Atoms, step: int, time_fs: float, degrees: int) -> Observables:
    """Observables of the atoms as they are; their calculator has the forces already."""
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    volume = pressure = float("nan")
    if atoms.pbc.all():
        volume = float(atoms.get_volume())
        # The momentum of the atoms is part of the pressure; ASE's stress is positive under tension.
        pressure = -float(np.trace(atoms.get_stress(voigt=False, include_ideal_gas=True))) / 3.0 / GPA
    return Observables(
        step=step,
        time_fs=time_fs,
        potential_eV=potential,
        kinetic_eV=kinetic,
        total_eV=potential + kinetic,
        temperature_K=temperature(atoms, degrees),
        max_force_eV_A=float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
        volume_A3=volume,
        pressure_GPa=pressure,
    )


def temperature_limit(target: float) -> float:
    """K, beyond which a run that is to have `target` K has exploded."""
    # Few atoms may for a moment be several times as hot as they are on average.
    return max(TEMPERATURE_LIMIT, 10.0 * target) if target <= TEMPERATURE_LIMIT else TEMPERATURE_LIMIT


def check_sane(atoms: Atoms, energy: float | None, forces: np.ndarray, step: int, degrees: int, target: float) -> None:
    """Stop a run that has exploded.

    Args:
        atoms: as they are after the step.
        energy: potential, eV; None where it is not known.
        forces: (N, 3) eV/Å on them.
        step: its number.
        degrees: of freedom.
        target: K, asked for.

    Raises:
        SimulationError: a position, velocity, force or energy that is not finite or beyond its limit; names step, atom, value,
            temperature and energy.
    """
    sizes, now = np.linalg.norm(forces, axis=1), temperature(atoms, degrees)
    finite = np.isfinite(atoms.positions).all(1) & np.isfinite(atoms.get_momenta()).all(1) & np.isfinite(sizes)
    limit = temperature_limit(target)
    if not finite.all():
        what = f"position, velocity or force of {_name(atoms, int(finite.argmin()))} is not finite"
    elif energy is not None and not np.isfinite(energy):
        what = f"the potential energy is {energy} eV"
    elif sizes.max() > FORCE_LIMIT:
        worst = int(sizes.argmax())
        what = f"force on {_name(atoms, worst)} is {sizes[worst]:.4g} eV/Å, limit {FORCE_LIMIT:g} eV/Å"
    elif now > limit:
        kinetic = 0.5 * atoms.get_masses() * (atoms.get_velocities() ** 2).sum(1)
        worst = int(kinetic.argmax())
        what = (
            f"temperature is {now:.4g} K, limit {limit:g} K; the hottest is {_name(atoms, worst)} "
            f"with {kinetic[worst] / (1.5 * BOLTZMANN):.4g} K"
        )
    else:
        return
    raise exploded(step, f"{what} ({_state(now, energy)})", target)


def refused(error: Exception, step: int, kelvin: float, energy: float | None, target: float) -> SimulationError:
    """What to say when the model refuses what a step led to, with temperature (K) and potential energy (eV) before it."""
    return exploded(step, f"{error} (before that step: {_state(kelvin, energy)})", target)


def exploded(step: int, what: str, target: float) -> SimulationError:
    """The error of a run that has exploded, with its remedy."""
    if target > TEMPERATURE_LIMIT:
        remedy = f"give a temperature below {TEMPERATURE_LIMIT:g} K: nothing stays bound at {target:g} K"
    else:
        remedy = "take a shorter timestep, relax the structure first, or use a model trained for such structures"
    return SimulationError(f"the run exploded at step {step}: {what}; {remedy}")


def _state(kelvin: float, energy: float | None) -> str:
    known = "" if energy is None else f", potential energy {energy:.6g} eV"
    return f"temperature {kelvin:.4g} K{known}"


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a log by name.

    Raises:
        ConfigError: other columns, no rows, or what is no number.
    """
    try:
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        if header != ",".join(COLUMNS) or not rows:
            raise ValueError("no rows under the columns of a log")
        values = np.array([[float(word) for word in row.split(",")] for row in rows]).reshape(-1, len(COLUMNS))
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path} is no whole log of dynamics ({reason}); start the run again with overwrite"
        ) from None
    return {name: values[:, k] for k, name in enumerate(COLUMNS)}


def drift(time_fs: np.ndarray, total_eV: np.ndarray, atoms: int) -> float:
    """Slope of the total energy by least squares, meV/atom/ps; NaN for fewer than three points."""
    if len(time_fs) < 3:
        return float("nan")
    slope = np.polyfit(time_fs - time_fs.mean(), total_eV - total_eV.mean(), 1)[0]  # eV/fs
    return float(slope) * 1e6 / atoms


def _name(atoms: Atoms, index: int) -> str:
    return f"atom {index} ({atoms.symbols[index]})"
