"""One call under torch.profiler."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from atomjet.bench.measure import synchronize


def trace(call: Callable[[], Any], device: torch.device, **options: Any) -> profile:
    """Profile one call, on the device too where there is one."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    synchronize(device)
    with _quiet(), profile(activities=activities, acc_events=True, **options) as made:
        call()
        synchronize(device)
    return made


def launches(made: profile, device: torch.device) -> int:
    """Kernels on a GPU, outermost operators on a CPU."""
    if device.type == "cuda":
        return sum(is_kernel(event) for event in made.events())
    return sum(is_outermost(event) for event in made.events())


def peak_bytes(made: profile) -> int:
    """Most bytes that a call traced with profile_memory=True held at once on the CPU, beyond what was there."""
    held = peak = 0
    for event in made.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def is_kernel(event: Any) -> bool:
    """Whether an event ran on the GPU and is not a copy or a filling of memory."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))


def is_outermost(event: Any) -> bool:
    """Whether an event is an operator that no other operator called."""
    parent = event.cpu_parent
    return event.name.startswith("aten::") and not (parent is not None and parent.name.startswith("aten::"))


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's native code writes lines of its own to standard error."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
