"""The model families: what a model file or an engine needs to know of each, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

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
        backends: how to evaluate a model at a precision, by name, the fastest first. One that cannot serve a model raises
            `BackendError`.
    """

    model: Callable[[Any], Model]
    config: type[BaseModel]
    backends: Mapping[str, Callable[[Any, str], Evaluator]]


FAMILIES: dict[str, Family] = {
    "painn": Family(PaiNN, PaiNNConfig, {"fast_pytorch": PaiNNFastPyTorch, "general": General}),
    "escn_md": Family(EscnMd, EscnMdConfig, {"fast_pytorch": EscnMdFastPyTorch, "general": General}),
}
