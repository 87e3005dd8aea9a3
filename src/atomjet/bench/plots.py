"""Pictures of results: speed, time, parts of a call, memory; and our optimisations one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atomjet.bench.report import parts_of
from atomjet.bench.result import Result
from atomjet.writing import appears_whole


def plot_result(result: Result, picture: Path) -> None:
    """Time and speed-up against size, parts of the call, and memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    (speed, time), (parts, memory) = figure.subplots(2, 2)
    rows = [row for row in result.rows if row["status"] == "ok"]
    contenders = list(dict.fromkeys(row["setting"] for row in rows))
    batches = list(dict.fromkeys(row["structures"] for row in rows))
    for contender, batch in ((contender, batch) for contender in contenders for batch in batches):
        mine = [row for row in rows if (row["setting"], row["structures"]) == (contender, batch)]
        mine = sorted(mine, key=lambda row: row["atoms"])
        style = {
            "color": f"C{contenders.index(contender)}",
            "marker": "osD^vPX*"[batches.index(batch) % 8],
            "markersize": 3,
        }
        style["label"] = f"{contender} x {batch}" if len(batches) > 1 else contender
        times = [1e3 * row["statistics"]["median"] for row in mine]
        time.loglog([row["atoms"] for row in mine], times, **style)
        rated = [row for row in mine if row.get("ratio")]
        ratios = [row["ratio"] for row in rated]
        below = [max(0.0, one["estimate"] - one["low"]) for one in ratios]
        above = [max(0.0, one["high"] - one["estimate"]) for one in ratios]
        estimates = [one["estimate"] for one in ratios]
        speed.errorbar([row["atoms"] for row in rated], estimates, yerr=[below, above], capsize=2, **style)
        held = [row for row in mine if row.get("memory_bytes")]
        memory.loglog([row["atoms"] for row in held], [row["memory_bytes"] / 2**20 for row in held], **style)
    speed.set_xscale("log")
    for axes, label in ((speed, f"× {result.about['settings'][0]}"), (time, "median / ms"), (memory, "memory / MiB")):
        axes.set_xlabel("atoms")
        axes.set_ylabel(label)
        _legend(axes, fontsize=5, ncols=2)
    _plot_parts(parts, rows)
    figure.suptitle(
        f"{result.about['suite']}, {result.about['model']}, {result.about['provenance']['device']}", fontsize=10
    )
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)


def plot_optimisations(result: Result, picture: Path) -> None:
    """Speed-up of each step over the first, case by case: our optimisations, each with all before it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = result.about["settings"]
    for case in dict.fromkeys(row["case"] for row in result.rows):
        made = [result.row(case, step) for step in steps]
        points = [(k, row["ratio"]["estimate"]) for k, row in enumerate(made) if row and row.get("ratio")]
        axes.plot(*zip(*points, strict=True), "o-", label=case, markersize=3) if points else None
    axes.set_xticks(range(len(steps)), steps, rotation=20)
    axes.set_yscale("log")
    axes.set_ylabel(f"× {steps[0]}")
    _legend(axes, fontsize=6, ncols=2)
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)


def _plot_parts(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Stacked bars: search, energy and forces, the rest."""
    shown = [row for row in rows if row.get("parts")]
    labels = [f"{row['case']} {row['setting']}" for row in shown]
    bottom = [0.0] * len(shown)
    for part in ("search", "energy and forces", "overhead"):
        heights = [1e3 * parts_of(row).get(part, 0.0) for row in shown]
        axes.bar(range(len(shown)), heights, bottom=bottom, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=5)
    axes.set_ylabel("ms")
    _legend(axes, fontsize=7)


def _legend(axes: Any, **options: Any) -> None:
    """Where there is anything to explain; no row may have a figure."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **options)
