"""Mixtures of linear experts: which blend of them each system uses, made once and kept.

A `MixedLinear` holds K weight matrices W_k and one bias. A system with composition, charge, spin and task uses

    W = Σ_k α_k W_k,    α = softmax(routing network) + 0.005    (K of them, the same in all layers)

so all atoms and edges of a system share ordinary linear maps; a dense model has one map for all systems, taken as it is. Systems
with the same proportions of elements, charge, spin and task share the blend; a batch of unlike systems is a row of runs, each with
its own. Nothing has to be declared: what a system is made of is looked at in every call.
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
"""Blends are kept up to this size (UMA-S in float32: 21 MB each)."""


class MixedLinear(nn.Module):
    """K linear maps (out, in) to be blended, and one bias."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(experts, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None


class Kind(NamedTuple):
    """What decides a blend."""

    composition: tuple[tuple[int, int], ...]  # (atomic number, how many), in lowest terms where only proportions matter
    charge: int
    spin: int
    task: str


@dataclass(frozen=True)
class Blend:
    """The linear maps of one kind of system, and its embedding."""

    embedding: Tensor  # (C,) of charge, spin and task
    weights: dict[int, Tensor]  # (out, in) by the number of the MixedLinear


class Run(NamedTuple):
    """Consecutive systems of one kind; their atoms and edges are consecutive too."""

    kind: Kind
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

    def __init__(self, prepare: Callable[[Blend], Any] = lambda blend: blend) -> None:
        """`prepare` turns a new blend into what shall be kept of it."""
        self._prepare = prepare
        self._kept: OrderedDict[Kind, Any] = OrderedDict()
        self._lock = Lock()

    def __deepcopy__(self, memo: dict[int, object]) -> Blends:
        return Blends(self._prepare)

    def clear(self) -> None:
        """Forget all: the weights have moved or changed type."""
        with self._lock:
            self._kept.clear()

    def capacity(self, model: Mixture) -> int:
        """How many are kept; a call should not need more at once."""
        return max(1, CACHE_BYTES // self.bytes_of_one(model))

    def bytes_of_one(self, model: Mixture) -> int:
        """Memory of one blend."""
        return sum(layer.weights[0].numel() * layer.weights.element_size() for layer in model.mixed_linears)

    def of(self, model: Mixture, kind: Kind) -> Any:
        """The blend of one kind of system, or what was prepared from it; made if it is new."""
        with self._lock:
            if kind not in self._kept:
                while len(self._kept) >= self.capacity(model):
                    self._kept.popitem(last=False)
                self._kept[kind] = self._prepare(_made(model, kind))
            self._kept.move_to_end(kind)
            return self._kept[kind]


def rows_of_systems(graph: Graph) -> Tensor:
    """(S + 1,) where the owned atoms of each system begin."""
    systems = torch.arange(graph.num_systems + 1, device=graph.system_index.device)
    return torch.searchsorted(graph.system_index[: graph.num_owned], systems)


def runs(model: Mixture, graph: Graph) -> list[Run]:
    """Cut a batch into runs of systems of one kind. Looks at the host copy of what the systems are made of."""
    kinds = kinds_of(model, graph)
    atom_ptr = rows_of_systems(graph)
    # Every look at the device waits for it: one for all numbers of a kind.
    atom_stops, edge_stops = torch.stack([atom_ptr, graph.row_ptr[atom_ptr]]).tolist()
    found, first = [], 0
    for system in range(1, len(kinds) + 1):
        if system == len(kinds) or kinds[system] != kinds[first]:
            spans = (slice(stops[first], stops[system]) for stops in (atom_stops, edge_stops))
            found.append(Run(kinds[first], slice(first, system), *spans))
            first = system
    return found


def kinds_of(model: Mixture, graph: Graph | System) -> list[Kind]:
    """What decides the blend of each system. Waits for the device."""
    size = model.config.max_z
    owned, halo = (graph.num_owned, graph.halo) if isinstance(graph, Graph) else (graph.num_atoms, None)
    place = (graph.system_index * size + graph.atomic_numbers)[:owned]
    # Not bincount, which waits for the device to learn how long its result is.
    flat = place.new_zeros(graph.num_systems * size).scatter_add_(0, place, torch.ones_like(place))
    if halo is not None:
        halo.sum(flat)
    told = torch.cat([flat.reshape(-1, size), graph.charge[:, None], graph.spin[:, None]], dim=1).tolist()
    kinds = []
    for (*counts, charge, spin), task in zip(told, graph.task, strict=True):
        present = [number for number, count in enumerate(counts) if count]
        numbers = [counts[number] for number in present]
        if model.config.composition == "none":  # dense models too
            present, numbers = [], []
        elif model.config.composition == "mean":
            common = gcd(*numbers)
            numbers = [number // common for number in numbers]
        kinds.append(Kind(tuple(zip(present, numbers, strict=True)), charge, spin, task))
    return kinds


@torch.no_grad()
def _made(model: Mixture, kind: Kind) -> Blend:
    """In float64 up to the coefficients: they are few, and decide everything."""
    embedding = model.system_embedding(kind.charge, kind.spin, kind.task)
    layers = model.mixed_linears
    if not model.config.experts:
        whole = {number: layer.weights[0] for number, layer in enumerate(layers)}
        return Blend(embedding.to(layers[0].weights.dtype), whole)
    alpha = model.expert_coefficients(kind.composition, embedding).to(layers[0].weights.dtype)
    weights = {number: torch.tensordot(alpha, layer.weights, dims=1) for number, layer in enumerate(layers)}
    return Blend(embedding.to(layers[0].weights.dtype), weights)
