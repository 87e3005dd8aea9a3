"""Parts of an evaluation by themselves: neighbour search, energy, energy and forces; the rest of a call is overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from atomjet.bench.measure import synchronize
from atomjet.data import ConditionBuffers, System, SystemBuffers
from atomjet.engine import Engine
from atomjet.engine.capacity import choose
from atomjet.neighbors import search
from atomjet.ops.cuda_graph import Replayed

Parts = dict[str, Callable[[int], Any]]
"""By name; each called with a running number, by which positions take turns."""


def parts_of_call(engine: Engine, systems: list[System]) -> Parts:
    """The parts of a call on structures that differ in positions only."""
    systems = [engine.model.complete(system, engine.task) for system in systems]
    return _plain(engine, systems) if engine.stages is None else _in_buffers(engine, systems)


def _plain(engine: Engine, systems: list[System]) -> Parts:
    graphs = [search(system, engine.cutoff) for system in systems]
    graphs = [graph.with_vectors(graph.vectors.to(engine.dtype)) for graph in graphs]
    turns = len(systems)

    @torch.no_grad()
    def energy(turn: int) -> Any:
        return engine.model.atomic_energies(graphs[turn % turns])

    parts: Parts = {
        "search": lambda turn: search(systems[turn % turns], engine.cutoff),
        "energy and forces": lambda turn: engine.evaluator.energies_and_gradients(graphs[turn % turns]),
    }
    return parts | ({"energy": energy} if engine.backend == "general" else {})


def _in_buffers(engine: Engine, systems: list[System]) -> Parts:
    """In buffers of fixed size, each part a CUDA graph of its own where the engine captures."""
    stages = engine.stages
    assert stages is not None
    first, counts = systems[0], systems[0].counts().tolist()
    edges = max(search(system, engine.cutoff).num_edges for system in systems)
    capacity = choose(first.num_systems, first.num_atoms, max(counts), edges)
    padded = SystemBuffers.empty(capacity, engine.device)
    padded.fill(first, stages.backend.admit(first, engine.task))
    find, backend = stages.search(capacity), stages.backend_for(capacity)
    conditions = ConditionBuffers(padded.conditions, padded.system_index)
    segments = backend.segments(find.graph, conditions, backend.workspace(capacity))
    find.launch(padded)
    synchronize(engine.device)
    stream = torch.cuda.Stream(engine.device) if engine.device.type == "cuda" else None

    def look() -> None:
        find.launch(padded)

    def evaluate() -> None:
        for segment in segments:
            segment.launch()

    searched, evaluated = Replayed(look, stream, engine.captures), Replayed(evaluate, stream, engine.captures)

    def search_anew(turn: int) -> None:
        with torch.cuda.stream(stream):
            padded.positions[: first.num_atoms].copy_(systems[turn % len(systems)].positions)
        searched.run()

    return {"search": search_anew, "energy and forces": lambda turn: evaluated.run()}
