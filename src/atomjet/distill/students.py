"""Several students of one recipe, one for each seed: trained on the devices there are, each in a directory of its own."""

from __future__ import annotations

from pathlib import Path

from atomjet.distill.devices import Team
from atomjet.distill.measure import forget_engines
from atomjet.distill.recipe import Recipe
from atomjet.distill.schedule import WHOLE, Stage
from atomjet.distill.train import run_train


def train_students(
    recipe: Recipe,
    team: Team,
    resume: bool = True,
    quiet: bool = False,
    stage: Stage = WHOLE,
) -> list[Path]:
    """Train a student for each of `recipe.seeds`: on several GPUs at once, on one device in turn.

    Args:
        recipe: names the seeds; `OUTPUT/seed-K` is where the student of seed K goes on, or begins.
        team: the devices.
        resume: go on from the checkpoints, if there are any; else start over.
        quiet: no progress bars.
        stage: the part of the training to do.

    Returns:
        The model files, in the order of the seeds.

    Raises:
        ConfigError, AtomJetError, KeyboardInterrupt: see `run_train`.
    """
    in_turn, names = len(team.devices) == 1, [f"seed {seed}" for seed in recipe.seeds]
    titles = [f"{name}:" if in_turn else "" for name in names]
    jobs = [
        (recipe.for_seed(seed), resume, quiet or not in_turn, stage, title)
        for seed, title in zip(recipe.seeds, titles, strict=True)
    ]
    found = dict(team.run(_train, jobs, names))
    return [found[place] for place in range(len(jobs))]


def _train(recipe: Recipe, resume: bool, quiet: bool, stage: Stage, title: str, device: str) -> Path:
    """Train one student; a job for `Team.run`. `title` is printed first, where it is not empty."""
    forget_engines()  # of the last round, which hold memory
    if title:
        print(title, flush=True)
    return run_train(recipe, resume, device, quiet, stage)
