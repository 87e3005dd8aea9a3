"""`atomjet label`: the teacher's energy and forces for every sampled frame.

A label is remembered in `OUTPUT/labels/` under a digest of the frame and the teacher, as soon as it is computed: a
killed run loses the frames in flight, and a changed recipe computes only frames that it did not have. From the labels,
shards are written to `OUTPUT/dataset/`, in the order of `OUTPUT/samples.h5`: their bytes do not depend on the number of
workers or on interruptions. What is left out or remarkable stands with its reason in `OUTPUT/failures.jsonl`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.batched import engine_of, run_batches
from atomjet.distill.dataset import read_dataset, write_shard
from atomjet.distill.executors import Executor, Processes
from atomjet.distill.frames import Frames
from atomjet.distill.journal import Journal, Record, content_key
from atomjet.distill.pool import Task, default_workers
from atomjet.distill.recipe import Recipe
from atomjet.distill.sample import print_counts, write_lines
from atomjet.distill.teacher import build_teacher, check_teacher, describe, teacher_of_worker
from atomjet.distill.teacher_labels import content_of, hessian_key, hessian_rows, label_frame, to_ase
from atomjet.engine import Engine
from atomjet.errors import ConfigError
from atomjet.locking import only_run
from atomjet.progress import track

WALLS = ("walls", "compressed")
"""Slices that show the student how atoms repel each other: their forces may be larger."""

COST_FRAMES = 4000
"""Labels, at most, from whose times the cost of all is estimated."""

Array = NDArray[Any]


def run_label(recipe: Recipe, quiet: bool = False, executor: Executor | None = None) -> Path:
    """Label what `run_sample` made, or go on where a killed run was; prints counts, rate and failures.

    Args:
        recipe: with samples.
        quiet: no progress bar.
        executor: where the teacher runs; None: in `label.workers` processes of this machine.

    Returns:
        The directory of the shards, `OUTPUT/dataset`.

    Raises:
        ConfigError: nothing sampled yet, or another run working in the same directory.
        TeacherError: the teacher cannot be built.
    """
    samples = recipe.output / "samples.h5"
    if not samples.exists():
        raise ConfigError(f"no frames at {samples}; sample them first: atomjet sample RECIPE.yaml")
    build_teacher(recipe.teacher)  # complain before any worker starts
    with only_run(recipe.output):
        for torn in recipe.output.rglob(".*.partial"):  # of a run that was killed while it wrote
            torn.unlink(missing_ok=True)
        frames, failures = read_dataset(samples), recipe.output / "failures.jsonl"
        labelled, left_out = label_frames(recipe, frames, recipe.output / "dataset", "shard", failures, quiet, executor)
    print_counts(labelled)
    print(f"{len(labelled)} labelled frames in {recipe.output / 'dataset'}; " + in_words(left_out, failures))
    return recipe.output / "dataset"


def label_frames(
    recipe: Recipe,
    frames: Frames,
    directory: Path,
    prefix: str,
    failures: Path,
    quiet: bool = False,
    executor: Executor | None = None,
) -> tuple[Frames, Counter[str]]:
    """Label frames, as far as they have no label yet, and write them as shards.

    Args:
        recipe: names the teacher, workers, limits and budgets.
        frames: unlabelled.
        directory, prefix: the shards are `directory/PREFIX-00000.h5` and so on.
        failures: JSON lines of what is left out or remarkable.
        quiet: no progress bar.
        executor: see `run_label`.

    Returns:
        The labelled frames, without their labels; how many frames came to which other outcome.
    """
    about = describe(recipe.teacher)
    keys = [content_key(about, *content_of(frames, f)) for f in range(len(frames))]
    _compute(recipe, frames, keys, executor, quiet)
    described = {"recipe": recipe.name, "seed": recipe.seed, "teacher": about}
    labelled, found = _write(recipe, frames, keys, described, directory, prefix)
    write_lines(failures, found)
    return labelled, Counter(failure["outcome"] for failure in found)


def in_words(outcomes: Counter[str], failures: Path) -> str:
    """What `label_frames` counted, and where the reasons stand."""
    if not outcomes:
        return "no failures"
    return ", ".join(f"{count} {what}" for what, count in outcomes.items()) + f"; reasons in {failures}"


def _compute(recipe: Recipe, frames: Frames, keys: Sequence[bytes], executor: Executor | None, quiet: bool) -> None:
    """Labels, then Hessian rows, of all frames that have none yet."""
    started, rows = time.monotonic(), recipe.label.hessian_rows
    engine = None if executor is not None else engine_of(teacher_of_worker(recipe.teacher))
    executor = executor or Processes(recipe.label.workers or default_workers())
    new = _run_missing(
        "labelling",
        recipe,
        label_frame,
        frames,
        dict(zip(keys, range(len(frames)), strict=True)),
        quiet,
        executor,
        engine,
    )
    minutes = (time.monotonic() - started) / 60
    print(f"{len(frames) - new} frames had their label, {new} computed in {minutes:.1f} min ({new / minutes:.0f}/min)")
    _print_cost(recipe, frames, keys, executor.workers)
    if rows:
        with Journal(recipe.output / "labels") as journal:
            wanted = {
                hessian_key(key, rows): f for f, key in enumerate(keys) if key in journal and not journal.failed(key)
            }
        new = _run_missing("Hessian rows", recipe, partial(hessian_rows, count=rows), frames, wanted, quiet, executor)
        print(f"{len(wanted) - new} frames had their Hessian rows, {new} computed")


def _print_cost(recipe: Recipe, frames: Frames, keys: Sequence[bytes], workers: int) -> None:
    """A table of what a label costs in each slice, and all together; from a few thousand labels."""
    sources, spent = frames.source.tolist(), dict[str, list[float]]()
    atoms = dict[str, list[int]]()
    with Journal(recipe.output / "labels") as journal:
        for f in sorted(range(len(keys)), key=keys.__getitem__)[:COST_FRAMES]:
            seconds = journal[keys[f]].get("seconds") if keys[f] in journal else None
            if seconds is not None:
                spent.setdefault(sources[f], []).append(seconds)
                atoms.setdefault(sources[f], []).append(int(frames.counts[f]))
    if not spent:
        return
    counts = Counter(sources)
    hours = {name: counts[name] * float(np.mean(spent[name])) / 3600 for name in spent}
    print(f"{'slice':14}{'frames':>9}{'atoms':>7}{'ms/label':>10}{'CPU hours':>11}")
    for name, times in spent.items():
        print(f"{name:14}{counts[name]:9}{np.mean(atoms[name]):7.1f}{1e3 * np.mean(times):10.1f}{hours[name]:11.2f}")
    print(
        f"all labels: {sum(hours.values()):.2f} CPU hours, {60 * sum(hours.values()) / workers:.1f} min with {workers} workers"
    )


def _run_missing(
    what: str,
    recipe: Recipe,
    function: Callable[..., Record],
    frames: Frames,
    wanted: Mapping[bytes, int],
    quiet: bool,
    executor: Executor,
    engine: Engine | None = None,
) -> int:
    """Run the tasks (frame by key) that have no record yet, in batches where there is an engine; return how many they were."""
    journals, retry = recipe.output / "labels", recipe.label.retry_failures
    with Journal(journals) as journal:
        missing = {key: f for key, f in wanted.items() if key not in journal or (retry and journal.failed(key))}
    done, most, hours = len(wanted) - len(missing), recipe.label.max_labels, recipe.label.max_hours
    # Where not all can be labelled, the keys, which are digests, draw from all slices alike, and the same frames in every run.
    chosen = sorted(missing)[: max(0, most - done)] if most is not None else sorted(missing) if hours else list(missing)
    ends = time.monotonic() + 3600 * hours if hours else math.inf
    in_time = itertools.takewhile(lambda _: time.monotonic() < ends, chosen)
    tasks = (Task(key, (recipe.teacher, *content_of(frames, missing[key]))) for key in in_time)
    with track(what, len(wanted), done=done, quiet=quiet) as advance:
        if engine is not None:
            run_batches(engine, to_ase, tasks, journals, advance)
        else:
            there = partial(check_teacher, recipe.teacher, describe(recipe.teacher))
            executor.run(function, tasks, journals, advance, prepare=there)
    with Journal(journals) as journal:
        left = sum(key not in journal for key in wanted)
    if left:
        print(
            f"{what}: {_budget(recipe)} reached, {left} of {len(wanted)} frames have none; raise it and run again to have them"
        )
    return len(missing) - left


def _budget(recipe: Recipe) -> str:
    """The budgets of labelling, in words."""
    given = {"label.max_labels": recipe.label.max_labels, "label.max_hours": recipe.label.max_hours}
    return " or ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)


def _write(
    recipe: Recipe, frames: Frames, keys: Sequence[bytes], about: dict[str, Any], directory: Path, prefix: str
) -> tuple[Frames, list[dict[str, Any]]]:
    """Shards from the journal, and failures; files of an earlier, longer data set are removed."""
    failures: list[dict[str, Any]] = []
    kept: list[int] = []
    with Journal(recipe.output / "labels") as journal:
        for f, key in enumerate(keys):
            record = journal[key] if key in journal else {"error": f"not labelled: {_budget(recipe)} was reached"}
            reason, outcome = _judge(recipe, frames, f, record)
            if outcome != "left out":
                kept.append(f)
            if reason:
                where = {"frame": f, "slice": str(frames.source[f]), "molecule": str(frames.molecule[f])}
                failures.append({**where, "reason": reason, "outcome": outcome})
        chosen, names = np.array(kept, dtype=np.int64), set()
        for shard, start in enumerate(range(0, len(kept), recipe.label.shard_size)):
            part = chosen[start : start + recipe.label.shard_size]
            names.add(f"{prefix}-{shard:05d}.h5")
            write_shard(directory / f"{prefix}-{shard:05d}.h5", _labelled(recipe, frames, part, keys, journal), about)
    for stale in set(directory.glob(f"{prefix}-*.h5")) - {directory / name for name in names}:
        stale.unlink()
    return frames.select(chosen), failures


def _judge(recipe: Recipe, frames: Frames, f: int, record: Record) -> tuple[str, str]:
    """Reason to mention a frame ("" for none), and what becomes of it."""
    if "error" in record:
        return record["error"], "left out"
    limit = recipe.label.wall_max_force if frames.source[f] in WALLS else recipe.label.max_force
    largest = float(np.linalg.norm(record["forces"], axis=1).max())
    if largest > limit:
        return f"largest force {largest:.1f} eV/Å exceeds {limit:g} eV/Å", "left out"
    if frames.reactive[f]:
        return "the bonds differ from those of the molecule", "kept as reactive"
    return "", "kept"


def _labelled(recipe: Recipe, frames: Frames, chosen: Array, keys: Sequence[bytes], journal: Journal) -> Frames:
    part, rows = frames.select(chosen), list(_rows(recipe, chosen, keys, journal))
    for i, f in enumerate(chosen):
        record = journal[keys[f]]
        part.energy[i], part.forces[part.ptr[i] : part.ptr[i + 1]] = record["energy"], record["forces"]
        part.stress[i] = record.get("stress", np.nan)
    if rows:
        counts = [len(record["atom"]) for _, record in rows]
        part.hessian_frame = np.repeat([i for i, _ in rows], counts)
        part.hessian_atom = np.concatenate([record["atom"] for _, record in rows])
        part.hessian_axis = np.concatenate([record["axis"] for _, record in rows])
        part.hessian_ptr = np.concatenate([[0], np.cumsum(part.counts[part.hessian_frame])])
        part.hessian_rows = np.concatenate([record["rows"].reshape(-1, 3) for _, record in rows])
        part.__post_init__()
    return part


def _rows(recipe: Recipe, chosen: Array, keys: Sequence[bytes], journal: Journal) -> Iterator[tuple[int, Record]]:
    """Index within the shard, and Hessian record, of the frames that have one."""
    for i, f in enumerate(chosen if recipe.label.hessian_rows else ()):
        key = hessian_key(keys[f], recipe.label.hessian_rows)
        if key in journal and not journal.failed(key):
            yield i, journal[key]
