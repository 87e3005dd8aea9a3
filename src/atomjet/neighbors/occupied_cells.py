"""Neighbour search on the CPU for atoms far apart: cells of about the cutoff, of which only those with atoms are stored.

Where most of space is empty, a grid would be mostly empty cells, more than memory holds. Here each atom says which cell it is in,
and cells are looked up in a sorted list. Along each axis all empty cells between two occupied ones
are counted as one, so that the cells' numbers stay small however large the space is.
"""

from __future__ import annotations

import itertools

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Centers (P,), neighbors (P,), shifts (P, 3), all int64."""

PAIRS_AT_ONCE = 2_000_000
"""Candidates tested together: about 200 MB of temporaries."""


MOST_CELLS = 2**52
"""Cells along an axis, whose numbers float64 holds; a cell of more than that many radii has larger ones."""


def pairs_within(x: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float) -> Pairs:
    """Find all pairs closer than a radius, images included, in no order.

    Args:
        x: (n, 3) float64, Å, wrapped into the cell along periodic directions.
        cell: (3, 3), rows; those of open directions unit vectors orthogonal to all others.
        pbc: (3,) bool.
        radius: Å.
    """
    inverse = np.linalg.inv(cell)
    planes = 1 / np.linalg.norm(inverse, axis=0)
    fractions = x @ inverse
    axes = [_cells(fractions[:, k], planes[k], bool(pbc[k]), radius) for k in range(3)]
    numbers = np.stack([index for index, _, _ in axes], 1)
    sizes = np.array([size for _, size, _ in axes])
    occupied, order, starts, counts = _occupied(numbers, sizes)
    reach = [range(-r, r + 1) for _, _, r in axes]
    offsets = np.array(list(itertools.product(*reach)), dtype=np.int64)
    found = []
    at_once = max(1, PAIRS_AT_ONCE // max(len(starts), 1))
    places = numbers[order[starts]]
    for first in range(0, len(offsets), at_once):
        near = places[:, None] + offsets[None, first : first + at_once]
        shift = np.where(pbc, near // sizes, 0)
        near -= shift * sizes
        inside = np.logical_and(near >= 0, near < sizes).all(axis=2)
        a, o = np.nonzero(inside)
        key = _key(near[a, o], sizes)
        b = np.searchsorted(occupied, key).clip(max=len(occupied) - 1)
        there = occupied[b] == key
        a, b, shift = a[there], b[there], shift[a, o][there]
        found += _tested(x, cell, radius, order, starts, counts, a, b, shift)
    i, j, shift = (np.concatenate(part) for part in zip(*found, strict=True)) if found else _nothing()
    return i, j, shift


def _nothing() -> Pairs:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)


def _cells(fraction: np.ndarray, planes: float, periodic: bool, radius: float) -> tuple[np.ndarray, int, int]:
    """Along one axis: the cell of each atom (n,), how many cells there are, how many to look at on either side."""
    width = radius * (1 + 1e-9)
    if not periodic:
        # Rows of open directions have length one: fractions are Å.
        index = np.floor((fraction - fraction.min()) / width).astype(np.int64)
        index, size = _closer(index, None)
        return index, size, 1
    size = min(max(1, int(planes / width)), MOST_CELLS)
    index = np.floor(fraction * size).astype(np.int64).clip(0, size - 1)
    if size < 3:
        return index, size, int(radius * size / planes) + 1
    index, size = _closer(index, size)
    return index, size, 1


def _closer(index: np.ndarray, size: int | None) -> tuple[np.ndarray, int]:
    """Cells counted anew, with at most one empty one between two occupied; `size`: of a ring of cells, else None."""
    occupied, which = np.unique(index, return_inverse=True)
    places = np.concatenate([[0], np.cumsum(np.minimum(np.diff(occupied), 2))])
    last = int(places[-1])
    around = 1 if size is None else min(int(occupied[0]) + size - int(occupied[-1]), 2)
    return places[which.reshape(-1)], last + around


def _key(numbers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return (numbers[..., 0] * sizes[1] + numbers[..., 1]) * sizes[2] + numbers[..., 2]


def _occupied(numbers: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys of the cells that hold atoms, ascending; atoms by cell; where each cell's begin; how many it has."""
    key = _key(numbers, sizes)
    order = np.argsort(key, kind="stable")
    occupied, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
    return occupied, order, starts, counts


def _tested(
    x: np.ndarray,
    cell: np.ndarray,
    radius: float,
    order: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    shift: np.ndarray,
) -> list[Pairs]:
    """Pairs within the radius between atoms of cells a and atoms of cells b, shifted; no atom pairs with itself unshifted."""
    found, first = [], 0
    ends = np.cumsum(counts[a] * counts[b])
    while first < len(a):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        own, other = counts[a[first:last]], counts[b[first:last]]
        total = own * other
        pair = np.repeat(np.arange(last - first), total)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
        i = order[starts[a[first:last]][pair] + within // other[pair]]
        j = order[starts[b[first:last]][pair] + within % other[pair]]
        s = shift[first:last][pair]
        vector = x[j] - x[i] + s.astype(float) @ cell
        near = np.einsum("ea,ea->e", vector, vector) < radius**2
        near &= (i != j) | s.any(1)
        found.append((i[near], j[near], s[near]))
        first = last
    return found
