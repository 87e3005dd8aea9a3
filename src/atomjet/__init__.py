"""AtomJet runs machine-learned interatomic potentials as fast as the hardware allows, and distils small ones from large ones."""

from typing import TYPE_CHECKING, Any

from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine, load
from atomjet.errors import AtomJetError
from atomjet.neighbors import neighbor_list

if TYPE_CHECKING:
    from atomjet.adapters.ase import AtomJetCalculator

__version__ = "0.1.0"
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


def __getattr__(name: str) -> Any:
    """Import the ASE calculator, and with it ASE, when it is first asked for."""
    if name == "AtomJetCalculator":
        from atomjet.adapters.ase import AtomJetCalculator

        return AtomJetCalculator
    raise AttributeError(f"module 'atomjet' has no attribute {name!r}")
