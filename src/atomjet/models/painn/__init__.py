"""PaiNN: invariant and vector features, energies, forces and stress."""

from atomjet.models.painn.config import PaiNNConfig
from atomjet.models.painn.general import PaiNN

__all__ = ["PaiNN", "PaiNNConfig"]
