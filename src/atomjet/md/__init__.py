"""Molecular dynamics and relaxation, driven by ASE: for now the integrators are ASE's, the record and the resumption
are ours."""

from atomjet.md.relax import RelaxSettings, relax
from atomjet.md.settings import MDSettings
from atomjet.md.simulation import Summary, simulate

__all__ = ["MDSettings", "RelaxSettings", "Summary", "relax", "simulate"]
