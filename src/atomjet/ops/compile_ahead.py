"""Compile the kernels of a piece of work side by side: one after the other, dozens of them take half a minute."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

_noting = threading.Lock()
"""One at a time: Triton has one hook in a process."""


def compile_ahead(work: Callable[[], object], device: torch.device) -> None:
    """Compile every Triton kernel that `work` launches and that is not compiled yet; several at a time, since compilers let go of
    the interpreter's lock.

    The work is done once to see what it launches. Kernels that are new are left out of it, others run: it must be such that they
    may in any order, as over buffers of zeros, which say that there is nothing to do.
    """
    if device.type != "cuda":
        return
    from triton import knobs

    wanted: dict[tuple[int, str], tuple[Any, str]] = {}
    me, before = threading.get_ident(), knobs.runtime.jit_cache_hook

    def note(*, key: str, fn: Any, compile: Any, **others: Any) -> bool | None:
        if threading.get_ident() != me:
            return before(key=key, fn=fn, compile=compile, **others) if before else None
        wanted[id(fn.jit_function), key] = fn.jit_function, compile["specialization_data"]
        return True  # neither compiled nor launched

    with _noting:
        knobs.runtime.jit_cache_hook = note
        try:
            with suppress(
                TypeError
            ):  # a kernel that Triton cannot describe: it and those behind it are compiled when launched
                work()
        finally:
            knobs.runtime.jit_cache_hook = before
    if not wanted:
        return

    def make(one: tuple[Any, str]) -> None:
        if device.index is not None:
            torch.cuda.set_device(device)
        kernel, specialization = one
        with suppress(Exception):  # what fails here fails again, in its own words, when it is launched
            kernel.preload(specialization)

    with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
        list(pool.map(make, wanted.values()))
