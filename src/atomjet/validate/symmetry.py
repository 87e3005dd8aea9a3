"""Exact symmetries of the energy: what rounding alone may break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from atomjet.data import Prediction
from atomjet.validate.check import ROUNDING, Check
from atomjet.validate.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

ROTATIONS = 4


def equivariance(potential: Potential, atoms: Atoms, name: str, generator: np.random.Generator) -> Check:
    """Rotations and reflections turn the forces and leave the energy: max |F(R x) - R F(x)|."""
    start = potential.predict(atoms)
    forces, worst, energy = _numpy(start.forces), 0.0, 0.0
    for k in range(ROTATIONS):
        rotation = random_orthogonal(generator, proper=k % 2 == 0)
        turned = atoms.copy()
        turned.positions = atoms.positions @ rotation.T
        turned.cell = atoms.cell.array @ rotation.T
        after = potential.predict(turned)
        worst = max(worst, float(np.abs(_numpy(after.forces) - forces @ rotation.T).max()))
        energy = max(energy, abs(float(after.energy[0] - start.energy[0])))
    detail = f"{ROTATIONS} random rotations, half of them with inversion; energy differs by {1e3 * energy:.2g} meV"
    return _symmetry("equivariance", name, worst, potential, detail, energy)


def translation(potential: Potential, atoms: Atoms, name: str, generator: np.random.Generator) -> Check:
    """Moving the structure, and single atoms by whole cell vectors, changes nothing."""
    moved = atoms.copy()
    moved.positions += generator.normal(0, 10, 3)
    if atoms.pbc.all():
        moved.positions += generator.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    before, after = potential.predict(atoms), potential.predict(moved)
    worst, energy = _differences(before, after)
    detail = "moved by some 10 Å" + (", atoms by whole cell vectors" if atoms.pbc.all() else "")
    return _symmetry("translation", name, worst, potential, detail, energy)


def permutation(potential: Potential, atoms: Atoms, name: str, generator: np.random.Generator) -> Check:
    """The order of the atoms does not matter."""
    order = generator.permutation(len(atoms))
    before, after = potential.predict(atoms), potential.predict(atoms[order])
    worst = float(np.abs(_numpy(after.forces) - _numpy(before.forces)[order]).max())
    energy = abs(float(after.energy[0] - before.energy[0]))
    return _symmetry("permutation", name, worst, potential, "atoms in another order", energy)


def batch_independence(potential: Potential, structures: list[Atoms]) -> Check:
    """A structure computed among others equals itself computed alone."""
    together = potential.predict(structures)
    worst = energy = 0.0
    for k, atoms in enumerate(structures):
        alone = potential.predict(atoms)
        worst = max(worst, float((together.forces_of(k) - alone.forces).abs().max()))
        energy = max(energy, abs(float(together.energy[k] - alone.energy[0])))
    return _symmetry(
        "batch independence", f"{len(structures)} structures", worst, potential, "batch against single", energy
    )


def extensivity(potential: Potential, atoms: Atoms, name: str) -> Check:
    """Twice the structure has twice the energy and the same forces: a supercell, or a copy far away."""
    if atoms.pbc.all():
        double, detail = atoms.repeat((2, 1, 1)), "supercell 2 x 1 x 1"
    else:
        copy = atoms.copy()
        distance = 20.0 + float(np.ptp(atoms.positions[:, 0])) + 2 * (potential.cutoff or 30.0)
        copy.positions[:, 0] += distance
        double, detail = atoms + copy, f"a copy {distance:.0f} Å away"
    one, two = potential.predict(atoms), potential.predict(double)
    worst = float(np.abs(_numpy(two.forces) - np.tile(_numpy(one.forces), (2, 1))).max())
    energy = abs(float(two.energy[0] - 2 * one.energy[0]))
    return _symmetry("extensivity", name, max(worst, energy / len(atoms)), potential, detail, energy)


def net_force(potential: Potential, atoms: Atoms, name: str) -> Check:
    """Nothing pushes a structure as a whole: |ΣF|."""
    value = float(potential.predict(atoms).forces.double().sum(0).norm())
    bound = {torch.float64: 1e-8, torch.float32: 1e-3}[potential.dtype]
    return Check("net force", name, value, "eV/Å", bound, "translation invariance, up to rounding of the sum")


def net_torque(potential: Potential, atoms: Atoms, name: str) -> Check:
    """Nothing turns a free structure: |Σ (x - x̄) x F|."""
    forces = _numpy(potential.predict(atoms).forces)
    value = float(np.linalg.norm(np.cross(atoms.positions - atoms.positions.mean(0), forces).sum(0)))
    bound = {torch.float64: 1e-7, torch.float32: 1e-2}[potential.dtype]
    return Check("net torque", name, value, "eV", bound, "rotation invariance, up to rounding of the sum")


def random_orthogonal(generator: np.random.Generator, proper: bool = True) -> np.ndarray:
    """A random rotation (3, 3), uniform; with inversion unless proper."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if (np.linalg.det(q) > 0) == proper else -q


def _symmetry(name: str, structure: str, worst: float, potential: Potential, detail: str, energy: float) -> Check:
    source = f"an exact symmetry; rounding in {str(potential.dtype).removeprefix('torch.')}"
    figures = {"energy difference / meV": 1e3 * energy}
    return Check(name, structure, worst, "eV/Å", ROUNDING[potential.dtype], source, detail, figures)


def _differences(before: Prediction, after: Prediction) -> tuple[float, float]:
    """Largest differences of forces (eV/Å) and of energies (eV)."""
    forces = float((before.forces - after.forces).abs().max())
    return forces, float((before.energy - after.energy).abs().max())


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).numpy()
