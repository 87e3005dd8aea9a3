"""Programmatic dependent launch: a kernel starts while the one before it still runs, prepares, and waits only then."""

from __future__ import annotations

import torch


def can_chain(device: torch.device) -> bool:
    """Whether a device does that: Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
