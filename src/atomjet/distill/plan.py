"""The plan of sampling: which tasks a recipe asks for, in the order in which their frames will stand.

The key of a task is a digest of all that its result depends on, so that a changed recipe finds again what it shares
with the recipe before.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomjet.adapters.structure_files import read_structures
from atomjet.distill import slices
from atomjet.distill.conditions import Conditions, read_conditions, unsaid
from atomjet.distill.dataset import connectivity_key, draw_split, draw_uniform
from atomjet.distill.files import require_file
from atomjet.distill.journal import Record, content_key
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.molecules import Geometry, Molecule, generator, make_geometry
from atomjet.distill.recipe import MDConfig, NormalModesConfig, Recipe
from atomjet.distill.teacher import describe
from atomjet.errors import AtomJetError, ConfigError

ALGORITHM = 1
"""Goes into every key: raised when a slice is sampled in another way."""

WATER = "O"

MEMBER_TEMPERATURE = (200.0, 300.0)
"""Range of the temperature at which the molecules of a cluster are displaced, K: one value is drawn for each."""


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


class Plan:
    """Tasks of a recipe: `geometries` first; what they give is needed by `slices`."""

    def __init__(self, recipe: Recipe, molecules: Sequence[Molecule], left_out: Failures | None = None) -> None:
        self.recipe, self.molecules, self.left_out = recipe, molecules, left_out

    @cached_property
    def about(self) -> tuple[Any, ...]:
        """What every slice of molecules depends on; slices that no teacher makes do not ask for it."""
        return self.recipe.sample.conformers.model_dump(), describe(self.recipe.teacher)

    def _key(self, *parts: Any) -> bytes:
        return content_key(ALGORITHM, self.recipe.seed, *parts)

    def geometries(self) -> Iterator[Unit]:
        """The geometry of every molecule."""
        recipe = self.recipe
        for molecule in self.molecules:
            given = _given(molecule.smiles, recipe.seed, recipe.sample.conformers, recipe.teacher)
            key = self._key("geometry", molecule.smiles, *self.about)
            yield Unit(key, "geometry", molecule.split, molecule.smiles, make_geometry, given)

    def slices(self, geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        """All slices, of the molecules that have a geometry."""
        sample = self.recipe.sample
        present = [molecule for molecule in self.molecules if molecule.smiles in geometries]
        small = [molecule for molecule in present if not molecule.large]
        yield from self._molecules(small, geometries)
        yield from self._dimers(small, geometries) if sample.dimers else ()
        yield from self._clusters(small, geometries) if sample.clusters else ()
        yield from self._atoms()
        yield from self._peptides([molecule for molecule in present if molecule.large], geometries)
        yield from self._structures() if sample.structures else ()

    def _molecules(self, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        seed = self.recipe.seed
        for source in ("conformers", "normal_modes", "torsions", "md"):
            config = getattr(self.recipe.sample, source)
            more = (self.recipe.teacher,) if source == "md" else ()
            for molecule in molecules if config else ():
                smiles = molecule.smiles
                if source == "md" and draw_uniform(seed, "md", smiles) >= config.share:
                    continue
                key = self._key(source, smiles, config.model_dump(exclude={"share"}), *self.about)
                given = _given(smiles, seed, geometries[smiles], config, *more)
                yield Unit(key, source, molecule.split, smiles, getattr(slices, source), given)

    def _rings(self, molecules: Sequence[Molecule]) -> dict[str, Ring]:
        """Partners come from the same split only: no held-out molecule enters training inside a pair."""
        by_split: dict[str, list[str]] = {}
        for molecule in molecules:
            by_split.setdefault(molecule.split, []).append(molecule.smiles)
        return {split: Ring(self.recipe.seed, names) for split, names in by_split.items()}

    def _member(self, geometries: Mapping[str, Geometry], smiles: str, temperature: Any, *parts: Any) -> slices.Member:
        """A molecule as it joins a pair or cluster: displaced thermally."""
        rng, geometry = generator(self.recipe.seed, "member", smiles, *parts), geometries[smiles]
        return smiles, geometry.numbers, slices.displaced(geometry, temperature, rng), geometry.bonds

    def _dimers(self, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        config, rings = self.recipe.sample.dimers, self._rings(molecules)
        assert config is not None

        def pairs(smiles: str, partners: Sequence[str]) -> tuple[Any, ...]:
            made = [
                tuple(
                    self._member(geometries, name, config.temperature, "dimer", smiles, frame, side)
                    for side, name in enumerate((smiles, partner))
                )
                for frame, partner in enumerate(partners)
            ]
            return self.recipe.seed, made, config

        for molecule in molecules:
            smiles = molecule.smiles
            partners = [rings[molecule.split].draw("dimer", smiles, frame) for frame in range(config.frames)]
            key = self._key("dimers", smiles, partners, config.model_dump(), *self.about)
            yield Unit(key, "dimers", molecule.split, smiles, slices.dimers, _later(pairs, smiles, partners))

    def _clusters(self, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        """Water clusters where water is among the molecules, then mixed ones, a share of them in each split."""
        config, shares, seed = self.recipe.sample.clusters, self.recipe.sample.split, self.recipe.seed
        assert config is not None
        splits = {molecule.smiles: molecule.split for molecule in molecules}
        rings = self._rings(molecules)
        sizes = {molecule.smiles: len(geometries[molecule.smiles].numbers) for molecule in molecules}
        settings = config.model_dump(exclude={"water", "mixed"})

        def packed(index: str, names: Sequence[str]) -> tuple[Any, ...]:
            made = [self._member(geometries, name, MEMBER_TEMPERATURE, index, i) for i, name in enumerate(names)]
            return seed, index, made, config, self.recipe.teacher

        waters = [("water", i) for i in range(config.water if WATER in splits else 0)]
        for kind, number in waters + [("mixed", i) for i in range(config.mixed)]:
            index = f"{kind}-{number}"
            split = splits[WATER] if kind == "water" else draw_split(seed, index, shares.validation, shares.test)
            if split not in rings:
                continue
            low, high = config.molecules
            wanted = round(
                np.exp(generator(seed, "cluster size", index).uniform(np.log(low - 0.5), np.log(high + 0.5)))
            )
            names = [WATER if kind == "water" else rings[split].draw(index, place) for place in range(wanted)]
            total = list(itertools.accumulate(sizes[name] for name in names))
            names = names[: max(2, bisect.bisect_right(total, config.max_atoms))]
            key = self._key("clusters", index, names, settings, *self.about)
            yield Unit(key, "clusters", split, ".".join(names), slices.clusters, _later(packed, index, names))

    def _atoms(self) -> Iterator[Unit]:
        elements, walls = self.recipe.elements, self.recipe.sample.walls
        numbers = [atomic_numbers[symbol] for symbol in elements]
        for pair in itertools.combinations_with_replacement(numbers, 2) if walls else ():
            key = self._key("walls", *pair, walls.model_dump() if walls else None)
            yield Unit(key, "walls", "train", "-".join(map(str, pair)), slices.walls, _given(*pair, walls))
        if self.recipe.sample.free_atoms:
            given = _given(numbers)
            yield Unit(self._key("free_atoms", numbers), "free_atoms", "train", "atoms", slices.free_atoms, given)

    def _peptides(self, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        config, seed = self.recipe.sample.peptides, self.recipe.seed
        if config is None:
            return
        modes = NormalModesConfig(frames=config.mode_frames, temperature=config.mode_temperature)
        md = MDConfig(frames=config.md_frames, temperatures=config.temperatures, keep_every=config.keep_every)
        for molecule in molecules:
            smiles, geometry = molecule.smiles, geometries[molecule.smiles]
            for function, part, more in ((slices.normal_modes, modes, ()), (slices.md, md, (self.recipe.teacher,))):
                key = self._key("peptides", function.__name__, smiles, part.model_dump(), *self.about)
                given = _given(smiles, seed, geometry, part, *more)
                yield Unit(key, "peptides", "test", smiles, function, given, large=True)

    def _structures(self) -> Iterator[Unit]:
        config, shares, seed = self.recipe.sample.structures, self.recipe.sample.split, self.recipe.seed
        assert config is not None
        for path, index, atoms in self._read():
            name, where = connectivity_key(atoms), f"{path.name}, structure {index}"
            if warning := unsaid(atoms):
                print(f"warning: {where}: {warning}", file=sys.stderr)
            split = draw_split(seed, name, shares.validation, shares.test)
            conditions = read_conditions(atoms)
            # Only where there are any: the keys of other structures stay what they were.
            said = (list(conditions),) if conditions != Conditions() else ()
            content = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
            key = self._key("structures", *content, *said, config.model_dump(exclude={"files"}))
            yield Unit(key, "structures", split, name, slices.structures, _given(name, seed, atoms, config))

    def _read(self) -> Iterator[tuple[Path, int, Atoms]]:
        """Structures of the files that can be sampled, each with its place."""
        config = self.recipe.sample.structures
        assert config is not None
        for path in config.files:
            try:
                require_file(path, "sample.structures.files:")
                read = read_structures(path)
            except AtomJetError as error:
                leave_out(self.left_out, "structures", path.name, str(error))
                continue
            for index, atoms in enumerate(read):
                try:
                    _check_structure(atoms, self.recipe.elements, f"{path.name}, structure {index}")
                except ConfigError as error:
                    leave_out(self.left_out, "structures", f"{path.name}, structure {index}", str(error))
                else:
                    yield path, index, atoms


def _check_structure(atoms: Atoms, elements: Sequence[str], where: str) -> None:
    """Refuse what no teacher could label."""
    foreign = sorted(set(atoms.get_chemical_symbols()) - set(elements))
    if foreign:
        raise ConfigError(f"{where}: {foreign[0]} is not among the recipe's elements")
    if not len(atoms) or not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise ConfigError(f"{where}: has no atoms, or positions or a cell that are not finite; correct it")
    read_conditions(atoms, where)


class Ring:
    """Draws molecules by consistent hashing: a molecule more or less in the recipe changes few of the draws."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.seed, self.places = seed, sorted((draw_uniform(seed, "ring", name), name) for name in names)

    def draw(self, *parts: Any) -> str:
        """The molecule that belongs to the parts."""
        place = bisect.bisect(self.places, (draw_uniform(self.seed, "draw", *map(str, parts)), ""))
        return self.places[place % len(self.places)][1]


def _given(*arguments: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: arguments


def _later(make: Callable[..., tuple[Any, ...]], *arguments: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: make(*arguments)
