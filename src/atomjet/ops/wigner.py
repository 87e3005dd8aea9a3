"""Rotations of spherical harmonic coefficients into the frame of an edge.

A feature is a vector of coefficients x_lm, l = 0 ... lmax, m = -l ... l, "l-major": index l² + l + m. Real harmonics without the
Condon-Shortley sign, polar axis y, so that l = 1 is (x, y, z) itself; the convention of e3nn and of the eSCN family.

    rotation   R with R e = y for a unit vector e = (x, y, z). Upper half (y >= 0): the smallest such rotation,
                   [ 1 - x²/(1+y)   -x   -xz/(1+y) ]
                   [      x          y        z    ]
                   [  -xz/(1+y)     -z   1 - z²/(1+y) ]
               Lower half: turn by π about x first, so 1 + y never comes near zero. No roll is drawn at random: what is computed
               in an edge's frame is unchanged by a roll about y, and the smallest one gives the same digits every time.
    blocks     D^0 = 1, D^1 = R, and D^l = Q_lᵀ (R ⊗ D^(l-1)) Q_l, where Q_l, (3, 2l - 1, 2l + 1), is the isometry that couples
               the harmonics of degrees 1 and l - 1 to those of degree l. Polynomials of R: differentiable everywhere.
    generators L_k: D(turn by a small angle w about axis k) = 1 + w L_k.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def rotations_to_y(directions: Tensor) -> Tensor:
    """(E, 3) unit vectors to (E, 3, 3) rotations R with R e = (0, 1, 0)."""
    # Turning by π about x changes the signs of y and z.
    flip = torch.where(directions[:, 1] < 0, -1.0, 1.0).to(directions.dtype)
    x, y, z = directions[:, 0], directions[:, 1] * flip, directions[:, 2] * flip
    scale = 1 / (1 + y)
    side = -x * z * scale
    rows = torch.stack([1 - x * x * scale, -x, side, x, y, z, side, -z, 1 - z * z * scale], dim=1).reshape(-1, 3, 3)
    columns = torch.stack([torch.ones_like(flip), flip, flip], dim=1)
    return rows * columns[:, None, :]


def wigner_blocks(rotations: Tensor, lmax: int) -> list[Tensor]:
    """(E, 3, 3) rotations to D^0 ... D^lmax, (E, 2l + 1, 2l + 1) each."""
    blocks = [torch.ones_like(rotations[:, :1, :1])]
    if lmax:
        blocks.append(rotations)
    for degree in range(2, lmax + 1):
        coupling = _coupling(degree, rotations.dtype, rotations.device)
        partly = torch.einsum("eab,bjn->eajn", rotations, coupling)
        both = torch.einsum("eij,eajn->eain", blocks[-1], partly)
        blocks.append(torch.einsum("aim,eain->emn", coupling, both))
    return blocks


def wigner_matrices(blocks: list[Tensor], mmax: int) -> Tensor:
    """Blocks (E, 2l + 1, 2l + 1) to one matrix (E, rows with |m| <= mmax in m-major order, (lmax + 1)² l-major columns)."""
    lmax = len(blocks) - 1
    edges, size = blocks[0].shape[0], (lmax + 1) ** 2
    padded = [
        torch.nn.functional.pad(block, (degree**2, size - (degree + 1) ** 2)) for degree, block in enumerate(blocks)
    ]
    rows = torch.tensor(m_major(lmax, mmax), device=blocks[0].device)
    return torch.cat(padded, dim=1).reshape(edges, size, size).index_select(1, rows)


def m_major(lmax: int, mmax: int) -> list[int]:
    """l-major indices in the order in which a frame's coefficients are kept: m = 0 for every l, then m = 1, m = -1, m = 2 ..."""
    order = [degree**2 + degree for degree in range(lmax + 1)]
    for m in range(1, mmax + 1):
        for sign in (1, -1):
            order += [degree**2 + degree + sign * m for degree in range(m, lmax + 1)]
    return order


def degrees(lmax: int) -> list[int]:
    """The l of every l-major index."""
    return [degree for degree in range(lmax + 1) for _ in range(2 * degree + 1)]


@lru_cache(maxsize=64)
def generators(lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, M, M): L_k about x, y and z, l-major; antisymmetric."""
    spin = np.zeros((3, 3, 3))
    for k, a, b in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        spin[k, b, a], spin[k, a, b] = 1.0, -1.0  # a turn about k takes a to b
    total = np.zeros((3, (lmax + 1) ** 2, (lmax + 1) ** 2))
    block = np.zeros((3, 1, 1))
    for degree in range(1, lmax + 1):
        if degree == 1:
            block = spin
        else:
            coupling = _coupling_table(degree)
            left = np.einsum("aim,kab,bin->kmn", coupling, spin, coupling)
            right = np.einsum("aim,kij,ajn->kmn", coupling, block, coupling)
            block = left + right
        span = slice(degree**2, (degree + 1) ** 2)
        total[:, span, span] = block
    return torch.from_numpy(total).to(dtype).to(device)


@lru_cache(maxsize=64)
def _coupling(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(_coupling_table(degree)).to(dtype).to(device)


@lru_cache(maxsize=16)
def _coupling_table(degree: int) -> np.ndarray:
    """Q_l (3, 2l - 1, 2l + 1): integrals of three harmonics over the sphere, exact by quadrature, scaled to an isometry."""
    count = 2 * degree + 2
    cosines, weights = np.polynomial.legendre.leggauss(count)
    angles = 2 * math.pi * (np.arange(count) + 0.5) / count
    cosine, angle = (grid.ravel() for grid in np.meshgrid(cosines, angles, indexing="ij"))
    weight = np.repeat(weights, count) / (2 * count)
    one, lower, upper = (_harmonics(k, cosine, angle) for k in (1, degree - 1, degree))
    table = np.einsum("ap,ip,mp,p->aim", one, lower, upper, weight)
    table[np.abs(table) < 1e-14] = 0.0
    return table / np.sqrt(np.einsum("aim,aim->m", table, table))


def _harmonics(degree: int, cosine: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(2l + 1, P) real harmonics with mean square one, at polar angle arccos(cosine) from y, azimuth from z towards x."""
    sine = np.sqrt(1 - cosine**2)
    rows = np.zeros((2 * degree + 1, len(cosine)))
    for m in range(degree + 1):
        # Associated Legendre functions without the Condon-Shortley sign, upwards in l from P_mm = (2m - 1)!! sine^m.
        before, legendre = np.zeros_like(cosine), math.prod(range(1, 2 * m, 2)) * sine**m
        for k in range(m + 1, degree + 1):
            before, legendre = legendre, ((2 * k - 1) * cosine * legendre - (k + m - 1) * before) / (k - m)
        norm = math.sqrt((2 * degree + 1) * math.factorial(degree - m) / math.factorial(degree + m))
        if m == 0:
            rows[degree] = norm * legendre
        else:
            rows[degree + m] = math.sqrt(2) * norm * legendre * np.cos(m * angle)
            rows[degree - m] = math.sqrt(2) * norm * legendre * np.sin(m * angle)
    return rows
