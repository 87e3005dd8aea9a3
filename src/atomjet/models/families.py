"""The model families: what a model file or an engine needs to know of each, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from atomjet.errors import BackendError
from atomjet.models.base import Evaluator, General, Model
from atomjet.models.escn_md import EscnMd, EscnMdConfig
from atomjet.models.escn_md.fast_pytorch import FastPyTorch as EscnMdFastPyTorch
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.painn.fast_pytorch import FastPyTorch as PaiNNFastPyTorch


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model: built from its configuration.
        config: its schema.
        backends: how to evaluate a model at a precision, by name, the fastest first; "fast_gpu" is a `PaddedEvaluator`. One that
            cannot serve a model raises `BackendError`.
    """

    model: Callable[[Any], Model]
    config: type[BaseModel]
    backends: Mapping[str, Callable[[Any, str], Evaluator]]


def _painn_fast_gpu(model: PaiNN, precision: str) -> Evaluator:
    """Import the kernels only where they are wanted.

    Raises:
        BackendError: triton is missing, or see `FastGpu`.
    """
    if importlib.util.find_spec("triton") is None:
        raise BackendError("backend 'fast_gpu' needs triton; pip install 'atomjet[gpu]', or use 'fast_pytorch'")
    from atomjet.models.painn.fast_gpu import FastGpu

    return FastGpu(model, precision)


FAMILIES: dict[str, Family] = {
    "painn": Family(
        PaiNN, PaiNNConfig, {"fast_gpu": _painn_fast_gpu, "fast_pytorch": PaiNNFastPyTorch, "general": General}
    ),
    "escn_md": Family(EscnMd, EscnMdConfig, {"fast_pytorch": EscnMdFastPyTorch, "general": General}),
}
