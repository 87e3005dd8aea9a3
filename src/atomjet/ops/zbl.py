"""Screened repulsion of two nuclei (Ziegler, Biersack, Littmark, 1985), switched off smoothly with distance.

For nuclei of charge Z_i and Z_j at distance d, with k = e² / 4πε₀ and the Bohr radius a₀:

    V(d) = k Z_i Z_j / d · Φ(d / a) · S(t),     a = 0.88534 a₀ / (Z_i^0.23 + Z_j^0.23)
    Φ(x) = 0.18175 e^(-3.1998 x) + 0.50986 e^(-0.94229 x) + 0.28022 e^(-0.4029 x) + 0.02817 e^(-0.20162 x)
    S(t) = 1 - t³ (10 - 15 t + 6 t²),           t = (d - d_1) / (d_2 - d_1), between 0 and 1

First and second derivative of S vanish at both ends of the switch. Of the ends d_1 < d_2 whoever calls decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atomjet.units import BOHR, HARTREE

COULOMB = HARTREE * BOHR
"""e² / 4πε₀, eV Å."""

POWER = 0.23
SCREENING = 0.88534 * BOHR
"""Å: the screening length a times Z_i^0.23 + Z_j^0.23."""

SCREENED = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
"""Coefficients and exponents of Φ."""


def reference(lengths: Tensor, strength: Tensor, screening: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """V (E,), eV, differentiable any number of times.

    Args:
        lengths: d (E,) Å.
        strength: k Z_i Z_j (E,) eV Å.
        screening: 1 / a (E,) 1/Å.
        start, end: d_1 and d_2 (E,) Å.
    """
    x = lengths * screening
    screened = torch.stack([c * torch.exp(-e * x) for c, e in SCREENED]).sum(0)
    t = ((lengths - start) / (end - start)).clamp(0, 1)
    return strength / lengths * screened * (1 - t**3 * (10 - t * (15 - 6 * t)))


def reference_grad(
    lengths: Tensor, strength: Tensor, screening: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """V and dV/dd (E,), eV and eV/Å; see `reference`."""
    factors, exponents = lengths.new_tensor(SCREENED).unbind(1)
    terms = torch.exp((lengths * screening)[:, None] * -exponents)
    screened, slope = terms @ factors, terms @ (factors * -exponents) * screening
    t = ((lengths - start) / (end - start)).clamp(0, 1)
    switch = 1 - t**3 * (10 - t * (15 - 6 * t))
    switch_slope = -30 * (t * (1 - t)) ** 2 / (end - start)
    bare = strength / lengths
    return bare * screened * switch, bare * ((slope - screened / lengths) * switch + screened * switch_slope)
