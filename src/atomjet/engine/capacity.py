"""Whether a graph fits into memory: known before it is computed, not found out by running out of it."""

from __future__ import annotations

from pathlib import Path

import torch

SHARE = 0.9
"""Of the free memory, how much a call may take."""


def free_bytes(device: torch.device) -> int | None:
    """Memory that a call could take on this device; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch holds but does not use is free for PyTorch.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def fits(needed: int, free: int | None) -> bool:
    """Whether a call that needs so many bytes may start."""
    return free is None or needed <= SHARE * free
