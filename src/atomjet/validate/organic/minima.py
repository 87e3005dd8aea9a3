"""Minima of molecules: vibrations about them, and what the teacher says of where the student comes to rest."""

from __future__ import annotations

import numpy as np
import torch

from atomjet.data import Prediction
from atomjet.md.relax_many import relax_many
from atomjet.md.vibrations import displaced, hessian_by_differences, vibrations
from atomjet.validate.check import Check
from atomjet.validate.organic.answers import Answers
from atomjet.validate.organic.sets import Judged

MEAN_SHIFT, MOLECULE_SHIFT = 5.0, 10.0
"""Largest errors of frequencies, cm⁻¹: of all molecules, and of the worst."""

MEDIAN_FORCE, WORST_FORCE = 0.3, 0.7
"""Largest forces, eV/Å, of the teacher at the student's minima: their median, and the worst."""

AT_REST, MOST_STEPS = 0.001, 3000
RELAXED, STEPS = 0.01, 1000
"""Force, eV/Å, and steps of relaxations: before frequencies, and of larger molecules."""


def frequencies(judged: Judged) -> list[Check]:
    """Harmonic frequencies of small molecules, each potential at its own minimum; modes are paired in their order."""
    structures, exact = judged.structures("frequencies"), judged.exact
    if not structures:
        return []
    judged.answers.of([moved for atoms in structures for moved in displaced(atoms)])  # of all molecules together
    rested = {done.index: done for done in relax_many(exact, structures, AT_REST, MOST_STEPS)}  # type: ignore[arg-type]
    errors, worst = {}, ("", 0.0)
    for k, atoms in enumerate(structures):
        name = str(atoms.info["molecule"])
        there = vibrations(atoms, hessian_by_differences(lambda frames: _prediction(judged.answers, frames), atoms))
        if rested[k].error:
            errors[name] = float("nan")
            continue
        ours = vibrations(rested[k].atoms, hessian_by_differences(exact.predict, rested[k].atoms))
        # A molecule that one of the two makes linear has another number of modes: the lowest are left out.
        modes = min(len(there.wavenumbers), len(ours.wavenumbers))
        shifts = ours.wavenumbers[-modes:] - there.wavenumbers[-modes:]
        errors[name] = float(np.abs(shifts).mean())
        mode = int(np.argmax(np.abs(shifts)))
        if abs(shifts[mode]) > worst[1]:
            teacher = there.wavenumbers[-modes:][mode]
            worst = f"{name}, {teacher:.0f} -> {teacher + shifts[mode]:.0f} cm⁻¹", abs(shifts[mode])
    hardest = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    detail = f"{len(errors)} molecules; worst mode: {worst[0]}"
    mean = float(np.mean(list(errors.values())))
    source = "5 cm⁻¹ on the mean, 10 in the worst molecule"
    return [
        Check("frequencies", "mean of molecules", mean, "cm⁻¹", MEAN_SHIFT, source, detail, errors),
        Check("frequencies, worst molecule", hardest, errors[hardest], "cm⁻¹", MOLECULE_SHIFT, source, detail),
    ]


def _prediction(answers: Answers, frames: list) -> Prediction:
    labels = answers.of(frames)
    energy, forces = torch.from_numpy(labels.energy), torch.from_numpy(np.concatenate(labels.forces))
    counts = torch.tensor([len(atoms) for atoms in frames])
    index = torch.arange(len(frames)).repeat_interleave(counts)
    return Prediction(energy, forces, torch.full((len(frames), 3, 3), torch.nan), (energy / counts)[index], index)


def relaxed_drugs(judged: Judged) -> list[Check]:
    """The teacher's largest force on an atom where the student has relaxed a drug-like molecule from a force field's geometry."""
    structures = judged.structures("drugs")[: judged.size.drugs]
    if not structures:
        return []
    done = sorted(relax_many(judged.potential, structures, RELAXED, STEPS), key=lambda one: one.index)  # type: ignore[arg-type]
    labels = judged.answers.of([one.atoms for one in done])
    forces = {
        str(one.atoms.info["molecule"]): float(np.linalg.norm(f, axis=1).max())
        for one, f in zip(done, labels.forces, strict=True)
    }
    values = np.array(list(forces.values()))
    hardest = max(forces, key=lambda name: np.nan_to_num(forces[name], nan=np.inf))
    rest = sum(one.converged for one in done)
    detail = f"{len(done)} molecules, {rest} at rest within {STEPS} steps; the worst is {hardest}"
    source = "0.3 eV/Å in the middle, 0.7 at the worst atom of all"
    middle, worst = float(np.median(values)), float(values.max())
    return [
        Check(
            "force at our minimum, median", f"{len(done)} drugs", middle, "eV/Å", MEDIAN_FORCE, source, detail, forces
        ),
        Check("force at our minimum, worst", hardest, worst, "eV/Å", WORST_FORCE, source, detail),
    ]
