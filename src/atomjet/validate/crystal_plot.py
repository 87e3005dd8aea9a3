"""Curves of student and teacher, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from atomjet.validate.crystal import Figure
from atomjet.writing import appears_whole


def plot_figures(figures: Sequence[Figure], picture: Path) -> None:
    """Draw every figure that has curves into a panel of its own."""
    from matplotlib.figure import Figure as Page

    drawn = [figure for figure in figures if figure.series]
    columns = min(4, max(1, len(drawn)))
    rows = max(1, math.ceil(len(drawn) / columns))
    page = Page(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
    for number, figure in enumerate(drawn):
        panel = page.add_subplot(rows, columns, number + 1)
        (abscissa, x), *curves = (figure.series or {}).items()
        for name, values in curves:
            panel.plot(x, values, "-" if name == "student" else "--", label=name)
        panel.set_title(figure.name, fontsize=8)
        panel.set_xlabel(abscissa, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.legend(fontsize=7, frameon=False)
    with appears_whole(picture) as beside:
        page.savefig(beside, dpi=150)
