"""Phonons of a crystal: forces of all displaced supercells in one batch, the rest by phonopy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from atomjet.adapters.phonopy import Crystal
from atomjet.data import Prediction
from atomjet.engine.streams import ATOMS_OF_A_CALL, groups
from atomjet.errors import ConfigError, StructureError
from atomjet.units import HBAR, INVERSE_CM
from atomjet.writing import appears_whole

DISPLACEMENT = 0.01
"""Displacement of an atom in the supercells from whose forces force constants are made, Å."""

SYMPREC = 1e-4
"""Distance, Å, within which atoms count as equivalent."""

LONG_ENOUGH = 10.0
"""Length, Å, of a supercell along each vector where nothing else is asked for."""

IMAGINARY = 0.05
"""Frequency, THz, below minus which a mode is imaginary; nearer to zero, acoustic modes near Γ are rounding."""

INVERSE_CM_PER_THZ = 2e-3 * np.pi * HBAR / INVERSE_CM
"""Wavenumber, cm⁻¹, of 1 THz."""

POINTS_OF_BANDS = 200


@dataclass(frozen=True)
class ImaginaryMode:
    """A wave along which the energy falls.

    Attributes:
        wave_vector: (3,) in reciprocal vectors of the primitive cell.
        frequency: THz, positive, of what is an imaginary number.
        moves: (P,) share of each atom of the primitive cell in the motion.
    """

    wave_vector: np.ndarray
    frequency: float
    moves: np.ndarray


@dataclass(frozen=True)
class Phonons:
    """Phonons of a crystal on a mesh of wave vectors.

    Attributes:
        crystal: computes more: frequencies at any wave vector, thermal properties.
        supercells: displaced ones that were computed.
        residual_force: eV/Å, largest without displacement; taken from all others.
        drift: eV/Å², by which translations were not free before force constants were symmetrised.
        acoustic: (3,) THz at Γ.
        wave_vectors, frequencies: (Q, 3) and (Q, 3P) THz on the mesh.
        imaginary: the lowest mode of each wave vector of the mesh that has one, lowest first.
    """

    crystal: Crystal
    supercells: int
    residual_force: float
    drift: float
    acoustic: np.ndarray
    wave_vectors: np.ndarray
    frequencies: np.ndarray
    imaginary: list[ImaginaryMode]


def phonons(
    predict: Callable[[list[Atoms]], Prediction],
    atoms: Atoms,
    supercell: Sequence[int] | None = None,
    mesh: Sequence[int] = (20, 20, 20),
    distance: float = DISPLACEMENT,
    symprec: float = SYMPREC,
) -> Phonons:
    """Compute force constants, and frequencies on a mesh.

    Args:
        predict: forces of many structures, such as `Engine.predict`; in float64.
        atoms: periodic in three directions, at rest, neutral.
        supercell: repetitions; where it is None as many as make each vector 10 Å long.
        mesh: wave vectors along each reciprocal vector.
        distance: Å.
        symprec: Å.

    Raises:
        StructureError: no crystal, or a charged one.
        ConfigError: repetitions or a mesh below one; no phonopy.
    """
    if not atoms.pbc.all():
        raise StructureError(f"phonons need three periodic directions; this structure has pbc {atoms.pbc.tolist()}")
    if atoms.info.get("charge"):
        raise StructureError(
            f"phonons need a neutral cell, which can be repeated; this one has charge {atoms.info['charge']}"
        )
    supercell = long_enough(atoms) if supercell is None else supercell
    for name, values in (("supercell", supercell), ("mesh", mesh)):
        if min(values) < 1:
            raise ConfigError(f"{name} {' '.join(map(str, values))} must be 1 or more along each direction")
    crystal = Crystal(atoms, supercell, distance, symprec)
    frames = [crystal.supercell, *crystal.displaced()]
    forces = _forces(predict, frames)
    drift = crystal.take_forces(forces[1:] - forces[0])
    acoustic = crystal.frequencies(np.zeros((1, 3)))[0][0]
    wave_vectors, frequencies = crystal.run_mesh(mesh)
    return Phonons(
        crystal=crystal,
        supercells=len(frames) - 1,
        residual_force=float(np.linalg.norm(forces[0], axis=1).max()),
        drift=drift,
        acoustic=acoustic[np.argsort(np.abs(acoustic))[:3]],
        wave_vectors=wave_vectors,
        frequencies=frequencies,
        imaginary=_imaginary(crystal, wave_vectors, frequencies),
    )


def long_enough(atoms: Atoms) -> tuple[int, int, int]:
    """Repetitions that make each cell vector as long as forces reach."""
    first, second, third = (max(1, int(np.ceil(LONG_ENOUGH / length - 1e-3))) for length in atoms.cell.lengths())
    return first, second, third


def _forces(predict: Callable[[list[Atoms]], Prediction], frames: list[Atoms]) -> np.ndarray:
    """(F, N, 3) eV/Å, in as few calls as there can be."""
    size = len(frames[0])
    parts = [
        predict(frames[some.start : some.stop]).forces.double().cpu().numpy()
        for some in groups(
            [size] * len(frames), ATOMS_OF_A_CALL["cuda"]
        )  # of any device: larger calls are divided by the engine
    ]
    return np.concatenate(parts).reshape(len(frames), size, 3)


def _imaginary(crystal: Crystal, wave_vectors: np.ndarray, frequencies: np.ndarray) -> list[ImaginaryMode]:
    lowest = frequencies.min(1)
    places = [place for place in np.argsort(lowest, kind="stable") if lowest[place] < -IMAGINARY]
    if not places:
        return []
    found, vectors = crystal.frequencies(wave_vectors[places])
    modes = [(k, int(row.argmin())) for k, row in enumerate(found)]
    return [
        ImaginaryMode(wave_vectors[places[k]], float(-found[k, mode]), (np.abs(vectors[k, mode]) ** 2).sum(1))
        for k, mode in modes
    ]


def draw_bands(found: Phonons, picture: Path | str, title: str = "") -> None:
    """Draw frequencies along the usual path through the Brillouin zone, and the density of states of the mesh.

    The path is ASE's for the lattice of the primitive cell (Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299, 2010).
    """
    from matplotlib.figure import Figure

    path = found.crystal.primitive.cell.bandpath(npoints=POINTS_OF_BANDS)
    frequencies, _ = found.crystal.frequencies(path.kpts)
    along, ticks, labels = path.get_linear_kpoint_axis()
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    bands, states = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    starts = [k for k in range(1, len(along)) if along[k] == along[k - 1]]  # where the path jumps
    for first, last in zip([0, *starts], [*starts, len(along)], strict=True):
        bands.plot(along[first:last], frequencies[first:last], color="tab:blue", linewidth=1.0)
    for tick in ticks:
        bands.axvline(tick, color="0.8", linewidth=0.8, zorder=0)
    named: dict[float, list[str]] = {}  # two where the path jumps
    for tick, label in zip(ticks, labels, strict=True):
        named.setdefault(float(tick), []).append("Γ" if label == "G" else label)
    bands.set_xticks(list(named), ["|".join(dict.fromkeys(both)) for both in named.values()])
    bands.set_xlim(along[0], along[-1])
    bands.set_ylabel("frequency / THz (imaginary below zero)")
    points, density = found.crystal.density_of_states()
    states.plot(density, points, color="black", linewidth=1.0)
    states.set_xlabel("states / THz / cell")
    states.set_xlim(left=0)
    for axes in (bands, states):
        axes.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    other = states.secondary_yaxis(
        "right", functions=(lambda thz: thz * INVERSE_CM_PER_THZ, lambda cm: cm / INVERSE_CM_PER_THZ)
    )
    other.set_ylabel("cm⁻¹")
    figure.suptitle(title, fontsize=10)
    with appears_whole(picture) as beside:
        figure.savefig(beside, dpi=150)
