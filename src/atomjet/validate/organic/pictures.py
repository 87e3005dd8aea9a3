"""Pictures of judged students, as SVG: curves, errors by element, error against time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomjet.writing import appears_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
WALL = 1.5
"""Curves that have a minimum below zero are cut off above it, at so many times its depth."""


def draw_all(results: Mapping[str, dict[str, Any]], folder: Path, stem: str) -> dict[str, Path]:
    """Draw whatever the results have series and figures for; files by name of the picture."""
    drawn = {}
    for name, check, unit in (("dimers", "dimer depth", "kcal/mol"), ("torsions", "torsion", "kcal/mol")):
        curves = _curves(results, check)
        if curves:
            drawn[name] = folder / f"{stem}-{name}.svg"
            _save(_draw_curves(curves, unit), drawn[name])
    for name, draw in (("contacts", _draw_contacts), ("errors", _draw_errors), ("pareto", _draw_pareto)):
        figure = draw(results)
        if figure is not None:
            drawn[name] = folder / f"{stem}-{name}.svg"
            _save(figure, drawn[name])
    return drawn


Curves = dict[str, dict[str, Any]]
"""Structure -> {"x": values, "across": what they are, "teacher": values, "students": {name: values}}."""


def _curves(results: Mapping[str, dict[str, Any]], kind: str) -> Curves:
    found: Curves = {}
    for student, result in results.items():
        for check in result["checks"]:
            if check["name"] == kind and check["series"]:
                across, x = next(iter(check["series"].items()))
                entry = {"x": x, "across": across, "teacher": check["series"]["teacher"], "students": {}}
                entry = found.setdefault(check["structure"], entry)
                entry["students"][student] = check["series"]["student"]
    return found


def _draw_curves(curves: Curves, unit: str) -> Figure:
    """A panel for each structure: the teacher black, students in colours."""
    rows = -(-len(curves) // COLUMNS)
    figure = _figure((2.7 * COLUMNS, 2.2 * rows + 0.5))
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes, (name, curve) in zip(panels, curves.items(), strict=False):
        axes.plot(curve["x"], curve["teacher"], "k-", linewidth=1.6, label="teacher")
        for k, (student, values) in enumerate(curve["students"].items()):
            axes.plot(curve["x"], values, color=f"C{k}", linewidth=1.2, label=student)
        lowest = min(curve["teacher"])
        if lowest < 0:
            axes.set_ylim(1.7 * lowest, -WALL * lowest)
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    first = next(iter(curves.values()))
    figure.supxlabel(first["across"], fontsize=9)
    figure.supylabel(unit, fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=len(labels), loc="outside upper center")
    return figure


def _draw_contacts(results: Mapping[str, dict[str, Any]]) -> Figure | None:
    """Share of compressed dimers that are too soft, against how far they are squeezed."""
    series = {name: _series(result, "compressed contacts") for name, result in results.items()}
    series = {name: one for name, one in series.items() if one}
    if not series:
        return None
    figure = _figure((5.0, 3.0))
    axes: Axes = figure.subplots()
    for name, one in series.items():
        axes.plot(one["share of contact"], 100 * np.array(one["too soft"]), "o-", label=name)
    axes.set(xlabel="distance / van der Waals contact", ylabel="more than 2 eV too soft, %", ylim=(-3, 103))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_errors(results: Mapping[str, dict[str, Any]]) -> Figure | None:
    """Force MAE by element, strength of the force, size of the molecule, temperature."""
    each = {name: _figures(result, "force MAE, unseen molecules") for name, result in results.items()}
    each = {name: figures for name, figures in each.items() if figures}
    if not each:
        return None
    causes = ("element", "force", "size", "temperature")
    keys = {cause: [k for k in next(iter(each.values())) if k.startswith(f"{cause} ")] for cause in causes}
    figure = _figure((11.0, 3.4))
    panels = figure.subplots(1, len(causes), sharey=True, width_ratios=[max(2, len(keys[cause])) for cause in causes])
    width = 0.8 / len(each)
    for axes, cause in zip(panels, causes, strict=True):
        for k, (name, figures) in enumerate(each.items()):
            places = np.arange(len(keys[cause])) + (k - 0.5 * (len(each) - 1)) * width
            axes.bar(places, [figures.get(key, np.nan) for key in keys[cause]], width, label=name, color=f"C{k}")
        labels = [key.removeprefix(f"{cause} ") for key in keys[cause]]
        turned = {} if cause == "element" else {"rotation": 30, "ha": "right"}
        axes.set_xticks(range(len(labels)), labels, fontsize=7, **turned)
        axes.set_title(f"by {cause}", fontsize=9)
    panels[0].set_ylabel("force MAE, meV/Å")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=len(labels), loc="outside upper center")
    return figure


def _draw_pareto(results: Mapping[str, dict[str, Any]]) -> Figure | None:
    """Error of forces on unseen molecules against the time of a step, one panel for each kind of device."""
    points: dict[str, list[tuple[str, float, float]]] = {}
    for name, result in results.items():
        speed = _figures(result, "time of a step")
        errors = [check["value"] for check in result["checks"] if check["name"] == "force MAE, unseen molecules"]
        if speed and errors:
            device = result.get("about", {}).get("provenance", {}).get("device", "unknown device")
            points.setdefault(device, []).append((name, speed["batch / µs per atom"], float(errors[0])))
    if not points:
        return None
    figure = _figure((4.6 * len(points), 3.2))
    for axes, (device, some) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for k, (name, time, error) in enumerate(some):
            axes.plot(time, error, "o", color=f"C{k}")
            axes.annotate(name, (time, error), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axes.set(xlabel="µs per atom and step, in batches", xscale="log")
        axes.set_ylim(0, 1.2 * max(error for _, _, error in some))
        axes.margins(x=0.4)
        axes.set_title(device, fontsize=9)
        axes.set_ylabel("force MAE, unseen molecules, meV/Å")
    return figure


def _series(result: dict[str, Any], name: str) -> dict[str, list[float]]:
    return next((check["series"] for check in result["checks"] if check["name"] == name), {})


def _figures(result: dict[str, Any], name: str) -> dict[str, float]:
    return next((check["figures"] for check in result["checks"] if check["name"] == name), {})


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _save(figure: Figure, picture: Path) -> None:
    import matplotlib

    # Ids of elements would otherwise be drawn at random, and the date would be that of the drawing.
    with (
        matplotlib.rc_context({"svg.hashsalt": picture.stem, "svg.fonttype": "none"}),
        appears_whole(picture) as beside,
    ):
        figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})
