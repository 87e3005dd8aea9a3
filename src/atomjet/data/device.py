"""Devices that a user names, checked before anything is sent there."""

from __future__ import annotations

import warnings

import torch

from atomjet.errors import BackendError, ConfigError


def checked_device(wanted: str | torch.device | None) -> torch.device:
    """The device that is meant; None picks CUDA where there is one.

    Raises:
        ConfigError: no name of a device.
        BackendError: a device that is not there, or neither the CPU nor a CUDA device.
    """
    try:
        device = None if wanted is None else torch.device(wanted)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device {wanted!r} is unknown; write cpu, cuda or cuda:N") from None
    if device is not None and device.type == "cpu":
        return device
    if device is not None and device.type != "cuda":
        raise BackendError(f"device {str(device)!r} is not supported; use cpu or cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver is reported below, by its consequence
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda" if count else "cpu")
    if (device.index or 0) >= count:
        raise BackendError(
            f"device {str(device)!r} is not there: {count} CUDA devices found; use cpu, or see `atomjet doctor`"
        )
    return device
