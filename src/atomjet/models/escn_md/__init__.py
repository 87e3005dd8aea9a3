"""eSCN-MD, the architecture of UMA: equivariant features, experts mixed for each system, energies, forces and stress."""

from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.general import EscnMd

__all__ = ["EscnMd", "EscnMdConfig"]
