"""`skeleton`: a model that has shapes but no weights yet; what is made on the device "meta" without importing half of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

TABLES = (torch.arange, torch.linspace)


class ShapesOnly(TorchFunctionMode):
    """Draws no weights, and computes small tables on the CPU.

    On the device "meta" both go through Python definitions whose first use imports PyTorch's compiler and sympy, more than all else
    that loading a small model takes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in TABLES:
            kwargs = kwargs | {"device": "cpu"}
        return func(*args, **kwargs)


def skeleton(make: Callable[[], T]) -> T:
    """What `make` returns, with parameters and buffers that take no memory; give it tensors with `load_state_dict(assign=True)`."""
    with torch.device("meta"), ShapesOnly():
        return make()
