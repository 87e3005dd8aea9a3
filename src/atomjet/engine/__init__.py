"""`System` to `Prediction`."""

from typing import TYPE_CHECKING, Any

from atomjet.engine.engine import Engine
from atomjet.engine.load import load
from atomjet.engine.settings import Settings
from atomjet.engine.shared import SharedPrediction, owned_part, predict_shared

if TYPE_CHECKING:
    from atomjet.engine.torch_halo import TorchHalo

__all__ = ["Engine", "Settings", "SharedPrediction", "TorchHalo", "load", "owned_part", "predict_shared"]


def __getattr__(name: str) -> Any:
    """Import torch.distributed only where it is wanted."""
    if name == "TorchHalo":
        from atomjet.engine.torch_halo import TorchHalo

        return TorchHalo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
