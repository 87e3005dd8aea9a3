"""The plan of sampling: which tasks a recipe asks for, in the order in which their frames will stand.

The key of a task is a digest of all that its result depends on, so that a changed recipe finds again what it shares
with the recipe before.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from atomjet.distill.embedding import Embedding, Molecule, embed
from atomjet.distill.files import require_file
from atomjet.distill.journal import content_key
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.mixing import Mixer, Unit, given_now
from atomjet.distill.molecules import Geometry, derive_seed, make_geometry
from atomjet.distill.recipe import MDConfig, NormalModesConfig, Recipe
from atomjet.distill.teacher import describe
from atomjet.errors import AtomJetError, ConfigError

ALGORITHM = 2
"""Goes into every key: raised when a slice is sampled in another way."""


class Plan:
    """Tasks of a recipe: `embeddings` first; what they give is needed by `geometries`, and what these give by `slices`."""

    def __init__(self, recipe: Recipe, molecules: Sequence[Molecule], left_out: Failures | None = None) -> None:
        self.recipe, self.molecules, self.left_out = recipe, molecules, left_out

    @cached_property
    def about(self) -> tuple[Any, ...]:
        """What every slice of molecules depends on; slices that no teacher makes do not ask for it."""
        return self.recipe.sample.conformers.model_dump(), describe(self.recipe.teacher)

    def key(self, *parts: Any) -> bytes:
        """Digest of all that a task depends on."""
        return content_key(ALGORITHM, self.recipe.seed, *parts)

    def embeddings(self) -> Iterator[Unit]:
        """Force-field conformers of every molecule."""
        seed, count = self.recipe.seed, self.recipe.sample.conformers.per_molecule
        for molecule in self.molecules:
            smiles = molecule.smiles
            given = given_now(smiles, derive_seed(seed, "conformers", smiles), count)
            key = self.key("embedding", smiles, count)
            yield Unit(key, "embedding", molecule.split, smiles, embed, given)

    def geometries(self, embeddings: Mapping[str, Embedding]) -> Iterator[Unit]:
        """The geometry of every molecule that has conformers."""
        recipe = self.recipe
        for molecule in self.molecules:
            smiles = molecule.smiles
            if smiles not in embeddings:
                continue
            key = self.key("geometry", smiles, *self.about)
            given = given_now(embeddings[smiles], recipe.sample.conformers, recipe.teacher)
            yield Unit(key, "geometry", molecule.split, smiles, make_geometry, given)

    def slices(self, geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        """All slices, of the molecules that have a geometry."""
        sample = self.recipe.sample
        present = [molecule for molecule in self.molecules if molecule.smiles in geometries]
        small = [molecule for molecule in present if not molecule.large]
        yield from self._molecules(small, geometries)
        mixer = Mixer(self, small, geometries)
        for source in ("dimers", "compressed"):
            yield from mixer.dimers(source) if getattr(sample, source) else ()
        yield from mixer.oriented() if sample.oriented else ()
        yield from mixer.clusters() if sample.clusters else ()
        yield from mixer.packed() if sample.packed else ()
        yield from mixer.spheres() if sample.spheres else ()
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
                key = self.key(source, smiles, config.model_dump(exclude={"share"}), *self.about)
                given = given_now(smiles, seed, geometries[smiles], config, *more)
                yield Unit(key, source, molecule.split, smiles, getattr(slices, source), given)

    def _atoms(self) -> Iterator[Unit]:
        elements, walls = self.recipe.elements, self.recipe.sample.walls
        numbers = [atomic_numbers[symbol] for symbol in elements]
        for pair in itertools.combinations_with_replacement(numbers, 2) if walls else ():
            key = self.key("walls", *pair, walls.model_dump() if walls else None)
            yield Unit(key, "walls", "train", "-".join(map(str, pair)), slices.walls, given_now(*pair, walls))
        if self.recipe.sample.free_atoms:
            given = given_now(numbers)
            yield Unit(self.key("free_atoms", numbers), "free_atoms", "train", "atoms", slices.free_atoms, given)

    def _peptides(self, molecules: Sequence[Molecule], geometries: Mapping[str, Geometry]) -> Iterator[Unit]:
        config, seed = self.recipe.sample.peptides, self.recipe.seed
        if config is None:
            return
        modes = NormalModesConfig(frames=config.mode_frames, temperature=config.mode_temperature)
        md = MDConfig(frames=config.md_frames, temperatures=config.temperatures, keep_every=config.keep_every)
        for molecule in molecules:
            smiles, geometry = molecule.smiles, geometries[molecule.smiles]
            for function, part, more in ((slices.normal_modes, modes, ()), (slices.md, md, (self.recipe.teacher,))):
                key = self.key("peptides", function.__name__, smiles, part.model_dump(), *self.about)
                given = given_now(smiles, seed, geometry, part, *more)
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
            key = self.key("structures", *content, *said, config.model_dump(exclude={"files"}))
            yield Unit(key, "structures", split, name, slices.structures, given_now(name, seed, atoms, config))

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
