"""What competes in a benchmark, by name: our backends and settings, and outside peers through their adapters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, get_args

import torch

from atomjet.bench.captured_steps import OwnStep
from atomjet.bench.suites import Suite
from atomjet.data import Prediction, System
from atomjet.engine import Engine, Settings
from atomjet.engine.settings import Precision
from atomjet.errors import AtomJetError, ConfigError

OURS = ("general", "fast_pytorch", "fast_gpu", "auto")
PEERS = ("torch_compile", "compile_graph", "schnetpack", "fairchem", "fairchem_compiled", "fairchem_fast_gpu")
LADDER = ("definition", "analytic_forces", "device_search", "fused_kernels", "cuda_graph", "streams", "tuned")
"""Our optimisations, each with all before it; `bench/steps.py` says what each adds."""

ENGINE_CALL = (
    "checks of the structure, neighbour search, energy, forces, stress, synchronisation; positions are on the device"
)
GRAPH_CALL = (
    "energy and forces, synchronisation; neighbour search for the new positions done before, outside the timing"
)


class Unavailable(Exception):
    """A contender that cannot take part, and why."""


class Contender(Protocol):
    """Something that predicts; `includes` says what one call does."""

    name: str
    includes: str

    def prepare(self, system: System) -> Any:
        """What is done before the timing."""
        ...

    def call(self, prepared: Any) -> Prediction:
        """What is timed."""
        ...


class EngineContender:
    """One of our backends, from positions on the device to forces on the device."""

    includes = ENGINE_CALL

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.engine = name, engine

    def prepare(self, system: System) -> Any:
        """Nothing but taking the positions out: they are put in again inside the timing, checks and all."""
        return system, system.positions

    def call(self, prepared: Any) -> Prediction:
        """Predict for new positions."""
        system, positions = prepared
        return self.engine.predict(system.with_positions(positions))

    def step(self, systems: Sequence[System]) -> OwnStep:
        """What `call` does, in buffers of its own that one call after the other may use without the host.

        Raises:
            Unavailable: a backend that does not work in such buffers.
        """
        if self.engine.stages is None:
            raise Unavailable(f"backend {self.engine.backend} does not work in fixed buffers")
        return OwnStep(self.engine, systems)


def build(name: str, engine: Engine) -> Contender:
    """Make a contender: NAME or NAME@PRECISION; `engine` gives weights, device and default precision.

    Raises:
        Unavailable: not installed, or it does not serve this model, device or precision.
        ConfigError: no such name.
    """
    kind, _, precision = name.partition("@")
    if kind in OURS:
        try:
            settings = Settings(engine.device, kind, precision or engine.precision)  # type: ignore[arg-type]
            return EngineContender(name, Engine(engine.model, settings, engine.card, engine.task))
        except AtomJetError as error:
            if isinstance(error, ConfigError):
                raise
            raise Unavailable(str(error)) from None
    if kind in PEERS and not precision:
        if kind.startswith("fairchem"):
            return import_module("atomjet.bench.peers.fairchem").build(kind, engine)
        return import_module(f"atomjet.bench.peers.{kind}").build(engine)
    if kind in LADDER and not precision:
        return import_module("atomjet.bench.steps").build(kind, engine)
    raise _unknown(name)


def chosen(suite: Suite, names: str) -> list[str]:
    """Names separated by commas that a suite knows, one by one.

    Raises:
        ConfigError: it does not know one of them.
    """
    made = names.split(",") if suite.names else expand(names)
    for name in made:
        if not suite.names:
            _check_name(name)
        elif name not in suite.names:
            raise ConfigError(f"setting {name!r} {suite.refusal}; give some of {', '.join(suite.names)}")
    return made


def _check_name(name: str) -> None:
    kind, at, precision = name.partition("@")
    if kind not in OURS + PEERS + LADDER or (at and (kind not in OURS or precision not in get_args(Precision))):
        raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"setting {name!r} is not known; give some of {', '.join(OURS + PEERS + LADDER)} (the first four also as NAME@high or "
        "NAME@float64), ladder or peers"
    )


def expand(names: str) -> list[str]:
    """Names separated by commas, `ladder` and `peers` written out; the definition first, as everything's baseline."""
    groups = {"ladder": LADDER, "peers": PEERS}
    wanted: list[str] = []
    for name in names.split(","):
        wanted.extend(groups.get(name.strip(), (name.strip(),)))
    start = [] if wanted[0] == LADDER[0] else ["general"]
    return list(dict.fromkeys(name for name in start + wanted if name))


def reference(engine: Engine) -> Engine:
    """The definition in float64 with the same weights."""
    return Engine(engine.model, Settings(engine.device, "general", "float64"), engine.card, engine.task)


def predicted(system: System, energies: torch.Tensor, forces: torch.Tensor, model: Any) -> Prediction:
    """What a peer that gives atomic energies and forces says, in our terms; no stress."""
    atomic = energies.double() + model.reference_energies[system.atomic_numbers]
    energy = torch.zeros(system.num_systems, dtype=torch.float64, device=system.device)
    energy.index_add_(0, system.system_index, atomic)
    stress = torch.full((system.num_systems, 3, 3), torch.nan, device=system.device)
    return Prediction(energy, forces, stress, atomic, system.system_index)


def network(engine: Engine) -> Any:
    """A copy of the model for a peer to change as it likes."""
    return copy.deepcopy(engine.model)
