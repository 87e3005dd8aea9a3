"""The plan of sampling: which tasks a recipe asks for, in the order in which their frames will stand.

The key of a task is a digest of all that its result depends on, so that a changed recipe finds again what it shares
with the recipe before.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomjet.adapters.structure_files import read_structures
from atomjet.distill import crystals, slices
from atomjet.distill.conditions import Conditions, read_conditions, unsaid
from atomjet.distill.embedding import Embedding, Molecule, embed
from atomjet.distill.files import require_file
from atomjet.distill.journal import Record, content_key
from atomjet.distill.left_out import Failures, leave_out
from atomjet.distill.mixing import Mixer, Unit, given_now
from atomjet.distill.molecules import Geometry, derive_seed, make_geometry
from atomjet.distill.recipe import Recipe, TeacherConfig
from atomjet.distill.sample_config import MDConfig, NormalModesConfig, StructuresConfig
from atomjet.distill.splits import connectivity_key, draw_split, draw_uniform
from atomjet.distill.teacher import describe
from atomjet.distill.warm_start import read_start
from atomjet.errors import AtomJetError, ConfigError

ALGORITHM = 2
"""Part of every key: raised when the sampling of a slice changes."""


class Plan:
    """Tasks of a recipe: `embeddings` first; what they give is needed by `geometries`, and what these give by `slices`."""

    def __init__(self, recipe: Recipe, molecules: Sequence[Molecule], left_out: Failures | None = None) -> None:
        self.recipe, self.molecules, self.left_out = recipe, molecules, left_out
        self._about: tuple[Any, ...] | None = None

    @property
    def about(self) -> tuple[Any, ...]:
        """What every slice of molecules depends on; slices that no teacher makes do not ask for it."""
        if self._about is None:
            self._about = self.recipe.sample.conformers.model_dump(), describe(self.recipe.teacher)
        return self._about

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

    def relaxations(self) -> Iterator[Unit]:
        """The structures of files that the teacher relaxes before they are sampled; each by its place."""
        config, recipe = self.recipe.sample.structures, self.recipe
        for where, atoms in self.given if config and config.relax else ():
            key = self.key("relaxation", *_content(atoms), describe(recipe.teacher))
            yield Unit(key, "relaxation", "", where, crystals.relaxation, given_now(atoms, recipe.teacher))

    def slices(self, geometries: Mapping[str, Geometry], relaxed: Mapping[str, Record] | None = None) -> Iterator[Unit]:
        """All slices, of the molecules that have a geometry and the structures that are relaxed where they are to be."""
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
        yield from self._structures(relaxed or {}) if sample.structures else ()

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
        wanted = self.recipe.sample.free_atoms
        if wanted or (wanted is None and self.recipe.molecules is not None):
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

    def _structures(self, relaxed: Mapping[str, Record]) -> Iterator[Unit]:
        """Slices of each structure in each size of supercell."""
        recipe, config = self.recipe, self.recipe.sample.structures
        assert config is not None
        for where, given in self.given:
            if config.relax and where not in relaxed:
                continue
            atoms, name = given.copy(), connectivity_key(given)
            if config.relax:
                atoms.set_cell(relaxed[where]["cell"])
                atoms.positions = relaxed[where]["positions"]
            split = draw_split(recipe.seed, name, recipe.sample.split.validation, recipe.sample.split.test)
            for size, repeats in enumerate(crystals.supercells(atoms, student_cutoff(recipe), config.supercells)):
                whole = crystals.repeated(atoms, repeats)
                for source, function, settings, more in _structure_slices(config, size, whole, recipe.teacher):
                    about = settings.model_dump(include=USED[source]), *([describe(recipe.teacher)] if more else [])
                    key = self.key(source, *_content(whole), *about)
                    arguments = given_now(name, recipe.seed, whole, settings, *more)
                    yield Unit(key, source, split, name, function, arguments)

    @cached_property
    def given(self) -> list[tuple[str, Atoms]]:
        """Structures of the files that can be sampled, each with its place."""
        found, config = [], self.recipe.sample.structures
        files = config.files if config else ()
        names = [path.name for path in files]
        for path in files:
            try:
                require_file(path, "sample.structures.files:")
                read = read_structures(path)
            except AtomJetError as error:
                leave_out(self.left_out, "structures", path.name, str(error))
                continue
            for index, atoms in enumerate(read):
                name = path.name if names.count(path.name) == 1 else str(path)
                where = f"{name}, structure {index}"
                try:
                    _check_structure(atoms, self.recipe.elements, where)
                except ConfigError as error:
                    leave_out(self.left_out, "structures", where, str(error))
                    continue
                if warning := unsaid(atoms):
                    print(f"warning: {where}: {warning}", file=sys.stderr)
                found.append((where, atoms))
        return found


USED = {
    "structures": {"frames", "displacement", "strain"},
    "strained": {"strained", "volume", "shear"},
    "structure_md": None,
}
"""Settings on which a slice of structures depends; None: all."""


def _structure_slices(
    config: StructuresConfig, size: int, atoms: Atoms, teacher: TeacherConfig
) -> Iterator[tuple[str, Callable[..., Record], Any, tuple[Any, ...]]]:
    """Name, function, settings and further arguments of each slice of one structure in one size (0 is the small one)."""
    yield "structures", crystals.rattled, config, ()
    if config.strained and atoms.pbc.all():
        yield "strained", crystals.strained, config, ()
    if config.md and size == 0:
        yield "structure_md", crystals.moved_by_teacher, config.md, (teacher,)


def student_cutoff(recipe: Recipe) -> float:
    """Å: of the model that the student starts from, else as the recipe asks."""
    start = read_start(recipe)
    return recipe.student.cutoff if start is None else start.config.cutoff


def _content(atoms: Atoms) -> tuple[Any, ...]:
    """What a slice of a structure depends on; conditions only where there are any: the keys of others stay what they were."""
    conditions = read_conditions(atoms)
    given = (list(conditions),) if conditions != Conditions() else ()
    return atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, *given


def _check_structure(atoms: Atoms, elements: Sequence[str], where: str) -> None:
    """Refuse what no teacher could label."""
    foreign = sorted(set(atoms.get_chemical_symbols()) - set(elements))
    if foreign:
        raise ConfigError(f"{where}: {foreign[0]} is not among the recipe's elements")
    if not len(atoms) or not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise ConfigError(f"{where}: has no atoms, or positions or a cell that are not finite; correct it")
    read_conditions(atoms, where)
