"""Processes made by fork: PyTorch's pool of threads stays in the parent, and a child that waits for it waits for ever."""

from __future__ import annotations

import functools
import os

import torch


@functools.cache
def survive_forks() -> None:
    """See to it, once, that processes forked from now on compute with one thread, which needs no pool."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    torch.set_num_threads(1)
