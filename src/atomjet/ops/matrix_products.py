"""How exactly PyTorch multiplies matrices of float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Float32 matrix products with PyTorch's "highest" (full) or "high" (TF32 on GPUs) precision, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
