"""The trajectories of a round, in batches that are each followed once: on the devices of this machine, or by an executor.

What a batch has seen is written to a journal as soon as it is there, under a digest of all that it depends on.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from atomjet.distill.choose import Seen
from atomjet.distill.devices import Team
from atomjet.distill.executors import Executor
from atomjet.distill.explore import Start, explore
from atomjet.distill.journal import Journal, JournalWriter, content_key
from atomjet.distill.measure import forget_engines
from atomjet.distill.molecules import derive_seed
from atomjet.distill.pool import Task
from atomjet.distill.recipe import Recipe
from atomjet.distill.train_config import RoundsConfig
from atomjet.engine.streams import groups
from atomjet.errors import AtomJetError, ConfigError
from atomjet.progress import track

ALGORITHM = 1
"""Part of the key of every batch: raised when the trajectories of given starts change."""

ATOMS_AT_ONCE = {"cuda": 40_000, "cpu": 1_000}
"""Atoms of a batch, by device: enough to fill it, and few enough that a kill costs little."""


def follow_all(
    recipe: Recipe,
    settings: RoundsConfig,
    number: int,
    starts: Sequence[Start],
    models: Sequence[Path],
    team: Team,
    quiet: bool,
    executor: Executor | None,
) -> Seen:
    """Follow the trajectories that have not been followed yet, and return what all of them have seen.

    Args:
        recipe: whose students drive.
        settings: how.
        number: of the round.
        starts: where trajectories begin.
        models: files of the students.
        team: the devices of this machine.
        quiet: no progress bar.
        executor: where batches are followed instead; None: on `team`.

    Raises:
        AtomJetError: a batch failed.
        ConfigError: the time was over before the first one.
    """
    device = torch.device(executor.device or "cpu") if executor is not None else torch.device(team.devices[0])
    batches = _batches(starts, ATOMS_AT_ONCE[device.type])
    digests = [_digest(path) for path in models]
    keys = [_key(recipe, settings, digests, number, b, [starts[k] for k in batch]) for b, batch in enumerate(batches)]
    with Journal(recipe.explored) as journal:
        missing = [b for b, key in enumerate(keys) if key not in journal or journal.failed(key)]
    jobs = [
        (
            _driven_by(models, b),
            [starts[k] for k in batches[b]],
            settings,
            recipe.label.max_force,
            _seed(recipe, number, b),
        )
        for b in missing
    ]
    ends = time.monotonic() + 60 * (settings.max_minutes or np.inf)
    done = len(starts) - sum(len(batches[b]) for b in missing)
    if executor is not None:
        tasks = [Task(keys[b], (*job, str(device))) for b, job in zip(missing, jobs, strict=True)]
        in_time = itertools.takewhile(lambda _: time.monotonic() < ends, tasks)
        there = partial(_check_students, dict(zip(map(str, models), digests, strict=True)))
        with track(f"round {number}", len(batches), len(batches) - len(missing), quiet) as advance:
            executor.run(explore, in_time, recipe.explored, advance, prepare=there)
    else:
        with (
            closing(JournalWriter(recipe.explored)) as writer,
            track(f"round {number}", len(starts), done, quiet) as advance,
        ):
            for place, record in team.run(explore, jobs, more=lambda: time.monotonic() < ends):
                writer.append(keys[missing[place]], record)
                advance(len(batches[missing[place]]), note=f"{len(record['start'])} frames seen in the last batch")
    forget_engines()
    return _seen(recipe, settings, batches, keys)


def _seen(recipe: Recipe, settings: RoundsConfig, batches: Sequence[Sequence[int]], keys: Sequence[bytes]) -> Seen:
    """Frames of the batches that are in the journal."""
    with Journal(recipe.explored) as journal:
        if failed := [key for key in keys if journal.failed(key)]:
            raise AtomJetError(f"a batch of trajectories cannot be followed: {journal[failed[0]]['error']}")
        records = [(journal[key], np.array(batch)) for key, batch in zip(keys, batches, strict=True) if key in journal]
    if len(records) < len(batches):
        total, followed = sum(map(len, batches)), sum(len(places) for _, places in records)
        left = f"{total - followed} of {total} trajectories not followed"
        print(f"rounds.max_minutes {settings.max_minutes:g} reached: {left}")
    if not records:
        raise ConfigError(f"rounds.max_minutes {settings.max_minutes:g} was over before the first trajectory; raise it")
    return Seen(records)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _check_students(digests: Mapping[str, str]) -> None:
    """See that another machine reads the students that were trained here."""
    for path, digest in digests.items():
        if not Path(path).is_file() or _digest(Path(path)) != digest:
            raise ConfigError(
                f"the student {path} is missing or another one here; put the output where every node sees it"
            )


def _batches(starts: Sequence[Start], most: int) -> list[list[int]]:
    """Places of consecutive starts with at most so many atoms together; packings, molecules and crystals apart."""

    def packed_or_periodic(k: int) -> tuple[bool, bool]:
        return starts[k].molecule is not None, bool(starts[k].atoms.pbc.all())

    found: list[list[int]] = []
    for _, alike in itertools.groupby(range(len(starts)), packed_or_periodic):
        places = list(alike)
        found += [[places[k] for k in group] for group in groups([len(starts[k].atoms) for k in places], most)]
    return found


def _driven_by(models: Sequence[Path], batch: int) -> tuple[str, ...]:
    """Files of the students, the one that drives this batch first; each batch has another driver."""
    first = batch % len(models)
    return tuple(map(str, (*models[first:], *models[:first])))


def _seed(recipe: Recipe, number: int, batch: int) -> int:
    return derive_seed(recipe.seed, "explore", number, batch)


def _key(
    recipe: Recipe, settings: RoundsConfig, digests: Sequence[str], number: int, batch: int, starts: Sequence[Start]
) -> bytes:
    """Digest of what the trajectories of a batch depend on."""
    irrelevant = {
        "count",
        "train_share",
        "frames",
        "starts",
        "per_start",
        "apart",
        "diverged_share",
        "max_minutes",
        "weight",
    }
    content = settings.model_dump(mode="json", exclude=irrelevant)
    about = (ALGORITHM, content, recipe.label.max_force, list(digests), _seed(recipe, number, batch))
    each = [
        (one.atoms.numbers, one.atoms.positions, one.atoms.cell.array, one.kelvin, one.npt, one.relax, one.shrink)
        for one in starts
    ]
    return content_key(*about, *(part for one in each for part in one))
