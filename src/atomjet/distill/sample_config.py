"""The section `sample` of a recipe: which molecules are held out, and which frames are made of them."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from atomjet.distill.fields import Count, Fraction, Range, RecipePath, Section, Temperatures, Text, Workers


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
    common: tuple[Text, ...] = Field(
        default=(), description="SMILES of which every second member of oriented, packed and spheres is one"
    )
    walls: WallsConfig | None = None
    free_atoms: bool | None = Field(default=None, description="by default where molecules are sampled")
    peptides: PeptidesConfig | None = None
    structures: StructuresConfig | None = None
