"""Functions of tensors, compiled on a GPU for any number of atoms and edges.

One compilation serves all sizes: the first dimension of every tensor is marked as one that varies, unless its name in the signature
begins with "weight". Where nothing can be compiled (on a CPU; a single atom or edge, for which PyTorch would compile anew) the
function runs as it is written: same values, more passes over memory.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor

OPTIONS = {
    # Computing a value again is cheaper than storing it: a function becomes one kernel, however many terms it has.
    "realize_reads_threshold": 10**6,
    "realize_opcount_threshold": 10**6,
    "realize_acc_reads_threshold": 10**6,
    "max_fusion_size": 512,
    # Indices are those of a graph that was checked when it was made.
    "assert_indirect_indexing": False,
}


def can_compile(device: torch.device) -> bool:
    """Whether functions are compiled on this device: a GPU, Triton beside PyTorch, a C compiler for its launchers."""
    return device.type == "cuda" and _tools()


@cache
def _tools() -> bool:
    return find_spec("triton") is not None and any(which(name) for name in ("cc", "gcc", "clang"))


class Compiled:
    """A function of tensors, compiled when it is first called with tensors on a GPU, and again for other types and shapes.

    That takes seconds each time, so a line on standard error says what is being compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.varying = [not name.startswith("weight") for name in inspect.signature(function).parameters]
        self.made: Callable[..., Any] | None = None
        self.signatures: set[tuple[Any, ...]] = set()

    def __call__(self, *values: Any) -> Any:
        """Call it; positional arguments only."""
        tensors = [x for x, varies in zip(values, self.varying, strict=True) if varies and isinstance(x, Tensor)]
        if not can_compile(tensors[0].device) or min(len(x) for x in tensors) < 2:
            return self.function(*values)
        signature = tuple((x.dtype, x.shape[1:]) for x in tensors)
        if signature not in self.signatures:
            self.signatures.add(signature)
            name = self.function.__name__.strip("_")
            print(
                f"compiling eSCN-MD's {name} for {tensors[0].device}, once for this process",
                file=sys.stderr,
                flush=True,
            )
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 0)
        if self.made is not None:
            return self.made(*values)
        self.made = torch.compile(self.function, fullgraph=True, options=OPTIONS)
        with warnings.catch_warnings():
            # PyTorch's hint on TF32 concerns matrix products; these functions have none.
            warnings.filterwarnings("ignore", message="TensorFloat32")
            return self.made(*values)
