"""Where the time of one evaluation goes: kernel by kernel (on a CPU operator by operator), against what the machine allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomjet.bench.ceilings import Ceilings, measure_ceilings
from atomjet.bench.measure import synchronize
from atomjet.bench.operators import Operator, heaviest, occupation, operators_of, within
from atomjet.bench.parts import parts_of_call
from atomjet.bench.provenance import provenance
from atomjet.bench.timed_calls import moved
from atomjet.bench.trace import events as traced
from atomjet.bench.trace import is_kernel, is_outermost, trace
from atomjet.data import System, SystemBuffers
from atomjet.engine import Engine
from atomjet.engine.capacity import choose
from atomjet.models.cost import Cost, Evaluation
from atomjet.models.families import FAMILIES
from atomjet.neighbors import search

WARM_UP = 10
"""Evaluations before any is timed or traced."""

REPEATS = 10
"""Evaluations traced, of which the shortest is shown: a trace is wall time, and others use the machine too."""


@dataclass(frozen=True)
class Profile:
    """One evaluation.

    Attributes:
        what: engine and structures. wall: seconds of an evaluation (median of ten, not traced). host: seconds that the host
            worked in the traced one. device: seconds that kernels ran. idle: seconds of the span from first to last kernel in which
            none did; zero on a CPU. gaps: longest idle gaps, seconds. launches: kernels, or operators on a CPU.
        stages: wall seconds of neighbour search and model by themselves. work: what the model's equations ask for, if declared.
        kernels: the heaviest by name: (name, calls, seconds).
        items: operators, most worthwhile first.
    """

    what: str
    provenance: dict[str, Any]
    ceilings: Ceilings
    wall: float
    host: float
    device: float
    idle: float
    gaps: list[float]
    launches: int
    stages: dict[str, float]
    work: Cost | None
    kernels: list[tuple[str, int, float]]
    items: list[Operator]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def profile_engine(engine: Engine, system: System, chrome: Path | None = None) -> Profile:
    """Profile one evaluation of structures; positions differ from call to call.

    Args:
        chrome: where to write the trace for chrome://tracing or ui.perfetto.dev.
    """
    device = engine.device
    systems = moved(system.to(device, torch.float64))
    for turn in range(WARM_UP):
        engine.predict(systems[turn % len(systems)])
    half = engine.backend == "fast_gpu" and engine.precision == "default"
    ceilings = measure_ceilings(device, torch.float16 if half else engine.dtype)
    wall = _median(lambda turn: engine.predict(systems[turn % len(systems)]), device)
    edges = search(systems[0], engine.cutoff).num_edges
    parts = parts_of_call(engine, systems)
    stages = {"search": _median(parts["search"], device), "model": _median(parts["energy and forces"], device)}

    def staged() -> None:
        for name, part in (("search", "search"), ("model", "energy and forces")):
            with named(name):
                parts[part](1)
                synchronize(device)
        for turn in range(REPEATS):
            synchronize(device)
            with named("predict"):
                engine.predict(systems[turn % len(systems)])
                synchronize(device)

    made = trace(staged, device, record_shapes=True)
    if chrome is not None:
        made.export_chrome_trace(str(chrome))
    events = within(traced(made), "predict")
    kernels = [event for event in events if is_kernel(event)]
    busy, idle, gaps = occupation(kernels)
    element = 2 if half else torch.finfo(engine.dtype).bits // 8
    sizes = Evaluation(system.num_systems, system.num_atoms, edges, element)
    work = FAMILIES[engine.model.family].work(engine.model.config, engine.backend, sizes)
    costs = dict(work.kernels)
    if kernels:
        costs |= search_costs(systems[0], engine.cutoff, edges)
    items = operators_of(events, engine, ceilings, costs)
    operators = [event for event in events if is_outermost(event)]
    return Profile(
        what=f"{engine.describe()}; {system.num_systems} structures, {system.num_atoms} atoms, {edges} edges",
        provenance=provenance(device),
        ceilings=ceilings,
        wall=wall,
        host=sum(event.time_range.elapsed_us() for event in operators) * 1e-6,
        device=busy,
        idle=idle,
        gaps=gaps,
        launches=len(kernels) if device.type == "cuda" else len(operators),
        stages=stages,
        work=work.whole,
        kernels=heaviest(kernels if kernels else [event for event in events if event.name.startswith("aten::")]),
        items=items,
    )


@contextmanager
def named(name: str) -> Iterator[None]:
    """A range of that name in torch's traces and, on a GPU, in NVIDIA's tools."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.nvtx.range_push(name)
    try:
        with torch.profiler.record_function(name):
            yield
    finally:
        if gpu:
            torch.cuda.nvtx.range_pop()


def _median(call: Any, device: torch.device) -> float:
    times = []
    for turn in range(10):
        synchronize(device)
        started = time.perf_counter()
        call(turn)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def search_costs(system: System, cutoff: float, edges: int) -> dict[str, Cost]:
    """Cost of each kernel of a search that finds so many edges, by name, in buffers of the size that an engine makes: the size
    decides which kernels run. Empty where the buffers are too small.
    """
    from atomjet.bench.search_cost import search_costs  # needs Triton, as the kernels do
    from atomjet.neighbors.buffered_search import BufferedSearch

    capacity = choose(system.num_systems, system.num_atoms, int(system.counts().max()), edges)
    finder, padded = BufferedSearch(capacity, cutoff, system.device), SystemBuffers.empty(capacity, system.device)
    padded.fill(system)
    finder.launch(padded)
    return {} if int(finder.graph.status) else search_costs(finder)
