"""The recipe: one YAML file that says which molecules, which teacher, how to sample, label and train.

Paths in a recipe are relative to the recipe's own directory. Sections of `sample` that are left out are not sampled.
The teacher is code by design: labelling with a recipe runs the calculator that it names.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from atomjet.distill.fields import Count, Element, FileName, RecipePath, Section, Seed, Text, Workers, file_name
from atomjet.distill.files import load_yaml, read_text, short
from atomjet.distill.sample_config import SampleConfig
from atomjet.distill.train_config import DataSource, RoundsConfig, TrainConfig
from atomjet.errors import ConfigError
from atomjet.models.painn.config import PaiNNConfig

LARGEST_RECIPE = 1_000_000
"""Bytes that a recipe file may have."""


class TeacherConfig(Section):
    """The calculator that labels: "tblite:METHOD", "atomjet:MODEL" or "package.module:factory", and its keyword options."""

    calculator: Text = "tblite:GFN2-xTB"
    options: dict[str, Any] = Field(default={"accuracy": 0.1})
    _trusted: tuple[Path, ...] = PrivateAttr(default=())

    @property
    def trusted(self) -> tuple[Path, ...]:
        """Files of Python that the caller, never the recipe, allowed to be run."""
        return self._trusted

    def trusting(self, files: Sequence[Path]) -> TeacherConfig:
        """A copy of these settings that may run a teacher from these Python files."""
        changed = self.model_copy()
        changed._trusted = tuple(files)
        return changed


class LabelConfig(Section):
    """How to label. Frames with a larger force than `max_force` (`wall_max_force` for walls and compressed) are left out, eV/Å.

    What a budget (`max_labels`, `max_hours`) leaves unlabelled is left out, until a later run with a larger one. What failed is not
    tried again by the next run unless `retry_failures` says so (after a lack of memory, say).
    """

    workers: Workers | None = None
    shard_size: Count = 20000
    max_force: float = Field(default=50.0, gt=0)
    wall_max_force: float = Field(default=200.0, gt=0)
    hessian_rows: int = Field(default=0, ge=0, le=100_000, description="random rows of the Hessian per frame")
    retry_failures: bool = False
    max_labels: Count | None = Field(default=None, description="frames labelled at most, drawn evenly from all")
    max_hours: float | None = Field(default=None, gt=0, description="a run hands out no more frames after it")


LARGEST_STUDENT = {"features": 2048, "layers": 32, "num_radial": 512, "max_z": 120, "cutoff": 20}
"""Bounds on settings of the student: beyond them its weights alone would fill a machine."""


class Recipe(Section):
    """A whole distillation."""

    name: FileName
    licence: Text | None = None
    seed: Seed = 0
    output: RecipePath
    elements: tuple[Element, ...] = Field(min_length=1)
    molecules: RecipePath | None = None
    teacher: TeacherConfig = TeacherConfig()
    sample: SampleConfig = SampleConfig()
    label: LabelConfig = LabelConfig()
    student: PaiNNConfig = PaiNNConfig.model_validate({})
    train: TrainConfig = TrainConfig(epochs=100)
    rounds: RoundsConfig | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the students; none where there is one student with the recipe's own."""
        return self.train.seeds or ((0, 1, 2) if self.rounds else ())

    @property
    def round_frames(self) -> Path:
        """Directory of the labelled frames that the rounds have added, and of what there is to say of each round."""
        return self.output / "rounds"

    @property
    def explored(self) -> Path:
        """Directory of what the students have seen in the rounds: from it a run that was killed goes on."""
        return self.round_frames / "explored"

    def for_seed(self, seed: int) -> Recipe:
        """The recipe of one of several students: it learns from the same data, in a directory of its own."""
        data = self.train.data or (DataSource(path=self.output / "dataset"),)
        if self.rounds and any(self.round_frames.glob("*.h5")):
            data = (*data, DataSource(path=self.round_frames, weight=self.rounds.weight))
        train = self.train.model_copy(update={"seed": seed, "seeds": (), "data": data})
        return self.model_copy(update={"output": self.output / f"seed-{seed}", "train": train, "rounds": None})

    def changed(self, **fields: Any) -> Recipe:
        """A copy of this recipe with another name or seed.

        Raises:
            ConfigError: a name that can name no file.
        """
        try:
            file_name(fields.get("name", self.name))
        except ValueError as error:
            raise ConfigError(f"name {short(fields['name'])} {error}") from error
        return self.model_copy(update=fields)

    @field_validator("student")
    @classmethod
    def _student_fits(cls, student: PaiNNConfig) -> PaiNNConfig:
        """Refuse a student beyond `LARGEST_STUDENT` before it is made."""
        for name, most in LARGEST_STUDENT.items():
            if getattr(student, name) > most:
                raise ValueError(
                    f"{name} {getattr(student, name):g} is more than {most}, the most that a student may have"
                )
        return student

    @model_validator(mode="after")
    def _something_to_sample(self) -> Recipe:
        if self.molecules is None and self.sample.structures is None:
            raise ValueError("needs molecules (a file of SMILES) or sample.structures")
        return self

    @model_validator(mode="after")
    def _students_can_disagree(self) -> Recipe:
        if self.rounds and len(self.seeds) < 2:
            raise ValueError(
                f"rounds need two students or more, train.seeds has {list(self.seeds)}; add one, or leave it out"
            )
        return self


def load_recipe(path: str | Path, trust: Sequence[str | Path] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: of the YAML file.
        trust: Python files beside the recipe from which its teacher may come.

    Raises:
        ConfigError: the file is missing, is not YAML, or a field is missing, unknown or out of range (names the field); a
            trusted file is missing or lies elsewhere.
    """
    path = Path(path)
    text = read_text(path, "recipe", LARGEST_RECIPE)
    try:
        content = load_yaml(text)
    except ConfigError as error:
        raise ConfigError(
            f"recipe {path} {error}" if "is not YAML" in str(error) else f"recipe {path}: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path} must be a mapping of fields, got {type(content).__name__}")
    directory = path.parent.resolve()
    try:
        recipe = Recipe.model_validate(content, context={"directory": directory})
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {_one_line(error)}") from error
    files = [_trusted_file(Path(file), directory) for file in trust]
    return recipe.model_copy(update={"teacher": recipe.teacher.trusting(files)}) if files else recipe


def _trusted_file(file: Path, directory: Path) -> Path:
    """A trusted file: given as it lies from here, or by its name beside the recipe."""
    found = file.resolve() if file.exists() else (directory / file).resolve()
    if not found.is_file() or found.suffix != ".py" or found.parent != directory:
        raise ConfigError(f"--trust {file}: give a Python file (.py) that lies beside the recipe, in {directory}")
    return found


def _one_line(error: ValidationError) -> str:
    """The first complaint, with its field, and how many more there are; of the input only a glimpse."""
    first, more = error.errors()[0], error.error_count() - 1
    where = short(".".join(str(part) for part in first["loc"]))
    what = short(first["msg"].removeprefix("Value error, "), 200)
    shown = "" if first["type"] in ("missing", "value_error") else f", got {short(_glimpse(first['input']))}"
    if first["type"] == "extra_forbidden":
        what, shown = "no such field", ""
    return f"{where + ': ' if where else ''}{what}{shown}" + (f" (and {more} more)" if more else "")


def _glimpse(value: Any) -> str:
    """The value as Python writes it, truncated where it is long or deep."""
    glimpse = reprlib.Repr()
    glimpse.maxstring = glimpse.maxother = 60
    return glimpse.repr(value)
