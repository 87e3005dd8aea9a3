"""`atomjet rounds`: students explore, the teacher labels where they disagree.

Before each round the students of all seeds train for a share of their budget. They drive MD and relaxations; of the frames seen,
those on which they disagree are labelled and added to the training frames. Everything stands in `OUTPUT/rounds/`: the labelled
frames as shards `round-1-*.h5`, a summary of the round in `round-1.json`, why frames are left out in `round-1-failures.jsonl`, and
in `explored/` what a killed run goes on from. A round whose JSON is there is done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomjet.distill.choose import Seen, choose, frames_of
from atomjet.distill.dataset import read_dataset, write_shard
from atomjet.distill.devices import Team, devices_of
from atomjet.distill.executors import Executor
from atomjet.distill.explore import Start
from atomjet.distill.files import read_json_lines
from atomjet.distill.frames import Frames, concatenate
from atomjet.distill.label import in_words, label_frames
from atomjet.distill.measure import forget_engines, mean_error, spreads
from atomjet.distill.recipe import Recipe
from atomjet.distill.round_summary import Summary, in_one_line, quantiles, quantiles_in_words, summaries, write_summary
from atomjet.distill.schedule import Stage
from atomjet.distill.starts import starts_of
from atomjet.distill.students import train_students
from atomjet.distill.teacher import build_teacher
from atomjet.distill.train_config import RoundsConfig
from atomjet.distill.trajectories import follow_all
from atomjet.distill.walkers import REASONS
from atomjet.errors import ConfigError
from atomjet.locking import only_run
from atomjet.models import load as model_load

Array = NDArray[Any]

PROBE = 500
"""Frames, evenly from all that were seen, on which disagreement is measured before and after they are learned from."""


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
        The summary of each round.

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
    probe = read_dataset(recipe.explored / f"round-{summary['round']}-probe.h5")
    print(f"measuring how far the students differ on {len(probe)} frames of round {summary['round']}", flush=True)
    job = (tuple(map(str, models)), list(probe))
    ((_, spread),) = team.run(spreads, [job])
    forget_engines()
    summary["disagreement_after"] = quantiles(spread)
    write_summary(recipe.round_frames, summary)
    print(
        f"round {summary['round']}: disagreement was {quantiles_in_words(summary['disagreement_before'])}, "
        f"is {quantiles_in_words(summary['disagreement_after'])} after learning its frames",
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
    starts = starts_of(recipe, settings, frames, number)
    seen = follow_all(recipe, settings, number, starts, models, team, quiet, executor)
    most = settings.frames
    if (budget := recipe.label.max_labels) is not None:
        most = min(most, budget - len(frames))
    ordinary, diverged = choose(seen, settings, most, recipe.label.max_force)
    started, chosen = time.monotonic(), {f"round-{number}": ordinary, f"round-{number}-diverged": diverged}
    unlabelled = concatenate([frames_of(recipe, seen, starts, places, source) for source, places in chosen.items()])
    write_shard(recipe.explored / f"round-{number}-chosen.h5", unlabelled, {"recipe": recipe.name})
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


def _known_frames(recipe: Recipe) -> Frames:
    """All labelled frames there are."""
    split = recipe.sample.split
    sources = recipe.for_seed(recipe.seeds[0]).train.data
    return read_dataset([source.path for source in sources], recipe.seed, split.validation, split.test)


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
    reasons = read_json_lines(failures)
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
    frames = frames_of(recipe, seen, starts, list(map(int, chosen)), f"round-{number}-probe")
    write_shard(recipe.explored / f"round-{number}-probe.h5", frames, {"recipe": recipe.name})
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
