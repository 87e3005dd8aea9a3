"""AtomJet runs machine-learned interatomic potentials as fast as hardware allows, and distils small ones from large."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from atomjet.errors import AtomJetError

if TYPE_CHECKING:
    from atomjet.data import Graph, Prediction, System

__version__ = "0.1.0"
__all__ = ["AtomJetError", "Graph", "Prediction", "System", "__version__"]

# Imported on first use, because PyTorch takes seconds and `atomjet --help` should not.
_HOMES = {"Graph": "atomjet.data", "Prediction": "atomjet.data", "System": "atomjet.data"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'atomjet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, whether imported yet or not."""
    return sorted(__all__)
