"""Settings of a run of molecular dynamics, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError, StructureError

ENSEMBLES = ("nve", "nvt", "npt")

LARGEST_TIMESTEP = 5.0
"""Longest time step, fs. Beyond it no atom lighter than gold keeps its bonds; the unit is likely to be mistaken."""

CAREFUL_TIMESTEP = 1.0
"""Longest time step, fs, without a warning. The period of an X-H stretch is about 10 fs and wants ten steps."""

MOST_STEPS = 10**12
"""More than any machine takes; device counters and files hold it."""

LARGEST_PRESSURE = 10_000.0
"""Highest pressure, GPa, beyond what any model has been trained for; a mistake in the unit is likelier than an intention."""

FULLY_PERIODIC = "make it periodic with vacuum where it ends (ASE: atoms.center(vacuum=10, axis=2); atoms.pbc = True)"
"""Remedy for slabs and molecules where all three directions must be periodic."""

DEFAULT_FRICTION = 10.0
"""Friction of Langevin dynamics, 1/ps: a molecule reaches its temperature within a few tenths of a picosecond."""


@dataclass(frozen=True)
class MDSettings:
    """A molecular dynamics run.

    Args:
        steps: time steps in all, counted from the start of the run (not from where it is resumed). 0 records the start
            only.
        timestep: fs.
        ensemble: "nve" (velocity Verlet), "nvt" (Langevin) or "npt" (Martyna-Tobias-Klein, isotropic).
        temperature: K; of the start velocities, and of the thermostat where there is one.
        pressure: GPa, npt only. Default 0.
        friction: 1/ps, nvt only. Default 10.
        log_interval: steps between rows of the log.
        trajectory_interval: steps between frames of the trajectory. The last step is always recorded.
        seed: of the start velocities and of the Langevin noise.
        keep_velocities: start from the velocities that the structure carries instead of drawing new ones; in nve and
            npt less the motion as a whole.

    Raises:
        ConfigError: a value that makes no sense; names it, its limit and the remedy.
    """

    steps: int
    timestep: float = 0.5
    ensemble: str = "nve"
    temperature: float = 300.0
    pressure: float | None = None
    friction: float | None = None
    log_interval: int = 10
    trajectory_interval: int = 10
    seed: int = 0
    keep_velocities: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.ensemble not in ENSEMBLES:
            raise ConfigError(f"ensemble {self.ensemble!r} is not known; choose one of {', '.join(ENSEMBLES)}")
        for name in ("steps", "log_interval", "trajectory_interval", "seed"):
            _check_whole(name, getattr(self, name))
        if self.steps < 0:
            raise ConfigError(f"steps {self.steps} is negative; give 0 or more")
        if self.steps > MOST_STEPS:
            raise ConfigError(f"steps {self.steps} is more than {MOST_STEPS}; give fewer, and go on with resume")
        for name in ("log_interval", "trajectory_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is below 1 step; give 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative; give 0 or more")
        _check_number("timestep", self.timestep, "fs")
        if not 0 < self.timestep <= LARGEST_TIMESTEP:
            raise ConfigError(
                f"timestep {self.timestep} fs is outside 0 ... {LARGEST_TIMESTEP:g} fs; "
                "0.5 fs suits molecules with hydrogen"
            )
        _check_number("temperature", self.temperature, "K")
        if self.temperature < 0:
            raise ConfigError(f"temperature {self.temperature} K is below 0 K; give 0 or more")
        self._check_couplings()
        for name, value in asdict(self).items():  # numbers of numpy's, which JSON does not take
            if isinstance(value, Real) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def _check_couplings(self) -> None:
        """Thermostat and barostat values go with their ensembles only."""
        if self.ensemble != "nve" and self.temperature == 0:
            raise ConfigError(f"temperature 0 K cannot be held in {self.ensemble}; give more than 0 K, or use nve")
        if self.pressure is not None:
            _check_number("pressure", self.pressure, "GPa")
            if abs(self.pressure) > LARGEST_PRESSURE:
                raise ConfigError(
                    f"pressure {self.pressure} GPa is outside -{LARGEST_PRESSURE:g} ... {LARGEST_PRESSURE:g} GPa; "
                    "1 bar is 0.0001 GPa"
                )
            if self.ensemble != "npt":
                raise ConfigError(f"pressure {self.pressure} GPa has no effect in {self.ensemble}; use ensemble npt")
        if self.friction is not None:
            _check_number("friction", self.friction, "1/ps")
            if self.ensemble != "nvt":
                raise ConfigError(f"friction {self.friction} 1/ps has no effect in {self.ensemble}; use ensemble nvt")
            if not 0 < self.friction <= 1000:
                raise ConfigError(f"friction {self.friction} 1/ps is outside 0 ... 1000 1/ps; 1 to 20 1/ps is usual")

    def check(self, atoms: Atoms) -> list[str]:
        """Refuse structures that this run cannot be done with; return warnings, each one line.

        Raises:
            StructureError: no atoms, a mass that cannot move, or a constraint that cannot be counted; npt without three periodic
                directions, or with fixed atoms.
            ConfigError: velocities to be kept where there are none.
        """
        if len(atoms) == 0:
            raise StructureError("the structure has no atoms; give at least one")
        _check_masses(atoms)
        if self.ensemble == "npt" and not atoms.pbc.all():
            raise StructureError(
                f"npt needs a cell periodic in three directions, this structure has pbc {atoms.pbc.tolist()}; "
                f"use nvt, or {FULLY_PERIODIC}"
            )
        if self.ensemble == "npt" and atoms.constraints:
            raise StructureError(
                "npt cannot hold atoms fixed while the cell changes; remove the constraints, or use nvt"
            )
        _check_constraints(atoms)
        if self.keep_velocities and not atoms.has("momenta"):
            raise ConfigError("the structure carries no velocities to keep; leave keep_velocities out to draw new ones")
        if self.timestep > CAREFUL_TIMESTEP and 1 in atoms.numbers:
            return [f"timestep {self.timestep:g} fs is long for hydrogen; {CAREFUL_TIMESTEP:g} fs or less is usual"]
        return []

    def identity(self) -> dict[str, Any]:
        """Everything a resumed run must have in common with the run it continues: all but the number of steps."""
        values = asdict(self)
        del values["steps"]
        return values


def check_checkpoint_seconds(seconds: float) -> None:
    """Refuse a time between checkpoints that would never pass, or has passed always.

    Raises:
        ConfigError: not a finite number of seconds, or below 0.
    """
    _check_number("checkpoint_seconds", seconds, "s")
    if seconds < 0:
        raise ConfigError(f"checkpoint_seconds {seconds} s is negative; give 0 or more, 5 s is usual")


def _check_number(name: str, value: float, unit: str) -> None:
    """Refuse NaN and infinity, which pass every comparison the wrong way."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{name} {value} {unit} is not a finite number; give one")


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} {value!r} is not a whole number; give one")


def _check_masses(atoms: Atoms) -> None:
    masses = atoms.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong):
        raise StructureError(
            f"atom {wrong[0]} ({atoms.symbols[wrong[0]]}) has the mass {masses[wrong[0]]:g} amu ({len(wrong)} such atoms); "
            "masses must be finite and above 0: correct them, or leave them out of the file for those of the elements"
        )


def _check_constraints(atoms: Atoms) -> None:
    for constraint in atoms.constraints:
        try:
            constraint.get_removed_dof(atoms)
        except (NotImplementedError, AttributeError):
            raise StructureError(
                f"the constraint {type(constraint).__name__} does not say how many degrees of freedom it removes, so that no "
                "temperature can be told; remove it for dynamics"
            ) from None
