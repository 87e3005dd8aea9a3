"""The gate before every speed: a result that is not right has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine

GATES = {"float64": 1e-9, "float32": 1e-4, "10-bit": 5e-3}
"""Force RMSE as a share of the root mean square force, or of `WEAK` where that is more, by what computes the products."""

WEAK = 0.1
"""Root mean square force, eV/Å, below which forces are what is left of larger ones that cancel, and of their rounding."""

STEP_GATES = {"float64": 1e-9, "float32": 1e-5, "10-bit": 1e-3}
"""Force RMSE of AtomJet's captured steps, as a share as in `GATES`, by what computes the products. Their errors are
known (docs/concepts/painn_kernels.md); other contenders' steps need only pass GATES."""

LARGEST_REFERENCE = {"cpu": 2048, "cuda": 12000}
"""Atoms of structures that the reference computes, at most, by device: float64 with autograd holds some 50 kB per edge."""


@dataclass(frozen=True)
class Accuracy:
    """Against `general` in float64 of the same weights.

    Attributes:
        energy_mae: meV/atom. force_rmse, force_max: eV/Å. force_rms: eV/Å, of the reference itself.
        stress_rmse: eV/Å³, of structures that have one.
        atoms: how many were compared. gate: largest force_rmse that passes, eV/Å.
    """

    energy_mae: float
    force_rmse: float
    force_max: float
    force_rms: float
    stress_rmse: float | None
    atoms: int
    gate: float

    @property
    def passed(self) -> bool:
        """Whether the force error is a number within the gate."""
        return self.force_rmse <= self.gate

    def to_json(self) -> dict[str, float | bool | None]:
        """Plain values."""
        return asdict(self) | {"passed": self.passed}


def compare_predictions(
    made: Prediction, exact: Prediction, system: System, gate: str, gates: Mapping[str, float] = GATES
) -> Accuracy:
    """Errors of one prediction against the reference of the same structures; `gate` names one of `gates`."""
    counts = system.counts()
    difference = made.forces.double() - exact.forces.double()
    rms = float(exact.forces.double().square().mean().sqrt())
    stress = (made.stress.double() - exact.stress.double()).flatten()
    stress = stress[stress.isfinite()]
    return Accuracy(
        energy_mae=1e3 * float(((made.energy - exact.energy).abs() / counts).mean()),
        force_rmse=float(difference.square().mean().sqrt()),
        force_max=float(difference.abs().max()),
        force_rms=rms,
        stress_rmse=float(stress.square().mean().sqrt()) if len(stress) else None,
        atoms=system.num_atoms,
        gate=gates[gate] * max(rms, WEAK),
    )


def gate_of(engine: Engine) -> str:
    """Which gate holds for what an engine computes with."""
    if engine.dtype == torch.float64:
        return "float64"
    coarse = engine.device.type == "cuda" or engine.backend == "fast_gpu"
    return "10-bit" if coarse and engine.precision == "default" else "float32"


def first_structures(system: System, atoms: int) -> System | None:
    """As many whole structures from the start as have at most that many atoms; None where the first has more."""
    stops = torch.cumsum(system.counts(), 0)
    number = int((stops <= atoms).sum())
    if number == 0:
        return None
    return system.part(0, number)


def same_edges(made: Graph, exact: Graph) -> bool:
    """Whether two neighbour lists hold the same edges in the same order."""
    return all(
        torch.equal(getattr(made, name).cpu(), getattr(exact, name).cpu())
        for name in ("centers", "neighbors", "shifts")
    )
