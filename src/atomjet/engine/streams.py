"""Many structures of mixed sizes: divided into calls, packed into batches, two in flight, so that the host packs while the device
computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from atomjet.data import Prediction
from atomjet.errors import AtomJetError

T = TypeVar("T")

ATOMS_AT_ONCE = 16384
"""Atoms of one batch: enough to fill a GPU, few enough that a long list makes several batches that overlap."""

ATOMS_OF_A_CALL = {"cpu": 2_000, "cuda": 100_000}
"""Atoms of the structures that are given to an engine in one call where there are many, by type of device: on a CPU few, which
bounds the memory; on a GPU many, which the engine divides further."""

IN_FLIGHT = 2
"""Batches that are under way at a time, each on a stream and in buffers of its own."""


def groups(counts: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive structures, with so many atoms each, that have at most `most` atoms together; a larger one stands alone."""
    first, atoms = 0, 0
    for place, number in enumerate(counts):
        if place > first and atoms + number > most:
            yield range(first, place)
            first, atoms = place, 0
        atoms += number
    if counts:
        yield range(first, len(counts))


def predicted(
    predict: Callable[[list[Any]], T], structures: Sequence[Any], most: int
) -> Iterator[tuple[range, T | AtomJetError]]:
    """All structures in groups of at most `most` atoms. A group of which one is refused is halved, and halved again, until that one
    stands alone with its refusal.

    Args:
        predict: of several structures, such as `Engine.predict`.
        structures: `ase.Atoms`.
        most: atoms of a call.
    """

    def part(which: range) -> Iterator[tuple[range, T | AtomJetError]]:
        try:
            found: T | AtomJetError = predict([structures[k] for k in which])
        except AtomJetError as error:
            if len(which) > 1:
                yield from part(which[: len(which) // 2])
                yield from part(which[len(which) // 2 :])
                return
            found = error
        yield which, found

    for which in groups([len(atoms) for atoms in structures], most):
        yield from part(which)


def pack(counts: Sequence[int], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Divide structures with so many atoms into batches of like size, each as `fits` allows; one that never fits stands alone.

    Few structures stay one batch in the order given.
    """
    everything = list(range(len(counts)))
    if len(counts) == 1 or (sum(counts) <= ATOMS_AT_ONCE and fits(everything)):
        return [everything]
    by_size = sorted(everything, key=lambda structure: counts[structure])
    batches: list[list[int]] = []
    waiting = [by_size]
    while waiting:
        part = waiting.pop()
        atoms = np.cumsum([counts[structure] for structure in part])
        if len(part) == 1 or (atoms[-1] <= ATOMS_AT_ONCE and fits(part)):
            batches.append(part)
            continue
        # Even parts of at most ATOMS_AT_ONCE; or halves, where it is memory that a part does not fit into.
        parts = max(2, -(-int(atoms[-1]) // ATOMS_AT_ONCE))
        bounds = np.searchsorted(atoms, atoms[-1] * np.arange(1, parts) / parts)
        divided = np.split(np.array(part), np.unique(np.clip(bounds, 1, len(part) - 1)))
        waiting.extend(some.tolist() for some in reversed(divided))
    return batches


def halved(number: int, compute: Callable[[int, int], Prediction | None]) -> Prediction:
    """Compute so many structures, as few at a time as it takes.

    Args:
        number: of structures.
        compute: those from one to another; None where they are too many at once, for one structure an error.
    """

    def part(first: int, last: int) -> Prediction:
        found = compute(first, last)
        if found is not None:
            return found
        middle = (first + last) // 2
        return Prediction.join([part(first, middle), part(middle, last)])

    return part(0, number)


def run(
    batches: list[list[int]],
    start: Callable[[list[int], bool], Any],
    finish: Callable[[Any], Any],
    abandon: Callable[[Any], None],
) -> list[Any]:
    """Compute every batch, `IN_FLIGHT` at a time; return what `finish` says of each.

    Args:
        batches: structures of each.
        start: enqueue one; its flag says whether it may wait for buffers (only while this call holds none); None where it got none.
        finish: wait for one that was started, and take its result.
        abandon: wait for one whose result is not used, because another has failed.
    """
    done: list[Any] = []
    running: list[Any] = []
    try:
        for batch in batches:
            if len(running) == IN_FLIGHT:
                done.append(finish(running.pop(0)))
            started = start(batch, not running)
            while started is None and running:
                done.append(finish(running.pop(0)))
                started = start(batch, not running)
            running.append(started)
        while running:
            done.append(finish(running.pop(0)))
    finally:
        for started in running:
            abandon(started)
    return done


def in_order(parts: list[Prediction], batches: list[list[int]], counts: Sequence[int]) -> Prediction:
    """Join the batches and put the structures, of so many atoms, back into the order they were given in."""
    joined, given = Prediction.join(parts), np.concatenate(batches)
    if (given[1:] > given[:-1]).all():
        return joined
    structures, sizes = np.argsort(given), np.array(counts)
    # Of each structure, how many atoms come before its own: as they were computed, and as they were given.
    computed, wanted = np.cumsum(sizes[given]) - sizes[given], np.cumsum(sizes) - sizes
    atoms = torch.from_numpy(np.arange(sizes.sum()) + np.repeat(computed[structures] - wanted, sizes))
    index = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    return joined.pick(torch.from_numpy(structures), atoms, index)
