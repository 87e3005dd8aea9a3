"""Ranks that are threads of one process: the exchange of `atomjet.data.halo` without processes to start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from atomjet.data import ExchangeHalo, Graph
from atomjet.engine import Engine, SharedPrediction, owned_part, predict_shared

SECONDS = 60
"""After which a rank that waits for another gives up."""


class ThreadTransport:
    """`Transport` between threads, which see each other's tensors."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, shown: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._shown = rank, size, barrier, shown

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every thread."""
        self._shown[self.rank] = value
        self._barrier.wait(SECONDS)
        found = list(self._shown)
        self._barrier.wait(SECONDS)
        return found

    def all_to_all(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send the first send[0] rows to thread 0, the next send[1] to thread 1, ...; return what they sent, in their order."""
        parts = self.gather(rows.split(list(send)))
        got = torch.cat([sent[self.rank] for sent in parts])
        assert len(got) == sum(receive)
        return got

    def sum(self, values: Tensor) -> None:
        """Add up, in place, over all threads."""
        total = torch.stack(self.gather(values.clone())).sum(0)
        values.copy_(total)


def on_ranks(size: int, function: Callable[[ThreadTransport], Any]) -> list[Any]:
    """What a function returns, or raises, on each of so many ranks."""
    barrier, shown, found = threading.Barrier(size), [None] * size, [None] * size

    def work(rank: int) -> None:
        try:
            found[rank] = function(ThreadTransport(rank, size, barrier, shown))  # type: ignore[call-overload]
        except threading.BrokenBarrierError:
            pass  # another rank has raised, and says more
        except Exception as error:
            found[rank] = error  # type: ignore[call-overload]
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def predict_on_ranks(
    engine: Engine, graph: Graph, owner: Tensor, size: int
) -> tuple[SharedPrediction, list[ExchangeHalo]]:
    """A whole graph's prediction, put together from what each rank computes of the atoms that it owns, and the ranks' halos."""

    def share(transport: ThreadTransport) -> tuple[Tensor, ExchangeHalo, SharedPrediction]:
        ids, ghosts, part = owned_part(graph, owner, transport.rank)
        halo = ExchangeHalo(ids, ghosts, transport)
        return ids, halo, predict_shared(engine, replace(part, halo=halo), torch.cat([ids, ghosts]))

    found = on_ranks(size, share)
    for error in found:
        if isinstance(error, Exception):
            raise error
    forces = torch.zeros(graph.num_atoms, 3, dtype=torch.float64)
    atomic = torch.zeros(graph.num_atoms, dtype=torch.float64)
    for ids, _, mine in found:
        forces[ids], atomic[ids] = mine.forces, mine.atomic_energies
        # To the last bit: no rank may go another way than the others because of what it learned of the whole.
        assert torch.equal(mine.energy, found[0][2].energy)
        assert torch.equal(mine.virial, found[0][2].virial)
    first = found[0][2]
    return SharedPrediction(first.energy, forces, first.virial, atomic), [halo for _, halo, _ in found]
