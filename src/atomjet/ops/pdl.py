"""Programmatic dependent launch: a kernel starts while the one before it still runs, prepares, and waits only then."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def has_pdl(device: torch.device) -> bool:
    """Whether a device does that: Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def pdl_wait(PDL: tl.constexpr):
    """Wait until all that the kernels before have written can be read; from here on the next one may start, and prepare, too.

    Every program calls it before it ends and before it reads or writes what another kernel knows: whoever waits for this kernel
    then waits for all before it.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
