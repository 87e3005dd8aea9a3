"""Several students of one recipe, one for each seed: trained on the devices there are, each in a directory of its own."""

from __future__ import annotations

from pathlib import Path

from atomjet.distill.devices import Team
from atomjet.distill.measure import forget_engines
from atomjet.distill.recipe import Recipe
from atomjet.distill.train import run_train
from atomjet.distill.trainer import Stage


def train_students(
    recipe: Recipe,
    team: Team,
    resume: bool = True,
    quiet: bool = False,
    stage: Stage = Stage(),  # noqa: B008 - immutable
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
    said = [f"{name}:" if in_turn else "" for name in names]
    jobs = [
        (recipe.for_seed(seed), resume, quiet or not in_turn, stage, words)
        for seed, words in zip(recipe.seeds, said, strict=True)
    ]
    found = dict(team.run(_train, jobs, names))
    return [found[place] for place in range(len(jobs))]


def _train(recipe: Recipe, resume: bool, quiet: bool, stage: Stage, words: str, device: str) -> Path:
    """A job."""
    forget_engines()  # of the last round, which hold memory
    if words:
        print(words, flush=True)
    return run_train(recipe, resume, device, quiet, stage)
