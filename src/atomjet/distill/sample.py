"""`atomjet sample`: frames worth labelling, from the molecules of a recipe.

Two rounds of tasks in worker processes: first the geometry of every molecule (conformers, relaxation, normal modes),
then the slices. Every result is remembered in `OUTPUT/samples/` under a digest of all that it depends on: a run that
was killed goes on, and a change of the recipe samples anew only what it touches. The frames are then gathered, in an
order that depends on the recipe alone, into `OUTPUT/samples.h5`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.dataset import Frames, concatenate, draw_uniform, frames_from_record, write_shard
from atomjet.distill.journal import Journal, Record
from atomjet.distill.molecules import Geometry, read_molecules
from atomjet.distill.plan import Plan, Unit
from atomjet.distill.pool import Task, default_workers, run_tasks
from atomjet.distill.recipe import Recipe
from atomjet.distill.teacher import make_teacher
from atomjet.errors import ConfigError
from atomjet.locking import only_run
from atomjet.progress import track

NEVER_HELD_BACK = ("walls", "free_atoms")
"""Slices without frames of a training molecule in its ordinary range: none is kept for in-distribution validation."""

Failures = list[dict[str, Any]]


def run_sample(recipe: Recipe, quiet: bool = False) -> Path:
    """Sample a recipe, or go on where a killed run was; prints what there is.

    Returns:
        The file of unlabelled frames, `OUTPUT/samples.h5`.

    Raises:
        ConfigError: molecules that cannot be used, none of them for training, or another run in the same directory.
        TeacherError: the teacher cannot be built.
    """
    make_teacher(recipe.teacher.calculator, recipe.teacher.options)  # complain before any worker starts
    molecules = read_molecules(recipe)
    plan, path = Plan(recipe, molecules), recipe.output / "samples.h5"
    with only_run(recipe.output):
        geometries, failures = _geometries(recipe, list(plan.geometries()), quiet)
        frames, more = _gather(recipe, list(plan.slices(geometries)), quiet)
        write_shard(path, frames, {"recipe": recipe.name, "seed": recipe.seed})
        write_lines(recipe.output / "sample_failures.jsonl", failures + more)
    print_counts(frames)
    print(f"{len(frames)} frames of {len(molecules)} molecules in {path}")
    if count := len(failures + more):
        print(f"{count} tasks failed or ended early; reasons in {recipe.output / 'sample_failures.jsonl'}")
    return path


def _geometries(recipe: Recipe, units: Sequence[Unit], quiet: bool) -> tuple[dict[str, Geometry], Failures]:
    """First round: the geometry of every molecule, and why some have none."""
    found, failures = {}, []
    for unit, record in _results("geometries", recipe, units, quiet):
        if "error" in record:
            failures.append({"slice": unit.source, "molecule": unit.label, "reason": record["error"]})
        else:
            found[unit.label] = Geometry(**record)
    return found, failures


def _gather(recipe: Recipe, units: Sequence[Unit], quiet: bool) -> tuple[Frames, Failures]:
    """Second round: the frames of all slices, and which tasks failed or ended early."""
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
    _hold_back(recipe, frames, ordinary)
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


def _hold_back(recipe: Recipe, frames: Frames, ordinary: NDArray[np.bool_]) -> None:
    """Tag a share of the training molecules' frames for in-distribution validation, by their content."""
    for f in np.flatnonzero((frames.split == "train") & ordinary):
        content = frames.positions[frames.ptr[f] : frames.ptr[f + 1]].tobytes().hex()
        if draw_uniform(recipe.seed, "in_distribution", content) < recipe.sample.split.in_distribution:
            frames.split[f] = "in_distribution"


def write_lines(path: Path, entries: Failures) -> None:
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
