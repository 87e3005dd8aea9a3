"""What a layer of eSCN-MD needs of its edges, and the one place where it is chosen who does it.

`fast_pytorch` goes through the layers; all that belongs to edges is behind `Edges`, in tensors of exact size. Two modules serve it:
`edges_dense` on any device and in any type, `edges_compiled` in float32 on a GPU that functions can be compiled for. The kernels of
`fast_gpu` make the same passes in buffers of fixed size (`edges_gpu`). X̄ stands for dE/dX.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from atomjet.data import Graph
from atomjet.models.escn_md.chunks import Chunk
from atomjet.models.escn_md.compiled import can_compile
from atomjet.models.escn_md.edges_compiled import CompiledWeights
from atomjet.models.escn_md.edges_dense import DenseWeights
from atomjet.models.escn_md.general import EscnMd


class Edges(Protocol):
    """The edges of one call. Passes come in the order of a call: degrees, messages of each layer, then both backward; the forward
    pass saves what the backward pass needs, and gradients are what the backward passes have accumulated.
    """

    def degrees(self) -> Tensor:
        """Sums over each row of the edge degrees, (owned, 9, C)."""
        ...

    def messages(self, layer: int, y: Tensor) -> Tensor:
        """Sums over each row of the messages of a layer, (owned, 9, C), from its normalised input y (N, 9, C)."""
        ...

    def messages_backward(self, layer: int, y: Tensor, x_bar: Tensor) -> Tensor:
        """x̄ (owned, 9, C) of the sums to ȳ (N, 9, C), ghosts' too; accumulates what belongs to edges."""
        ...

    def degrees_backward(self, x_bar: Tensor) -> None:
        """x̄ (owned, 9, C) of the sums of the edge degrees; accumulates what belongs to edges."""
        ...

    def gradients(self) -> Tensor:
        """dE/d(edge vectors) (E, 3), eV/Å."""
        ...


class EdgeWeights(Protocol):
    """What calls share of the passes over edges.

    Attributes:
        storage_dtype: type of stored features of edges, and of the blended maps.
    """

    storage_dtype: torch.dtype

    def edges(self, graph: Graph, chunks: list[Chunk]) -> Edges:
        """Return the edges of a graph, divided into chunks."""
        ...

    def bytes_needed(self, graph: Graph, at_once: int) -> int:
        """Return an upper estimate of what a call takes with `at_once` edges together, blends aside."""
        ...


def weights_of_edges(model: EscnMd, precision: str) -> EdgeWeights:
    """The implementation of the edge passes for the device and type of the weights; half precision unless `precision` is higher."""
    weight = next(model.parameters())
    if compiles(weight):
        return CompiledWeights(model, torch.float16 if precision == "default" else weight.dtype)
    return DenseWeights(model)


def compiles(weight: Tensor) -> bool:
    """Whether edges are done by compiled steps; float64, the reference, is not worth compiling for."""
    return can_compile(weight.device) and weight.dtype == torch.float32
