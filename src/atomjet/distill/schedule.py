"""The schedule of a training: how much of it is over, by steps or by time, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atomjet.distill.train_config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """A training of so many epochs or minutes, whichever comes first.

    Attributes:
        config: settings.
        steps_per_epoch: batches.
    """

    config: TrainConfig
    steps_per_epoch: int

    @property
    def length(self) -> int:
        """Length of a progress bar: steps, or seconds of a run that is limited by time alone."""
        config = self.config
        return config.epochs * self.steps_per_epoch if config.epochs else round(60 * (config.max_minutes or 0))

    def done(self, step: int, seconds: float) -> int:
        """Where the progress bar stands, in units of `length`."""
        return step if self.config.epochs else int(seconds)

    def progress(self, step: int, seconds: float) -> float:
        """How much is over, 0 ... 1 and a little more: by epochs or by time, whichever is further."""
        config = self.config
        by_epochs = step / (config.epochs * self.steps_per_epoch) if config.epochs else 0.0
        by_time = seconds / (60 * config.max_minutes) if config.max_minutes else 0.0
        return max(by_epochs, by_time)

    def learning_rate(self, progress: float) -> float:
        """Linear rise over the first `warmup` of the run, then a cosine down to `final_learning_rate`."""
        config, progress = self.config, min(1.0, progress)
        if progress < config.warmup:
            # In the middle of the step, so that the first one counts.
            middle = 0.5 / (config.epochs * self.steps_per_epoch) if config.epochs else 0.0
            return config.learning_rate * min(1.0, (progress + middle) / config.warmup)
        falling = 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))
        return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * falling


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes:
        number: rounds that have added frames before it.
        until: share of the whole training at which it ends; 1 for the last.
    """

    number: int = 0
    until: float = 1.0


WHOLE = Stage()
"""A training without stages."""
