"""AtomJet runs machine-learned interatomic potentials as fast as the hardware allows, and distils small ones from large ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from atomjet.version import VERSION

if TYPE_CHECKING:
    from atomjet.adapters.ase import AtomJetCalculator
    from atomjet.data import Graph, Prediction, System
    from atomjet.engine import Engine, load
    from atomjet.errors import AtomJetError
    from atomjet.neighbors import neighbor_list

__version__ = VERSION
__all__ = [
    "AtomJetCalculator",
    "AtomJetError",
    "Engine",
    "Graph",
    "Prediction",
    "System",
    "load",
    "neighbor_list",
]

_HOME = {
    "AtomJetCalculator": "atomjet.adapters.ase",
    "AtomJetError": "atomjet.errors",
    "Engine": "atomjet.engine",
    "Graph": "atomjet.data",
    "Prediction": "atomjet.data",
    "System": "atomjet.data",
    "load": "atomjet.engine",
    "neighbor_list": "atomjet.neighbors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `atomjet --help` does not wait for PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module 'atomjet' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
