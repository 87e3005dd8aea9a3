"""AtomJet runs machine-learned interatomic potentials as fast as the hardware allows, and distils small ones from large ones."""

from atomjet.data import Graph, Prediction, System
from atomjet.errors import AtomJetError

__version__ = "0.1.0"
__all__ = ["AtomJetError", "Graph", "Prediction", "System", "__version__"]
