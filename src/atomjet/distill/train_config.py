"""The sections `train` and `rounds` of a recipe: how a student learns, and how students look for what they do not know yet."""

from __future__ import annotations

from pydantic import (
    Field,
    model_validator,
)

from atomjet.distill.fields import Count, Fraction, ModelName, Range, RecipePath, Section, Seed, Temperatures


class DataSource(Section):
    """Labelled frames to train on: a directory of shards or a file that ASE reads, and how often each frame is seen per epoch."""

    path: RecipePath
    weight: float = Field(
        default=1.0, gt=0, description="passes per epoch; 0.5: another half of the frames every epoch"
    )


class TrainConfig(Section):
    """How to train the student. It ends after `epochs` or after `max_minutes`, whichever comes first; one must be given.

    The learning rate rises linearly over the first `warmup` of the run and falls by a cosine to `final_learning_rate` over the
    rest, where the run is measured in steps or in minutes, so that a run that was given ten minutes ends annealed.
    """

    data: tuple[DataSource, ...] = Field(default=(), description="by default what `label` wrote")
    seed: Seed | None = Field(
        default=None, description="of the first weights and of the order of the frames; by default the recipe's"
    )
    seeds: tuple[Seed, ...] = Field(
        default=(), max_length=32, description="several students, in seed-K of the output; three where there are rounds"
    )
    start_from: ModelName | None = Field(
        default=None, description="a packaged model, or a model file beside the recipe, whose weights are the first"
    )
    target_force_mae: float | None = Field(
        default=None, gt=0, description="meV/Å on the validation frames: training ends when it is reached"
    )
    epochs: Count | None = None
    max_minutes: float | None = Field(default=None, gt=0)
    batch_size: Count = 256
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=1e-6, ge=0)
    warmup: Fraction = 0.02
    weight_decay: float = Field(default=1e-3, ge=0, description="AdamW's, on matrices only")
    ema_decay: Fraction = 0.999
    clip_norm: float = Field(default=10.0, gt=0, description="largest norm of the gradient")
    energy_weight: float = Field(default=2.0, ge=0)
    force_weight: float = Field(default=1.0, ge=0)
    stress_weight: float = Field(default=0.2, ge=0, description="of frames that have a stress label")
    hessian_weight: float = Field(default=0.0, ge=0, description="needs frames with Hessian rows")
    energy_delta: float = Field(
        default=0.005, gt=0, description="eV/atom: error where the loss turns from square to linear"
    )
    force_delta: float = Field(default=0.01, gt=0, description="eV/Å: the same for the length of a force error")
    stress_delta: float = Field(default=0.01, gt=0, description="eV/atom: the same for the virial of an atom")
    hessian_delta: float = Field(default=0.1, gt=0, description="eV/Å²: the same for a 3-vector of a Hessian row")
    force_cap: float = Field(default=10.0, gt=0, description="eV/Å: labels beyond it count by their relative error")
    energy_cap: float | None = Field(
        default=None, gt=0, description="eV/Å: energies of frames with a larger force count less; by default force_cap"
    )
    validation_interval: Count = Field(default=1, description="epochs")
    validation_frames: Count = Field(
        default=4000, description="at most so many frames of the validation split, at each interval"
    )
    checkpoint_minutes: float = Field(default=2.0, gt=0)
    tf32: bool = Field(
        default=True, description="matrix products on a GPU with 10-bit mantissas; evaluation is always in float32"
    )

    compile: bool = Field(
        default=False, description="fuse a step into one function: a minute at first, then faster steps"
    )

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if self.epochs is None and self.max_minutes is None:
            raise ValueError("needs epochs or max_minutes")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} has one twice; give different ones")
        return self


class PackingsConfig(Section):
    """Boxes of molecules, disordered or all in one orientation, squeezed in stages and relaxed by a student, then its MD.

    The boxes are periodic. A teacher of molecules cannot label those: around the atom where the students differ most, whole
    molecules are carved, up to `carve` atoms, and labelled without periodic directions. With `carve: null` the boxes are labelled.
    """

    boxes: Count = 100
    molecules: tuple[Count, Count] = (8, 64)
    max_atoms: Count = 400
    density: Range = Field(default=(0.8, 1.4), description="relative to a liquid")
    carve: Count | None = 80


class RoundsConfig(Section):
    """Rounds in which students drive MD and relaxations, and the teacher labels the frames on which they disagree.

    `disagreement` is the largest, over the atoms of a frame, of the deviation of the students' forces from their mean, eV/Å: frames
    below the first bound have nothing to teach; at the second a trajectory has diverged and ends.
    """

    count: Count = 2
    train_share: float = Field(
        default=0.1, gt=0, lt=1, description="of the budget of training, before each round; the rest comes after them"
    )
    frames: Count = Field(default=2000, description="labelled in a round, at most")
    starts: Count = Field(default=500, description="trajectories from training frames")
    packings: PackingsConfig | None = None
    temperatures: Temperatures = (300.0, 600.0, 1000.0)
    steps: Count = 1000
    keep_every: Count = 50
    timestep: float = Field(default=0.5, gt=0, le=5, description="fs")
    relax_share: float = Field(default=0.2, ge=0, le=1, description="of the starts: relaxed instead of MD")
    npt_share: float = Field(default=0.5, ge=0, le=1, description="of the periodic structures: NPT instead of NVT")
    pressure: float = Field(default=0.0, ge=-100, le=1000, description="GPa, of NPT")
    disagreement: Range = (0.05, 3.0)
    weight: float = Field(default=1.0, gt=0, description="passes over the frames of the rounds per epoch")
    per_start: Count = Field(default=4, description="frames of one trajectory, at most")
    apart: float = Field(
        default=0.05, ge=0, description="Å: frames of the same atoms whose distances differ less, r.m.s., are one"
    )
    diverged_share: float = Field(default=0.1, ge=0, le=1, description="of the frames: diverged ones, at most")
    max_minutes: float | None = Field(
        default=None, gt=0, description="no more trajectories are begun in a round after it"
    )

    @model_validator(mode="after")
    def _time_is_left(self) -> RoundsConfig:
        if self.count * self.train_share >= 1:
            raise ValueError(
                f"count {self.count} times train_share {self.train_share:g} leaves nothing of the training for after the "
                "rounds; lower one of them"
            )
        return self
