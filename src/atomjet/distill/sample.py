"""`atomjet sample`: frames worth labelling, from the molecules of a recipe.

Three rounds of tasks in worker processes: first the force-field conformers of every molecule, which need RDKit and are
kept in `OUTPUT/conformers.h5`; then their geometry by the teacher (relaxation, normal modes); then the slices. Every
result is remembered in `OUTPUT/samples/` under a digest of all that it depends on: a run that was killed goes on, and a
change of the recipe samples anew only what it touches. The frames are then gathered, in an order that depends on the
recipe alone, into `OUTPUT/samples.h5`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomjet.distill.conditions import check_one
from atomjet.distill.dataset import write_shard
from atomjet.distill.embedding import Embedded, Embedding, Molecule, read_embeddings, write_embeddings
from atomjet.distill.frames import Frames, concatenate, frames_from_record
from atomjet.distill.journal import Journal, Record
from atomjet.distill.left_out import Failures, print_left_out
from atomjet.distill.mixing import Unit
from atomjet.distill.molecules import Geometry, read_molecules
from atomjet.distill.plan import Plan
from atomjet.distill.pool import Task, default_workers, run_tasks
from atomjet.distill.recipe import Recipe
from atomjet.distill.splits import hold_back
from atomjet.distill.teacher import build_teacher, default_task
from atomjet.distill.warm_start import check_start
from atomjet.errors import ConfigError
from atomjet.locking import only_run
from atomjet.progress import track
from atomjet.writing import write_atomically

NEVER_HELD_BACK = ("walls", "free_atoms")
"""Slices without frames of a training molecule in its ordinary range: none is kept for in-distribution validation."""


def run_sample(
    recipe: Recipe, quiet: bool = False, strict: bool = False, to_train: bool = False, embed_only: bool = False
) -> Path:
    """Sample a recipe, or go on where a killed run was; prints what there is and what was left out.

    Args:
        recipe: what to sample.
        quiet: no progress bar.
        strict: refuse a molecule or structure that cannot be used instead of leaving it out.
        to_train: refuse frames that the student cannot learn together now, before they are labelled.
        embed_only: stop after the force-field conformers, which another machine, without RDKit, can go on from.

    Returns:
        The file of unlabelled frames, `OUTPUT/samples.h5`; or that of conformers.

    Raises:
        ConfigError: no molecule or structure that can be used, none for training, or another run in the same directory.
        TeacherError: the teacher is needed and cannot be built.
    """
    if to_train:
        check_start(recipe)
    path, conformers = recipe.output / "samples.h5", recipe.output / "conformers.h5"
    left_out: Failures = []
    known = read_embeddings(conformers, recipe, strict)
    molecules = [] if known else read_molecules(recipe, None if strict else left_out)
    structures = recipe.sample.structures
    if not embed_only and (known or molecules or (structures and (structures.relax or structures.md))):
        build_teacher(recipe.teacher)  # complain before any worker starts
    with only_run(recipe.output):
        embeddings, early = known or _embed(recipe, molecules, left_out, quiet)
        left_out = [entry for entry in early if entry["slice"] == "molecules"]
        if embed_only:
            return _embedded(conformers, embeddings, early)
        plan = Plan(recipe, [molecule for molecule, _ in embeddings], None if strict else left_out)
        wanted = plan.geometries({one.smiles: start for one, start in embeddings})
        geometries, failures = _second_round("geometries", recipe, wanted, quiet)
        relaxed, not_relaxed = _second_round("relaxations", recipe, plan.relaxations(), quiet)
        failures += not_relaxed
        units = list(plan.slices({name: Geometry(**record) for name, record in geometries.items()}, relaxed))
        print_left_out(left_out)
        frames, more = _gather(recipe, units, quiet)
        if to_train and not recipe.train.data:
            check_one(frames, default_task(recipe.teacher.calculator))
        write_shard(path, frames, {"recipe": recipe.name, "seed": recipe.seed})
        failures = [entry for entry in early if entry["slice"] != "molecules"] + failures + more
        write_lines(recipe.output / "sample_failures.jsonl", left_out + failures)
    print_counts(frames)
    print(f"{len(frames)} frames of {len(embeddings)} molecules in {path}")
    counted = [(len(failures), "tasks failed or ended early"), (len(left_out), "molecules or structures left out")]
    for count, what in counted:
        if count:
            print(f"{count} {what}; reasons in {recipe.output / 'sample_failures.jsonl'}")
    return path


def _embed(recipe: Recipe, molecules: Sequence[Molecule], left_out: Failures, quiet: bool) -> tuple[Embedded, Failures]:
    """First round: force-field conformers of every molecule, written to their file; and what has none, and why."""
    plan, found, failures = Plan(recipe, molecules), [], list(left_out)
    results = _results("conformers", recipe, list(plan.embeddings()), quiet)
    for molecule, (unit, record) in zip(molecules, results, strict=True):
        if "error" in record:
            failures.append({"slice": unit.source, "molecule": unit.label, "reason": record["error"]})
        else:
            found.append((molecule, Embedding(**record)))
    if molecules:
        write_embeddings(recipe.output / "conformers.h5", recipe, found, failures)
    return found, failures


def _embedded(path: Path, found: Embedded, failures: Failures) -> Path:
    """Say what was embedded."""
    print_left_out(failures)
    conformers = sum(len(embedding.start) for _, embedding in found)
    size = path.stat().st_size / 2**20 if found else 0.0
    print(f"{conformers} conformers of {len(found)} molecules in {path} ({size:.1f} MiB)")
    return path


def _second_round(what: str, recipe: Recipe, units: Iterable[Unit], quiet: bool) -> tuple[dict[str, Record], Failures]:
    """Geometries of molecules or relaxed structures, by name, and why some have none or are not what they should be."""
    found, failures = {}, []
    for unit, record in _results(what, recipe, chosen, quiet) if (chosen := list(units)) else ():
        if reason := record.get("error") or record.pop("note", ""):
            failures.append({"slice": unit.source, "molecule": unit.label, "reason": reason})
        if "error" not in record:
            found[unit.label] = record
    return found, failures


def _gather(recipe: Recipe, units: Sequence[Unit], quiet: bool) -> tuple[Frames, Failures]:
    """Third round: the frames of all slices, and which tasks failed or ended early."""
    parts, failures = [], []
    for unit, record in _results("sampling", recipe, units, quiet):
        if reason := record.get("error") or record.get("note"):
            failures.append({"slice": unit.source, "molecule": unit.label, "reason": reason})
        if "error" not in record:
            parts.append(frames_from_record(record, unit.split, unit.source, unit.large))
    frames = concatenate(parts)
    ordinary = ~np.isin(frames.source, np.array(NEVER_HELD_BACK, dtype=frames.source.dtype))
    if "train" not in frames.split[ordinary]:
        remedy = "give more of them, another seed, or sample.split: {validation: 0, test: 0}"
        raise ConfigError(f"no molecule or structure was drawn for training; {remedy}")
    if share := recipe.sample.split.in_distribution:
        hold_back(frames, recipe.seed, share, ordinary)
    return frames, failures


def _results(what: str, recipe: Recipe, units: Sequence[Unit], quiet: bool) -> Iterator[tuple[Unit, Record]]:
    """Run the units that have no record yet, then yield the records of all, in order."""
    journals = recipe.output / "samples"
    with Journal(journals) as journal:
        missing = [unit for unit in units if unit.key not in journal]
    tasks = (Task(unit.key, (unit.function, *unit.arguments())) for unit in missing)
    with track(what, len(units), done=len(units) - len(missing), quiet=quiet) as advance:
        run_tasks(call, tasks, journals, recipe.sample.workers or default_workers(), advance)
    with Journal(journals) as journal:
        yield from ((unit, journal[unit.key]) for unit in units)


def call(function: Callable[..., Record], *arguments: Any) -> Record:
    """What the workers run."""
    return function(*arguments)


def write_lines(path: Path, entries: Failures) -> None:
    """Write JSON lines, atomically."""
    write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())


def print_counts(frames: Frames) -> None:
    """A table of frames per slice and split."""
    counts = Counter(zip(frames.source.tolist(), frames.split.tolist(), strict=True))
    splits = sorted({split for _, split in counts})
    print(f"{'slice':14}" + "".join(f"{split:>17}" for split in splits))
    for source in dict.fromkeys(frames.source.tolist()):
        print(f"{source:14}" + "".join(f"{counts[source, split]:17}" for split in splits))
