"""The estimated Hessian: derivatives by differences, no stiffness of rigid motion, and energies near the teacher's."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses
from ase.optimize import BFGS

from atomjet.distill import force_constants, normal_modes
from atomjet.distill.embedding import Embedding, embed
from atomjet.distill.teacher import make_teacher
from atomjet.units import BOLTZMANN

STRAIGHT = ["N#CC#N", "C#CC=C", "O=C=O"]


def angle(x):
    a, b = x[0] - x[1], x[2] - x[1]
    return np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def dihedral(x):
    axis = (x[2] - x[1]) / np.linalg.norm(x[2] - x[1])
    v, w = (arm - arm @ axis * axis for arm in (x[0] - x[1], x[3] - x[2]))
    return np.arctan2(np.cross(axis, v) @ w, v @ w)


@pytest.mark.parametrize(("coordinate", "terms", "count"), [(angle, "_bends", 3), (dihedral, "_torsions", 4)])
def test_derivatives_of_coordinates_are_those_of_differences(coordinate, terms, count):
    x = np.random.default_rng(3).normal(size=(count, 3))
    _, _, found = getattr(force_constants, terms)(np.arange(count)[None], x, np.ones((count, count)))
    for place in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * 1e-5
            sides.append(coordinate(moved))
        expected = (sides[0] - sides[1]) / 2e-5
        assert abs(abs(found[0][place]) - abs(expected)) < 1e-7


@pytest.mark.parametrize("smiles", ["CCO", "c1ccccc1", "[H][H]", *STRAIGHT])
def test_all_vibrations_are_stiff_and_rigid_motions_are_free(smiles):
    found = Embedding(**embed(smiles, 1, 1))
    atoms = Atoms(found.numbers, found.start[0].astype(float))
    hessian = force_constants.estimate_hessian(atoms.numbers, atoms.positions, found.bonds)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9)
    moves = [np.tile(axis, len(atoms)) for axis in np.eye(3)]
    moves += [np.cross(axis, atoms.positions).ravel() for axis in np.eye(3)]
    assert max(np.abs(hessian @ move).max() for move in moves) < 0.2
    stiffness, _ = normal_modes.modes_of_hessian(atoms, hessian)
    linear = smiles in ("[H][H]", "N#CC#N", "O=C=O")
    assert len(stiffness) == 3 * len(atoms) - (5 if linear else 6)


@pytest.mark.parametrize("smiles", ["CC(N)=O", "c1cc[nH]c1"])
def test_relaxation_is_quicker_and_displacements_have_about_the_energy_of_their_temperature(smiles):
    found, steps = Embedding(**embed(smiles, 1, 1)), []
    for estimated in (True, False):
        atoms = Atoms(found.numbers, found.start[0].astype(float))
        atoms.calc = make_teacher("tblite:GFN2-xTB", {"accuracy": 0.1})
        optimizer = BFGS(atoms, logfile=None)
        if estimated:
            hessian = force_constants.estimate_hessian(atoms.numbers, atoms.positions, found.bonds)
            optimizer.H0 = hessian + force_constants.FLOOR * np.eye(len(hessian))
        optimizer.run(fmax=0.02, steps=100)
        steps.append(optimizer.nsteps)
    assert steps[0] < steps[1]
    lowest, minimum = atoms.get_potential_energy(), atoms.positions.copy()
    stiffness, modes = normal_modes.modes_of_hessian(
        atoms, force_constants.estimate_hessian(atoms.numbers, minimum, found.bonds)
    )
    masses, risen = atomic_masses[found.numbers], []
    for number in range(60):
        atoms.positions = normal_modes.displace(
            minimum, found.bonds, masses, stiffness, modes, 300.0, np.random.default_rng(number)
        )
        risen.append(atoms.get_potential_energy() - lowest)
    ratio = np.mean(risen) / (len(stiffness) * BOLTZMANN * 300 / 2)
    assert 0.5 < ratio < 1.2
