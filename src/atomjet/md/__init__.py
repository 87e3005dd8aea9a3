"""Molecular dynamics and relaxation: stepped on the device where the engine's backend allows it, else by ASE; the record and
the resumption are ours."""

from atomjet.md.relax import RelaxSettings, relax
from atomjet.md.replicas import simulate_replicas
from atomjet.md.run import Summary
from atomjet.md.settings import MDSettings
from atomjet.md.simulation import simulate

__all__ = ["MDSettings", "RelaxSettings", "Summary", "relax", "simulate", "simulate_replicas"]
