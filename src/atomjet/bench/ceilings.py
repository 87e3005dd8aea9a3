"""What the machine at hand allows, measured on the spot: copy, products, launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from atomjet.bench.measure import synchronize


@dataclass(frozen=True)
class Ceilings:
    """Rates nothing exceeds.

    Attributes:
        copy: bytes/s read and written by a copy of tensors far larger than any cache.
        products: FLOP/s of a large matrix product in the engine's type, as the engine's precision lets it run.
        arithmetic: FLOP/s of a large matrix product in float32 without tensor cores: what plain arithmetic can reach.
        launch: seconds from call to call of a tiny operation: the least that one more of them costs.
    """

    copy: float
    products: float
    arithmetic: float
    launch: float


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Best of several repeats each; about a second."""
    big = device.type == "cuda"
    copy = _copy_rate(2**28 if big else 2**24, device)
    products = _product_rate(dtype, device)
    arithmetic = products if dtype == torch.float32 else _product_rate(torch.float32, device)
    tiny = torch.zeros(8, device=device)

    def many() -> None:
        for _ in range(200):
            tiny.add_(1.0)

    return Ceilings(copy, products, arithmetic, _best(many, device, 10) / 200)


def _product_rate(dtype: torch.dtype, device: torch.device) -> float:
    width = 768 if device.type == "cpu" else 4096 if dtype == torch.float64 else 8192
    a = torch.randn(width, width, device=device, dtype=dtype)
    b = torch.randn(width, width, device=device, dtype=dtype)
    return 2 * width**3 / _best(lambda: a @ b, device, 5)


def _copy_rate(numbers: int, device: torch.device) -> float:
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * numbers / _best(lambda: target.copy_(source), device, 10)


def _best(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
