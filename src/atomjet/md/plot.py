"""The picture of a run: energy and temperature against time, and in npt volume, pressure and density."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomjet.md.observables import read_log
from atomjet.md.settings import MDSettings
from atomjet.units import AMU_PER_A3
from atomjet.writing import appears_whole


def plot_log(log: Path | str, picture: Path | str, atoms: Atoms, settings: MDSettings, title: str = "") -> None:
    """Draw what a log holds; the format follows the picture's ending (.png, .pdf, .svg).

    Args:
        log: CSV file of a run.
        picture: file to be drawn.
        atoms: of the run, for their mass.
        settings: of the run: the temperature that a thermostat holds is drawn, and the pressure of a barostat.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(Path(log))
    npt = settings.ensemble == "npt"
    figure = Figure(figsize=(7.0, 10.0 if npt else 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(5 if npt else 2, 1, sharex=True)
    time_ps = rows["time_fs"] * 1e-3
    _draw_energy(panels[0], time_ps, rows)
    target = None if settings.ensemble == "nve" else settings.temperature
    _draw(panels[1], time_ps, rows["temperature_K"], "temperature", "K", "tab:red", target)
    if npt:
        density = AMU_PER_A3 * atoms.get_masses().sum() / rows["volume_A3"]
        _draw(panels[2], time_ps, rows["volume_A3"], "volume", "Å³", "tab:green")
        _draw(panels[3], time_ps, rows["pressure_GPa"], "pressure", "GPa", "tab:purple", settings.pressure or 0.0)
        _draw(panels[4], time_ps, density, "density", "g/cm³", "tab:brown")
    panels[-1].set_xlabel("time / ps")
    figure.align_ylabels(panels)
    figure.suptitle(title, fontsize=10)
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)


def _draw_energy(panel: Any, time_ps: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    """Potential and total energy relative to the first potential energy."""
    start = rows["potential_eV"][0]
    panel.plot(time_ps, rows["potential_eV"] - start, color="tab:blue", linewidth=1.0, label="potential")
    panel.plot(time_ps, rows["total_eV"] - start, color="black", linewidth=1.4, label="total")
    panel.set_ylabel("energy / eV")
    panel.annotate(f"from {start:.3f} eV", (0.01, 0.97), xycoords="axes fraction", va="top", fontsize=8)
    _legend(panel)


def _draw(
    panel: Any, time_ps: np.ndarray, values: np.ndarray, name: str, unit: str, color: str, target: float | None = None
) -> None:
    """One quantity, its mean, and what it should be, where that is known."""
    panel.plot(time_ps, values, color=color, linewidth=1.0, label=name)
    mean = values.mean()
    panel.axhline(mean, color="0.4", linewidth=1.0, linestyle="--", label=f"mean {mean:.4g} {unit}")
    if target is not None:
        panel.axhline(target, color="black", linewidth=1.0, linestyle=":", label=f"target {target:.4g} {unit}")
    panel.set_ylabel(f"{name} / {unit}")
    _legend(panel)


def _legend(panel: Any) -> None:
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
