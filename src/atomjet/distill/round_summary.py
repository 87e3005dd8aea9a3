"""The summary of a round: a small JSON file beside the frames that it added, and a line for the terminal and the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.writing import write_atomically

Summary = dict[str, Any]


def summaries(directory: Path) -> list[Summary]:
    """Summaries of the rounds of a directory, in order."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("round-*.json")]
    return sorted(found, key=lambda summary: summary["round"])


def in_one_line(summary: Summary) -> str:
    """A summary as a line of text."""
    error = summary["students_error"]
    return (
        f"round {summary['round']}: {summary['trajectories']} trajectories, {summary['seen']} frames seen, "
        f"{summary['chosen']} chosen, {summary['quarantined']} diverged ones quarantined, {summary['labelled']} labelled, "
        f"{summary['teacher_failed']} the teacher failed on; disagreement {quantiles_in_words(summary['disagreement_before'])}"
        + (f", force MAE on the labelled {error:.0f} meV/Å" if error is not None else "")
    )


def quantiles_in_words(quantiles: dict[str, float]) -> str:
    """Median and 95 % in words."""
    return f"{quantiles['median']:.3f} eV/Å (95 %: {quantiles['p95']:.3f})"


def quantiles(spread: NDArray[np.float64]) -> dict[str, float]:
    """Median and 95 % of the finite ones, eV/Å."""
    finite = spread[np.isfinite(spread)]
    if not len(finite):
        return {"median": 0.0, "p95": 0.0}
    return {"median": round(float(np.median(finite)), 6), "p95": round(float(np.quantile(finite, 0.95)), 6)}


def write_summary(directory: Path, summary: Summary) -> None:
    """Write a summary; the round counts as done from then on."""
    write_atomically(directory / f"round-{summary['round']}.json", (json.dumps(summary, indent=1) + "\n").encode())
