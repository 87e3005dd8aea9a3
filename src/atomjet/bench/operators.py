"""Operators and kernels in the trace of an evaluation: how long each took, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from atomjet.bench.ceilings import Ceilings
from atomjet.bench.cost import cost_of, declared
from atomjet.bench.trace import is_kernel
from atomjet.engine import Engine
from atomjet.models.cost import Cost

HEAVIEST = 10
"""Kernels that are listed by name."""


TWICE = 2.0
"""Times the cost of a launch, up to which an operator is bound by its launch, whatever it computes."""


@dataclass(frozen=True)
class Operator:
    """An operator or kernel, all its calls in one evaluation together.

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


def within(events: list[Any], name: str) -> list[Any]:
    """Events of the shortest range of that name; the ranges end synchronised, so that their kernels lie inside."""
    ranges = [event.time_range for event in events if event.name == name and not is_kernel(event)]
    span = min(ranges, key=lambda one: one.end - one.start)
    return [event for event in events if span.start <= event.time_range.start < span.end and event.name != name]


def occupation(kernels: list[Any]) -> tuple[float, float, list[float]]:
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


def heaviest(events: list[Any]) -> list[tuple[str, int, float]]:
    """The heaviest by their own time."""
    sums: dict[str, list[float]] = {}
    for event in events:
        own = event.time_range.elapsed_us() if is_kernel(event) else event.self_cpu_time_total
        sums.setdefault(event.name, []).append(own * 1e-6)
    ranked = sorted(sums.items(), key=lambda entry: -sum(entry[1]))[:HEAVIEST]
    return [(name, len(times), float(sum(times))) for name, times in ranked]


def operators_of(events: list[Any], engine: Engine, ceilings: Ceilings, costs: dict[str, Cost]) -> list[Operator]:
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
    items = [_operator(name, group, total, ceilings) for name, group in groups.items()]
    return sorted(items, key=lambda item: (-(item.priority or 0.0), -item.seconds))


def _operator(name: str, group: list[tuple[float, Any]], total: float, ceilings: Ceilings) -> Operator:
    seconds = sum(own for own, _ in group)
    short = name.removeprefix("aten::")
    latency = ceilings.launch * len(group)
    if not all(cost for _, cost in group):
        # Nothing is known of its work, but little more than a launch is little work.
        bound = "latency" if seconds < TWICE * latency else "unknown"
        return Operator(short, len(group), seconds, seconds / total, None, None, bound, None, None)
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
    return Operator(short, len(group), seconds, share, *rates, bound, headroom, share * headroom)
