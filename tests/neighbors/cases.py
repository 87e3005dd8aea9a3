"""Structures and algorithms that tests of the searches share."""

import itertools

import numpy as np
import torch

from atomjet import System

CELLS = {
    "cubic": np.eye(3) * 4.0,
    "triclinic": np.array([[4.0, 0, 0], [1.5, 3.6, 0], [-1.2, 0.7, 5.0]]),
    "left-handed": np.array([[4.0, 0, 0], [0.3, 3.8, 0], [0.1, -0.2, -4.5]]),
    "sheared": np.array([[4.0, 0, 0], [11.0, 4.0, 0], [-9.0, 13.0, 4.0]]),
    "rotated": np.array([[0.0, 3.1, 2.6], [-2.9, 1.0, 3.3], [3.0, 2.4, -0.8]]),
    "flat": np.diag([7.0, 7.0, 0.5]),
    "needle": np.diag([0.6, 0.7, 30.0]),
    "tiny": np.diag([1.1, 0.9, 1.3]),
}
PBC = list(itertools.product([True, False], repeat=3))
ALGORITHMS = ("one kernel", "all pairs", "pieces", "cells")


def force_algorithm(monkeypatch, name):
    """Have every `BufferedSearch` take one of `ALGORITHMS`, whatever its capacity."""
    from atomjet.neighbors import algorithms, buffered_search

    monkeypatch.setattr(algorithms.OneKernel, "SYSTEMS", 64 if name == "one kernel" else -1)
    monkeypatch.setattr(buffered_search, "ALL_PAIRS", -1 if name == "cells" else 10**6)
    monkeypatch.setattr(
        algorithms.AllPairs, "pieces_of", classmethod(lambda cls, capacity: 2 if name == "pieces" else 1)
    )


def place(cell, count, spread, seed):
    """Atoms far outside the cell, two of them at one point, one on a face, one a lattice vector away from another."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-spread, spread, (count, 3)) @ cell
    if count > 3:
        x[1] = x[0]
        x[2] = 0.5 * cell[1] + 0.25 * cell[2]
        x[3] = x[0] + cell[0]
    return x


def batch(*parts, device="cpu"):
    """Structures (positions, cell, pbc) in one system, with unlike elements."""
    counts = [len(x) for x, _, _ in parts]
    return System(
        positions=torch.tensor(np.concatenate([x for x, _, _ in parts]), dtype=torch.float64, device=device),
        atomic_numbers=torch.arange(1, sum(counts) + 1, device=device),
        cell=torch.tensor(np.array([cell for _, cell, _ in parts]), dtype=torch.float64, device=device),
        pbc=torch.tensor([list(pbc) for _, _, pbc in parts], device=device),
        system_index=torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts)).to(device),
    )


def no_structures(device="cpu"):
    """A system of none."""
    return System(torch.zeros(0, 3, device=device), torch.zeros(0), system_index=torch.zeros(0))


def empty_between(device="cpu"):
    """An atom, a structure without any, an atom."""
    return System(torch.zeros(2, 3, device=device), [1, 1], cell=torch.zeros(3, 3, 3), system_index=[0, 2])
