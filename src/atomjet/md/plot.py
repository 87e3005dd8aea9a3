"""The picture of a run: energy and temperature against time."""

from __future__ import annotations

from pathlib import Path

from atomjet.md.observables import read_log


def plot_log(log: Path | str, picture: Path | str, title: str = "") -> None:
    """Draw potential and total energy (above) and temperature (below) of a log.

    Energies stand relative to the first potential energy; the format follows the picture's ending (.png, .pdf, .svg).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_log(Path(log))
    time_ps = rows["time_fs"] * 1e-3
    start = rows["potential_eV"][0]
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    energy, heat = figure.subplots(2, 1, sharex=True)
    energy.plot(time_ps, rows["potential_eV"] - start, color="tab:blue", linewidth=1.0, label="potential")
    energy.plot(time_ps, rows["total_eV"] - start, color="black", linewidth=1.4, label="total")
    energy.set_ylabel("energy / eV")
    energy.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    heat.plot(time_ps, rows["temperature_K"], color="tab:red", linewidth=1.0, label="temperature")
    mean = rows["temperature_K"].mean()
    heat.axhline(mean, color="0.4", linewidth=1.0, linestyle="--", label=f"mean {mean:.0f} K")
    heat.set_ylabel("temperature / K")
    heat.set_xlabel("time / ps")
    heat.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(picture, dpi=150)
