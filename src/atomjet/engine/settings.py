"""What a user may ask of an engine, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from atomjet.data.device import checked_device
from atomjet.errors import ConfigError
from atomjet.models.families import backend_names
from atomjet.neighbors import check_search

Precision = Literal["default", "high", "float64"]
OnOverlap = Literal["error", "warn"]

CLOSEST = 0.3
"""Shortest distance between atoms, Å. Nearer ones are a mistake in the input, not a geometry: no training set holds them."""

BELOW_TRAINING = 0.9
"""Nor may they be nearer than this much of the shortest such distance in the training data: a bond that swings a little further
than any seen in training is still well described, one that is a tenth shorter is not.
"""


@dataclass(frozen=True)
class Settings:
    """How to evaluate a model.

    Args:
        device: "cpu", "cuda", "cuda:1"; None picks CUDA where there is one.
        backend: a name in `models/families.py`; "auto" takes the fastest that serves this model, device and precision.
        precision: "default" (CPU: float32; GPU: products with 10 mantissa bits or better), "high" (float32), "float64".
        on_overlap: what to do about atoms nearer than 0.3 Å, or than 0.9 of the shortest such distance in the model's
            training data: "error", or "warn" and go on.
        neighbors: what finds them: "auto", or another search by name (see `neighbor_list`), to compare; with another, no call
            becomes a CUDA graph.

    Raises:
        ConfigError: a value outside those listed.
        BackendError: a device that is not there.
    """

    device: str | torch.device | None = None
    backend: str = "auto"
    precision: Precision = "default"
    on_overlap: OnOverlap = "error"
    neighbors: str = "auto"

    def __post_init__(self) -> None:
        """Check every field; settle the device."""
        for name, choices in (
            ("backend", ("auto", *backend_names())),
            ("precision", get_args(Precision)),
            ("on_overlap", get_args(OnOverlap)),
        ):
            if getattr(self, name) not in choices:
                options = ", ".join(choices)
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown; choose one of {options}")
        check_search(self.neighbors)
        object.__setattr__(self, "device", checked_device(self.device))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of what is computed with them."""
        return torch.float64 if self.precision == "float64" else torch.float32


def whole_number(name: str, value: Any) -> int | None:
    """A charge or spin multiplicity as int; None stays.

    Raises:
        ConfigError: not a whole number.
    """
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number")
    return number
