"""Hessian of a molecule from its bonds and geometry alone, without a teacher.

Every stretch, bend and torsion of the bond graph is a spring whose stiffness falls off smoothly with the lengths of its
bonds, as in the model Hessian of Lindh, Bernhardsson, Karlström and Malmqvist (Chem. Phys. Lett. 241, 423, 1995):

    stretch i-j     0.45 ρ_ij             ρ_ij = exp(α_ij (r_ref² - r_ij²))
    bend i-j-k      0.15 ρ_ij ρ_jk
    torsion i-j-k-l 0.005 ρ_ij ρ_jk ρ_kl  (atomic units)

It is good enough to displace molecules thermally and as the first Hessian of a relaxation, at the price of no teacher call.
"""

from __future__ import annotations

import itertools
from typing import Any

import ase.units
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STRETCH, BEND, TORSION = 0.45, 0.15, 0.005
"""Hartree/bohr², hartree/rad², hartree/rad²."""

# By the rows of the periodic table of the two atoms: H, Li to Ne, Na and beyond; 1/bohr² and bohr.
DECAY = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
REFERENCE = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])

LINEAR = 0.26
"""Sine of an angle below which it counts as straight (15 degrees): the bend is then taken along two axes across."""

FLOOR = 3.0
"""Added to every Cartesian stiffness of a relaxation's first Hessian, eV/Å²: nothing is free, soft torsions do not overshoot."""


def estimate_hessian(numbers: Array, positions: Array, bonds: Array) -> Array:
    """(3N, 3N) estimated second derivatives of the energy, eV/Å².

    Args:
        numbers: (N,).
        positions: (N, 3), Å.
        bonds: (B, 2).
    """
    x, matrix = positions.astype(float) / ase.units.Bohr, np.zeros((3 * len(numbers), 3 * len(numbers)))
    weight = _weights(numbers, x)
    bends, torsions = _chains(len(numbers), bonds)
    for stiffness, atoms, gradients in (
        _stretches(bonds, x, weight),
        _bends(bends, x, weight),
        _straight(bends, x, weight),
        _torsions(torsions, x, weight),
    ):
        rows = np.zeros((len(atoms), *x.shape))
        rows[np.arange(len(atoms))[:, None], atoms] = gradients * np.sqrt(stiffness)[:, None, None]
        rows = rows.reshape(len(atoms), x.size)
        matrix += rows.T @ rows
    return matrix * ase.units.Hartree / ase.units.Bohr**2


Terms = tuple[Array, Array, Array]
"""T coordinates of K atoms: stiffness (T,), atoms (T, K), derivatives by their positions (T, K, 3)."""


def _chains(count: int, bonds: Array) -> tuple[Array, Array]:
    """Atoms i-j-k of every bend (T, 3) and i-j-k-l of every torsion (T, 4)."""
    joined: list[list[int]] = [[] for _ in range(count)]
    for i, j in bonds.tolist():
        joined[i].append(j)
        joined[j].append(i)
    bends = [(i, j, k) for j, around in enumerate(joined) for i, k in itertools.combinations(around, 2)]
    torsions = [
        (i, j, k, m)
        for j, k in bonds.tolist()
        for i, m in itertools.product(joined[j], joined[k])
        if i != k and m != j and i != m
    ]
    return np.array(bends, int).reshape(-1, 3), np.array(torsions, int).reshape(-1, 4)


def _weights(numbers: Array, x: Array) -> Array:
    row = np.digitize(numbers, (3, 11))
    squares = ((x[:, None] - x) ** 2).sum(-1)
    return np.exp(DECAY[row[:, None], row] * (REFERENCE[row[:, None], row] ** 2 - squares))


def _unit(vectors: Array) -> tuple[Array, Array]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths, lengths


def _stretches(bonds: Array, x: Array, weight: Array) -> Terms:
    i, j = bonds.T
    along, _ = _unit(x[j] - x[i])
    return STRETCH * weight[i, j], bonds, np.stack([-along, along], axis=1)


def _arms(atoms: Array, x: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Unit vectors from the middle atom of bends to the outer ones, their lengths, and the sine between them."""
    i, j, k = atoms.T
    (a, length_a), (b, length_b) = _unit(x[i] - x[j]), _unit(x[k] - x[j])
    return a, b, length_a, length_b, np.linalg.norm(np.cross(a, b), axis=1)


def _bend_stiffness(atoms: Array, weight: Array) -> Array:
    i, j, k = atoms.T
    return BEND * weight[i, j] * weight[j, k]


def _bends(atoms: Array, x: Array, weight: Array) -> Terms:
    atoms = atoms[_arms(atoms, x)[4] > LINEAR]
    a, b, length_a, length_b, sine = _arms(atoms, x)
    normal = np.cross(a, b) / sine[:, None]
    at_i, at_k = np.cross(a, normal) / length_a, np.cross(normal, b) / length_b
    return _bend_stiffness(atoms, weight), atoms, np.stack([at_i, -at_i - at_k, at_k], axis=1)


def _straight(atoms: Array, x: Array, weight: Array) -> Terms:
    """Bends of angles near 180 degrees, along two axes across."""
    atoms = atoms[_arms(atoms, x)[4] <= LINEAR]
    a, _, length_a, length_b, _ = _arms(atoms, x)
    first, _ = _unit(np.cross(a, np.eye(3)[np.abs(a).argmin(axis=1)]))
    stiffness, parts = _bend_stiffness(atoms, weight), []
    for axis in (first, np.cross(a, first)):
        at_i, at_k = axis / length_a, axis / length_b
        parts.append(np.stack([at_i, -at_i - at_k, at_k], axis=1))
    return np.tile(stiffness, 2), np.tile(atoms, (2, 1)), np.concatenate(parts)


def _torsions(atoms: Array, x: Array, weight: Array) -> Terms:
    """Torsions, but those in which three atoms are in line."""
    bent = [_arms(atoms[:, part], x)[4] > LINEAR for part in (slice(0, 3), slice(1, 4))]
    atoms = atoms[bent[0] & bent[1]]
    i, j, k, m = atoms.T
    f, g, h = x[i] - x[j], x[j] - x[k], x[m] - x[k]
    a, b = np.cross(f, g), np.cross(h, g)
    length = np.linalg.norm(g, axis=1, keepdims=True)
    aa, bb = (a * a).sum(1, keepdims=True), (b * b).sum(1, keepdims=True)
    at_i, at_m = -length / aa * a, length / bb * b
    shift = (f * g).sum(1, keepdims=True) / (aa * length) * a - (h * g).sum(1, keepdims=True) / (bb * length) * b
    stiffness = TORSION * weight[i, j] * weight[j, k] * weight[k, m]
    return stiffness, atoms, np.stack([at_i, shift - at_i, -shift - at_m, at_m], axis=1)
