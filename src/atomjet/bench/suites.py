"""The suites: what each measures, from small to large, who competes in it, and which figures it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from atomjet.errors import ConfigError

if TYPE_CHECKING:  # `atomjet --help` lists the suites, and does not wait for PyTorch
    import torch

    from atomjet.data import System


@dataclass(frozen=True)
class Case:
    """One size; `make()` builds the structures, on the CPU, when its turn comes.

    Attributes:
        recharged: whether charges are others at every call, so that weights which were made for one serve no other.
    """

    name: str
    make: Callable[[], System]
    runs: int = 100
    recharged: bool = False


@dataclass(frozen=True)
class Suite:
    """What one suite measures, and how.

    Attributes:
        name: as on the command line and in results. help: one line.
        cases: makes its cases of at most so many atoms, from a seed.
        largest: atoms of the largest case by default, by type of device.
        race: what contenders do there; `atomjet.bench.timed_calls` has a function for each.
        family: of models, where it is made for one.
        gpu_only: what makes it one for GPUs, where it is.
        baseline: contender that ratios are to, where none are named. beside: those that run beside it, by type of device.
        names: contenders that it knows, where it does not know all of `atomjet.bench.contenders`. refusal: message to others.
        clock: which of a call's times is judged, by type of device: "cpu" (of the process), "wall", or "device".
        cutoff: Å, of searches; None: the model's.
        patience: of the time left, what first calls may take in any case, for contenders that compile anew for large sizes.
        startup: whether what a fresh process takes before its first call is measured too.
        rates: units of throughput, each with its format.
    """

    name: str
    help: str
    cases: Callable[[int, int], list[Case]]
    largest: Mapping[str, int]
    race: Literal["predict", "move", "step", "search"] = "predict"
    family: str = ""
    gpu_only: str = ""
    baseline: str = "general"
    beside: Mapping[str, str] = field(default_factory=lambda: {"cpu": "fast_pytorch", "cuda": "fast_pytorch,fast_gpu"})
    names: tuple[str, ...] = ()
    refusal: str = ""
    clock: Mapping[str, str] = field(default_factory=lambda: {"cpu": "cpu", "cuda": "wall"})
    cutoff: float | None = None
    patience: float = 0.0
    startup: bool = False
    rates: Mapping[str, str] = field(default_factory=lambda: {"atoms/s": ",.4g"})

    def cases_for(self, device: torch.device, family: str, largest: int | None, seed: int) -> list[Case]:
        """Its cases for a device and a family of models; `largest` None: up to its own default.

        Raises:
            ConfigError: a suite for other devices or models, or no case that small.
        """
        if self.family not in ("", family):
            raise ConfigError(
                f"suite {self.name} measures models of the family {self.family}; this one is {family}; give --model"
            )
        if self.gpu_only and device.type != "cuda":
            raise ConfigError(
                f"suite {self.name} {self.gpu_only}, and this device is {device}; run it on a GPU, or suite latency here"
            )
        limit = self.largest[device.type] if largest is None else largest
        made = self.cases(limit, seed)
        if not made:
            raise ConfigError(f"no case of suite {self.name} has at most {limit} atoms; raise --max-atoms")
        return made

    def default_names(self, device: torch.device, backend: str = "auto") -> str:
        """Contenders where none are named; beside the baseline the backend alone where one is."""
        return f"{self.baseline},{self.beside[device.type] if backend == 'auto' else backend}"


def latency(largest: int, seed: int = 0) -> list[Case]:
    """Molecules of 10 to 200 atoms, alone and in batches up to 1024; cases of more than `largest` atoms left out."""
    sizes = ((atoms, batch) for batch in (1, 2, 4, 64, 1024) for atoms in (10, 20, 50, 100, 200))
    return _molecules(sizes, largest, seed)


def bulk(largest: int, seed: int = 0, bonded: bool = False) -> list[Case]:
    """Periodic water, a thousand to a million atoms; `bonded` as for `geometries.water`."""
    return _water(((1000, 100), (10_000, 50), (100_000, 20), (1_000_000, 10)), largest, seed, bonded)


def neighbors(largest: int, seed: int = 0) -> list[Case]:
    """Neighbour search alone: crystals with several images of an atom within reach, boxes of water, one of them triclinic, and
    batches of molecules.
    """
    from atomjet.bench import geometries

    cases = _crystals((8, 64), largest, seed) + _water(((100, 100),), largest, seed)
    water = bulk(largest, seed)
    if largest >= 1000:
        water.insert(1, Case("triclinic water 1,000", lambda: geometries.water(1000, seed, triclinic=True)))
    return cases + water + _molecules(((20, 64), (20, 1000)), largest, seed)


def md(largest: int, seed: int = 0) -> list[Case]:
    """Whole steps of molecular dynamics of one structure: on the device where that serves, else through ASE."""
    from atomjet.bench import geometries

    return [
        Case(f"{atoms} atoms", lambda a=atoms: geometries.molecules(a, 1, seed), runs)
        for atoms, runs in ((10, 200), (20, 200), (50, 200), (200, 100))
        if atoms <= largest
    ] + _water(((1000, 100), (10_000, 30), (100_000, 10)), largest, seed, bonded=True)


def step(largest: int, seed: int = 0) -> list[Case]:
    """Molecules, alone and in batches, and water of a thousand to a million atoms."""
    sizes = ((20, 1), (200, 1), (20, 64), (20, 1024))
    return _molecules(sizes, largest, seed, runs=50) + bulk(largest, seed, bonded=True)


def uma(largest: int, seed: int = 0) -> list[Case]:
    """Crystals of one element, from what a call costs at least to what memory matters for, and of many; water; molecules in one
    call, in the last cases no two alike, met before or not.
    """
    from atomjet.bench import geometries

    cases = _crystals((100, 1000, 2000, 8000, 32000), largest, seed, runs=50)
    cases += _water(((1536, 50),), largest, seed, bonded=True)
    if largest >= 1000:
        for elements in (10, 20):
            name = f"{elements} elements 1,000"
            cases.append(Case(name, lambda n=elements: geometries.alloy(1000, n, seed), 50))
    cases += _molecules(((20, 64),), largest, seed, runs=50)
    if largest >= 256 * 38:
        for name, recharged in (("256 unlike molecules", False), ("256 unlike molecules, new", True)):
            cases.append(Case(name, lambda: geometries.unlike_molecules(256, seed), 50, recharged))
    return cases


def _crystals(sizes: Iterable[int], largest: int, seed: int, runs: int = 100) -> list[Case]:
    from atomjet.bench import geometries

    return [
        Case(f"carbon crystal {size:,}", lambda s=size: geometries.carbon_crystal(s, seed), runs)
        for size in sizes
        if size <= largest
    ]


def _molecules(sizes: Iterable[tuple[int, int]], largest: int, seed: int, runs: int = 100) -> list[Case]:
    """Batches by number of atoms in a molecule and of molecules."""
    from atomjet.bench import geometries

    return [
        Case(f"{atoms} atoms x {batch}", lambda a=atoms, b=batch: geometries.molecules(a, b, seed), runs)
        for atoms, batch in sizes
        if atoms * batch <= largest
    ]


def _water(sizes: Iterable[tuple[int, int]], largest: int, seed: int, bonded: bool = False) -> list[Case]:
    """Boxes by number of atoms and of runs."""
    from atomjet.bench import geometries

    return [
        Case(f"water {size:,}", lambda s=size: geometries.water(s, seed, bonded=bonded), runs)
        for size, runs in sizes
        if size <= largest
    ]


OTHER_SEARCHES = ("torch_cluster", "nvalchemi", "vesin_torch", "vesin_torch_pairs", "torchmd_net")
"""Contenders of suite `neighbors` that are neighbor searches of other libraries, on the device."""

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "latency",
            "Molecules of 10 to 200 atoms, alone and in batches.",
            latency,
            {"cpu": 1280, "cuda": 10**6},
            rates={"structures/s": ",.4g"},
        ),
        Suite("bulk", "Periodic water of a thousand to a million atoms.", bulk, {"cpu": 1000, "cuda": 10**6}),
        Suite(
            "neighbors",
            "The neighbour search alone.",
            neighbors,
            {"cpu": 100_000, "cuda": 10**6},
            race="search",
            baseline="vesin",
            beside={"cpu": "search,brute_force", "cuda": "search,brute_force,captured"},
            names=("search", "captured", "brute_force", "vesin", *OTHER_SEARCHES),
            refusal="is no neighbour search",
            clock={"cpu": "cpu", "cuda": "device"},
        ),
        Suite(
            "md",
            "Whole steps of molecular dynamics: steps/s and ns/day.",
            md,
            {"cpu": 1000, "cuda": 10**5},
            race="move",
            rates={"steps/s": ".4g", "ns/day": ".3g"},
        ),
        Suite(
            "step",
            "Device time of a step in a CUDA graph, beside PyTorch's, compiled; GPU only.",
            step,
            {"cuda": 10**6},
            race="step",
            gpu_only="times CUDA graphs",
            baseline="compile_graph",
            beside={"cuda": "fast_gpu,fast_gpu@high"},
            names=("compile_graph", "fast_gpu", "fast_gpu@high", "fast_gpu@default"),
            refusal="cannot be captured as a step",
            clock={"cpu": "device", "cuda": "device"},
            patience=0.6,
            rates={"edges/s": ",.4g"},
        ),
        Suite(
            "uma",
            "Crystals of 100 to 32,000 atoms, alloys, water and molecules, for models of the family escn_md.",
            uma,
            {"cpu": 9_000, "cuda": 40_000},
            family="escn_md",
            startup=True,  # files of hundreds of MB: loading them is part of what a user waits for
            rates={"calls/s": ".4g", "ns/day at 1 fs": ".3g"},
        ),
    )
}

OTHER = Suite("other", "Nothing of its own.", lambda largest, seed: [], {})
"""Suite that stands in for one that a file of results names and this version does not know."""
