"""The recipe: one YAML file that says which molecules, which teacher, how to sample, label and train.

Paths in a recipe are relative to the recipe's own directory. Sections of `sample` that are left out are not sampled.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from ase.data import atomic_numbers
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from atomjet.errors import ConfigError
from atomjet.models.painn.config import PaiNNConfig


def _beside_recipe(path: Path, info: ValidationInfo) -> Path:
    return Path(os.path.normpath(Path((info.context or {}).get("directory", ".")) / path))


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"needs two positive values, the smaller first, got {list(pair)}")
    return pair


def _known_element(symbol: str) -> str:
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError(f"{symbol!r} is no chemical element")
    return symbol


RecipePath = Annotated[Path, AfterValidator(_beside_recipe)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Element = Annotated[str, AfterValidator(_known_element)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherConfig(Section):
    """The calculator that labels: "tblite:METHOD" or "package.module:factory", and its keyword options."""

    calculator: str = "tblite:GFN2-xTB"
    options: dict[str, Any] = {"accuracy": 0.1}


class SplitConfig(Section):
    """Shares of the molecules held out, and of the training molecules' frames kept for in-distribution validation."""

    validation: Fraction = 0.05
    test: Fraction = 0.1
    in_distribution: Fraction = 0.02


class ConformersConfig(Section):
    """ETKDGv3 + MMFF conformers, relaxed with the teacher: the start of every other slice."""

    per_molecule: Count = 2
    fmax: float = Field(default=0.05, gt=0, description="eV/Å")
    max_steps: Count = 150


class NormalModesConfig(Section):
    """Thermal displacements along the teacher's normal modes, temperature log-uniform in a range, K."""

    frames: Count = 100
    temperature: Range = (200.0, 2000.0)


class MDConfig(Section):
    """Short Langevin runs with the teacher, in a share of the molecules; `frames` kept of each, spread over the
    temperatures.
    """

    share: float = Field(default=0.3, gt=0, le=1)
    frames: Count = 18
    temperatures: Temperatures = (300.0, 600.0, 1000.0)
    keep_every: Count = 20
    timestep: float = Field(default=0.5, gt=0, description="fs")


class TorsionsConfig(Section):
    """Rotations about single bonds in steps of `step` degrees, with thermal displacements on top."""

    frames: Count = 10
    step: float = Field(default=15.0, gt=0, le=180)
    temperature: Range = (200.0, 600.0)


class DimersConfig(Section):
    """Pairs of molecules of one split; `contact` is the smallest distance over the sum of van der Waals radii."""

    frames: Count = 10
    contact: Range = (0.65, 3.0)
    temperature: Range = (200.0, 600.0)


class ClustersConfig(Section):
    """Water and mixed clusters, relaxed a little, then short Langevin runs with the teacher."""

    water: int = Field(default=40, ge=0)
    mixed: int = Field(default=100, ge=0)
    molecules: tuple[Count, Count] = (2, 20)
    max_atoms: Count = 60
    frames: Count = 6
    keep_every: Count = 20
    temperatures: Temperatures = (200.0, 350.0, 500.0)


class WallsConfig(Section):
    """Every pair of elements from contact to separation, Å."""

    points: Count = 36
    distance: Range = (0.4, 6.0)


class PeptidesConfig(Section):
    """Larger molecules, test only: normal-mode and MD frames of each."""

    molecules: RecipePath
    mode_frames: Count = 20
    mode_temperature: Range = (200.0, 1000.0)
    md_frames: Count = 20
    temperatures: Temperatures = (300.0, 600.0)
    keep_every: Count = 20


class StructuresConfig(Section):
    """Structures from files that ASE reads, periodic or not, displaced and strained at random (for teachers of
    materials).
    """

    files: tuple[RecipePath, ...]
    frames: Count = 20
    displacement: float = Field(default=0.05, ge=0, description="largest standard deviation of the positions, Å")
    strain: float = Field(default=0.02, ge=0)


class SampleConfig(Section):
    """Which frames to make. `workers`: processes, by default as many as CPUs; the result does not depend on it."""

    workers: Count | None = None
    split: SplitConfig = SplitConfig()
    conformers: ConformersConfig = ConformersConfig()
    normal_modes: NormalModesConfig | None = None
    md: MDConfig | None = None
    torsions: TorsionsConfig | None = None
    dimers: DimersConfig | None = None
    clusters: ClustersConfig | None = None
    walls: WallsConfig | None = None
    free_atoms: bool = True
    peptides: PeptidesConfig | None = None
    structures: StructuresConfig | None = None


class LabelConfig(Section):
    """How to label. Frames with a larger force than `max_force` (`wall_max_force` for walls) are left out, eV/Å.

    What failed is not tried again by the next run unless `retry_failures` says so (after a lack of memory, say).
    """

    workers: Count | None = None
    shard_size: Count = 20000
    max_force: float = Field(default=50.0, gt=0)
    wall_max_force: float = Field(default=200.0, gt=0)
    hessian_rows: int = Field(default=0, ge=0, description="random rows of the Hessian per frame")
    retry_failures: bool = False


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
    hessian_weight: float = Field(default=0.0, ge=0, description="needs frames with Hessian rows")
    energy_delta: float = Field(
        default=0.005, gt=0, description="eV/atom: error where the loss turns from square to linear"
    )
    force_delta: float = Field(default=0.01, gt=0, description="eV/Å: the same for the length of a force error")
    hessian_delta: float = Field(default=0.1, gt=0, description="eV/Å²: the same for a 3-vector of a Hessian row")
    force_cap: float = Field(default=10.0, gt=0, description="eV/Å: labels beyond it count by their relative error")
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
        if self.compile and self.hessian_weight:
            raise ValueError("compile cannot be combined with hessian_weight")
        return self


class Recipe(Section):
    """A whole distillation."""

    name: str
    seed: int = Field(default=0, ge=0)
    output: RecipePath
    elements: tuple[Element, ...] = Field(min_length=1)
    molecules: RecipePath | None = None
    teacher: TeacherConfig = TeacherConfig()
    sample: SampleConfig = SampleConfig()
    label: LabelConfig = LabelConfig()
    student: PaiNNConfig = PaiNNConfig.model_validate({})
    train: TrainConfig = TrainConfig(epochs=100)

    @model_validator(mode="after")
    def _something_to_sample(self) -> Recipe:
        if self.molecules is None and self.sample.structures is None:
            raise ValueError("needs molecules (a file of SMILES) or sample.structures")
        return self


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: the file is missing, is not YAML, or a field is missing, unknown or out of range (names the field).
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path} must be a mapping of fields, got {type(content).__name__}")
    try:
        return Recipe.model_validate(content, context={"directory": path.parent.resolve()})
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {_one_line(error)}") from error


def _one_line(error: ValidationError) -> str:
    """The first complaint, with its field, and how many more there are."""
    first, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    if first["type"] == "extra_forbidden":
        what, shown = "no such field", ""
    return f"{where + ': ' if where else ''}{what}{shown}" + (f" (and {more} more)" if more else "")
