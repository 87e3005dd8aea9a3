"""Nudged elastic bands: the path of least energy between two minima. ASE's method, all images of a step computed in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic, get_distances
from ase.mep import NEB
from ase.optimize import FIRE
from scipy.optimize import linear_sum_assignment

from atomjet.data import Prediction
from atomjet.errors import AtomJetError, ConfigError, SimulationError, StructureError
from atomjet.md.equivalence import nearest_order
from atomjet.writing import appears_whole

CLEARLY_NEARER = 0.5
"""Share of the sum of squared distances that another order of the atoms leaves, below which it is the better one."""

DISTINCT = 0.05
"""Å, root mean square, within which two ends are the same structure."""


FIXED = 0.01
"""Å by which atoms that are held may stand elsewhere in the other end, as files round."""


class BatchedNEB(NEB):
    """ASE's band, whose images are computed together.

    Args:
        predict: energies and forces of many structures, such as `Engine.predict`.
        images: as ASE's `NEB`, with its further options.
    """

    def __init__(
        self, predict: Callable[[list[Atoms]], Prediction], images: Sequence[Atoms], **options: object
    ) -> None:
        super().__init__(list(images), method="improvedtangent", **options)  # type: ignore[arg-type]
        self.predict = predict
        self.compute([0, len(images) - 1])

    def compute(self, places: Sequence[int]) -> None:
        """Compute some images and give each its results."""
        chosen = [self.images[place] for place in places]
        try:
            found = self.predict(chosen)
        except AtomJetError as error:
            raise self._refused(places, error) from error
        for k, image in enumerate(chosen):
            forces = found.forces_of(k).double().cpu().numpy()
            image.calc = SinglePointCalculator(image, energy=float(found.energy[k]), forces=forces)

    def _refused(self, places: Sequence[int], error: AtomJetError) -> AtomJetError:
        """The error of the first image that cannot be computed, by its number."""
        for place in places:
            try:
                self.predict([self.images[place]])
            except AtomJetError as own:
                reason = str(own).removeprefix("structure 0, ").removeprefix("structure 0: ")
                if place in (0, len(self.images) - 1):
                    return type(own)(f"{'LAST' if place else 'FIRST'}: {reason}")
                return SimulationError(
                    f"the band broke down at image {place} of 0 ... {len(self.images) - 1}: {reason}; see that both ends "
                    "have their atoms in the same order, relax them, or give more images"
                )
        return error

    def get_forces(self) -> np.ndarray:
        """Return the band's forces on the images between the ends."""
        self.compute(range(1, len(self.images) - 1))
        return super().get_forces()


@dataclass(frozen=True)
class MinimumEnergyPath:
    """A relaxed band.

    Attributes:
        images: ends included, each with its energy and forces.
        energies: (I,) eV, relative to the first.
        barrier: eV, of the highest image above the first.
        converged: whether forces fell below the limit.
        steps: taken.
    """

    images: list[Atoms]
    energies: np.ndarray
    barrier: float
    converged: bool
    steps: int


def find_path(
    predict: Callable[[list[Atoms]], Prediction],
    first: Atoms,
    last: Atoms,
    images: int = 9,
    fmax: float = 0.05,
    steps: int = 500,
    climb: bool = True,
    report: Callable[[int, float, float], None] = lambda step, barrier, fmax: None,
) -> MinimumEnergyPath:
    """Interpolate between two minima (image dependent pair potential) and relax the band; then let its highest image climb.

    Args:
        predict: energies and forces of many structures.
        first, last: minima, the same atoms in the same order; a free molecule is laid upon the first, and an atom that stands
            across a periodic boundary in the last goes there the short way. Constraints of one hold for the other too.
        images: of the band, ends included.
        fmax: eV/Å.
        steps: most steps, climbing included.
        climb: whether the highest image goes to the saddle point itself.
        report: called after each step with its number, the barrier (eV) and the largest force.

    Raises:
        StructureError: ends of different atoms, cells, boundaries or constraints, or ends that are the same.
        ConfigError: fewer than three images.
        SimulationError: an image between the ends that the model refuses.
    """
    _check_ends(first, last, images)
    first, last = first.copy(), last.copy()
    _share_constraints(first, last)
    if first.pbc.any():
        moves, _ = find_mic(last.positions - first.positions, first.cell, first.pbc)  # type: ignore[arg-type]
        last.set_positions(first.positions + moves, apply_constraint=False)
    elif not first.constraints:
        # Images on a path through space would resolve the reaction worse.
        minimize_rotation_and_translation(first, last)
    _check_distinct(first, last)
    _check_constraints(first, last)
    band = BatchedNEB(predict, [first.copy() for _ in range(images - 1)] + [last])
    band.interpolate(method="idpp", mic=bool(first.pbc.any()), apply_constraint=bool(first.constraints))
    taken, converged = 0, False
    for climbing in (False, True) if climb else (False,):
        band.climb = climbing
        # Before it climbs the band only has to be near the path.
        limit = fmax if climbing or not climb else 5 * fmax
        taken, converged = _relax_band(band, limit, taken, steps, report)
        if not converged:
            break
    energies = _relative(band.images)
    return MinimumEnergyPath(list(band.images), energies, float(energies.max()), converged, taken)


def better_order(first: Atoms, last: Atoms) -> np.ndarray | None:
    """(N,) which atom of `last` best stands where each of `first` does, if that is clearly another one of its element.

    Paths carry each atom to that of the same number. Programs that write files sorted, or number what a drawing holds anew, make
    hydrogen atoms change places for nothing.
    """
    moved = last.copy()
    if first.pbc.any():
        _, lengths = get_distances(first.positions, moved.positions, cell=first.cell, pbc=first.pbc)
        separations = lengths**2
        order = np.arange(len(first))
        for element in np.unique(first.numbers):
            own = np.flatnonzero(first.numbers == element)
            order[own] = own[linear_sum_assignment(separations[np.ix_(own, own)])[1]]
        before, after = np.diag(separations).sum(), separations[np.arange(len(first)), order].sum()
    else:
        minimize_rotation_and_translation(first, moved)
        before = ((moved.positions - first.positions) ** 2).sum()
        order, misfit = nearest_order(first.positions, moved.positions, first.numbers)
        after = len(first) * misfit**2
    # Where another order makes the ends the same, the exchange of equivalent atoms is what is asked for.
    return order if len(first) * DISTINCT**2 < after < CLEARLY_NEARER * before else None


def _check_ends(first: Atoms, last: Atoms, images: int) -> None:
    """Refuse ends between which there is no path, or none with so few images."""
    if images < 3:
        raise ConfigError(f"images {images}: a band needs its two ends and at least one image between them")
    formulas = first.get_chemical_formula(), last.get_chemical_formula()
    if formulas[0] != formulas[1]:
        raise StructureError(f"the ends must be the same atoms; they are {formulas[0]} and {formulas[1]}")
    if not np.array_equal(first.numbers, last.numbers):
        atom = int(np.argmax(first.numbers != last.numbers))
        raise StructureError(f"the ends must have their atoms in the same order; atom {atom} differs")
    if not np.allclose(first.cell.array, last.cell.array):
        raise StructureError("the ends have different cells; a band at fixed cell needs the same one")
    if not np.array_equal(first.pbc, last.pbc):
        raise StructureError(
            f"the ends have different boundary conditions, pbc {first.pbc.tolist()} and {last.pbc.tolist()}; a path has one"
        )
    for name in ("charge", "spin"):
        if first.info.get(name) != last.info.get(name):
            raise StructureError(
                f"the ends have different {name}s, {first.info.get(name)} and {last.info.get(name)}; a path has one"
            )


def _check_distinct(first: Atoms, last: Atoms) -> None:
    apart = float(np.sqrt(((last.positions - first.positions) ** 2).sum(1).mean()))
    if apart < DISTINCT:
        raise StructureError(
            f"the ends are the same structure, {apart:.3f} Å apart (root mean square); give two minima"
        )


def _share_constraints(first: Atoms, last: Atoms) -> None:
    """Give the end that has no constraints those of the other, which files often lose.

    Raises:
        StructureError: both have some, and not the same.
    """
    if not (first.constraints and last.constraints):
        first.set_constraint(first.constraints or last.constraints)
        last.set_constraint(first.constraints)
    elif [str(one.todict()) for one in first.constraints] != [str(one.todict()) for one in last.constraints]:
        raise StructureError("the ends have different constraints; fix the same atoms in both, or in one alone")


def _check_constraints(first: Atoms, last: Atoms) -> None:
    """Refuse ends between which the constraints of the first let no path lead."""
    allowed = first.copy()
    allowed.set_positions(last.positions)
    off = np.linalg.norm(allowed.positions - last.positions, axis=1)
    atom = int(off.argmax())
    if off[atom] > FIXED:
        raise StructureError(
            f"atom {atom} ({first.symbols[atom]}) is held by a constraint, but stands {off[atom]:.3f} Å elsewhere in the last end; "
            "let it stand where it does in the first, and relax the last end again"
        )


def _relax_band(
    band: BatchedNEB, fmax: float, taken: int, steps: int, report: Callable[[int, float, float], None]
) -> tuple[int, bool]:
    """Go on until the largest force is below `fmax`, or `steps` are taken; return how many are, and whether it is."""
    optimizer, converged = FIRE(band, logfile=None), False  # type: ignore[arg-type]
    for done in optimizer.irun(fmax=fmax, steps=steps - taken):
        converged = bool(done)
        forces = optimizer.optimizable.get_gradient().reshape(-1, 3)
        barrier = float(_relative(band.images).max())
        report(taken + optimizer.nsteps, barrier, float(np.linalg.norm(forces, axis=1).max()))
    return taken + optimizer.nsteps, converged


def draw_path(path: MinimumEnergyPath, picture: Path | str) -> None:
    """Draw energies against the way that the atoms have gone, with the slopes that the forces give."""
    from ase.utils.forcecurve import fit_images
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    fit_images(path.images).plot(ax=axes)
    axes.set_title(f"barrier {path.barrier:.3f} eV, backward {path.barrier - path.energies[-1]:.3f} eV", fontsize=10)
    axes.set_xlabel("path / Å")
    axes.set_ylabel("energy / eV")
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)


def _relative(images: Sequence[Atoms]) -> np.ndarray:
    energies = np.array([image.get_potential_energy() for image in images])
    return energies - energies[0]
