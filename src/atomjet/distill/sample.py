"""`atomjet sample`: frames worth labelling, from the molecules of a recipe.

Two rounds of tasks in worker processes: first the geometry of every molecule (conformers, relaxation, normal modes), then the
slices. Every task is remembered by a digest of all that its result depends on, in `OUTPUT/samples/`: a run that was killed goes
on, and a change of the recipe samples anew only what it touches. The frames are then gathered, in an order that depends on the
recipe alone, into `OUTPUT/samples.h5`.
"""

from __future__ import annotations

import bisect
import fcntl
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.data import atomic_numbers

from atomjet.distill import slices
from atomjet.distill.dataset import (
    Frames,
    concatenate,
    connectivity_key,
    draw_split,
    draw_uniform,
    frames_from_record,
    write_shard,
)
from atomjet.distill.journal import Journal, Record, content_key
from atomjet.distill.molecules import Geometry, Molecule, generator, make_geometry, read_molecules
from atomjet.distill.pool import Task, default_workers, run_tasks
from atomjet.distill.recipe import MDConfig, NormalModesConfig, Recipe
from atomjet.distill.teacher import describe_teacher, make_teacher
from atomjet.errors import ConfigError
from atomjet.progress import track

ALGORITHM = 1
"""Goes into every digest: raised when a slice is sampled in another way."""

WATER = "O"
NEVER_HELD_BACK = ("walls", "free_atoms", "structures")


@dataclass(frozen=True)
class Unit:
    """One task of a slice, and what all its frames have in common."""

    key: bytes
    source: str
    split: str
    label: str
    function: Callable[..., Record]
    arguments: Callable[[], tuple[Any, ...]]
    large: bool = False


def call(function: Callable[..., Record], *arguments: Any) -> Record:
    """What the workers of both rounds run."""
    return function(*arguments)


def run_sample(recipe: Recipe, quiet: bool = False) -> Path:
    """Sample a recipe, or go on where a killed run was; prints what there is.

    Returns:
        The file of unlabelled frames, `OUTPUT/samples.h5`.

    Raises:
        ConfigError: molecules that cannot be used, or another run working in the same directory.
        TeacherError: the teacher cannot be built.
    """
    make_teacher(recipe.teacher.calculator, recipe.teacher.options)  # complain before any worker starts
    molecules = read_molecules(recipe)
    journals = recipe.output / "samples"
    with only_run(recipe.output):
        geometries, failures = _geometries(recipe, molecules, journals, quiet)
        units = list(_units(recipe, molecules, geometries))
        _finish("sampling", units, journals, recipe, quiet)
        frames, more = _gather(recipe, units, journals)
        failures += more
        path = recipe.output / "samples.h5"
        write_shard(path, frames, {"recipe": recipe.name, "seed": recipe.seed})
        write_lines(recipe.output / "sample_failures.jsonl", failures)
    print_counts(frames)
    print(f"{len(frames)} frames of {len(molecules)} molecules in {path}")
    if failures:
        print(f"{len(failures)} tasks failed or ended early; reasons in {recipe.output / 'sample_failures.jsonl'}")
    return path


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Hold a lock on an output directory; the system frees it when the process ends, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another run is working in {directory}; wait for it or choose another output") from error
        yield


def write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines, atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    partial.replace(path)


def print_counts(frames: Frames) -> None:
    """A table of frames per slice and split."""
    counts = Counter(zip(frames.source.tolist(), frames.split.tolist(), strict=True))
    splits = sorted({split for _, split in counts})
    print(f"{'slice':14}" + "".join(f"{split:>17}" for split in splits))
    for source in dict.fromkeys(frames.source.tolist()):
        print(f"{source:14}" + "".join(f"{counts[source, split]:17}" for split in splits))


def _workers(recipe: Recipe) -> int:
    return recipe.sample.workers or default_workers()


def _key(recipe: Recipe, *parts: Any) -> bytes:
    return content_key(ALGORITHM, recipe.seed, *parts)


def _geometries(
    recipe: Recipe, molecules: Sequence[Molecule], journals: Path, quiet: bool
) -> tuple[dict[str, Geometry], list[dict[str, Any]]]:
    """First round: the geometry of every molecule, and why some have none."""
    conformers, teacher = recipe.sample.conformers, recipe.teacher
    about = (conformers.model_dump(), describe_teacher(teacher.calculator, teacher.options))
    units = [
        Unit(
            _key(recipe, "geometry", molecule.smiles, *about), "geometry", molecule.split, molecule.smiles, make_geometry,
            lambda smiles=molecule.smiles: (smiles, recipe.seed, conformers, teacher),
        )
        for molecule in molecules
    ]  # fmt: skip
    _finish("geometries", units, journals, recipe, quiet)
    found, failures = {}, []
    with Journal(journals) as journal:
        for unit in units:
            record = journal[unit.key]
            if "error" in record:
                failures.append({"slice": "geometry", "molecule": unit.label, "reason": record["error"]})
            else:
                found[unit.label] = Geometry(**record)
    return found, failures


def _finish(description: str, units: Sequence[Unit], journals: Path, recipe: Recipe, quiet: bool) -> None:
    """Run the units that have no record yet."""
    with Journal(journals) as journal:
        missing = [unit for unit in units if unit.key not in journal]
    tasks = (Task(unit.key, (unit.function, *unit.arguments())) for unit in missing)
    with track(description, len(units), done=len(units) - len(missing), quiet=quiet) as advance:
        run_tasks(call, tasks, journals, _workers(recipe), advance)


def _gather(recipe: Recipe, units: Sequence[Unit], journals: Path) -> tuple[Frames, list[dict[str, Any]]]:
    parts, failures = [], []
    with Journal(journals) as journal:
        for unit in units:
            record = journal[unit.key]
            if reason := record.get("error") or record.get("note"):
                failures.append({"slice": unit.source, "molecule": unit.label, "reason": reason})
            if "error" not in record:
                parts.append(frames_from_record(record, unit.split, unit.source, unit.large))
    frames = concatenate(parts)
    _hold_back(recipe, frames)
    return frames, failures


def _hold_back(recipe: Recipe, frames: Frames) -> None:
    """Tag a share of the training molecules' frames for in-distribution validation, by their content."""
    never = np.isin(frames.source, np.array(NEVER_HELD_BACK, dtype=frames.source.dtype))
    for f in np.flatnonzero((frames.split == "train") & ~never):
        content = frames.positions[frames.ptr[f] : frames.ptr[f + 1]].tobytes().hex()
        if draw_uniform(recipe.seed, "in_distribution", content) < recipe.sample.split.in_distribution:
            frames.split[f] = "in_distribution"


def _units(recipe: Recipe, molecules: Sequence[Molecule], geometries: dict[str, Geometry]) -> Iterator[Unit]:
    """Second round: the tasks of every slice, in the order in which their frames will stand."""
    present = [molecule for molecule in molecules if molecule.smiles in geometries]
    small = [molecule for molecule in present if not molecule.large]
    yield from _molecule_units(recipe, small, geometries)
    if recipe.sample.dimers:
        yield from _dimer_units(recipe, small, geometries)
    if recipe.sample.clusters:
        yield from _cluster_units(recipe, small, geometries)
    yield from _atom_units(recipe)
    if recipe.sample.peptides:
        yield from _peptide_units(recipe, [molecule for molecule in present if molecule.large], geometries)
    if recipe.sample.structures:
        yield from _structure_units(recipe)


def _about(recipe: Recipe) -> tuple[Any, ...]:
    """What geometries, and so all that is made of them, depend on."""
    teacher = recipe.teacher
    return recipe.sample.conformers.model_dump(), describe_teacher(teacher.calculator, teacher.options)


def _molecule_units(
    recipe: Recipe, molecules: Sequence[Molecule], geometries: dict[str, Geometry]
) -> Iterator[Unit]:
    sample, seed, about = recipe.sample, recipe.seed, _about(recipe)
    for source in ("conformers", "normal_modes", "torsions", "md"):
        config = getattr(sample, source)
        for molecule in molecules if config else ():
            smiles = molecule.smiles
            if source == "md" and draw_uniform(seed, "md", smiles) >= config.share:
                continue
            given = _given(smiles, seed, geometries[smiles], config, *((recipe.teacher,) if source == "md" else ()))
            key = _key(recipe, source, smiles, config.model_dump(exclude={"share"}), *about)
            yield Unit(key, source, molecule.split, smiles, getattr(slices, source), given)


def _given(*arguments: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: arguments


def _member(recipe: Recipe, smiles: str, geometry: Geometry, temperature: Any, *parts: Any) -> slices.Member:
    """A molecule as it joins a pair or cluster: displaced thermally."""
    rng = generator(recipe.seed, "member", smiles, *parts)
    return smiles, geometry.numbers, slices.displaced(geometry, temperature, rng), geometry.bonds


class _Ring:
    """Draws molecules of one split by consistent hashing: a molecule more or less changes few of the draws."""

    def __init__(self, recipe: Recipe, molecules: Sequence[Molecule], split: str) -> None:
        self.seed = recipe.seed
        self.places = sorted(
            (draw_uniform(recipe.seed, "ring", molecule.smiles), molecule.smiles)
            for molecule in molecules
            if molecule.split == split
        )

    def draw(self, *parts: Any) -> str:
        place = bisect.bisect(self.places, (draw_uniform(self.seed, "draw", *map(str, parts)), ""))
        return self.places[place % len(self.places)][1]


def _dimer_units(recipe: Recipe, molecules: Sequence[Molecule], geometries: dict[str, Geometry]) -> Iterator[Unit]:
    config = recipe.sample.dimers
    assert config is not None
    rings = {split: _Ring(recipe, molecules, split) for split in {molecule.split for molecule in molecules}}
    for molecule in molecules:
        smiles = molecule.smiles
        partners = [rings[molecule.split].draw("dimer", smiles, frame) for frame in range(config.frames)]

        def arguments(smiles: str = smiles, partners: list[str] = partners) -> tuple[Any, ...]:
            pairs = [
                tuple(
                    _member(recipe, name, geometries[name], config.temperature, "dimer", smiles, frame, side)
                    for side, name in enumerate((smiles, partner))
                )
                for frame, partner in enumerate(partners)
            ]
            return recipe.seed, pairs, config

        key = _key(recipe, "dimers", smiles, partners, config.model_dump(), *_about(recipe))
        yield Unit(key, "dimers", molecule.split, smiles, slices.dimers, arguments)


def _cluster_units(recipe: Recipe, molecules: Sequence[Molecule], geometries: dict[str, Geometry]) -> Iterator[Unit]:
    """Water clusters where water is among the molecules, then mixed ones, a share of them in each split."""
    config, shares = recipe.sample.clusters, recipe.sample.split
    assert config is not None
    splits = {molecule.smiles: molecule.split for molecule in molecules}
    rings = {split: _Ring(recipe, molecules, split) for split in set(splits.values())}
    settings = config.model_dump(exclude={"water", "mixed"})
    for kind, number in (("water", config.water if WATER in splits else 0), ("mixed", config.mixed)):
        for index in (f"{kind}-{i}" for i in range(number)):
            split = splits[WATER] if kind == "water" else draw_split(recipe.seed, index, shares.validation, shares.test)
            if split not in rings:
                continue
            rng = generator(recipe.seed, "cluster size", index)
            wanted = round(np.exp(rng.uniform(*np.log(np.array(config.molecules) + (-0.5, 0.5)))))
            names: list[str] = []
            atoms = 0
            for place in range(wanted):
                name = WATER if kind == "water" else rings[split].draw(index, place)
                atoms += len(geometries[name].numbers)
                if atoms > config.max_atoms and len(names) >= 2:
                    break
                names.append(name)
            if len(names) < 2:
                continue

            def arguments(index: str = index, names: list[str] = names) -> tuple[Any, ...]:
                members = [
                    _member(recipe, name, geometries[name], (200.0, 300.0), index, place)
                    for place, name in enumerate(names)
                ]
                return recipe.seed, index, members, config, recipe.teacher

            key = _key(recipe, "clusters", index, names, settings, *_about(recipe))
            yield Unit(key, "clusters", split, ".".join(names), slices.clusters, arguments)


def _atom_units(recipe: Recipe) -> Iterator[Unit]:
    numbers = [atomic_numbers[symbol] for symbol in recipe.elements]
    walls = recipe.sample.walls
    for pair in itertools.combinations_with_replacement(numbers, 2) if walls else ():
        key = _key(recipe, "walls", *pair, walls.model_dump() if walls else None)
        yield Unit(key, "walls", "train", "-".join(map(str, pair)), slices.walls, _given(*pair, walls))
    if recipe.sample.free_atoms:
        key = _key(recipe, "free_atoms", numbers)
        yield Unit(key, "free_atoms", "train", " ".join(recipe.elements), slices.free_atoms, _given(numbers))


def _peptide_units(recipe: Recipe, molecules: Sequence[Molecule], geometries: dict[str, Geometry]) -> Iterator[Unit]:
    config = recipe.sample.peptides
    assert config is not None
    modes = NormalModesConfig(frames=config.mode_frames, temperature=config.mode_temperature)
    md = MDConfig(frames=config.md_frames, temperatures=config.temperatures, keep_every=config.keep_every)
    for molecule in molecules:
        smiles, seed, geometry = molecule.smiles, recipe.seed, geometries[molecule.smiles]
        for function, part, more in ((slices.normal_modes, modes, ()), (slices.md, md, (recipe.teacher,))):
            key = _key(recipe, "peptides", function.__name__, smiles, part.model_dump(), *_about(recipe))
            given = _given(smiles, seed, geometry, part, *more)
            yield Unit(key, "peptides", "test", smiles, function, given, large=True)


def _structure_units(recipe: Recipe) -> Iterator[Unit]:
    config, shares = recipe.sample.structures, recipe.sample.split
    assert config is not None
    for path in config.files:
        try:
            read = ase.io.read(path, index=":")
        except Exception as error:  # ASE's readers raise anything
            raise ConfigError(f"sample.structures.files: ASE cannot read {path}: {error}") from error
        for index, atoms in enumerate(read if isinstance(read, list) else [read]):
            foreign = sorted(set(atoms.get_chemical_symbols()) - set(recipe.elements))
            if foreign:
                raise ConfigError(f"{path}, structure {index} contains {foreign[0]}, not among the recipe's elements")
            name = connectivity_key(atoms)
            split = draw_split(recipe.seed, name, shares.validation, shares.test)
            content = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
            key = _key(recipe, "structures", *content, config.model_dump(exclude={"files"}))
            yield Unit(key, "structures", split, name, slices.structures, _given(name, recipe.seed, atoms, config))
