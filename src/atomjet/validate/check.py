"""`Check`: what every physics check returns, and the bounds that more than one of them uses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Force, eV/Å, by which a symmetry may be broken through rounding alone: 1e7 units in the last place of float64, and 1e4 of float32
(10-bit products of GPUs included), at forces of some eV/Å."""


@dataclass(frozen=True)
class Check:
    """One measured figure against its bound.

    Attributes:
        name: what was checked.
        structure: on what.
        value: the measured figure; passes at or below the bound. NaN never passes.
        unit: of value and bound.
        bound: largest value that passes.
        source: where the bound comes from.
        detail: one sentence for the reader.
        figures: further measured figures by name.
        series: columns for a plot by name; the first is the abscissa.
    """

    name: str
    structure: str
    value: float
    unit: str
    bound: float
    source: str
    detail: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the value is a number within the bound."""
        return math.isfinite(self.value) and self.value <= self.bound

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that JSON cannot hold become text."""
        values = asdict(self) | {"passed": self.passed}
        return values | {"value": self.value if math.isfinite(self.value) else str(self.value)}
