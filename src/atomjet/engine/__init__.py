"""`System` to `Prediction`."""

from atomjet.engine.engine import Engine, load
from atomjet.engine.settings import Settings

__all__ = ["Engine", "Settings", "load"]
