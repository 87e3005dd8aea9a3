"""Equation of state: energy against volume, all volumes in one batch, fitted by ASE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.eos import EquationOfState as Fit

from atomjet.data import Prediction
from atomjet.errors import ConfigError, SimulationError, StructureError
from atomjet.units import GPA
from atomjet.writing import appears_whole

FORMS = ("birchmurnaghan", "birch", "murnaghan", "vinet", "sj")
"""Equations of state that ASE fits, by ASE's names."""

FEWEST_POINTS = 5


@dataclass(frozen=True)
class EquationOfState:
    """What the fit gives.

    Attributes:
        volumes, energies: (P,) Å³ and eV of what was computed.
        volume, energy: Å³, eV at the minimum.
        bulk_modulus: GPa.
    """

    volumes: np.ndarray
    energies: np.ndarray
    volume: float
    energy: float
    bulk_modulus: float


def equation_of_state(
    predict: Callable[[list[Atoms]], Prediction],
    atoms: Atoms,
    strain: float = 0.06,
    points: int = 11,
    form: str = "birchmurnaghan",
    plot: Path | None = None,
) -> EquationOfState:
    """Stretch a crystal evenly, compute all volumes together, fit.

    Args:
        predict: energies of many structures, such as `Engine.predict`.
        atoms: periodic in three directions; atoms move with the cell and are not relaxed.
        strain: volumes reach from (1 - strain) to (1 + strain) of the one given.
        points: volumes, evenly apart.
        form: one of `FORMS`.
        plot: a picture of energy against volume, if any.

    Raises:
        StructureError: a direction that is not periodic.
        ConfigError: a strain, number or form that makes no sense.
        SimulationError: the energy is lowest at the smallest or largest volume.
    """
    if not atoms.pbc.all():
        raise StructureError(
            f"an equation of state needs three periodic directions; this structure has pbc {atoms.pbc.tolist()}"
        )
    if not 0 < strain < 1:
        raise ConfigError(
            f"strain {strain:g} must lie between 0 and 1, such as 0.06 for volumes 6 % smaller to 6 % larger"
        )
    if points < FEWEST_POINTS:
        raise ConfigError(f"points {points}: a fit needs {FEWEST_POINTS} or more")
    if form not in FORMS:
        raise ConfigError(f"form {form!r} is not known; choose {', '.join(FORMS)}")
    frames = []
    for ratio in np.linspace(1 - strain, 1 + strain, points):
        frame = atoms.copy()
        frame.set_cell(atoms.cell.array * ratio ** (1 / 3), scale_atoms=True)
        frames.append(frame)
    volumes = np.array([frame.get_volume() for frame in frames])
    energies = predict(frames).energy.double().cpu().numpy()
    lowest = int(energies.argmin())
    if lowest in (0, points - 1):
        raise SimulationError(
            f"the energy is lowest at the {'smallest' if lowest == 0 else 'largest'} volume, {volumes[lowest]:.2f} Å³: no minimum "
            "lies between; relax the cell first, or raise the strain"
        )
    fit = Fit(volumes, energies, eos=form)
    volume, energy, modulus = (float(value) for value in fit.fit(warn=False))
    if plot is not None:
        _draw(fit, plot)
    return EquationOfState(volumes, energies, volume, energy, modulus / GPA)


def _draw(fit: Fit, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    fit.plot(ax=axes)
    axes.set_title(axes.get_title(), fontsize=10)
    axes.set_xlabel("volume / Å³")
    axes.set_ylabel("energy / eV")
    with appears_whole(path) as beside:
        figure.savefig(beside, dpi=150)
