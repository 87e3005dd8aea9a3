"""An ensemble: the mean of several models of one family, whose disagreement says how uncertain it is.

Energy, forces and stress are means over the M members, so the forces are those of the mean energy, and conserve it. All members see
the edges of one search. How far they are apart is in `Prediction.spread` and `Prediction.energy_spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from atomjet.data import Capacity, ConditionBuffers, Conditions, Graph, GraphBuffers, System
from atomjet.errors import BackendError, ConfigError
from atomjet.models.contract import Atomic, Backend, CapturedBackend, Choices, Model, Segment, TuningSpace
from atomjet.models.escn_md import EscnMdConfig
from atomjet.models.painn import PaiNNConfig

MOST_MEMBERS = 64

AT_ONCE = 4096
"""Atoms of a capacity up to which the members run side by side on a GPU, which so few atoms do not fill."""


class EnsembleConfig(BaseModel):
    """The members' hyperparameters, of one family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[PaiNNConfig | EscnMdConfig, ...] = Field(min_length=2, max_length=MOST_MEMBERS)


class Ensemble(nn.Module):
    """The mean of its members.

    Attributes:
        members: the models.

    Raises:
        ConfigError: fewer than two, or members of unlike families, cutoffs or elements.
    """

    family = "ensemble"

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        _check_alike(members)
        self.config = EnsembleConfig(members=tuple(member.config for member in members))
        self.members = nn.ModuleList(members)

    @property
    def first(self) -> Any:
        """The first member, which speaks for all in what they have in common."""
        return self.members[0]

    @property
    def reference_energies(self) -> Tensor:
        """(Z,) or (rows, Z) float64, eV, means."""
        return mean([member.reference_energies for member in self.members])  # type: ignore[misc]

    @property
    def exchanges(self) -> int | None:
        """Those of all members, one after the other."""
        return _exchanges(self.members)

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.first.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the members serve."""
        return self.first.elements

    def check_task(self, task: str | None) -> str | None:
        """As the members do."""
        return self.first.check_task(task)

    def check_conditions(self, charge: int | None, spin: int | None) -> None:
        """As the members do."""
        self.first.check_conditions(charge, spin)

    def complete(self, system: System, task: str | None = None) -> System:
        """As the members do."""
        return self.first.complete(system, task)

    def warn(self, system: System, graph: Graph) -> None:
        """As the members do."""
        self.first.warn(system, graph)

    def references(self, graph: Graph) -> Tensor:
        """(N,) float64, eV, means."""
        return mean([member.references(graph) for member in self.members])  # type: ignore[operator]

    def atomic_energies(self, graph: Graph) -> Tensor:
        """(N,) eV, means, without reference energies."""
        return mean([member.atomic_energies(graph) for member in self.members])  # type: ignore[operator]

    def bytes_by_autograd(self, graph: Graph) -> int:
        """Upper estimate of what energies and their derivative take."""
        return sum(member.bytes_by_autograd(graph) for member in self.members)  # type: ignore[operator]


def ensemble_card(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first member's card, as far as it holds for all: no errors, which are its own, and distances that all members know."""
    first = {key: value for key, value in cards[0].items() if key not in ("errors", "hardest_molecules", "calibration")}
    tables = [card.get("shortest_distances", {}) for card in cards]
    shared = [pair for pair in tables[0] if all(pair in table for table in tables)]
    pairs = [card.get("closest_pairs", {}) for card in cards]
    seen = {pair: [table.get(pair) for table in pairs] for pair in pairs[0]}
    names = [str(card.get("name", "")) or "unnamed" for card in cards]
    return first | {
        "name": f"ensemble of {', '.join(dict.fromkeys(names))}",
        "summary": f"mean of {len(cards)} models; the first: {cards[0].get('summary', '')}",
        "shortest_distances": {pair: max(table[pair] for table in tables) for pair in shared},
        "closest_pairs": {pair: None if None in each else max(each) for pair, each in seen.items()},
        "members": [f"{name}: {card.get('summary') or 'no summary'}" for name, card in zip(names, cards, strict=True)],
    }


def members_of(model: Model | Ensemble) -> tuple[Model, ...]:
    """The members of an ensemble; a model alone."""
    return tuple(model.members) if isinstance(model, Ensemble) else (model,)  # type: ignore[return-value]


class EnsembleBackend:
    """An ensemble on one backend, for any graph.

    Attributes:
        members: the members on that backend.
        note: see the members' backend.
    """

    def __init__(self, members: Sequence[Backend]) -> None:
        self.members, self.exchanges = tuple(members), _exchanges(members)
        self.note = getattr(members[0], "note", "")

    def energies_and_gradients(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return (N,) eV without reference energies, and (E, 3) eV/Å: means."""
        energies, gradients = zip(*(member.energies_and_gradients(graph) for member in self.members), strict=True)
        return mean(energies), mean(gradients)

    def bytes_needed(self, graph: Graph) -> int:
        """Upper estimate of the memory that the call will take: the members compute one after the other, their results stay."""
        results = 32 * graph.num_edges + 8 * graph.num_atoms
        return max(member.bytes_needed(graph) for member in self.members) + len(self.members) * results


class CapturedEnsemble(EnsembleBackend):
    """An ensemble on a backend that works in buffers of fixed size: one search, then all members, in one CUDA graph."""

    members: tuple[CapturedBackend, ...]

    def __init__(self, members: Sequence[CapturedBackend]) -> None:
        super().__init__(members)
        first = self.members[0]
        self.precision, self.storage_dtype = first.precision, first.storage_dtype
        self.silent_conditions = first.silent_conditions

    @property
    def tuning(self) -> TuningSpace | None:
        """The members' own, where they are of one size; all take the same choices."""
        spaces = [member.tuning for member in self.members]
        first = spaces[0]
        if first is None or any(space is None or space.key != first.key for space in spaces):
            return None

        def with_tiles(capacity: Capacity, choices: Choices) -> CapturedEnsemble:
            return CapturedEnsemble([space.with_tiles(capacity, choices) for space in spaces if space is not None])

        return TuningSpace(first.key, first.rounds, first.tiles, with_tiles)

    def admit(self, system: System, task: str | None) -> Conditions | None:
        """As the members do, which hold nothing beside their workspaces."""
        return self.members[0].admit(system, task)

    def bytes_of(self, capacity: Capacity) -> int:
        """Return what `workspace` allocates."""
        return sum(member.bytes_of(capacity) for member in self.members)

    def workspace(self, capacity: Capacity) -> tuple[Any, ...]:
        """A workspace for each member."""
        return tuple(member.workspace(capacity) for member in self.members)

    def segments(
        self, graph: GraphBuffers, conditions: ConditionBuffers, workspace: tuple[Any, ...]
    ) -> tuple[Segment, ...]:
        """One segment: the members one after the other, of few atoms side by side on streams of their own.

        Where processes share structures all members' segments, one after the other, so that rows can travel between them.
        """
        each = [member.segments(graph, conditions, own) for member, own in zip(self.members, workspace, strict=True)]
        if graph.has_ghosts:
            return tuple(segment for segments in each for segment in segments)
        device = graph.vectors.device
        if device.type != "cuda" or graph.capacity.atoms > AT_ONCE:
            return (Segment(lambda: [segment.launch() for segments in each for segment in segments]),)
        streams = [torch.cuda.Stream(device) for _ in each[1:]]
        return (Segment(lambda: _side_by_side(each, streams)),)

    def result(self, workspace: tuple[Any, ...]) -> Atomic:
        """Where the segments leave energies and gradients of every member."""
        first, *others = (member.result(own) for member, own in zip(self.members, workspace, strict=True))
        return replace(first, others=tuple(others))


def ensemble_backend(family: str, members: Sequence[Backend]) -> EnsembleBackend:
    """The members' backends as one.

    Raises:
        BackendError: members whose weights take turns in memory, which a CUDA graph of several cannot wait for.
    """
    captured = [member for member in members if isinstance(member, CapturedBackend)]
    if len(captured) < len(members):
        return EnsembleBackend(members)
    if captured[0].silent_conditions is None:
        raise BackendError(f"backend 'fast_gpu' does not serve ensembles of {family}; use 'fast_pytorch'")
    return CapturedEnsemble(captured)


def _side_by_side(each: Sequence[Sequence[Segment]], streams: Sequence[torch.cuda.Stream]) -> None:
    """Enqueue the first member on the current stream and each other on its own; the current stream then waits for all."""
    here = torch.cuda.current_stream()
    start = here.record_event()
    ends = []
    for segments, stream in zip(each[1:], streams, strict=True):
        stream.wait_event(start)
        with torch.cuda.stream(stream):
            for segment in segments:
                segment.launch()
        ends.append(stream.record_event())
    for segment in each[0]:
        segment.launch()
    for end in ends:
        here.wait_event(end)


def mean(values: Sequence[Tensor]) -> Tensor:
    """The mean, which of equal tensors is theirs to the last bit."""
    first = values[0]
    return first + sum((value - first for value in values[1:]), torch.zeros_like(first)) / len(values)


def _exchanges(members: Any) -> int | None:
    counts = [member.exchanges for member in members]
    return None if None in counts else sum(counts)


def _check_alike(members: Sequence[Any]) -> None:
    if not 2 <= len(members) <= MOST_MEMBERS:
        raise ConfigError(
            f"an ensemble of {len(members)}: it has 2 ... {MOST_MEMBERS} members; give more models, or load one alone"
        )
    first = members[0]
    if not isinstance(first.config, PaiNNConfig | EscnMdConfig):
        raise ConfigError(
            f"models of the family {first.family} cannot be members of an ensemble; painn and escn_md can"
        )
    for place, member in enumerate(members[1:], 1):
        for what in ("family", "cutoff", "elements"):
            own, common = getattr(member, what), getattr(first, what)
            if own != common:
                raise ConfigError(
                    f"member {place} of the ensemble has {what} {own}, the first {common}; members must have the same"
                )
        if member.reference_energies.shape != first.reference_energies.shape:
            raise ConfigError(
                f"member {place} of the ensemble has reference energies of shape {tuple(member.reference_energies.shape)}, the "
                f"first {tuple(first.reference_energies.shape)}; members must have the same tasks and max_z"
            )
