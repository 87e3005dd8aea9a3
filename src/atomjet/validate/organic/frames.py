"""Molecules that were never trained on, in motion: errors of forces and energies, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from atomjet.distill.evaluate import force_mae_by_cause
from atomjet.units import MEV
from atomjet.validate.check import Check
from atomjet.validate.organic.answers import Labels, student_labels
from atomjet.validate.organic.sets import Judged, by_molecule

FORCE_LIMITS = {"all": 32.0, "drugs": 45.0, "peptides": 30.0}
"""Largest mean errors of forces, meV/Å, by slice."""

SPREAD, OFFSET, WORST_OFFSET = 0.7, 1.2, 8.0
"""Largest errors, meV/atom: of energies less each molecule's mean, and of those means, on average and at worst."""

WORST_ATOMS = 0.05


def unseen_molecules(judged: Judged) -> list[Check]:
    """Frames of the teacher's molecular dynamics at 300 and 600 K."""
    frames = _chosen(judged)
    if not frames:
        return []
    teacher, student = judged.answers.of(frames), student_labels(judged.potential, frames)
    usable = [k for k in range(len(frames)) if not teacher.missing[k]]
    frames = [frames[k] for k in usable]
    teacher, student = _picked(teacher, usable), _picked(student, usable)
    errors = [np.abs(b - a) / MEV for a, b in zip(teacher.forces, student.forces, strict=True)]
    return [
        *_force_checks(frames, errors, breakdown(frames, teacher, student)),
        *_energy_checks(frames, teacher, student),
    ]


def _chosen(judged: Judged) -> list[Atoms]:
    """The first frames of each molecule at each temperature."""
    kept: dict[tuple[str, int], int] = {}
    frames = []
    for atoms in judged.structures("frames"):
        key = (str(atoms.info["molecule"]), int(atoms.info["kelvin"]))
        kept[key] = kept.get(key, 0) + 1
        if kept[key] <= judged.size.frames:
            frames.append(atoms)
    return frames


def _picked(labels: Labels, chosen: Sequence[int]) -> Labels:
    return Labels(labels.energy[list(chosen)], [labels.forces[k] for k in chosen])


def _force_checks(frames: list[Atoms], errors: list[np.ndarray], causes: dict[str, float]) -> list[Check]:
    groups = {
        "all": ("force MAE, unseen molecules", [True] * len(frames)),
        "drugs": ("force MAE, drug-like", [str(a.info["group"]).startswith("drugs") for a in frames]),
        "peptides": ("force MAE, peptides of 40 atoms", [_peptide(atoms) for atoms in frames]),
    }
    checks = []
    for group, (name, chosen) in groups.items():
        some = [error for error, mine in zip(errors, chosen, strict=True) if mine]
        if not some:
            continue
        molecules = len({a.info["molecule"] for a, mine in zip(frames, chosen, strict=True) if mine})
        figures = causes if group == "all" else {}
        detail = f"{len(some)} frames"
        if group == "all":
            squares = np.sort(np.concatenate([(error**2).sum(1) for error in errors]))[::-1]
            share = float(squares[: max(1, round(WORST_ATOMS * len(squares)))].sum() / max(squares.sum(), 1e-300))
            detail += f"; the worst 5 % of atoms carry {share:.0%} of the squared error"
        value = float(np.concatenate(some).mean())
        source = "the table that students are accepted by"
        structure = f"{molecules} molecules"
        checks.append(Check(name, structure, value, "meV/Å", FORCE_LIMITS[group], source, detail, figures))
    return checks


def _peptide(atoms: Atoms) -> bool:
    return "peptide" in str(atoms.info["group"]) and len(atoms) >= 40


def breakdown(frames: list[Atoms], teacher: Labels, student: Labels) -> dict[str, float]:
    """Force MAE, meV/Å, by element, size of the force, size of the molecule, temperature, kind of molecule, and molecule."""
    counts = np.array([len(atoms) for atoms in frames])
    forces = np.concatenate(teacher.forces), np.concatenate(student.forces)
    found = force_mae_by_cause(*forces, np.concatenate([atoms.numbers for atoms in frames]), counts)
    error = np.abs(forces[1] - forces[0]).mean(1) / MEV
    for word, label, unit in (("kelvin", "temperature", " K"), ("group", "group", ""), ("molecule", "molecule", "")):
        values = np.repeat([str(atoms.info[word]) for atoms in frames], counts)
        found |= {f"{label} {value}{unit}": float(error[values == value].mean()) for value in np.unique(values)}
    return found


def _energy_checks(frames: list[Atoms], teacher: Labels, student: Labels) -> list[Check]:
    """Energies: what varies within a molecule, and each molecule's offset."""
    difference = (student.energy - teacher.energy) / np.array([len(atoms) for atoms in frames]) / MEV
    places = by_molecule(frames)
    offsets = {name: float(difference[chosen].mean()) for name, chosen in places.items()}
    spread = float(np.mean([np.abs(difference[k] - offsets[name]) for name, chosen in places.items() for k in chosen]))
    sizes = {name: abs(offset) for name, offset in offsets.items()}
    mean = float(np.mean(list(sizes.values())))
    hardest = max(sizes, key=lambda name: np.nan_to_num(sizes[name], nan=np.inf))
    detail = f"{len(frames)} frames; the worst offset is that of {hardest}"
    source, molecules = "the table that students are accepted by", f"{len(places)} molecules"
    return [
        Check("energy MAE less molecule's mean", molecules, spread, "meV/atom", SPREAD, source, detail),
        Check("energy offset of a molecule, mean", molecules, mean, "meV/atom", OFFSET, source, detail, offsets),
        Check("energy offset of a molecule, worst", hardest, sizes[hardest], "meV/atom", WORST_OFFSET, source, detail),
    ]
