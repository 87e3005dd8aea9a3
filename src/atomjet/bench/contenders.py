"""What competes in a benchmark, by name: our backends and settings, and outside peers through their adapters."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from atomjet.bench.contender import Contender, EngineContender, Unavailable
from atomjet.bench.suites import Suite
from atomjet.engine import Engine
from atomjet.engine.settings import Precision
from atomjet.errors import AtomJetError, ConfigError
from atomjet.models.families import backend_names

OURS = (*backend_names(), "auto")
PEERS = (
    "torch_compile",
    "compile_graph",
    "schnetpack",
    "fairchem",
    "fairchem_compiled",
    "fairchem_fast_gpu",
    "fairchem_nitro",
)
OPTIMISATIONS = ("definition", "analytic_forces", "device_search", "fused_kernels", "cuda_graph", "streams", "tuned")
"""Our optimisations, each with all before it; `bench/optimisations.py` says what each adds."""


def build(name: str, engine: Engine) -> Contender:
    """Make a contender: NAME or NAME@PRECISION; `engine` gives weights, device and default precision.

    Raises:
        Unavailable: not installed, or it does not serve this model, device or precision.
        ConfigError: no such name.
    """
    base, _, precision = name.partition("@")
    if base in OURS:
        try:
            return EngineContender(name, engine.with_settings(backend=base, precision=precision or engine.precision))
        except AtomJetError as error:
            if isinstance(error, ConfigError):
                raise
            raise Unavailable(str(error)) from None
    if base in PEERS and not precision:
        if base.startswith("fairchem"):
            return import_module("atomjet.bench.peers.fairchem").build(base, engine)
        return import_module(f"atomjet.bench.peers.{base}").build(engine)
    if base in OPTIMISATIONS and not precision:
        return import_module("atomjet.bench.optimisations").build(base, engine)
    raise _unknown(name)


def chosen(suite: Suite, names: str, baseline: str = "general") -> list[str]:
    """Names separated by commas that a suite knows, one by one; see `expand`.

    Raises:
        ConfigError: it does not know one of them.
    """
    made = names.split(",") if suite.names else expand(names, baseline)
    for name in made:
        if not suite.names:
            _check_name(name)
        elif name not in suite.names:
            raise ConfigError(f"contender {name!r} {suite.refusal}; give some of {', '.join(suite.names)}")
    return made


def _check_name(name: str) -> None:
    base, at, precision = name.partition("@")
    if base not in OURS + PEERS + OPTIMISATIONS or (at and (base not in OURS or precision not in get_args(Precision))):
        raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"contender {name!r} is not known; give some of {', '.join(OURS + PEERS + OPTIMISATIONS)} (the first {len(OURS)} also as "
        "NAME@high or NAME@float64), optimisations or peers"
    )


def expand(names: str, baseline: str = "general") -> list[str]:
    """Names separated by commas, `optimisations` and `peers` written out; the baseline first, unless optimisations are."""
    groups = {"optimisations": OPTIMISATIONS, "ladder": OPTIMISATIONS, "peers": PEERS}  # `ladder` is the older name
    wanted: list[str] = []
    for name in names.split(","):
        wanted.extend(groups.get(name.strip(), (name.strip(),)))
    start = [] if wanted[0] == OPTIMISATIONS[0] else [baseline]
    return list(dict.fromkeys(name for name in start + wanted if name))
