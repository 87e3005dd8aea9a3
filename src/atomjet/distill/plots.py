"""Pictures of a training: how the errors fell, and what the student says against what the teacher says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.files import read_json_lines
from atomjet.writing import appears_whole

MOST_POINTS = 20_000
"""Points in a parity plot, evenly chosen: more only make the picture darker."""


def plot_learning_curve(log: Path, picture: Path) -> None:
    """Losses and validation errors of a `log.jsonl` against epochs, both logarithmic."""
    lines = read_json_lines(log)
    epochs = [line["epoch"] for line in lines]
    figure, (left, right) = _subplots(2)
    left.plot(epochs, [line["loss"] for line in lines], ".-", label="training loss")
    for name, label in (("force_loss_eV_A", "forces, eV/Å"), ("energy_loss_eV_atom", "energy, eV/atom")):
        left.plot(epochs, [line[name] for line in lines], ".-", label=label)
    for name, label in (("force_mae_meV_A", "force MAE, meV/Å"), ("energy_mae_meV_atom", "energy MAE, meV/atom")):
        values = [line.get(f"validation_{name}", np.nan) for line in lines]
        right.plot(epochs, values, ".-", label=f"validation {label}")
    for axes in (left, right):
        axes.set(xlabel="epoch", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=120)


def plot_parity(
    energies: tuple[NDArray[Any], NDArray[Any]],
    forces: tuple[NDArray[Any], NDArray[Any]],
    title: str,
    picture: Path,
    names: tuple[str, str] = ("teacher", "student"),
) -> None:
    """Student against teacher: energies per atom less the references, eV/atom, and force components, eV/Å; errors below, in meV.

    Energies of unlike molecules differ by eV, errors by meV: only the lower panels show those. Either may be empty. `names` are
    what the axes call the two.
    """
    figure, panels = _subplots(2, 2)
    quantities = (("energy", "eV/atom"), ("force", "eV/Å"))
    for (above, below), (teacher, student), (name, unit) in zip(panels.T, (energies, forces), quantities, strict=True):
        x, y = np.ravel(teacher), np.ravel(student)
        if not len(x):
            above.set_axis_off()
            below.set_axis_off()
            continue
        errors = 1000 * (y - x)
        step = max(1, len(x) // MOST_POINTS)
        style = {"marker": "o", "linestyle": "none", "alpha": 0.4, "markeredgewidth": 0.0}
        style["markersize"] = 5 if len(x) < 1000 else 2.5
        ends = [float(x.min()), float(x.max())]
        above.plot(ends, ends, "k-", linewidth=0.7)
        above.plot(x[::step], y[::step], **style)
        above.set(ylabel=f"{names[1]}: {name} / {unit}")
        above.set_title(
            f"MAE {np.abs(errors).mean():.3g} m{unit}, RMSE {np.sqrt((errors**2).mean()):.3g} m{unit}", fontsize=10
        )
        below.axhline(0.0, color="k", linewidth=0.7)
        below.plot(x[::step], errors[::step], **style)
        below.set(xlabel=f"{names[0]}: {name} / {unit}", ylabel=f"{names[1]} less {names[0]} / m{unit}")
        below.sharex(above)
    figure.align_ylabels()
    figure.suptitle(title, fontsize=11)
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=120)


def _subplots(columns: int, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4.5 if rows == 1 else 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)
