"""What molecular dynamics samples: temperature and kinetic energy, and the geometry of student against teacher."""

from __future__ import annotations

import contextlib
import io
import warnings
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from atomjet.adapters.structures import bonds
from atomjet.errors import AtomJetError, ConfigError
from atomjet.md.dynamics import build_dynamics, take_step
from atomjet.md.settings import MDSettings
from atomjet.md.velocities import degrees_of_freedom, draw_velocities
from atomjet.progress import track
from atomjet.units import BOLTZMANN, KJ_PER_MOL
from atomjet.validate.check import Check
from atomjet.validate.dynamics import LONG_RUN

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

TEMPERATURE = 300.0
TIMESTEP = 0.5
FRICTION = 20.0
EVERY = 10


def sample_nvt(
    calculator: Calculator, atoms: Atoms, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Langevin dynamics at 300 K as `atomjet md` runs it; return positions (T, N, 3), kinetic and potential energies (T,).

    The first fifth is left out.
    """
    moving = atoms.copy()
    moving.calc = calculator
    settings = MDSettings(steps, TIMESTEP, "nvt", TEMPERATURE, friction=FRICTION, seed=seed)
    generator = np.random.default_rng(seed)
    draw_velocities(moving, TEMPERATURE, "nvt", generator)
    dynamics = build_dynamics(moving, settings, generator)
    positions, kinetic, potential = [], [], []
    forces = None
    with track(f"run at {TEMPERATURE:g} K, {steps:,} steps", steps, quiet=steps < LONG_RUN) as advance:
        for step in range(1, steps + 1):
            forces = take_step(dynamics, forces)
            if step > steps // 5 and step % EVERY == 0:
                positions.append(moving.get_positions())
                kinetic.append(moving.get_kinetic_energy())
                potential.append(moving.get_potential_energy())
            advance()
    return np.array(positions), np.array(kinetic), np.array(potential)


def kinetic_energy(calculator: Calculator, atoms: Atoms, name: str, steps: int, seed: int) -> list[Check]:
    """Mean temperature and width of the kinetic energy in NVT, judged by the library physical_validation."""
    library = _physical_validation()
    source = "physical_validation (J. Chem. Theory Comput. 2018, 14, 5741): within three standard errors"
    names = ("temperature, NVT", "kinetic energy distribution, NVT")
    try:
        _, kinetic, potential = sample_nvt(calculator, atoms, steps, seed)
    except AtomJetError as error:
        return [Check(label, name, float("nan"), "standard errors", 3.0, source, str(error)) for label in names]
    data = library.data.SimulationData(
        units=library.data.UnitData.units("GROMACS"),
        ensemble=library.data.EnsembleData("NVT", natoms=len(atoms), volume=1.0, temperature=TEMPERATURE),
        dt=TIMESTEP * 1e-3,
        system=library.data.SystemData(
            natoms=len(atoms),
            nconstraints=0,
            ndof_reduction_tra=0,
            ndof_reduction_rot=0,
            mass=atoms.get_masses(),
        ),
        observables=library.data.ObservableData(
            kinetic_energy=kinetic / KJ_PER_MOL,
            potential_energy=potential / KJ_PER_MOL,
            total_energy=(kinetic + potential) / KJ_PER_MOL,
        ),
    )
    with _silence():
        deviations = library.kinetic_energy.distribution(
            data, strict=False, verbosity=0, bs_repetitions=200, bootstrap_seed=seed + 1
        )
    degrees = degrees_of_freedom(atoms, "nvt")
    mean = 2 * kinetic.mean() / (degrees * BOLTZMANN)
    detail = f"{len(kinetic)} samples of {steps} steps; mean {mean:.1f} K of {TEMPERATURE:g} K asked for"
    return [
        Check(label, name, float(abs(value)), "standard errors", 3.0, source, detail)
        for label, value in zip(names, deviations, strict=True)
    ]


def against_teacher(
    student: Calculator, teacher: Calculator, atoms: Atoms, name: str, steps: int, seed: int
) -> list[Check]:
    """Bond lengths, angles, dihedrals and pair distances that student and teacher sample at 300 K.

    The figure is the mean distance between sorted samples (Wasserstein-1), worst coordinate. How much of it is the shortness of the
    run, two runs of the student say (both stay in one conformer, or they do not), and two halves of the teacher's.
    """
    runs = [sample_nvt(student, atoms, steps, seed + k)[0] for k in (0, 2)]
    mine, theirs = np.concatenate(runs), sample_nvt(teacher, atoms, steps, seed + 1)[0]
    checks = []
    tolerances = {"bond lengths": 0.01, "angles": 2.0, "dihedrals": 10.0, "pair distances": 0.05}
    for kind, values in internal_coordinates(atoms).items():
        if not len(values):
            continue
        unit = "°" if kind in ("angles", "dihedrals") else "Å"
        ours, reference = (_measure(kind, x, values) for x in (mine, theirs))
        half = len(reference) // 2
        distances = _wasserstein(ours, reference)
        repeated = _wasserstein(*(_measure(kind, x, values) for x in runs))
        noise = np.maximum(repeated, _wasserstein(reference[:half], reference[half : 2 * half]))
        worst = int(np.argmax(distances - 3 * noise))
        bound = tolerances[kind] + 3 * float(noise[worst])
        source = (
            f"{tolerances[kind]:g} {unit}, a student's stated error, and three times the scatter of runs this short"
        )
        which = "-".join(map(str, values[worst]))
        detail = f"worst of {len(values)}: atoms {which}; runs of one potential differ by {noise[worst]:.3g} {unit}"
        grid = np.linspace(reference[:, worst].min(), reference[:, worst].max(), 40)
        series = {
            f"{kind} {which} / {unit}": (0.5 * (grid[1:] + grid[:-1])).tolist(),
            "student": (np.histogram(ours[:, worst], grid)[0] / len(ours)).tolist(),
            "teacher": (np.histogram(reference[:, worst], grid)[0] / len(reference)).tolist(),
        }
        label = f"{kind} against teacher"
        checks.append(Check(label, name, float(distances[worst]), unit, bound, source, detail, {}, series))
    return checks


def internal_coordinates(atoms: Atoms) -> dict[str, list[tuple[int, ...]]]:
    """Index tuples of bonds, angles, proper dihedrals, and heavy-atom pairs that are not bonded (all pairs of water's O)."""
    pairs = [(int(i), int(j)) for i, j in bonds(atoms)]
    partners: dict[int, set[int]] = {i: set() for i in range(len(atoms))}
    for i, j in pairs:
        partners[i].add(j)
        partners[j].add(i)
    angles = [(i, j, k) for j in partners for i, k in combinations(sorted(partners[j]), 2)]
    dihedrals = [
        (i, j, k, m) for j, k in pairs for i in partners[j] - {k} for m in partners[k] - {j} if len({i, j, k, m}) == 4
    ]
    heavy = [i for i in range(len(atoms)) if atoms.numbers[i] > 1]
    apart = [(i, j) for i, j in combinations(heavy, 2) if j not in partners[i]]
    return {"bond lengths": pairs, "angles": angles, "dihedrals": dihedrals, "pair distances": apart}


def _measure(kind: str, x: np.ndarray, tuples: list[tuple[int, ...]]) -> np.ndarray:
    """(T, tuples) values of one kind of coordinate along positions (T, N, 3)."""
    p = [x[:, [entry[k] for entry in tuples]] for k in range(len(tuples[0]))]
    if len(p) == 2:
        return np.linalg.norm(p[1] - p[0], axis=2)
    if len(p) == 3:
        a, b = p[0] - p[1], p[2] - p[1]
        cosine = (a * b).sum(2) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2)
        return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    b1, b2, b3 = p[1] - p[0], p[2] - p[1], p[3] - p[2]
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    cosine = (n1 * n2).sum(2) / np.linalg.norm(n1, axis=2) / np.linalg.norm(n2, axis=2)
    # The angle between the planes, 0 ... 180°: mirror images count as the same, and nothing wraps around.
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distance of the quantiles of (T, K) and (T', K), column by column."""
    levels = np.linspace(0.005, 0.995, 100)
    return np.abs(np.quantile(a, levels, axis=0) - np.quantile(b, levels, axis=0)).mean(0)


def _physical_validation() -> Any:
    try:
        with _silence():
            import physical_validation
    except ImportError:
        raise ConfigError(
            "the kinetic energy checks need physical_validation; pip install 'atomjet[validate]', or leave them out with "
            "--nvt-steps 0"
        ) from None
    return physical_validation


@contextlib.contextmanager
def _silence():  # type: ignore[no-untyped-def]
    """The library and what it imports print, warn and log."""
    import logging

    logging.disable(logging.WARNING)
    try:
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
