"""`Replayed`, where the engine looks for it; it stands among the ops, since the search captures too."""

from atomjet.ops.cuda_graph import Replayed

__all__ = ["Replayed"]
