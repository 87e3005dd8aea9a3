"""Condensed matter that the student must not let collapse: boxes of water and of organic liquids, molecular crystals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii, vdw_radii

from atomjet.adapters.structures import BOND
from atomjet.md.relax_many import Relaxed, relax_many
from atomjet.units import AMU_PER_A3
from atomjet.validate.check import Check
from atomjet.validate.organic.runs import thermal_run
from atomjet.validate.organic.sets import Judged, load, overlaps_allowed, random_rotation

LIQUIDS = {
    "methanol": 0.791,
    "chloroform": 1.479,
    "benzene": 0.874,
    "dimethyl sulfoxide": 1.095,
    "ethanol": 0.789,
    "acetonitrile": 0.776,
    "acetone": 0.784,
    "formamide": 1.129,
    "acetic acid": 1.045,
    "dimethylformamide": 0.945,
    "diethyl ether": 0.708,
    "hexane": 0.655,
    "toluene": 0.862,
    "pyridine": 0.978,
    "ethyl acetate": 0.895,
    "tetrahydrofuran": 0.883,
    "aniline": 1.018,
    "chlorobenzene": 1.106,
    "dichloromethane": 1.322,
    "nitromethane": 1.127,
}
"""Density at room temperature, g/cm³."""

TIGHT, LOOSE = 2.75, 3.105
"""Distances, Å, between waters on a lattice: a third denser than the liquid, and as dense."""

NEAREST = 2.3
"""Distance, Å, between the centres of molecules that are thrown at random, at least."""

ORIENTATIONS = 40
"""Tried for each molecule of a box."""

CLOSE, STRETCHED, NEW_BOND = 0.5, 1.4, 1.15
"""A box has collapsed where atoms of two molecules come nearer than this share of their van der Waals contact (a strong hydrogen
bond has 0.6), a bond is longer than this much of the covalent radii, or two atoms of a molecule without a bond are nearer than
this much."""

AT_REST = 0.05
"""Force, eV/Å, to which boxes are relaxed."""


@dataclass(frozen=True)
class Box:
    """A periodic structure of molecules: `size` atoms each, one after the other; 0 where the order is another."""

    name: str
    atoms: Atoms
    size: int


def boxes(judged: Judged) -> list[Check]:
    """Relax boxes and crystals at fixed cells, run those that held at 300 K, and count those that collapsed."""
    generator, size = np.random.default_rng(judged.seed), judged.size
    made = [*water_boxes(size.waters, generator), *liquid_boxes(size.liquids, size.in_box, generator)]
    made += [Box(f"{atoms.info['molecule']} crystal", atoms, 0) for atoms in load("crystals")]
    made = [box for box in made if judged.knows(box.atoms)]
    if not made:
        return []
    with overlaps_allowed(judged.potential) as student:
        done = relax_many(student, [box.atoms for box in made], AT_REST, size.box_steps)  # type: ignore[arg-type]
        relaxed = sorted(done, key=lambda one: one.index)
    verdicts = {box.name: verdict(box, one) for box, one in zip(made, relaxed, strict=True)}
    checks = [_count("boxes relaxed", verdicts)]
    held = [k for k, box in enumerate(made) if not verdicts[box.name][0]]
    if size.box_fs and held:
        with overlaps_allowed(judged.potential) as student:
            runs = thermal_run(student, [relaxed[k].atoms for k in held], 300.0, size.box_fs, judged.seed)
        after = {
            made[k].name: verdict(made[k], Relaxed(k, atoms, np.nan, np.nan, 0, False, why or None))
            for k, (atoms, why) in zip(held, runs, strict=True)
        }
        checks.append(_count(f"boxes after {size.box_fs / 1000:g} ps at 300 K", after))
    return checks


def _count(name: str, verdicts: dict[str, tuple[str, float]]) -> Check:
    """How many have collapsed, each with its smallest distance."""
    collapsed = {box: why for box, (why, _) in verdicts.items() if why}
    figures = {f"{box}: smallest share of contact": nearest for box, (_, nearest) in verdicts.items()}
    detail = "; ".join(f"{box}: {why}" for box, why in collapsed.items())
    source = "none may collapse"
    return Check(name, f"{len(verdicts)} boxes", float(len(collapsed)), "collapsed", 0.0, source, detail, figures)


def verdict(box: Box, done: Relaxed) -> tuple[str, float]:
    """Why a box counts as collapsed, "" where it held; and the smallest distance between molecules as a share of contact."""
    atoms = done.atoms
    if done.error:
        return f"given up after {done.steps} steps, {done.error}", float("nan")
    if not np.isfinite(atoms.positions).all():
        return "positions are not finite", float("nan")
    distances = _distances(atoms)
    contact = vdw_radii[atoms.numbers][:, None] + vdw_radii[atoms.numbers][None]
    covalent = covalent_radii[atoms.numbers][:, None] + covalent_radii[atoms.numbers][None]
    bonded = _distances(box.atoms) < BOND * covalent
    molecule = np.arange(len(atoms)) // box.size if box.size else _molecules(bonded)
    same = molecule[:, None] == molecule[None]
    bonded &= same  # on a tight lattice atoms of two molecules may begin as near as if they were bonded
    share = np.where(same, np.inf, distances / contact)
    nearest = float(share.min())
    if nearest < CLOSE:
        i, j = np.unravel_index(int(np.argmin(share)), share.shape)
        return f"{atoms.symbols[i]}-{atoms.symbols[j]} {distances[i, j]:.2f} Å between molecules", nearest
    if (bonded & (distances > STRETCHED * covalent)).any():
        return "a bond broke", nearest
    if (same & ~bonded & (distances < NEW_BOND * covalent)).any():
        return "a bond formed", nearest
    return "", nearest


def _distances(atoms: Atoms) -> np.ndarray:
    """(N, N) Å between nearest images; infinite from an atom to itself."""
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    return distances


def _molecules(bonded: np.ndarray) -> np.ndarray:
    """Number of the molecule of each atom, from a matrix of bonds."""
    from scipy.sparse.csgraph import connected_components

    return connected_components(bonded, directed=False)[1]


def water_boxes(counts: tuple[int, ...], generator: np.random.Generator) -> list[Box]:
    """On a tight and on a loose lattice, turned at random, and thrown at random into the liquid's volume."""
    water = next(atoms for atoms in load("molecules") if atoms.info["molecule"] == "water")
    found = []
    for count in counts:
        edge = round(count ** (1 / 3))
        for name, spacing in (("tight lattice", TIGHT), ("lattice", LOOSE)):
            found.append(
                Box(f"{count} waters, {name}", _placed(water, lattice(edge, spacing), edge * spacing, generator), 3)
            )
        length = edge * LOOSE
        centers = thrown(count, length, generator)
        found.append(Box(f"{count} waters, random", _placed(water, centers, length, generator), 3))
    return found


def liquid_boxes(number: int, molecules: int, generator: np.random.Generator) -> list[Box]:
    """The first liquids of the list at nine tenths of their density, on a lattice, turned so that they overlap little."""
    pool, found = {str(atoms.info["molecule"]): atoms for atoms in load("molecules")}, []
    edge = round(molecules ** (1 / 3))
    for name, density in list(LIQUIDS.items())[:number]:
        one = pool[name]
        volume = one.get_masses().sum() * AMU_PER_A3 / (0.9 * density)
        spacing = volume ** (1 / 3)
        found.append(
            Box(f"{edge**3} {name}", _placed(one, lattice(edge, spacing), edge * spacing, generator), len(one))
        )
    return found


def lattice(edge: int, spacing: float) -> np.ndarray:
    """(edge³, 3) Å."""
    return spacing * np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)


def thrown(count: int, length: float, generator: np.random.Generator) -> np.ndarray:
    """(count, 3) random places in a cube, none nearer to another than `NEAREST`."""
    places: list[np.ndarray] = []
    while len(places) < count:
        place = generator.random(3) * length
        steps = np.array(places).reshape(-1, 3) - place
        steps -= length * np.round(steps / length)
        if not len(places) or np.linalg.norm(steps, axis=1).min() > NEAREST:
            places.append(place)
    return np.array(places)


def _placed(one: Atoms, centers: np.ndarray, length: float, generator: np.random.Generator) -> Atoms:
    """Copies of a molecule about the centers, turned, each in turn and twice, to the best of many random orientations."""
    shape = one.positions - one.get_center_of_mass()
    placed = np.array([center + shape @ random_rotation(generator).T for center in centers])
    for turn in list(range(len(centers))) * 2:
        others = np.delete(placed, turn, axis=0).reshape(-1, 3)
        tried = [placed[turn], *(centers[turn] + shape @ random_rotation(generator).T for _ in range(ORIENTATIONS))]
        placed[turn] = max(tried, key=lambda x: _nearest(x, others, length))
    return Atoms(np.tile(one.numbers, len(centers)), placed.reshape(-1, 3), cell=[length] * 3, pbc=True)


def _nearest(positions: np.ndarray, others: np.ndarray, length: float) -> float:
    """Square of the smallest distance, Å², over the boundaries of a cube."""
    steps = positions[:, None] - others[None]
    steps -= length * np.round(steps / length)
    return float((steps**2).sum(-1).min())
