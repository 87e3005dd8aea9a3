"""`relax`: bring a structure, and its cell where asked for, to the nearest minimum of the energy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from atomjet.errors import AtomJetError, ConfigError, SimulationError, StructureError
from atomjet.locking import only_writer
from atomjet.md.recorder import FrameWriter
from atomjet.units import GPA

OPTIMIZERS = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}

ALL_AXES = ("x", "y", "z", "xy", "xz", "yz", "xyz")
"""Along which a cell may be strained."""

VACUUM = 2.0
"""Distance, Å, beyond the cutoff, between a slab and its image while its cell relaxes."""

PATIENCE = 20
"""Steps without a smaller force than before, after which the noise of the forces is measured."""

LOGARITHM = "logm result may be inaccurate"

LARGEST_FOR_BFGS = 200
"""Atoms. BFGS diagonalises a (3N, 3N) matrix at every step; beyond this size that costs more than the forces."""


@dataclass(frozen=True)
class RelaxSettings:
    """A relaxation.

    Args:
        fmax: eV/Å, converged when no atom feels more (with `cell`: nor the cell's own degrees of freedom, as ASE scales
            them).
        steps: most steps to take.
        cell: relax the cell too.
        axes: Cartesian axes along which, and planes in which, the cell may be strained; "xy" for a slab that lies in that plane.
        pressure: GPa, with `cell` only.
        fix_symmetry: keep the space group of the start; of structures that are periodic in three directions. Needs spglib.
        optimizer: "auto" (BFGS, L-BFGS beyond 200 atoms), "bfgs", "lbfgs" or "fire".

    Raises:
        ConfigError: a value that makes no sense.
    """

    fmax: float = 0.01
    steps: int = 500
    cell: bool = False
    pressure: float | None = None
    optimizer: str = "auto"
    axes: str = "xyz"
    fix_symmetry: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.fmax < float("inf"):
            raise ConfigError(f"fmax {self.fmax} eV/Å must be above 0; 0.01 eV/Å is usual")
        if self.steps < 0:
            raise ConfigError(f"steps {self.steps} is negative; give 0 or more")
        if self.optimizer != "auto" and self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer {self.optimizer!r} is not known; choose auto, {', '.join(OPTIMIZERS)}")
        if self.axes not in ALL_AXES:
            raise ConfigError(f"cell axes {self.axes!r} are not known; choose {', '.join(ALL_AXES)}")
        if self.axes != "xyz" and not self.cell:
            raise ConfigError(f"cell axes {self.axes} have no effect while the cell is fixed; relax the cell too")
        if self.pressure is not None and not self.cell:
            raise ConfigError(f"pressure {self.pressure} GPa has no effect while the cell is fixed; relax the cell too")
        if self.pressure is not None and not np.isfinite(self.pressure):
            raise ConfigError(f"pressure {self.pressure} GPa is not a finite number; give one")


@dataclass(frozen=True)
class RelaxStep:
    """Where the relaxation stands: energy in eV, largest force (and cell gradient) in eV/Å.

    `noise`, eV/Å, is set at the end of a relaxation that stopped because its forces are not exact enough for its limit.
    """

    step: int
    energy: float
    fmax: float
    noise: float | None = None


def relax(
    atoms: Atoms,
    settings: RelaxSettings,
    trajectory: Path | str | None = None,
    report: Callable[[RelaxStep], None] = lambda step: None,
) -> tuple[bool, RelaxStep]:
    """Relax `atoms` in place; constraints are kept.

    Args:
        atoms: structure with a calculator.
        settings: what to do.
        trajectory: .traj file for every step, if any.
        report: called after each step.

    Returns:
        Whether it converged, and the last step.

    Raises:
        StructureError: no atoms; a cell to relax that is not periodic along the axes, or whose vectors do not lie along them; a
            symmetry to keep without three periodic directions.
        ConfigError: a symmetry to keep, but no spglib; another run is writing the trajectory.
        SimulationError: the calculator refused a structure on the way; says after which step, and its force.

    However it ends, `atoms` is the structure of the last step reported, never one that was refused.
    """
    if len(atoms) == 0:
        raise StructureError("the structure has no atoms; give at least one")
    if settings.cell:
        _check_cell(atoms, settings.axes)
    lock = only_writer(Path(trajectory)) if trajectory else nullcontext()
    with lock, _whole_cell(atoms, settings), _symmetry_kept(atoms, settings.fix_symmetry):
        return _descend(atoms, settings, trajectory, report)


def _descend(
    atoms: Atoms, settings: RelaxSettings, trajectory: Path | str | None, report: Callable[[RelaxStep], None]
) -> tuple[bool, RelaxStep]:
    """See `relax`, whose checks have passed."""
    target = atoms
    if settings.cell:
        along = [axis in settings.axes for axis in "xyz"]
        mask = [*along, along[1] and along[2], along[0] and along[2], along[0] and along[1]]
        target = _CellFilter(atoms, mask=mask, scalar_pressure=(settings.pressure or 0.0) * GPA)
    name = settings.optimizer
    if name == "auto":
        name = "bfgs" if len(atoms) <= LARGEST_FOR_BFGS else "lbfgs"
    optimizer = OPTIMIZERS[name](target, logfile=None)  # type: ignore[arg-type]
    frames = FrameWriter(Path(trajectory)) if trajectory else None
    if frames:
        optimizer.attach(frames.write, 1, atoms)
    now, good = RelaxStep(0, float("nan"), float("nan")), (atoms.positions.copy(), atoms.cell.copy())
    best, since = float("inf"), 0
    try:
        for _ in optimizer.irun(fmax=settings.fmax, steps=settings.steps):
            largest = float(np.linalg.norm(target.get_forces(), axis=1).max())
            now = RelaxStep(optimizer.nsteps, float(atoms.get_potential_energy()), largest)
            good = atoms.positions.copy(), atoms.cell.copy()
            report(now)
            best, since = (largest, 0) if largest < best else (best, since + 1)
            if since and since % PATIENCE == 0 and (noise := force_noise(atoms)) > settings.fmax / 2:
                now = replace(now, noise=noise)
                break
    except BaseException as error:
        positions, cell = good
        atoms.set_cell(cell)
        atoms.set_positions(positions, apply_constraint=False)
        if not isinstance(error, AtomJetError) or np.isnan(now.fmax):  # interrupted, or refused as it was given
            raise
        raise SimulationError(
            f"the relaxation broke down after step {now.step}, where the largest force was {now.fmax:.4g} eV/Å: {error}"
        ) from error
    finally:
        if frames:
            frames.close()
    return now.fmax < settings.fmax, now


def _check_cell(atoms: Atoms, axes: str) -> None:
    """Refuse a cell that cannot be strained so."""
    if atoms.pbc.all():
        return
    periodic = "".join("xyz"[k] for k in range(3) if atoms.pbc[k])
    if not periodic or not set(axes) <= set(periodic):
        remedy = f"give --cell {periodic}" if periodic else "leave the cell out, or give a periodic structure"
        needed = "three periodic directions" if axes == "xyz" else f"{' and '.join(axes)} to be periodic"
        raise StructureError(f"cell relaxation needs {needed}, this structure has pbc {atoms.pbc.tolist()}; {remedy}")
    other = ~atoms.pbc
    if np.abs(atoms.cell.array[atoms.pbc][:, other]).max() > 1e-6 * atoms.cell.lengths().max():
        raise StructureError(
            f"cell relaxation along {axes} needs periodic vectors without a component along "
            f"{''.join('xyz'[k] for k in range(3) if other[k])}; turn the structure in space"
        )


@contextmanager
def _whole_cell(atoms: Atoms, settings: RelaxSettings) -> Iterator[None]:
    """Let a slab have its image beyond the cutoff: its energy and forces stay as they are, and its stress exists."""
    if not settings.cell or atoms.pbc.all():
        yield
        return
    cutoff = getattr(getattr(atoms.calc, "engine", None), "cutoff", None)
    if cutoff is None:
        raise StructureError(
            f"the calculator gives no stress for pbc {atoms.pbc.tolist()}; make all three directions periodic, with vacuum"
        )
    pbc, cell = atoms.pbc.copy(), atoms.cell.array.copy()
    whole = cell.copy()
    for axis in np.flatnonzero(~pbc):
        whole[axis] = np.eye(3)[axis] * (np.ptp(atoms.positions[:, axis]) + 2 * (cutoff + VACUUM))
    atoms.set_cell(whole)
    atoms.pbc = True
    try:
        yield
    finally:
        whole = atoms.cell.array.copy()
        whole[~pbc] = cell[~pbc]
        atoms.set_cell(whole)
        atoms.pbc = pbc


@contextmanager
def _symmetry_kept(atoms: Atoms, wanted: bool) -> Iterator[None]:
    """Let only changes happen that the space group allows."""
    if not wanted:
        yield
        return
    if not atoms.pbc.all():
        raise StructureError(
            f"keeping the symmetry needs three periodic directions, this structure has pbc {atoms.pbc.tolist()}"
        )
    own = list(atoms.constraints)
    try:
        symmetry = FixSymmetry(atoms)
    except ImportError:
        raise ConfigError("keeping the symmetry needs spglib: pip install 'atomjet[phonons]'") from None
    atoms.set_constraint([*own, symmetry])
    try:
        yield
    finally:
        atoms.set_constraint(own)


def force_noise(atoms: Atoms) -> float:
    """How far the forces of the structure differ, at most, from those of the same structure turned in space, eV/Å.

    Exact forces turn with it: what differs is rounding, below which no optimiser brings them.
    """
    turn, _ = np.linalg.qr(np.array([[3.0, 1.0, 2.0], [1.0, -2.0, 1.0], [-1.0, 1.0, 4.0]]))
    turned = Atoms(atoms.numbers, atoms.positions @ turn, cell=atoms.cell.array @ turn, pbc=atoms.pbc, info=atoms.info)
    turned.calc = atoms.calc
    there = turned.get_forces()
    here = atoms.get_forces(apply_constraint=False)
    return float(np.linalg.norm(there - here @ turn, axis=1).max())


class _CellFilter(FrechetCellFilter):
    """ASE's filter without what SciPy says of its logarithm: that of a deformation near one the last digits are lost."""

    def get_positions(self) -> Any:
        with _quiet_logarithm():
            return super().get_positions()

    def set_positions(self, new: Any, **kwargs: Any) -> None:
        with _quiet_logarithm():
            super().set_positions(new, **kwargs)

    def get_forces(self, **kwargs: Any) -> Any:
        with _quiet_logarithm():
            return super().get_forces(**kwargs)


@contextmanager
def _quiet_logarithm() -> Iterator[None]:
    """Drop SciPy's words about `logm`, which older versions print and newer ones warn of; all other words pass."""
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(printed):
        warnings.filterwarnings("ignore", LOGARITHM)
        yield
    for line in printed.getvalue().splitlines():
        if not line.startswith(LOGARITHM):
            print(line)
