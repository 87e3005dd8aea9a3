"""Mixtures of linear experts: which blend of them each system uses, made once and cached.

A `MixedLinear` holds K weight matrices W_k and one bias. A system with composition, charge, spin and task uses

    W = Σ_k α_k W_k,    α = softmax(routing network) + 0.005    (K of them, the same in all layers)

so all atoms and edges of a system share ordinary linear maps; a dense model has one map for all systems, taken as it is. Systems
with the same proportions of elements, charge, spin and task share the blend; a batch of unlike systems is a row of runs, each with
its own. Nothing has to be declared: every call reads the composition of its systems.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from threading import Lock
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from atomjet.data import Graph, System
from atomjet.models.escn_md.config import EscnMdConfig

CACHE_BYTES = 1024**3
"""Bytes of all cached blends together (UMA-S in float32: 21 MB each)."""


class MixedLinear(nn.Module):
    """K linear maps (out, in) to be blended, and one bias."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(experts, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None


class MixtureKey(NamedTuple):
    """What decides a blend."""

    composition: tuple[tuple[int, int], ...]  # (atomic number, how many), in lowest terms where only proportions matter
    charge: int
    spin: int
    task: str


@dataclass(frozen=True)
class Blend:
    """The linear maps of systems with one key, and their embedding."""

    embedding: Tensor  # (C,) of charge, spin and task
    weights: dict[int, Tensor]  # (out, in) by the number of the MixedLinear


class Run(NamedTuple):
    """Consecutive systems with one key; their atoms and edges are consecutive too."""

    key: MixtureKey
    systems: slice
    atoms: slice
    edges: slice


class Mixture(Protocol):
    """A model whose linear maps are blends of experts, as far as blends are made of it."""

    config: EscnMdConfig

    @property
    def mixed_linears(self) -> list[MixedLinear]:
        """All blended maps, in the order of `Blend.weights`."""
        ...

    def system_embedding(self, charge: int, spin: int, task: str) -> Tensor:
        """(C,) float64 embedding of charge, spin and task."""
        ...

    def expert_coefficients(self, composition: tuple[tuple[int, int], ...], embedding: Tensor) -> Tensor:
        """(K,) float64: how much of each expert a system takes."""
        ...


class Blends:
    """The blends used lately, least recently used first out."""

    def __init__(self, prepare: Callable[[Blend], Any] | None = None) -> None:
        """`prepare` turns a new blend into what is cached of it; None caches the blend."""
        self._prepare = prepare
        self._cached: OrderedDict[MixtureKey, Any] = OrderedDict()
        self._lock = Lock()

    def __deepcopy__(self, memo: dict[int, object]) -> Blends:
        return Blends(self._prepare)

    def __reduce__(self) -> tuple[type[Blends], tuple[Any]]:
        """Without the cache: an engine goes to another process without its blends."""
        return Blends, (self._prepare,)

    def clear(self) -> None:
        """Forget all: the weights have moved or changed type."""
        with self._lock:
            self._cached.clear()

    def capacity(self, model: Mixture) -> int:
        """How many the cache holds; a call should not need more at once."""
        return max(1, CACHE_BYTES // self.bytes_of_one(model))

    def bytes_of_one(self, model: Mixture) -> int:
        """Memory of one blend."""
        return sum(layer.weights[0].numel() * layer.weights.element_size() for layer in model.mixed_linears)

    def of(self, model: Mixture, key: MixtureKey) -> Any:
        """The blend of systems with this key, or what was prepared from it; made if it is new."""
        with self._lock:
            if key not in self._cached:
                while len(self._cached) >= self.capacity(model):
                    self._cached.popitem(last=False)
                blend = _made(model, key)
                self._cached[key] = blend if self._prepare is None else self._prepare(blend)
            self._cached.move_to_end(key)
            return self._cached[key]


def rows_of_systems(graph: Graph) -> Tensor:
    """(S + 1,) where the owned atoms of each system begin."""
    systems = torch.arange(graph.num_systems + 1, device=graph.system_index.device)
    return torch.searchsorted(graph.system_index[: graph.num_owned], systems)


def runs(model: Mixture, graph: Graph) -> list[Run]:
    """Divide a batch into runs of systems with one key. Looks at the host copy of what the systems are made of."""
    keys = mixture_keys(model, graph)
    atom_ptr = rows_of_systems(graph)
    # Every look at the device waits for it: one for all these numbers.
    atom_stops, edge_stops = torch.stack([atom_ptr, graph.row_ptr[atom_ptr]]).tolist()
    found, first = [], 0
    for system in range(1, len(keys) + 1):
        if system == len(keys) or keys[system] != keys[first]:
            spans = (slice(stops[first], stops[system]) for stops in (atom_stops, edge_stops))
            found.append(Run(keys[first], slice(first, system), *spans))
            first = system
    return found


def mixture_keys(model: Mixture, graph: Graph | System) -> list[MixtureKey]:
    """What decides the blend of each system. Waits for the device."""
    size = model.config.max_z
    owned, halo = (graph.num_owned, graph.halo) if isinstance(graph, Graph) else (graph.num_atoms, None)
    place = (graph.system_index * size + graph.atomic_numbers)[:owned]
    # Not bincount, which waits for the device to learn how long its result is.
    flat = place.new_zeros(graph.num_systems * size).scatter_add_(0, place, torch.ones_like(place))
    if halo is not None:
        halo.sum(flat)
    counted = torch.cat([flat.reshape(-1, size), graph.charge[:, None], graph.spin[:, None]], dim=1).tolist()
    keys = []
    for (*counts, charge, spin), task in zip(counted, graph.task, strict=True):
        present = [number for number, count in enumerate(counts) if count]
        numbers = [counts[number] for number in present]
        if model.config.composition == "none":  # dense models too
            present, numbers = [], []
        elif model.config.composition == "mean":
            common = gcd(*numbers)
            numbers = [number // common for number in numbers]
        keys.append(MixtureKey(tuple(zip(present, numbers, strict=True)), charge, spin, task))
    return keys


@torch.no_grad()
def _made(model: Mixture, key: MixtureKey) -> Blend:
    """In float64 up to the coefficients: they are few, and decide everything."""
    embedding = model.system_embedding(key.charge, key.spin, key.task)
    layers = model.mixed_linears
    if not model.config.experts:
        whole = {number: layer.weights[0] for number, layer in enumerate(layers)}
        return Blend(embedding.to(layers[0].weights.dtype), whole)
    alpha = model.expert_coefficients(key.composition, embedding).to(layers[0].weights.dtype)
    weights = {number: torch.tensordot(alpha, layer.weights, dims=1) for number, layer in enumerate(layers)}
    return Blend(embedding.to(layers[0].weights.dtype), weights)
