"""The definition compiled and its energy and gradient captured in one CUDA graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from atomjet.bench.contenders import GRAPH_CALL, Unavailable, predicted
from atomjet.bench.peers.torch_compile import Compiled
from atomjet.data import Graph, Prediction, System
from atomjet.engine import Engine

ROOM = 1.25
"""Edges captured for, in terms of those of the first structure: edges come and go as atoms move."""


class Captured(Compiled):
    """One graph a case; edges beyond those there are padded with pairs at the cutoff, which add nothing."""

    name = "compile_graph"
    includes = GRAPH_CALL + "; copy of the edges into the captured buffers"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.shape: tuple[int, int] | None = None

    def call(self, prepared: tuple[System, Graph]) -> Prediction:
        """Copy in, replay, read out."""
        system, graph = prepared
        if self.shape is None or self.shape[0] != graph.num_atoms or self.shape[1] < graph.num_edges:
            self._capture(graph)
        self._fill(graph)
        self.cuda_graph.replay()
        edges = graph.num_edges
        return predicted(system, graph, self.energies_out, self.gradients_out[:edges], self.model)

    def _fill(self, graph: Graph) -> None:
        edges = graph.num_edges
        held = self.held
        held.centers[:edges].copy_(graph.centers)
        held.neighbors[:edges].copy_(graph.neighbors)
        self.vectors.data[:edges].copy_(graph.vectors)
        # Behind the last edge: from the last atom to itself at 1.01 x the cutoff, where the envelope is zero.
        held.centers[edges:].fill_(graph.num_atoms - 1)
        held.neighbors[edges:].fill_(graph.num_atoms - 1)
        self.vectors.data[edges:] = self.far
        held.atomic_numbers.copy_(graph.atomic_numbers)

    def _capture(self, graph: Graph) -> None:
        room = int(graph.num_edges * ROOM) + 32
        device = graph.vectors.device
        self.far = torch.tensor([1.01 * self.model.cutoff, 0.0, 0.0], device=device, dtype=self.dtype)
        self.vectors = torch.zeros(room, 3, device=device, dtype=self.dtype, requires_grad=True)
        index = torch.zeros(room, dtype=torch.int64, device=device)
        self.held = replace(
            graph,
            centers=index,
            neighbors=index.clone(),
            atomic_numbers=graph.atomic_numbers.clone(),
            vectors=self.vectors,
        )
        self._fill(graph)
        self.shape = (graph.num_atoms, room)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._evaluate()
        torch.cuda.current_stream().wait_stream(side)
        self.cuda_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.cuda_graph):
            self.energies_out, self.gradients_out = self._evaluate()

    def _evaluate(self) -> tuple[torch.Tensor, torch.Tensor]:
        energies = self.energies(self.held)
        (gradients,) = torch.autograd.grad(energies.sum(), self.vectors)
        return energies.detach(), gradients


def build(engine: Engine) -> Any:
    """Only where there are CUDA graphs."""
    if engine.device.type != "cuda":
        raise Unavailable("CUDA graphs need a CUDA device")
    return Captured(engine)
