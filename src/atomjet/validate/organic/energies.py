"""Relative energies of one molecule's shapes: torsions and conformers."""

from __future__ import annotations

import numpy as np

from atomjet.units import KCAL_PER_MOL
from atomjet.validate.check import Check
from atomjet.validate.organic.answers import student_labels
from atomjet.validate.organic.sets import Judged, by_molecule

TORSION, CONFORMER, DISORDER = 0.5, 0.35, 0.06
"""Largest errors: kcal/mol of each torsion, kcal/mol and 1 - Spearman of conformers on the mean."""


def torsions(judged: Judged) -> list[Check]:
    """Energy along the teacher's relaxed scan of a bond, each curve about its own mean."""
    frames, checks = judged.structures("torsions"), []
    teacher, student = _relative(judged, frames)
    for name, places in by_molecule(frames).items():
        a, b = _about_mean(teacher[places]), _about_mean(student[places])
        error = np.abs(b - a)
        angles = [float(frames[k].info["angle"]) for k in places]
        series = {"angle / °": angles, "teacher": (a - a.min()).tolist(), "student": (b - a.min()).tolist()}
        worst = int(np.argmax(error))
        detail = f"worst {error[worst]:.2f} kcal/mol at {angles[worst]:g}°; the teacher's barrier is {np.ptp(a):.2f}"
        figures = {"worst / kcal/mol": float(error.max()), "barrier / kcal/mol": float(np.ptp(a))}
        value = float(error.mean())
        checks.append(Check("torsion", name, value, "kcal/mol", TORSION, "half a kcal/mol", detail, figures, series))
    return checks


def conformers(judged: Judged) -> list[Check]:
    """Energies of the teacher's minima of flexible molecules that were not trained on, and their order."""
    frames = judged.structures("conformers")
    if not frames:
        return []
    teacher, student = _relative(judged, frames)
    errors, ranks, lowest = {}, {}, 0
    for name, places in by_molecule(frames).items():
        a, b = _about_mean(teacher[places]), _about_mean(student[places])
        errors[name], ranks[name] = float(np.abs(b - a).mean()), spearman(a, b)
        lowest += int(np.argmin(a) == np.argmin(b))
    detail = f"{len(errors)} molecules, {len(frames)} conformers; the same one lowest in {lowest}"
    orders = {name: 1 - rank for name, rank in ranks.items()}
    source = "a third of a kcal/mol", "a Spearman coefficient of 0.94"
    return [
        Check(
            "conformer energies", "mean of molecules", _mean(errors), "kcal/mol", CONFORMER, source[0], detail, errors
        ),
        Check(
            "conformer order", "mean of molecules", _mean(orders), "1 - Spearman", DISORDER, source[1], detail, orders
        ),
    ]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; no two values of one array are equal."""
    ranks = np.argsort(np.argsort([a, b], axis=1), axis=1).astype(float)
    return float(np.corrcoef(ranks)[0, 1])


def _relative(judged: Judged, frames: list) -> tuple[np.ndarray, np.ndarray]:
    """Teacher's and student's energies, kcal/mol."""
    energies = judged.answers.of(frames).energy, student_labels(judged.potential, frames).energy
    return energies[0] / KCAL_PER_MOL, energies[1] / KCAL_PER_MOL


def _about_mean(values: np.ndarray) -> np.ndarray:
    return values - values.mean()


def _mean(values: dict[str, float]) -> float:
    return float(np.mean(list(values.values())))
