"""Values that travel: `System` (structures), `Graph` (their edges), `Prediction` (what a model says of them)."""

from atomjet.data.buffers import GraphBuffers, Status, SystemBuffers
from atomjet.data.capacity import Capacity
from atomjet.data.conditions import CONDITIONS, ConditionBuffers, Conditions, Lease
from atomjet.data.frames import frames_of
from atomjet.data.graph import Graph
from atomjet.data.halo import ExchangeHalo, Halo, Transport
from atomjet.data.prediction import Prediction
from atomjet.data.prediction_buffers import PredictionBuffers
from atomjet.data.system import System

__all__ = [
    "CONDITIONS",
    "Capacity",
    "ConditionBuffers",
    "Conditions",
    "ExchangeHalo",
    "Graph",
    "GraphBuffers",
    "Halo",
    "Lease",
    "Prediction",
    "PredictionBuffers",
    "Status",
    "System",
    "SystemBuffers",
    "Transport",
    "frames_of",
]
