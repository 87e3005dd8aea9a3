"""What is measured: the cases of each suite, from small to large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from atomjet.bench import geometries
from atomjet.data import System
from atomjet.errors import ConfigError


@dataclass(frozen=True)
class Case:
    """One size; `make()` builds the structures, on the CPU, when its turn comes."""

    name: str
    make: Callable[[], System]
    runs: int = 100


SIZES = (10, 20, 50, 100, 200)
BATCHES = (1, 2, 4, 64, 1024)


def latency(largest: int, seed: int = 0) -> list[Case]:
    """Molecules of 10 to 200 atoms, alone and in batches up to 1024; cases of more than `largest` atoms left out."""
    return [
        Case(f"{atoms} atoms x {batch}", lambda a=atoms, b=batch: geometries.molecules(a, b, seed))
        for batch in BATCHES
        for atoms in SIZES
        if atoms * batch <= largest
    ]


def bulk(largest: int, seed: int = 0, bonded: bool = False) -> list[Case]:
    """Periodic water, a thousand to a million atoms; `bonded` as for `geometries.water`."""
    sizes = ((1000, 100), (10_000, 50), (100_000, 20), (1_000_000, 10))
    return [
        Case(f"water {size:,}", lambda s=size: geometries.water(s, seed, bonded=bonded), runs)
        for size, runs in sizes
        if size <= largest
    ]


def neighbors(largest: int, seed: int = 0) -> list[Case]:
    """Neighbour search alone: boxes of water, one of them triclinic, and a batch of molecules."""
    sizes = ((100, 100), (1000, 100), (10_000, 50), (100_000, 20), (1_000_000, 10))
    cases = [
        Case(f"water {size:,}", lambda s=size: geometries.water(s, seed), runs)
        for size, runs in sizes
        if size <= largest
    ]
    if largest >= 1000:
        cases.insert(2, Case("triclinic water 1,000", lambda: geometries.water(1000, seed, triclinic=True)))
    for batch in (64, 1000):
        if 20 * batch <= largest:
            cases.append(Case(f"20 atoms x {batch}", lambda b=batch: geometries.molecules(20, b, seed)))
    return cases


def md(largest: int, seed: int = 0) -> list[Case]:
    """Whole steps of molecular dynamics of one structure: on the device where that serves, else through ASE."""
    cases = [
        Case(f"{atoms} atoms", lambda a=atoms: geometries.molecules(a, 1, seed), runs)
        for atoms, runs in ((10, 200), (20, 200), (50, 200), (200, 100))
        if atoms <= largest
    ]
    sizes = ((1000, 100), (10_000, 30), (100_000, 10))
    return cases + [
        Case(f"water {size:,}", lambda s=size: geometries.water(s, seed, bonded=True), runs)
        for size, runs in sizes
        if size <= largest
    ]


def uma(largest: int, seed: int = 0) -> list[Case]:
    """A crystal of 2,000 atoms, and small ones to see what a call costs at least."""
    return [
        Case(f"carbon crystal {size:,}", lambda s=size: geometries.carbon_crystal(s, seed), runs)
        for size, runs in ((100, 50), (2000, 50))
        if size <= largest
    ]


def step(largest: int, seed: int = 0) -> list[Case]:
    """Molecules, alone and in batches, and water of a thousand to a million atoms."""
    sizes = ((20, 1), (200, 1), (20, 64), (20, 1024))
    return [
        Case(f"{atoms} atoms x {batch}", lambda a=atoms, b=batch: geometries.molecules(a, b, seed), 50)
        for atoms, batch in sizes
        if atoms * batch <= largest
    ] + bulk(largest, seed, bonded=True)


SUITES: dict[str, Callable[[int, int], list[Case]]] = {
    "latency": latency,
    "bulk": bulk,
    "neighbors": neighbors,
    "md": md,
    "step": step,
    "uma": uma,
}

LARGEST = {
    "cpu": {"latency": 1280, "bulk": 1000, "neighbors": 100_000, "md": 1000, "uma": 10_000},
    "cuda": {"latency": 10**6, "bulk": 10**6, "neighbors": 10**6, "md": 10**5, "step": 10**6, "uma": 10_000},
}
"""Atoms of the largest case by default."""


def cases(suite: str, device: torch.device, family: str, largest: int | None, seed: int) -> list[Case]:
    """The cases of a suite by name.

    Raises:
        ConfigError: no such suite, a suite for another family of models, or no case that small.
    """
    if suite not in SUITES:
        raise ConfigError(f"suite {suite!r} is not known; choose one of {', '.join(SUITES)}")
    if suite == "uma" and family != "escn_md":
        raise ConfigError(f"suite uma measures models of the family escn_md; this one is {family}; give --model")
    if suite == "step" and device.type != "cuda":
        raise ConfigError(
            f"suite step times CUDA graphs, and this device is {device}; run it on a GPU, or suite latency here"
        )
    limit = LARGEST[device.type][suite] if largest is None else largest
    made = SUITES[suite](limit, seed)
    if not made:
        raise ConfigError(f"no case of suite {suite} has at most {limit} atoms; raise --max-atoms")
    return made
