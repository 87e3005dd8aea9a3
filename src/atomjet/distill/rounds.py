"""`atomjet rounds`: students lead, the teacher corrects.

Before each round the students of all seeds train for a share of their budget. They drive MD and relaxations; of the frames seen,
those on which they disagree are labelled and added to what they learn from. Everything stands in `OUTPUT/rounds/`: the labelled
frames as shards `round-1-*.h5`, what there is to say of the round in `round-1.json`, why frames are left out in
`round-1-failures.jsonl`, and in `explored/` what a killed run goes on from. A round whose JSON is there is done.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atomjet.distill.choose import Seen, choose
from atomjet.distill.dataset import Frames, concatenate, frames_from_record, pack, read_dataset, write_shard
from atomjet.distill.devices import Team, devices_of
from atomjet.distill.executors import Executor
from atomjet.distill.explore import Start, explore
from atomjet.distill.journal import Journal, JournalWriter, content_key
from atomjet.distill.label import in_words, label_frames
from atomjet.distill.measure import forget_engines, mean_error, spreads
from atomjet.distill.molecules import bond_change, derive_seed, generator
from atomjet.distill.packings import library, ordinary, pack_box
from atomjet.distill.pool import Task
from atomjet.distill.recipe import Recipe, RoundsConfig
from atomjet.distill.round_summary import Summary, in_one_line, quantiles, spoken, summaries, write_summary
from atomjet.distill.students import train_students
from atomjet.distill.teacher import build_teacher
from atomjet.distill.trainer import Stage
from atomjet.distill.walkers import REASONS
from atomjet.errors import AtomJetError, ConfigError
from atomjet.locking import only_run
from atomjet.models import load as model_load
from atomjet.progress import track

Array = NDArray[Any]

ALGORITHM = 1
"""Goes into the key of every batch: raised when trajectories are followed in another way."""

ATOMS_AT_ONCE = {"cuda": 40_000, "cpu": 1_000}
"""Atoms of a batch, by device: enough to fill it, and few enough that a kill costs little."""

PROBE = 500
"""Frames, evenly from all that were seen, on which disagreement is measured before and after they are learned from."""

CONDITIONS = ("charge", "spin", "task")


def run_rounds(
    recipe: Recipe, device: str | None = None, quiet: bool = False, executor: Executor | None = None
) -> list[Summary]:
    """Do the rounds of a recipe, or go on where a killed run was; prints a line of each.

    Args:
        recipe: with labelled data.
        device: None picks all GPUs where there are any.
        quiet: no progress bars.
        executor: where trajectories are followed and frames labelled; None: on the devices and processors of this machine.

    Returns:
        What there is to say of each round.

    Raises:
        ConfigError: no rounds in the recipe, no labelled data, or another run at work there.
        TeacherError: the teacher cannot be built.
    """
    settings = recipe.rounds
    if settings is None:
        raise ConfigError("the recipe has no section rounds; add one, e.g. rounds: {count: 2}")
    build_teacher(recipe.teacher)  # complain before any student is trained
    spent = 0.0
    with only_run(recipe.output), Team(devices_of(device)) as team:
        for number in range(1, settings.count + 1):
            if _path(recipe, number).exists():
                continue
            if why := _budget_reached(recipe, spent):
                print(f"{why}: no round {number}")
                break
            for torn in recipe.round_frames.glob(f"round-{number}-*.h5"):  # of a run that was killed while it wrote
                torn.unlink()
            stage = Stage(number - 1, number * settings.train_share)
            print(f"round {number} of {settings.count}: training until {stage.until:.0%} of the budget", flush=True)
            models = students_of(recipe, stage, team, quiet)
            look_back(recipe, models, team)
            if all(model_load.read(path)[1].get("reached_target") for path in models):
                print(f"train.target_force_mae {recipe.train.target_force_mae:g} meV/Å reached: no round {number}")
                break
            spent += _round(recipe, settings, number, models, team, quiet, executor)
    return summaries(recipe.round_frames)


def students_of(recipe: Recipe, stage: Stage, team: Team, quiet: bool) -> list[Path]:
    """The students at the end of a stage, trained unless they are there already."""
    folders = [recipe.for_seed(seed).output / "training" for seed in recipe.seeds]
    models = [folder / f"stage-{stage.number}.safetensors" for folder in folders]
    return models if all(model.exists() for model in models) else train_students(recipe, team, True, quiet, stage)


def train_to_the_end(recipe: Recipe, resume: bool = True, device: str | None = None, quiet: bool = False) -> list[Path]:
    """Train all students to the end, after the rounds that are done; returns their model files."""
    rounds_done = len(summaries(recipe.round_frames))
    with Team(devices_of(device)) as team:
        models = train_students(recipe, team, resume, quiet, Stage(rounds_done))
        look_back(recipe, models, team)
    return models


def look_back(recipe: Recipe, models: Sequence[Path], team: Team) -> None:
    """Measure how far the students differ now on frames of the last round, which they have learned from."""
    before = summaries(recipe.round_frames)
    if not before or before[-1]["disagreement_after"] is not None or len(models) < 2:
        return
    summary = before[-1]
    probe = read_dataset(_explored(recipe) / f"round-{summary['round']}-probe.h5")
    print(f"measuring how far the students differ on {len(probe)} frames of round {summary['round']}", flush=True)
    job = (tuple(map(str, models)), list(probe))
    ((_, spread),) = team.run(spreads, [job])
    forget_engines()
    summary["disagreement_after"] = quantiles(spread)
    write_summary(recipe.round_frames, summary)
    print(
        f"round {summary['round']}: disagreement was {spoken(summary['disagreement_before'])}, "
        f"is {spoken(summary['disagreement_after'])} after learning its frames",
        flush=True,
    )


def _round(
    recipe: Recipe,
    settings: RoundsConfig,
    number: int,
    models: Sequence[Path],
    team: Team,
    quiet: bool,
    executor: Executor | None,
) -> float:
    """One round with trained students; returns the seconds that labelling took."""
    frames = _known_frames(recipe)
    starts = _starts(recipe, settings, frames, number)
    seen = _explore(recipe, settings, number, starts, models, team, quiet, executor)
    most = settings.frames
    if (budget := recipe.label.max_labels) is not None:
        most = min(most, budget - len(frames))
    ordinary, diverged = choose(seen, settings, most, recipe.label.max_force)
    started, kinds = time.monotonic(), {f"round-{number}": ordinary, f"round-{number}-diverged": diverged}
    unlabelled = concatenate([_gather(recipe, seen, starts, frames, source) for source, frames in kinds.items()])
    write_shard(_explored(recipe) / f"round-{number}-chosen.h5", unlabelled, {"recipe": recipe.name})
    failures = recipe.round_frames / f"round-{number}-failures.jsonl"
    labelled, left_out = label_frames(
        recipe, unlabelled, recipe.round_frames, f"round-{number}", failures, quiet, executor
    )
    seconds = time.monotonic() - started
    summary = _summary(recipe, number, starts, seen, (len(ordinary), len(diverged)), labelled, left_out, failures)
    summary["students_error"] = _students_error(recipe, number, models, team)
    forget_engines()
    _write_probe(recipe, number, seen, starts, summary)
    write_summary(recipe.round_frames, summary)
    print(in_one_line(summary) + "; " + in_words(left_out, failures), flush=True)
    return seconds


def _budget_reached(recipe: Recipe, spent: float) -> str:
    """Which budget leaves nothing for another round, or ""."""
    most, hours = recipe.label.max_labels, recipe.label.max_hours
    if most is not None and len(_known_frames(recipe)) >= most:
        return f"label.max_labels {most} reached"
    if hours is not None and spent >= 3600 * hours:
        return f"label.max_hours {hours:g} reached"
    return ""


def _path(recipe: Recipe, number: int) -> Path:
    return recipe.round_frames / f"round-{number}.json"


def _explored(recipe: Recipe) -> Path:
    return recipe.round_frames / "explored"


def _known_frames(recipe: Recipe) -> Frames:
    """All labelled frames there are."""
    split = recipe.sample.split
    sources = recipe.for_seed(recipe.seeds[0]).train.data
    return read_dataset([source.path for source in sources], recipe.seed, split.validation, split.test)


def _starts(recipe: Recipe, settings: RoundsConfig, frames: Frames, number: int) -> list[Start]:
    """Where trajectories begin: packings first, then training frames; no held-out molecule is among them."""
    found: list[Start] = []
    packings = settings.packings
    if packings is not None:
        usable = library(frames, packings.max_atoms // 2)
        if not len(usable):
            raise ConfigError("rounds.packings needs training frames of single molecules; there are none, leave it out")
        for index in range(packings.boxes):
            rng = generator(recipe.seed, "packing", number, index)
            box, molecule, names, shrink = pack_box(frames, usable, packings, rng)
            found.append(
                Start(
                    box,
                    tuple(names),
                    kelvin=float(rng.choice(settings.temperatures)),
                    npt=rng.uniform() < settings.npt_share,
                    relax=rng.uniform() < settings.relax_share,
                    molecule=molecule,
                    shrink=shrink,
                )
            )
    return found + sorted(_from_frames(recipe, settings, frames, number), key=lambda start: bool(start.atoms.pbc.all()))


def _from_frames(recipe: Recipe, settings: RoundsConfig, frames: Frames, number: int) -> Iterator[Start]:
    """Training frames, half of them of single molecules or crystals and half of several together, each molecule as often."""
    usable = (frames.split == "train") & ordinary(frames)
    usable &= ~np.strings.endswith(frames.source, "-diverged") & (frames.counts > 1)
    together = np.array(["." in str(name) for name in frames.molecule], dtype=bool)
    halves = [
        half for half in (_by_molecule(frames, usable & ~together), _by_molecule(frames, usable & together)) if half
    ]
    if not halves:
        raise ConfigError("rounds need training frames of molecules or crystals to start from; there are none")
    for index in range(settings.starts):
        rng = generator(recipe.seed, "start", number, index)
        half = halves[index % len(halves)]
        f = int(rng.choice(half[rng.integers(len(half))]))
        atoms = frames.atoms(f)
        atoms.calc = None
        yield Start(
            atoms,
            (str(frames.molecule[f]),),
            kelvin=float(rng.choice(settings.temperatures)),
            npt=bool(atoms.pbc.all()) and rng.uniform() < settings.npt_share,
            relax=rng.uniform() < settings.relax_share,
        )


def _by_molecule(frames: Frames, mask: Array) -> list[Array]:
    """Frames of a mask, those of each molecule together."""
    chosen = np.flatnonzero(mask)
    _, inverse = np.unique(frames.molecule[chosen], return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(chosen[order], np.flatnonzero(np.diff(inverse[order])) + 1) if len(chosen) else []


def _explore(
    recipe: Recipe,
    settings: RoundsConfig,
    number: int,
    starts: Sequence[Start],
    models: Sequence[Path],
    team: Team,
    quiet: bool,
    executor: Executor | None,
) -> Seen:
    """Follow all trajectories, those of a batch together, as far as that has not been done."""
    device = torch.device(executor.device or "cpu") if executor is not None else torch.device(team.devices[0])
    batches = _batches(starts, ATOMS_AT_ONCE[device.type])
    digests = [_digest(path) for path in models]
    keys = [_key(recipe, settings, digests, number, b, [starts[k] for k in batch]) for b, batch in enumerate(batches)]
    with Journal(_explored(recipe)) as journal:
        missing = [b for b, key in enumerate(keys) if key not in journal or journal.failed(key)]
    jobs = [
        (
            _turned(models, b),
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
            executor.run(explore, in_time, _explored(recipe), advance, prepare=there)
    else:
        with (
            closing(JournalWriter(_explored(recipe))) as writer,
            track(f"round {number}", len(starts), done, quiet) as advance,
        ):
            for place, record in team.run(explore, jobs, more=lambda: time.monotonic() < ends):
                writer.append(keys[missing[place]], record)
                advance(len(batches[missing[place]]), note=f"{len(record['start'])} frames seen in the last batch")
    forget_engines()
    with Journal(_explored(recipe)) as journal:
        if failed := [key for key in keys if journal.failed(key)]:
            raise AtomJetError(f"a batch of trajectories cannot be followed: {journal[failed[0]]['error']}")
        records = [(journal[key], np.array(batch)) for key, batch in zip(keys, batches, strict=True) if key in journal]
    if len(records) < len(batches):
        left = sum(map(len, batches)) - sum(len(places) for _, places in records)
        print(f"rounds.max_minutes {settings.max_minutes:g} reached: {left} of {len(starts)} trajectories not followed")
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
    """Runs of starts of so many atoms; packings, molecules and crystals apart."""
    found: list[list[int]] = []
    atoms, kind = 0, None
    for k, start in enumerate(starts):
        own = (start.molecule is not None, bool(start.atoms.pbc.all()))
        if not found or own != kind or atoms + len(start.atoms) > most:
            found.append([])
            atoms, kind = 0, own
        found[-1].append(k)
        atoms += len(start.atoms)
    return found


def _turned(models: Sequence[Path], batch: int) -> tuple[str, ...]:
    """The students, in the order in which another one drives each batch."""
    first = batch % len(models)
    return tuple(map(str, (*models[first:], *models[:first])))


def _seed(recipe: Recipe, number: int, batch: int) -> int:
    return derive_seed(recipe.seed, "explore", number, batch)


def _key(
    recipe: Recipe, settings: RoundsConfig, digests: Sequence[str], number: int, batch: int, starts: Sequence[Start]
) -> bytes:
    """Digest of what a batch depends on."""
    plain = {
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
    content = settings.model_dump(mode="json", exclude=plain)
    about = (ALGORITHM, content, recipe.label.max_force, list(digests), _seed(recipe, number, batch))
    each = [
        (one.atoms.numbers, one.atoms.positions, one.atoms.cell.array, one.kelvin, one.npt, one.relax, one.shrink)
        for one in starts
    ]
    return content_key(*about, *(part for one in each for part in one))


def _gather(recipe: Recipe, seen: Seen, starts: Sequence[Start], chosen: Sequence[int], source: str) -> Frames:
    """Chosen frames, unlabelled, named after the molecules that are in them."""
    images, names, reactive = [], [], []
    for f in chosen:
        start = starts[int(seen.start[f])]
        _numbers, positions, atom = seen.frame(f)
        image = start.atoms[atom.tolist()]
        image.set_cell(seen.cell[f], scale_atoms=False)
        image.pbc, image.positions = seen.pbc[f], positions
        image.info = {name: start.atoms.info[name] for name in CONDITIONS if name in start.atoms.info}
        images.append(image)
        names.append(_name(start, atom))
        reactive.append(recipe.molecules is not None and _reacted(start, atom, positions))
    return frames_from_record(pack(images, names, reactive), "train", source)


def _name(start: Start, atom: Array) -> str:
    if start.molecule is None:
        return start.names[0]
    return ".".join(sorted(start.names[m] for m in np.unique(start.molecule[atom])))


def _reacted(start: Start, atom: Array, positions: Array) -> bool:
    """Whether bonds are others than at the start; of what is periodic nobody asks."""
    if start.atoms.pbc.any() and start.molecule is None:
        return False
    place = {int(a): n for n, a in enumerate(atom)}
    bonds = [(place[int(a)], place[int(b)]) for a, b in start.bonds if int(a) in place]
    return (
        bond_change(start.atoms.numbers[atom], positions.astype(float), np.array(bonds, int).reshape(-1, 2)) is not None
    )


def _summary(
    recipe: Recipe,
    number: int,
    starts: Sequence[Start],
    seen: Seen,
    counts: tuple[int, int],
    labelled: Frames,
    left_out: Counter[str],
    failures: Path,
) -> Summary:
    ended = Counter(REASONS[int(code)] for code in seen.reason if code)
    reasons = [json.loads(line) for line in failures.read_text(encoding="utf-8").splitlines()]
    dropped = [entry["reason"] for entry in reasons if entry["outcome"] == "left out"]
    too_strong = sum(reason.startswith("largest force") for reason in dropped)
    assert recipe.rounds is not None
    return {
        "round": number,
        "students": list(recipe.seeds),
        "trajectories": len(np.unique(seen.start)),
        "seen": len(seen),
        "diverged": dict(sorted(ended.items())),
        "chosen": counts[0],
        "quarantined": counts[1],
        "labelled": len(labelled),
        "teacher_failed": len(dropped) - too_strong,
        "force_too_large": too_strong,
        "disagreement_before": {},
        "disagreement_after": None,
        "settings": recipe.rounds.model_dump(mode="json"),
    }


def _write_probe(recipe: Recipe, number: int, seen: Seen, starts: Sequence[Start], summary: Summary) -> None:
    """Frames on which to measure again what has been learned, and how far the students differ on them now."""
    ordinary = np.flatnonzero((seen.reason == 0) & np.isfinite(seen.spread))
    chosen = ordinary[np.linspace(0, len(ordinary) - 1, min(PROBE, len(ordinary))).astype(int)] if len(ordinary) else []
    frames = _gather(recipe, seen, starts, list(map(int, chosen)), f"round-{number}-probe")
    write_shard(_explored(recipe) / f"round-{number}-probe.h5", frames, {"recipe": recipe.name})
    summary["disagreement_before"] = quantiles(seen.spread[chosen] if len(chosen) else np.zeros(0))


def _students_error(recipe: Recipe, number: int, models: Sequence[Path], team: Team) -> float | None:
    """Mean absolute error of the students' mean forces on the newly labelled frames, meV/Å; None without any."""
    shards = sorted(recipe.round_frames.glob(f"round-{number}-*.h5"))
    frames = read_dataset(shards) if shards else None
    if frames is None or not len(frames):
        return None
    print(f"round {number}: measuring the students' error on {len(frames)} new frames", flush=True)
    ((_, error),) = team.run(mean_error, [(tuple(map(str, models)), list(frames))])
    return None if error is None else round(error, 3)
