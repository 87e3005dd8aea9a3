"""The recipe: one YAML file that says which molecules, which teacher, how to sample, label and train.

Paths in a recipe are relative to the recipe's own directory. Sections of `sample` that are left out are not sampled.
The teacher is code by design: labelling with a recipe runs the calculator that it names.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atomjet.distill.files import load_yaml, read_text, short
from atomjet.errors import ConfigError
from atomjet.models import registry
from atomjet.models.painn.config import PaiNNConfig

LARGEST_RECIPE = 1_000_000
"""Bytes that a recipe file may have."""

LONGEST_TEXT = 1000
"""Characters of a name or path."""


def _beside_recipe(path: Path, info: ValidationInfo) -> Path:
    _printable(str(path))
    return Path(os.path.normpath(Path((info.context or {}).get("directory", ".")) / path))


def _model_name(name: str, info: ValidationInfo) -> str:
    """A packaged model's name as it is, any other as a file beside the recipe."""
    return name if _printable(name) in registry.packaged() else str(_beside_recipe(Path(name), info))


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"needs two positive values, the smaller first, got {list(pair)}")
    return pair


def _printable(text: str) -> str:
    """Refuse what cannot be printed on one line: control characters, which a terminal would obey, and pages of text."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters, the most is {LONGEST_TEXT}")
    if not text.isprintable():
        raise ValueError("has control characters; remove them")
    return text


def _file_name(name: str) -> str:
    """The student's name becomes that of its file."""
    if not 0 < len(_printable(name)) <= 100 or name.strip(". ") != name or set(name) & set('/\\:*?"<>|'):
        raise ValueError(
            "must be 1 to 100 characters that can name a file: no slash, colon, star, question mark, quote"
        )
    return name


def _known_element(symbol: str) -> str:
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError(f"{symbol!r} is no chemical element")
    return symbol


RecipePath = Annotated[Path, AfterValidator(_beside_recipe)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Element = Annotated[str, AfterValidator(_known_element)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Workers = Annotated[int, Field(ge=1, le=1024)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherConfig(Section):
    """The calculator that labels: "tblite:METHOD", "atomjet:MODEL" or "package.module:factory", and its keyword options."""

    calculator: Annotated[str, AfterValidator(_printable)] = "tblite:GFN2-xTB"
    options: dict[str, Any] = {"accuracy": 0.1}
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


class SplitConfig(Section):
    """Shares of the molecules held out, and of the training molecules' frames kept for in-distribution validation.

    With `from_file` the split of each molecule is the word after its SMILES in the file of molecules; the shares are then those of
    clusters, and of other frames of many molecules.
    """

    from_file: bool = False
    validation: Fraction = 0.05
    test: Fraction = 0.1
    in_distribution: Fraction = 0.02


class ConformersConfig(Section):
    """ETKDGv3 + MMFF conformers, relaxed with the teacher: the start of every other slice.

    Their normal modes come from the teacher's Hessian (3N + 1 calls), or are estimated from the bonds (no call; the relaxation,
    too, then starts from the estimated Hessian and needs half the steps).
    """

    per_molecule: Count = 2
    modes: Literal["teacher", "estimated"] = "teacher"
    fmax: float = Field(default=0.05, gt=0, description="eV/Å")
    max_steps: Count = 150


class NormalModesConfig(Section):
    """Thermal displacements along the teacher's normal modes, temperature log-uniform in a range, K."""

    frames: Count = 100
    temperature: Range = (200.0, 2000.0)
    atoms: Count | None = Field(
        default=None, description="fewer frames of a molecule that has more atoms in all of them"
    )


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
    """Pairs of molecules of one split in random orientation; `contact` is the smallest distance over the sum of van der Waals
    radii, log-uniform in a range. Molecules that find no partner within `max_atoms` have no pair.
    """

    frames: Count = 10
    contact: Range = (0.65, 3.0)
    temperature: Range = (200.0, 600.0)
    max_atoms: Count | None = None


class CompressedConfig(DimersConfig):
    """Pairs pressed into each other; larger forces are allowed: `label.wall_max_force`."""

    frames: Count = 2
    contact: Range = (0.35, 1.0)


class OrientedConfig(Section):
    """Scans of pairs that face each other as molecules do in liquids and crystals: hydrogen bonds, single and cyclic, stacks, edges
    on faces. A scan has `points`, spread over the logarithm of the contact.
    """

    scans: Count = 100
    points: Count = 6
    contact: Range = (0.8, 2.5)
    temperature: Range = (50.0, 400.0)
    max_atoms: Count = 36


class ClustersConfig(Section):
    """Water and mixed clusters, relaxed a little, then short Langevin runs with the teacher."""

    water: int = Field(default=40, ge=0, le=10_000_000)
    mixed: int = Field(default=100, ge=0, le=10_000_000)
    molecules: tuple[Count, Count] = (2, 20)
    max_atoms: Count = 60
    frames: Count = 6
    keep_every: Count = 20
    temperatures: Temperatures = (200.0, 350.0, 500.0)


class PackedConfig(Section):
    """Clusters of mixed molecules, packed at random and not relaxed: no teacher call but the label."""

    clusters: Count = 100
    molecules: tuple[Count, Count] = (3, 12)
    max_atoms: Count = 60
    contact: Range = (0.7, 1.1)
    temperature: Range = (100.0, 600.0)


class SpheresConfig(Section):
    """Spheres of whole molecules cut out of periodic boxes, which are packed at random to a multiple of a liquid's density; one box
    gives several spheres.
    """

    boxes: Count = 20
    spheres: Count = 5
    atoms: tuple[Count, Count] = (10, 60)
    density: Range = (0.8, 1.3)
    temperature: Range = (100.0, 600.0)


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


class SupercellsConfig(Section):
    """Repetitions of a periodic structure in two sizes: the least heights of the cells, in cutoffs of the student."""

    heights: Range = (1.0, 2.0)
    max_atoms: Count = 200


class StructureMDConfig(Section):
    """Langevin runs of the teacher in the small supercell, at constant volume; `frames` spread over the temperatures."""

    frames: Count = 30
    temperatures: Temperatures = (300.0, 600.0)
    keep_every: Count = 20
    timestep: float = Field(default=1.0, gt=0, description="fs")


class StructuresConfig(Section):
    """Structures from files that ASE reads, periodic or not (for teachers of materials): `frames` of each in each size of
    supercell, displaced and strained at random, and `strained` ones of crystals whose atoms only follow the cell.
    """

    files: tuple[RecipePath, ...] = Field(min_length=1)
    relax: bool = Field(default=False, description="by the teacher first, with the cell where it is a crystal")
    supercells: SupercellsConfig | None = SupercellsConfig()
    frames: Count = 20
    displacement: float = Field(default=0.05, ge=0, description="largest standard deviation of the positions, Å")
    strain: float = Field(default=0.02, ge=0, lt=0.5)
    strained: int = Field(default=0, ge=0, le=10_000_000, description="frames: volumes and shears by turns")
    volume: Range = Field(default=(0.9, 1.1), description="of the strained frames, over the structure's own")
    shear: float = Field(default=0.03, ge=0, lt=0.5)
    md: StructureMDConfig | None = None


class SampleConfig(Section):
    """Which frames to make. `workers`: processes, by default as many as CPUs; the result does not depend on it."""

    workers: Workers | None = None
    split: SplitConfig = SplitConfig()
    conformers: ConformersConfig = ConformersConfig()
    normal_modes: NormalModesConfig | None = None
    md: MDConfig | None = None
    torsions: TorsionsConfig | None = None
    dimers: DimersConfig | None = None
    compressed: CompressedConfig | None = None
    oriented: OrientedConfig | None = None
    clusters: ClustersConfig | None = None
    packed: PackedConfig | None = None
    spheres: SpheresConfig | None = None
    common: tuple[Annotated[str, AfterValidator(_printable)], ...] = Field(
        default=(), description="SMILES of which every second member of oriented, packed and spheres is one"
    )
    walls: WallsConfig | None = None
    free_atoms: bool | None = Field(default=None, description="by default where molecules are sampled")
    peptides: PeptidesConfig | None = None
    structures: StructuresConfig | None = None


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
    start_from: Annotated[str, AfterValidator(_model_name)] | None = Field(
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


LARGEST_STUDENT = {"features": 2048, "layers": 32, "num_radial": 512, "max_z": 120, "cutoff": 20}


class Recipe(Section):
    """A whole distillation."""

    name: Annotated[str, AfterValidator(_file_name)]
    licence: Annotated[str, AfterValidator(_printable)] | None = None
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
            _file_name(fields.get("name", self.name))
        except ValueError as error:
            raise ConfigError(f"name {short(fields['name'])} {error}") from error
        return self.model_copy(update=fields)

    @field_validator("student")
    @classmethod
    def _student_fits(cls, student: PaiNNConfig) -> PaiNNConfig:
        """Refuse students whose weights alone would fill a machine before any of them is made."""
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
    """The value as Python writes it, cut where it is long or deep."""
    glimpse = reprlib.Repr()
    glimpse.maxstring = glimpse.maxother = 60
    return glimpse.repr(value)
