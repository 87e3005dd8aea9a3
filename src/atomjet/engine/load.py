"""`load`: from a model's name or file to an `Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from atomjet.engine.engine import Engine
from atomjet.engine.settings import OnOverlap, Precision, Settings
from atomjet.engine.undisturbed import undisturbed
from atomjet.errors import ConfigError
from atomjet.models import registry
from atomjet.models.load import read, read_ensemble


def load(
    model: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: Precision = "default",
    task: str | None = None,
    on_overlap: OnOverlap = "error",
    neighbors: str = "auto",
    charge: int | None = None,
    spin: int | None = None,
) -> Engine:
    """Make an engine from a packaged model's name, a model file (.safetensors) or a fairchem checkpoint (.pt); or from several.

    Args:
        model: name (`atomjet info` lists them) or path. A list of them makes an ensemble: the mean of its members, which says how
            far they disagree (`Prediction.spread`).
        device, backend, precision, on_overlap, neighbors: see `Settings`.
        task: for models that know several: the one for structures that do not name their own (`info["task"]`).
        charge, spin: total charge, e, and multiplicity 2S + 1 of structures that do not say their own (`info["charge"]`,
            `info["spin"]`).

    Raises:
        ModelFileError: see `atomjet.models.load.read`.
        BackendError: a device or backend that cannot serve this model.
        ConfigError: an unknown setting or task, a charge or spin that the model does not know; members that do not go together.
    """
    settings = Settings(device, backend, precision, on_overlap, neighbors)
    if not isinstance(model, str | Path | Sequence):
        raise ConfigError(
            f"model is {type(model).__name__} {str(model)[:60]!r}; give a name, a path, or a list of them"
        )
    with undisturbed(settings.device):  # type: ignore[arg-type]
        if isinstance(model, str | Path):
            network, card = read(registry.locate(model))
        else:
            network, card = read_ensemble([registry.locate(member) for member in model])
        return Engine(network, settings, card, task, charge, spin)
