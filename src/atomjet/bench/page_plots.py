"""Pictures of the performance page and of the README, as SVG that says which rows it was drawn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomjet.bench.contenders import PEERS
from atomjet.bench.result import Result
from atomjet.bench.suites import OTHER_SEARCHES
from atomjet.writing import appears_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHERS = PEERS + OTHER_SEARCHES
MARKERS = "os^Dv"
"""Marker shapes of the lines, in turn for each number of structures in a call."""

FRONT = {
    "fast_gpu": ("AtomJet", "C0"),
    "fast_gpu@high": ("AtomJet, float32 throughout", "C9"),
    "compile_graph": ("PyTorch, compiled, CUDA graph,\nneighbours given, no stress", "C3"),
    "captured": ("AtomJet", "C0"),
    "torchmd_net": ("torchmd-net, CUDA graph", "C3"),
    "vesin_torch": ("vesin-torch", "C1"),
}
"""Names and colours of contenders in the README's picture."""


def draw_section(result: Result, rows: list[dict[str, Any]], picture: Path) -> None:
    """Time and memory against atoms; bars where there are fewer than three sizes."""
    with_memory = {row["setting"] for row in rows if row.get("memory_bytes")}
    panels = ["time"] + ["memory"] * (with_memory == {row["setting"] for row in rows})
    figure = _figure((9.6 if len(panels) > 1 else 6.4, 3.6))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    draw = _bars if len({row["atoms"] for row in rows}) < 3 else _lines
    for one, panel in zip(axes, panels, strict=True):
        draw(one, rows, panel)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, fontsize=8, ncols=1 + len(panels), loc="outside lower center")
    _save(figure, picture, [(result, rows)])


def draw_front(steps: Result, searches: Result, picture: Path) -> None:
    """Time of a whole step against atoms, and of the neighbour search alone, ours and others'; single structures."""
    figure = _figure((9.6, 3.7))
    sources = []
    panels = (
        (steps, f"One step of {steps.about['model']} (PaiNN)"),
        (searches, "The neighbour search alone" + _within(searches)),
    )
    for axes, (result, heading) in zip(figure.subplots(1, 2), panels, strict=True):
        rows = front_rows(result)
        for contender, (label, colour) in FRONT.items():
            mine = sorted((row for row in rows if row["setting"] == contender), key=lambda row: row["atoms"])
            if mine:
                axes.loglog(*_points(mine, "time"), "o-", color=colour, label=label, markersize=4)
        _label(axes, "time")
        axes.set_title(f"{heading}\n{result.about['provenance']['device']}", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        sources.append((result, rows))
    _save(figure, picture, sources)


def front_rows(result: Result) -> list[dict[str, Any]]:
    """Measured rows of single structures, of contenders that the README's picture shows."""
    return [row for row in result.rows if row["status"] == "ok" and row["structures"] == 1 and row["setting"] in FRONT]


def digest(sources: Iterable[tuple[Result, list[dict[str, Any]]]]) -> str:
    """What a picture says of itself: a hash of the figures that it shows."""
    shown = [
        [result.about["suite"], row["case"], row["setting"], row["statistics"]["median"], row.get("memory_bytes")]
        for result, rows in sources
        for row in rows
    ]
    return "rows " + hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _within(result: Result) -> str:
    return f", {result.about['cutoff']:g} Å" if "cutoff" in result.about else ""


def _lines(axes: Axes, rows: list[dict[str, Any]], panel: str) -> None:
    contenders = list(dict.fromkeys(row["setting"] for row in rows))
    batches = sorted({row["structures"] for row in rows})
    for contender in contenders:
        for k, batch in enumerate(batches):
            mine = [row for row in rows if (row["setting"], row["structures"]) == (contender, batch)]
            mine = sorted((row for row in mine if _value(row, panel)), key=lambda row: row["atoms"])
            if mine:
                label = f"{contender}, {batch} in a call" if len(batches) > 1 else contender
                style = {
                    "color": f"C{contenders.index(contender)}",
                    "linestyle": "-" if contender not in OTHERS else "--",
                }
                axes.loglog(*_points(mine, panel), marker=MARKERS[k % 5], label=label, markersize=4, **style)
    _label(axes, panel)


def _bars(axes: Axes, rows: list[dict[str, Any]], panel: str) -> None:
    labels = [f"{row['setting']}, {row['atoms']:,} atoms" for row in rows]
    colours = ["C1" if row["setting"] in OTHERS else "C0" for row in rows]
    bars = axes.barh(range(len(rows)), [_value(row, panel) for row in rows], color=colours)
    axes.bar_label(bars, fmt={"time": "{:.3g}", "memory": "{:,.0f}"}[panel], fontsize=8, padding=2)
    axes.margins(x=0.15)
    axes.set_yticks(range(len(rows)), labels if panel == "time" else [""] * len(rows), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel({"time": "median / ms", "memory": "memory / MiB"}[panel])
    axes.spines[["top", "right"]].set_visible(False)


def _points(rows: list[dict[str, Any]], panel: str) -> tuple[list[int], list[float]]:
    """The first of several cases of one size."""
    values = {row["atoms"]: _value(row, panel) for row in reversed(rows)}
    return sorted(values), [values[atoms] for atoms in sorted(values)]


def _value(row: dict[str, Any], panel: str) -> float:
    """ms or MiB; 0 where memory was not seen."""
    return 1e3 * row["statistics"]["median"] if panel == "time" else (row.get("memory_bytes") or 0) / 2**20


def _label(axes: Axes, panel: str) -> None:
    axes.set_xlabel("atoms in a call")
    axes.set_ylabel({"time": "median / ms", "memory": "memory / MiB"}[panel])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure: Figure, picture: Path, sources: list[tuple[Result, list[dict[str, Any]]]]) -> None:
    """Without date and random identifiers: the same rows make the same file."""
    import matplotlib as mpl

    style: dict[Any, Any] = {"svg.hashsalt": "atomjet", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style), appears_whole(picture) as beside:
        figure.savefig(beside, metadata={"Date": None, "Description": digest(sources)})
