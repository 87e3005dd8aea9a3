"""The fast backend against the definition, along one trajectory."""

from __future__ import annotations

import numpy as np
import torch

from atomjet.data import System
from atomjet.engine import Engine
from atomjet.validate.check import Check
from atomjet.validate.dynamics import Run
from atomjet.validate.potential import definition

FORCES = {"float64": 1e-8, "high": 1e-4, "default": 1e-4}
FORCES_10_BIT = 5e-3
"""Largest error of a force, eV/Å, by products with 10 mantissa bits; a student's error against its teacher is ten times this."""

FRAMES = 20


def backend_agreement(engine: Engine, run: Run, label: str) -> Check:
    """Force RMSE over time and energy error against `general` in float64 of the same weights, on frames of one run."""
    reference = definition(engine)
    keep = sorted({round(k) for k in np.linspace(0, len(run.positions) - 1, FRAMES)})
    errors, largest, energies = [], 0.0, []
    for k in keep:
        system: System = run.system.with_positions(run.positions[k])
        ours, exact = engine.predict(system), reference.predict(system)
        difference = ours.forces.double() - exact.forces.double()
        errors.append(float(difference.square().sum(1).mean().div(3).sqrt()))
        largest = max(largest, float(difference.abs().max()))
        energies.append((ours.energy - exact.energy) / run.system.counts())
    coarse = (engine.device.type == "cuda" or engine.backend == "fast_gpu") and engine.precision == "default"
    bound = FORCES_10_BIT if coarse else FORCES[engine.precision]
    energy = float(torch.stack(energies).abs().mean())
    source = f"rounding of precision {engine.precision} on {engine.device.type}"
    detail = f"{len(keep)} frames; largest error {largest:.2g} eV/Å, energy MAE {1e3 * energy:.2g} meV/atom"
    series = {"time / fs": run.time[keep].tolist(), "force RMSE / eV/Å": errors}
    figures = {"largest / eV/Å": largest, "energy MAE / meV/atom": 1e3 * energy}
    name = f"{engine.backend} against general in float64, {label}"
    value = float(np.max(errors))
    return Check(name, ", ".join(run.names), value, "eV/Å", bound, source, detail, figures, series)
