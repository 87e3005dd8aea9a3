"""Nothing jumps where an atom enters or leaves the cutoff."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch

from atomjet.data import System
from atomjet.data.elements import SYMBOLS
from atomjet.validate.check import Check
from atomjet.validate.potential import Potential

BESIDE = 1e-6
"""Distance, Å, on either side of the cutoff. A smooth energy changes by less than 1e-10 eV over this."""

MAX_ELEMENTS = 8


def cutoff_smoothness(potential: Potential, elements: tuple[int, ...]) -> Check | None:
    """Energy of a pair of atoms just inside against just outside the cutoff, every pair of elements.

    None where the potential does not say how far it sees.
    """
    if potential.cutoff is None:
        return None
    pairs = list(combinations_with_replacement(elements[:MAX_ELEMENTS], 2))
    inside, outside = (_pairs(pairs, potential.cutoff + side, potential.device) for side in (-BESIDE, BESIDE))
    before, after = potential.predict(inside), potential.predict(outside)
    jumps = (before.energy - after.energy).abs()
    forces = (before.forces - after.forces).double().norm(dim=1).max()
    worst = int(jumps.argmax())
    label = "-".join(SYMBOLS[z] for z in pairs[worst])
    detail = f"{len(pairs)} pairs of elements, worst {label}; the force jumps by at most {float(forces):.2g} eV/Å"
    # Rounding of the two energies, which are sums of a few eV.
    bound = 1e-6 if potential.dtype == torch.float64 else 1e-2
    source = "a continuous energy, up to rounding"
    value = 1e3 * float(jumps.max())
    return Check(
        "cutoff smoothness", "pairs", value, "meV", bound, source, detail, {"force jump / eV/Å": float(forces)}
    )


def force_smoothness(potential: Potential, elements: tuple[int, ...]) -> Check | None:
    """Forces of the same pairs: continuous too."""
    energy = cutoff_smoothness(potential, elements)
    if energy is None:
        return None
    bound = 1e-4 if potential.dtype == torch.float64 else 1e-3
    value = energy.figures["force jump / eV/Å"]
    source = "a continuous force; over 2e-6 Å a stiffness of 50 eV/Å² changes it by 1e-4 eV/Å"
    return Check("cutoff smoothness of forces", "pairs", value, "eV/Å", bound, source, energy.detail)


def _pairs(pairs: list[tuple[int, int]], distance: float, device: torch.device) -> System:
    positions = torch.zeros(len(pairs), 2, 3, dtype=torch.float64, device=device)
    positions[:, 1, 0] = distance
    return System(
        positions=positions.reshape(-1, 3),
        atomic_numbers=torch.tensor(pairs, device=device).reshape(-1),
        system_index=torch.arange(len(pairs), device=device).repeat_interleave(2),
    )
