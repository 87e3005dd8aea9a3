"""Values that travel: `System` (structures), `Graph` (their edges), `Prediction` (what a model says of them)."""

from atomjet.data.buffers import Capacity, PaddedGraph, PaddedPrediction, PaddedSystem, Status
from atomjet.data.conditions import CONDITIONS, ConditionBuffers, Conditions, Lease
from atomjet.data.graph import Graph
from atomjet.data.halo import ExchangeHalo, Halo, Transport
from atomjet.data.prediction import Prediction
from atomjet.data.system import System, frames_of

__all__ = [
    "CONDITIONS",
    "Capacity",
    "ConditionBuffers",
    "Conditions",
    "ExchangeHalo",
    "Graph",
    "Halo",
    "Lease",
    "PaddedGraph",
    "PaddedPrediction",
    "PaddedSystem",
    "Prediction",
    "Status",
    "System",
    "Transport",
    "frames_of",
]
