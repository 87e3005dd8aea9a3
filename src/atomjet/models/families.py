"""The model families: what a model file or an engine needs to know of each, by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel

from atomjet.errors import BackendError
from atomjet.models.base import General
from atomjet.models.contract import Backend, Model
from atomjet.models.cost import UNDECLARED, Evaluation, Work
from atomjet.models.ensemble import Ensemble, EnsembleConfig, ensemble_backend
from atomjet.models.escn_md import EscnMd, EscnMdConfig
from atomjet.models.escn_md.cost import work as escn_md_work
from atomjet.models.escn_md.fast_pytorch import FastPyTorch as EscnMdFastPyTorch
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.painn.cost import work as painn_work
from atomjet.models.painn.fast_pytorch import FastPyTorch as PaiNNFastPyTorch


@dataclass(frozen=True)
class BackendChoice:
    """How to evaluate a model of a family.

    Attributes:
        make: from a model and a precision; raises `BackendError` where it cannot serve.
        devices: types of device on which "auto" may choose it.
    """

    make: Callable[[Any, str], Backend]
    devices: tuple[str, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model: built from its configuration.
        config: its schema.
        backends: by name, the fastest first.
        work: what an evaluation must do at least, from configuration, name of the backend and sizes.
    """

    model: Callable[[Any], Model]
    config: type[BaseModel]
    backends: Mapping[str, BackendChoice]
    work: Callable[[Any, str, Evaluation], Work] = lambda config, backend, sizes: UNDECLARED


def _fast_gpu(family: str) -> Callable[[Any, str], Backend]:
    """The `fast_gpu` backend of a family, imported only where it is wanted: it needs Triton."""

    def make(model: Any, precision: str) -> Backend:
        if importlib.util.find_spec("triton") is None:
            raise BackendError("backend 'fast_gpu' needs triton; pip install 'atomjet[gpu]', or use 'fast_pytorch'")
        return importlib.import_module(f"atomjet.models.{family}.fast_gpu").FastGpu(model, precision)

    return make


GENERAL = BackendChoice(General)

FAMILIES: dict[str, Family] = {
    "painn": Family(
        PaiNN,
        PaiNNConfig,
        {
            "fast_gpu": BackendChoice(_fast_gpu("painn"), ("cuda",)),
            "fast_pytorch": BackendChoice(PaiNNFastPyTorch),
            "general": GENERAL,
        },
        painn_work,
    ),
    "escn_md": Family(
        EscnMd,
        EscnMdConfig,
        {
            "fast_gpu": BackendChoice(_fast_gpu("escn_md"), ("cuda",)),
            "fast_pytorch": BackendChoice(EscnMdFastPyTorch),
            "general": GENERAL,
        },
        escn_md_work,
    ),
}


def _ensemble(config: EnsembleConfig) -> Ensemble:
    """An ensemble whose members have no weights yet."""
    by_config = {family.config: family.model for family in FAMILIES.values()}
    return Ensemble([by_config[type(member)](member) for member in config.members])


def _by_members(name: str) -> Callable[[Ensemble, str], Backend]:
    """How to evaluate every member on the backend of this name."""

    def make(model: Ensemble, precision: str) -> Backend:
        family = model.first.family
        if name not in FAMILIES[family].backends:
            raise BackendError(
                f"backend {name!r} does not serve {family}; use one of {', '.join(FAMILIES[family].backends)}"
            )
        return ensemble_backend(
            family, [FAMILIES[family].backends[name].make(member, precision) for member in model.members]
        )

    return make


def backend_names() -> tuple[str, ...]:
    """Names of all families' backends; the definition, which every family has, first."""
    known = [name for family in FAMILIES.values() for name in reversed(list(family.backends))]
    return tuple(dict.fromkeys(known))


_ANY = {name: choice.devices for family in FAMILIES.values() for name, choice in family.backends.items()}

FAMILIES["ensemble"] = Family(
    _ensemble,
    EnsembleConfig,
    {name: BackendChoice(_by_members(name), devices) for name, devices in _ANY.items()},
)


def choose_backend(model: Model, name: str, device: torch.device, precision: str) -> tuple[str, Backend, str]:
    """The backend that runs: its name, itself, and where "auto" chose, why a faster one does not ("" for none).

    Raises:
        BackendError: the one of this name does not serve the family, or this model.
    """
    backends = FAMILIES[model.family].backends
    if name == "auto":
        reason = ""
        for one, choice in backends.items():
            if device.type not in choice.devices:
                continue
            try:
                return one, choice.make(model, precision), reason
            except BackendError as error:
                reason = reason or str(error)
    if name not in backends:
        raise BackendError(
            f"backend {name!r} does not serve {type(model).__name__} yet; use one of {', '.join(backends)}"
        )
    return name, backends[name].make(model, precision), ""
