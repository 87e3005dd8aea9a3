"""Several processes that share one structure: who owns which atoms, and how rows travel between them.

A process owns the atoms 0 ... owned - 1 of its graph. Atoms owned ... total - 1 are ghosts: atoms of other processes that ours have
edges to. A periodic image needs no ghost of its own, since edge vectors say which image is meant.

Every call is collective: all processes make the same calls in the same order, those that own no atoms too. Nothing in here knows
MPI, torch.distributed or a simulation program; whoever brings one implements `Transport`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from atomjet.errors import AtomJetError, BackendError, StructureError
from atomjet.version import VERSION


class Halo(Protocol):
    """What a model needs from the processes that own the other atoms.

    Attributes:
        owned: atoms of this process.
        total: its atoms and its ghosts.
    """

    owned: int
    total: int

    def fill(self, *rows: Tensor) -> None:
        """Overwrite, in place, the ghosts' rows of each (total, ...) with their owners' rows."""
        ...

    def fold(self, *rows: Tensor) -> None:
        """Add, in place, the ghosts' rows of each (total, ...) to their owners' rows, in a fixed order; ghosts' become zero."""
        ...

    def sum(self, *values: Tensor) -> None:
        """Add up, in place, over all processes."""
        ...

    def agree(self, error: Exception | None) -> None:
        """Raise on every process if one of them has an error, so that none waits for ever for one that refused."""
        ...


class Transport(Protocol):
    """Messages between processes, numbered 0 ... size - 1; this one is `rank`."""

    rank: int
    size: int

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send the first send[0] rows to process 0, the next send[1] to process 1, ...; return what they sent, in their order."""
        ...

    def sum(self, values: Tensor) -> None:
        """Add up, in place, over all processes."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the (small, picklable) value of every process."""
        ...


class ExchangeHalo:
    """`Halo` over any `Transport`: lists of rows to send and to receive, one message per pair of processes and call.

    Args:
        owned_ids: (owned,) int64, not negative; no atom of any process has the id of another.
        ghost_ids: (ghosts,) int64, each once; owned by other processes.
        transport: between the processes.

    Raises:
        BackendError: on every process, where they run different versions of AtomJet.
        StructureError: on every process, where one has a ghost that nobody owns, or an id comes twice.

    Attributes:
        numbers_sent: how many numbers this process has sent to others so far.
        exchanges: how many times rows were exchanged.
    """

    def __init__(self, owned_ids: Tensor, ghost_ids: Tensor, transport: Transport) -> None:
        self.transport, self.owned, self.total = transport, len(owned_ids), len(owned_ids) + len(ghost_ids)
        self.numbers_sent = self.exchanges = 0
        _check_versions(transport.gather(VERSION))  # before anything that another version might do otherwise
        size, device = transport.size, owned_ids.device
        self._send: list[Tensor] = []
        # Process id % size keeps the owner of each atom: no process has to hold a table of all.
        listed, places = self._by_rank(owned_ids, owned_ids % size)
        ids = self._exchange(listed)
        rows = self._exchange(places)
        known, known_rows = torch.cat(ids), torch.cat(rows)
        owners = torch.repeat_interleave(torch.arange(size, device=device), _lengths(ids, device))
        order = torch.argsort(known)
        known, known_rows, owners = known[order], known_rows[order], owners[order]
        wanted, ghosts = self._by_rank(ghost_ids, ghost_ids % size)
        questions = self._exchange(wanted)
        self.agree(_refusal(known, questions))
        found = [torch.searchsorted(known, question) for question in questions]
        owner = torch.cat(self._exchange([owners[place] for place in found]))
        row = torch.cat(self._exchange([known_rows[place] for place in found]))
        mine = torch.cat(ghosts)
        self._receive = [self.owned + mine[owner == rank] for rank in range(size)]
        self._send = self._exchange([row[owner == rank] for rank in range(size)])
        self._take, self._put = torch.cat(self._send), torch.cat(self._receive)

    def fill(self, *rows: Tensor) -> None:
        """Overwrite, in place, the ghosts' rows of each (total, ...) with their owners' rows."""
        for x, part in zip(rows, self._swap(rows, self._take, self._send, self._receive), strict=True):
            x[self._put] = part

    def fold(self, *rows: Tensor) -> None:
        """Add, in place, the ghosts' rows of each (total, ...) to their owners' rows; ghosts' become zero.

        One process after the other is added, in the order of their ranks, so sums are the same in every run. An atom comes at most
        once from each, so no two additions of one message meet.
        """
        for x, part in zip(rows, self._swap(rows, self._put, self._receive, self._send), strict=True):
            x[self.owned :] = 0
            for index, values in zip(self._send, part.split([len(index) for index in self._send]), strict=True):
                x[index] += values

    def sum(self, *values: Tensor) -> None:
        """Add up, in place, over all processes."""
        for value in values:
            self.transport.sum(value)

    def agree(self, error: Exception | None) -> None:
        """Raise on every process if one of them has an error: its own there, elsewhere one that names the process."""
        texts = self.transport.gather(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise AtomJetError(f"process {rank} refused: {text}")

    def _by_rank(self, ids: Tensor, ranks: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Ids by the process they go to, and where they stood."""
        places = [(ranks == rank).nonzero().flatten() for rank in range(self.transport.size)]
        return [ids[place] for place in places], places

    def _exchange(self, parts: list[Tensor]) -> list[Tensor]:
        """Send parts[r] to process r, whatever their lengths; return what each sent."""
        ones = [1] * len(parts)
        lengths = [len(part) for part in parts]
        counts = self.transport.all_to_all(torch.tensor(lengths, device=parts[0].device)[:, None], ones, ones)
        receive = counts.flatten().tolist()
        return list(self.transport.all_to_all(torch.cat(parts)[:, None], lengths, receive).flatten().split(receive))

    def _swap(
        self, rows: Sequence[Tensor], take: Tensor, out: Sequence[Tensor], back: Sequence[Tensor]
    ) -> list[Tensor]:
        """Send rows `take` of all tensors, packed side by side; return the rows that came, by tensor."""
        widths = [math.prod(x.shape[1:]) for x in rows]
        flat = torch.cat([x.reshape(len(x), width)[take] for x, width in zip(rows, widths, strict=True)], dim=1)
        send, receive = [len(index) for index in out], [len(index) for index in back]
        got = self.transport.all_to_all(flat, send, receive)
        self.exchanges += 1
        self.numbers_sent += (sum(send) - send[self.transport.rank]) * sum(widths)
        return [part.reshape(-1, *x.shape[1:]) for part, x in zip(got.split(widths, dim=1), rows, strict=True)]


def _check_versions(versions: Sequence[str]) -> None:
    """Refuse processes of different versions, in the same words on all."""
    others = [rank for rank, version in enumerate(versions) if version != versions[0]]
    if others:
        raise BackendError(
            f"process 0 runs AtomJet {versions[0]}, process {others[0]} runs {versions[others[0]]}; install one version for all "
            "processes that share a structure"
        )


def _lengths(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.tensor([len(part) for part in parts], device=device)


def _refusal(known: Tensor, questions: list[Tensor]) -> StructureError | None:
    """What is wrong with the ids whose owners are listed here, or with those that other processes look up here."""
    if bool((known[1:] == known[:-1]).any()):
        twice = int(known[1:][known[1:] == known[:-1]][0])
        return StructureError(f"atom id {twice} has two owners; give every atom an id of its own")
    wanted = torch.cat(questions)
    missing = wanted[~torch.isin(wanted, known)]
    if len(missing):
        return StructureError(
            f"atom id {int(missing[0])} is a ghost that no process owns; its owner lost it, or the halo is too narrow"
        )
    return None


class _Ghosts(torch.autograd.Function):
    """(owned, ...) to (total, ...), and back for derivatives."""

    @staticmethod
    def forward(ctx: Any, halo: Halo, *rows: Tensor) -> tuple[Tensor, ...]:
        ctx.halo = halo
        full = tuple(torch.cat([x, x.new_zeros(halo.total - halo.owned, *x.shape[1:])]) for x in rows)
        halo.fill(*full)
        return full

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Tensor | None, ...]:
        full = tuple(bar.clone() for bar in bars)
        ctx.halo.fold(*full)
        return None, *(bar[: ctx.halo.owned] for bar in full)


class _Summed(torch.autograd.Function):
    """Sums over processes; what each process has of a derivative adds up in the same way."""

    @staticmethod
    def forward(ctx: Any, halo: Halo, x: Tensor) -> Tensor:
        ctx.halo = halo
        total = x.clone()
        halo.sum(total)
        return total

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[None, Tensor]:
        total = bars[0].contiguous().clone()
        ctx.halo.sum(total)
        return None, total


def summed(halo: Halo | None, x: Tensor) -> Tensor:
    """Add up over all processes; differentiable, nothing to do without a halo."""
    return x if halo is None else _Summed.apply(halo, x)  # type: ignore[return-value]


def with_ghosts(halo: Halo | None, *rows: Tensor) -> tuple[Tensor, ...]:
    """Rows of owned atoms (owned, ...) followed by those of ghosts (total, ...); differentiable, nothing to do without a halo."""
    return rows if halo is None else _Ghosts.apply(halo, *rows)  # type: ignore[return-value]


def to_owners(halo: Halo | None, x: Tensor) -> Tensor:
    """Add ghosts' rows of x (total, ...), which is overwritten, to their owners': (owned, ...); the reverse of `with_ghosts`."""
    if halo is not None:
        halo.fold(x)
        x = x[: halo.owned]
    return x
