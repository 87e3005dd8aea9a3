"""Where the time of one evaluation goes: kernel by kernel (on a CPU operator by operator), against what the machine allows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomjet.bench.ceilings import Ceilings, measure_ceilings
from atomjet.bench.cost import cost_of, declared
from atomjet.bench.measure import synchronize
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
HEAVIEST = 10
REPEATS = 10
"""Evaluations traced, of which the shortest is shown: a trace is wall time, and others use the machine too."""

TWICE = 2.0
"""An operator within twice the cost of a launch is bound by launches, whatever it computes."""


@dataclass(frozen=True)
class Item:
    """One kind of operator.

    Attributes:
        name: as the trace shows it. calls: in one evaluation. seconds: own time in all, on the device where there is one.
        share: of all time. gigabytes_per_s, gigaflop_per_s: achieved; None where no cost is declared.
        bound: memory, compute, latency or unknown. headroom: share of its time that the machine would not need.
        priority: share x headroom.
    """

    name: str
    calls: int
    seconds: float
    share: float
    gigabytes_per_s: float | None
    gigaflop_per_s: float | None
    bound: str
    headroom: float | None
    priority: float | None


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
    items: list[Item]

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
    events = _within(traced(made), "predict")
    kernels = [event for event in events if is_kernel(event)]
    busy, idle, gaps = _occupation(kernels)
    element = 2 if half else torch.finfo(engine.dtype).bits // 8
    sizes = Evaluation(system.num_systems, system.num_atoms, edges, element)
    work = FAMILIES[engine.model.family].work(engine.model.config, engine.backend, sizes)
    costs = dict(work.kernels)
    if kernels:
        costs |= search_costs(systems[0], engine.cutoff, edges)
    items = _items(events, engine, ceilings, costs)
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
        kernels=_by_name(kernels if kernels else [event for event in events if event.name.startswith("aten::")]),
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


def ncu_command(profile: Profile, arguments: list[str]) -> str | None:
    """The command line that puts Nsight Compute on the heaviest kernels, where `ncu` is installed.

    Args:
        arguments: of `atomjet`, as they were given.
    """
    if not shutil.which("ncu") or profile.provenance["device_type"] != "cuda" or not profile.kernels:
        return None
    import re
    import shlex

    names = "|".join(re.escape(name[:60]) for name, _, _ in profile.kernels[:5])
    return (
        f"ncu --set full --nvtx --nvtx-include predict/ --kernel-name-base demangled --kernel-name {shlex.quote('regex:' + names)} "
        f"--launch-count 10 -o atomjet python -m atomjet {shlex.join(arguments)}"
    )


def table(profile: Profile) -> str:
    """The report."""
    c = profile.ceilings
    unit = "kernels" if profile.provenance["device_type"] == "cuda" else "operators"
    lines = [
        profile.what,
        f"ceilings measured here: copy {c.copy / 1e9:.1f} GB/s, products {c.products / 1e9:.0f} GFLOP/s, "
        f"arithmetic {c.arithmetic / 1e9:.0f} GFLOP/s, "
        f"one launch {1e6 * c.launch:.2f} µs",
        f"one evaluation {1e3 * profile.wall:.3f} ms: search {1e3 * profile.stages['search']:.3f}, model "
        f"{1e3 * profile.stages['model']:.3f}, the rest "
        f"{1e3 * max(0.0, profile.wall - sum(profile.stages.values())):.3f}; {profile.launches} {unit}",
    ]
    if profile.work is not None:
        lines.append(
            f"the model's declared work, {profile.work.flops / 1e9:.3f} GFLOP and {profile.work.bytes / 1e9:.3f} GB, would take "
            f"{1e3 * profile.work.flops / c.products:.3f} and {1e3 * profile.work.bytes / c.copy:.3f} ms at these ceilings"
        )
    lines += [
        f"traced: host {1e3 * profile.host:.3f} ms in operators",
    ]
    if profile.device:
        gaps = ", ".join(f"{1e6 * gap:.0f}" for gap in profile.gaps)
        lines[-1] += (
            f", kernels {1e3 * profile.device:.3f} ms, idle between them {1e3 * profile.idle:.3f} ms (longest gaps {gaps} µs)"
        )
    lines += ["", f"heaviest {unit}:"]
    lines += [f"  {1e3 * seconds:9.3f} ms {calls:5d} x  {name[:90]}" for name, calls, seconds in profile.kernels]
    lines += ["", "what is worth doing first (share of time x headroom against the ceilings):"]
    heads = (
        f"{'calls':>5} {'ms':>9} {'share':>6} {'GB/s':>8} {'GFLOP/s':>8} {'bound':>8} {'headroom':>8} {'priority':>8}"
    )
    lines += [f"  {'operator':32} {heads}"]
    for item in profile.items[:20]:
        rates = [
            f"{value:8.1f}" if value is not None else "       -"
            for value in (item.gigabytes_per_s, item.gigaflop_per_s)
        ]
        worth = [f"{value:8.1%}" if value is not None else "       -" for value in (item.headroom, item.priority)]
        lines.append(
            f"  {item.name[:32]:32} {item.calls:5d} {1e3 * item.seconds:9.3f} {item.share:6.1%} {rates[0]} {rates[1]} "
            f"{item.bound:>8} {worth[0]} {worth[1]}"
        )
    return "\n".join(lines)


def _median(call: Any, device: torch.device) -> float:
    times = []
    for turn in range(10):
        synchronize(device)
        started = time.perf_counter()
        call(turn)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _within(events: list[Any], name: str) -> list[Any]:
    """Events of the shortest range of that name; the ranges end synchronised, so that their kernels lie inside."""
    ranges = [event.time_range for event in events if event.name == name and not is_kernel(event)]
    span = min(ranges, key=lambda one: one.end - one.start)
    return [event for event in events if span.start <= event.time_range.start < span.end and event.name != name]


def _occupation(kernels: list[Any]) -> tuple[float, float, list[float]]:
    """Seconds with a kernel running, seconds without between first and last, longest gaps."""
    if not kernels:
        return 0.0, 0.0, []
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    busy, gaps, end = 0.0, [], spans[0][0]
    for start, stop in spans:
        if start > end:
            gaps.append((start - end) * 1e-6)
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy * 1e-6, sum(gaps), sorted(gaps, reverse=True)[:5]


def _by_name(events: list[Any]) -> list[tuple[str, int, float]]:
    """The heaviest by their own time."""
    sums: dict[str, list[float]] = {}
    for event in events:
        own = event.time_range.elapsed_us() if is_kernel(event) else event.self_cpu_time_total
        sums.setdefault(event.name, []).append(own * 1e-6)
    ranked = sorted(sums.items(), key=lambda entry: -sum(entry[1]))[:HEAVIEST]
    return [(name, len(times), float(sum(times))) for name, times in ranked]


def search_costs(system: System, cutoff: float, edges: int) -> dict[str, Cost]:
    """Cost of each kernel of a search that finds so many edges, by name, in buffers of the size that an engine makes: the size
    decides which kernels run. Empty where the search runs out of room.
    """
    from atomjet.bench.search_cost import search_costs  # needs Triton, as the kernels do
    from atomjet.neighbors.buffered_search import BufferedSearch

    capacity = choose(system.num_systems, system.num_atoms, int(system.counts().max()), edges)
    finder, padded = BufferedSearch(capacity, cutoff, system.device), SystemBuffers.empty(capacity, system.device)
    padded.fill(system)
    finder.launch(padded)
    return {} if int(finder.graph.status) else search_costs(finder)


def _items(events: list[Any], engine: Engine, ceilings: Ceilings, costs: dict[str, Cost]) -> list[Item]:
    """Operators with their own time and, where declared, cost; most worthwhile first."""
    gpu, element = engine.device.type == "cuda", torch.finfo(engine.dtype).bits // 8
    groups: dict[str, list[tuple[float, Any]]] = {}
    for event in events:
        if "::" not in event.name or is_kernel(event):
            continue
        own = (event.self_device_time_total if gpu else event.self_cpu_time_total) * 1e-6
        if own > 0:
            groups.setdefault(event.name, []).append((own, declared(event.name, event.input_shapes or [], element)))
    attributed = sum(own for group in groups.values() for own, _ in group)
    kernels = [event for event in events if is_kernel(event)]
    busy = sum(event.time_range.elapsed_us() for event in kernels) * 1e-6
    if busy > 1.1 * attributed:
        # Kernels of a CUDA graph, or launched past PyTorch's operators: known by their own names only.
        groups = {}
        for event in kernels:
            groups.setdefault(event.name, []).append((event.time_range.elapsed_us() * 1e-6, None))
        for name, group in groups.items():
            cost, calls = cost_of(name, costs), len(group)
            if cost is not None:
                each = cost._replace(bytes=cost.bytes / calls, flops=cost.flops / calls)
                groups[name] = [(own, each) for own, _ in group]
    total = max(busy if kernels else attributed, 1e-12)
    items = [_item(name, group, total, ceilings) for name, group in groups.items()]
    return sorted(items, key=lambda item: (-(item.priority or 0.0), -item.seconds))


def _item(name: str, group: list[tuple[float, Any]], total: float, ceilings: Ceilings) -> Item:
    seconds = sum(own for own, _ in group)
    short = name.removeprefix("aten::")
    latency = ceilings.launch * len(group)
    if not all(cost for _, cost in group):
        # Nothing is known of its work, but little more than a launch is little work.
        bound = "latency" if seconds < TWICE * latency else "unknown"
        return Item(short, len(group), seconds, seconds / total, None, None, bound, None, None)
    moved_bytes, flops = sum(cost.bytes for _, cost in group), sum(cost.flops for _, cost in group)
    rate = ceilings.arithmetic if group[0][1].by == "arithmetic" else ceilings.products
    needed = {"memory": moved_bytes / ceilings.copy, "compute": flops / rate}
    bound, floor = max(needed.items(), key=lambda entry: entry[1])
    if latency > floor or seconds < TWICE * latency:
        bound = "latency"
    # Fused with its neighbours an operator costs no launch of its own: only bytes and products are inevitable.
    headroom = max(0.0, 1 - floor / seconds)
    share = seconds / total
    rates = moved_bytes / seconds / 1e9, flops / seconds / 1e9
    return Item(short, len(group), seconds, share, *rates, bound, headroom, share * headroom)
