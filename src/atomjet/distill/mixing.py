"""The plan of pairs and clusters: which molecules meet, drawn so that one molecule more or less changes few of the draws."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from atomjet.distill import noncovalent
from atomjet.distill.embedding import Molecule
from atomjet.distill.journal import Record
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.members import Named
from atomjet.distill.molecules import Geometry, generator
from atomjet.distill.recipe import Recipe
from atomjet.distill.spheres import spheres
from atomjet.distill.splits import draw_split, draw_uniform

WATER = "O"

TRIES = 20
"""Partners drawn for a pair until one fits into the largest number of atoms."""

ALIKE = 0.25
"""Share of the oriented pairs, and of the spheres, that are of one molecule."""

LIQUID_COMPONENTS = 2
"""Molecules of which a box is made at most."""


@dataclass(frozen=True)
class Unit:
    """One task of a slice, and what all its frames have in common; `arguments` are made when its turn comes."""

    key: bytes
    source: str
    split: str
    label: str
    function: Callable[..., Record]
    arguments: Callable[[], tuple[Any, ...]]
    large: bool = False


class Planned(Protocol):
    """A plan, as far as pairs and clusters ask for it."""

    recipe: Recipe
    left_out: Failures | None

    @property
    def about(self) -> tuple[Any, ...]:
        """What every slice of molecules depends on."""
        ...

    def key(self, *parts: Any) -> bytes:
        """Digest of all that a task depends on."""
        ...


class Ring:
    """Draws molecules by consistent hashing: a molecule more or less in the recipe changes few of the draws."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.seed, self.places = seed, sorted((draw_uniform(seed, "ring", name), name) for name in names)

    def draw(self, *parts: Any) -> str:
        """The molecule that belongs to the parts."""
        place = bisect.bisect(self.places, (draw_uniform(self.seed, "draw", *map(str, parts)), ""))
        return self.places[place % len(self.places)][1]


class Mixer:
    """Units of all slices in which molecules meet.

    Partners come from the same split only: no held-out molecule enters training inside a pair.
    """

    def __init__(self, plan: Planned, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> None:
        self.plan, self.recipe, self.molecules, self.geometries = plan, plan.recipe, molecules, geometries
        self.seed, self.sample = plan.recipe.seed, plan.recipe.sample
        self.splits = {molecule.smiles: molecule.split for molecule in molecules}
        self.sizes = {smiles: len(geometries[smiles].numbers) for smiles in self.splits}
        self.rings = self._rings(self.splits)
        self.common = self._rings(self._common_names())

    def _common_names(self) -> list[str]:
        names = []
        for name in self.sample.common:
            if name in self.splits:
                names.append(name)
            else:
                reason = (
                    f"sample.common: {name} is not among the molecules that have a geometry, written as RDKit writes it"
                )
                leave_out(self.plan.left_out, "common", name, reason)
        return names

    def _rings(self, names: Iterable[str]) -> dict[str, Ring]:
        by_split: dict[str, list[str]] = {}
        for name in names:
            by_split.setdefault(self.splits[name], []).append(name)
        return {split: Ring(self.seed, found) for split, found in by_split.items()}

    def _draw(self, split: str, *parts: Any) -> str:
        """A molecule of a split; every second time one of the common ones, if there are any."""
        often = split in self.common and draw_uniform(self.seed, "common", *map(str, parts)) < 0.5
        return (self.common if often else self.rings)[split].draw(*parts)

    def _named(self, names: Sequence[str]) -> list[Named]:
        return [(name, self.geometries[name]) for name in names]

    def _share(self, index: str) -> str:
        """Split of a cluster that no single molecule decides."""
        shares = self.sample.split
        return draw_split(self.seed, index, shares.validation, shares.test)

    def _unit(
        self, source: str, split: str, names: Sequence[str], function: Callable[..., Record], index: str, *more: Any
    ) -> Unit:
        """The task of one cluster."""
        settings = more[0].model_dump(exclude={"water", "mixed", "scans", "clusters", "boxes"})
        key = self.plan.key(source, index, names, settings, *self.plan.about)
        return Unit(
            key, source, split, ".".join(names), function, lambda: (self.seed, index, self._named(names), *more)
        )

    def dimers(self, source: str) -> Iterator[Unit]:
        """Pairs of every molecule, in random orientation; `source` is dimers or compressed."""
        config = getattr(self.sample, source)
        word = "dimer" if source == "dimers" else source
        for molecule in self.molecules:
            smiles = molecule.smiles
            partners = [self._partner(molecule, word, frame, config.max_atoms) for frame in range(config.frames)]
            found = [partner for partner in partners if partner is not None]
            if found:
                key = self.plan.key(source, smiles, found, config.model_dump(), *self.plan.about)
                yield Unit(key, source, molecule.split, smiles, noncovalent.dimers, self._pairs(source, smiles, found))

    def _pairs(self, source: str, smiles: str, partners: Sequence[str]) -> Callable[[], tuple[Any, ...]]:
        config = getattr(self.sample, source)
        return lambda: (self.seed, source, [tuple(self._named((smiles, p))) for p in partners], config)

    def _partner(self, molecule: Molecule, word: str, frame: int, most: int | None) -> str | None:
        ring = self.rings[molecule.split]
        for attempt in range(TRIES):
            again = (attempt,) if attempt else ()
            partner = ring.draw(word, molecule.smiles, frame, *again)
            if most is None or self.sizes[molecule.smiles] + self.sizes[partner] <= most:
                return partner
        return None

    def oriented(self) -> Iterator[Unit]:
        """Scans of pairs that face each other."""
        config = self.sample.oriented
        assert config is not None
        for number in range(config.scans):
            index = f"oriented-{number}"
            split = self._share(index)
            if split not in self.rings:
                continue
            first = self._fitting(split, config.max_atoms // 2 + 4, index, 0)
            alike = draw_uniform(self.seed, "alike", index) < ALIKE and 2 * self.sizes[first] <= config.max_atoms
            second = first if alike else self._fitting(split, config.max_atoms - self.sizes[first], index, 1)
            if self.sizes[first] + self.sizes[second] <= config.max_atoms:
                yield self._unit("oriented", split, (first, second), noncovalent.oriented, index, config)

    def _fitting(self, split: str, most: int, *parts: Any) -> str:
        """A molecule of at most so many atoms; the smallest of the draws where none is."""
        drawn = []
        for attempt in range(TRIES):
            drawn.append(self._draw(split, *parts, attempt))
            if self.sizes[drawn[-1]] <= most:
                return drawn[-1]
        return min(drawn, key=self.sizes.__getitem__)

    def _cluster(self, index: str, size: tuple[int, int], most: int, draw: Callable[[int], str]) -> list[str]:
        """Molecules of a cluster: a number log-uniform in a range, fewer where they would be too many atoms."""
        low, high = size
        rng = generator(self.seed, "cluster size", index)
        wanted = round(np.exp(rng.uniform(np.log(low - 0.5), np.log(high + 0.5))))
        names = [draw(place) for place in range(wanted)]
        total = list(itertools.accumulate(self.sizes[name] for name in names))
        return names[: max(2, bisect.bisect_right(total, most))]

    def clusters(self) -> Iterator[Unit]:
        """Water clusters where water is among the molecules, then mixed ones, a share of them in each split."""
        config = self.sample.clusters
        assert config is not None
        waters = [("water", i) for i in range(config.water if WATER in self.splits else 0)]
        for composition, number in waters + [("mixed", i) for i in range(config.mixed)]:
            index = f"{composition}-{number}"
            split = self.splits[WATER] if composition == "water" else self._share(index)
            if split not in self.rings:
                continue
            ring = self.rings[split]

            def draw(place: int, composition: str = composition, ring: Ring = ring, index: str = index) -> str:
                return WATER if composition == "water" else ring.draw(index, place)

            names = self._cluster(index, config.molecules, config.max_atoms, draw)
            yield self._unit("clusters", split, names, noncovalent.clusters, index, config, self.recipe.teacher)

    def packed(self) -> Iterator[Unit]:
        """Clusters that are packed at random and not relaxed."""
        config = self.sample.packed
        assert config is not None
        for number in range(config.clusters):
            index = f"packed-{number}"
            split = self._share(index)
            if split not in self.rings:
                continue
            each = max(6, config.max_atoms // config.molecules[0])

            def draw(place: int, split: str = split, index: str = index, each: int = each) -> str:
                return self._fitting(split, each, index, place)

            names = self._cluster(index, config.molecules, config.max_atoms, draw)
            yield self._unit("packed", split, names, noncovalent.packed, index, config)

    def spheres(self) -> Iterator[Unit]:
        """Spheres out of boxes of one liquid or of a mixture."""
        config = self.sample.spheres
        assert config is not None
        for number in range(config.boxes):
            index = f"spheres-{number}"
            split = self._share(index)
            if split not in self.rings:
                continue
            components = 1 if draw_uniform(self.seed, "alike", index) < 0.5 else LIQUID_COMPONENTS
            names = [self._fitting(split, config.atoms[1] // 3, index, place) for place in range(components)]
            yield self._unit("spheres", split, names, spheres, index, config)


def given_now(*arguments: Any) -> Callable[[], tuple[Any, ...]]:
    """Arguments of a unit that are known already."""
    return lambda: arguments
