"""torch.compile of the definition's energy, differentiated by autograd."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from atomjet.bench.contender import GRAPH_CALL, Unavailable, network, predicted
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine
from atomjet.models.base import forces_from_gradients
from atomjet.neighbors import search


class Compiled:
    """The energy compiled with dynamic shapes; gradient by autograd through it."""

    name = "torch_compile"
    includes = GRAPH_CALL

    def __init__(self, engine: Engine) -> None:
        self.model, self.dtype = network(engine), engine.dtype
        self.energies = torch.compile(self.model.atomic_energies, dynamic=True)

    def prepare(self, system: System) -> tuple[System, Graph]:
        """Search the neighbours."""
        graph = search(system, self.model.cutoff)
        return system, graph.with_vectors(graph.vectors.to(self.dtype))

    def call(self, prepared: tuple[System, Graph]) -> Prediction:
        """Energy and forces."""
        system, graph = prepared
        vectors = graph.vectors.detach().requires_grad_(True)
        energies = self.energies(graph.with_vectors(vectors))
        (gradients,) = torch.autograd.grad(energies.sum(), vectors)
        return predicted(system, energies.detach(), forces_from_gradients(graph, gradients), self.model)


def build(engine: Engine) -> Any:
    """The first call compiles."""
    compilers = ("c++", "g++", "clang++")
    if engine.device.type == "cpu" and not any(shutil.which(compiler) for compiler in compilers):
        raise Unavailable("torch.compile on a CPU needs a C++ compiler, and none is installed")
    return Compiled(engine)
