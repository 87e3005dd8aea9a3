"""Start velocities: distribution, what is removed, and the degrees of freedom."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixSubsetCom,
    Hookean,
)

from atomjet.md.velocities import bring_to_rest, degrees_of_freedom, draw_velocities, temperature


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (molecule("CH3CH2OH"), {"nve": 21, "nvt": 27}),
        (molecule("CO2"), {"nve": 4, "nvt": 9}),
        (molecule("H2"), {"nve": 1, "nvt": 6}),
        (Atoms("Ar"), {"nve": 0, "nvt": 3}),
        (bulk("Cu", cubic=True), {"nve": 9, "nvt": 12, "npt": 9}),
        (bulk("Cu"), {"nve": 0, "nvt": 3, "npt": 0}),
    ],
    ids=["ethanol", "CO2", "H2", "Ar", "Cu4", "Cu1"],
)
def test_degrees_of_freedom_and_what_is_removed(atoms: Atoms, expected: dict[str, int]):
    for ensemble, degrees in expected.items():
        assert degrees_of_freedom(atoms, ensemble) == degrees
        draw_velocities(atoms, 300.0, ensemble, np.random.default_rng(0))
        assert temperature(atoms, degrees) == pytest.approx(300.0 if degrees else 0.0)
        if ensemble == "nve" or len(atoms) > 1:
            np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-12)
            if not atoms.pbc.any():
                np.testing.assert_allclose(atoms.get_angular_momentum(), 0.0, atol=1e-12)


def test_fixed_atoms_have_no_velocity_and_no_share():
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(FixAtoms([0, 1]))
    assert degrees_of_freedom(atoms, "nve") == 21
    draw_velocities(atoms, 300.0, "nve", np.random.default_rng(0))
    assert not atoms.get_velocities()[:2].any()
    assert temperature(atoms, 21) == pytest.approx(300.0)


def three_waters():
    atoms = molecule("H2O") + molecule("H2O") + molecule("H2O")
    atoms.positions[3:6] += [3.0, 0.5, 0.0]
    atoms.positions[6:] += [0.0, 3.0, 1.0]
    return atoms


TRIANGLES = FixBondLengths([(k + a, k + b) for k in (0, 3, 6) for a, b in ((0, 1), (0, 2), (1, 2))])


@pytest.mark.parametrize(
    ("constraint", "pbc", "expected", "free"),
    [
        (TRIANGLES, False, {"nve": 12, "nvt": 18}, "xyz"),
        (TRIANGLES, True, {"nve": 15, "nvt": 18}, "xyz"),
        (Hookean(0, 3, k=5.0, rt=2.0), False, {"nve": 21, "nvt": 27}, "xyz"),
        (ExternalForce(0, 3, 0.0), False, {"nve": 21, "nvt": 27}, "xyz"),
        (FixCom(), False, {"nve": 21, "nvt": 24}, "xyz"),
        (Hookean(0, (0.0, 0.0, 0.0), k=5.0, rt=2.0), False, {"nve": 27, "nvt": 27}, ""),
        (Hookean(0, (0.0, 0.0, 1.0, -7.0), k=5.0), False, {"nve": 27, "nvt": 27}, ""),
        (FixAtoms([0, 1]), False, {"nve": 21, "nvt": 21}, ""),
        (FixCartesian([0, 1], (False, False, True)), False, {"nve": 23, "nvt": 25}, "xy"),
        (FixedLine([0], (0, 0, 1)), True, {"nve": 24, "nvt": 25}, "z"),
        (FixSubsetCom([0, 1, 2]), False, {"nve": 24, "nvt": 24}, ""),
    ],
    ids=["rigid", "rigid-pbc", "spring", "pull", "com", "point", "plane", "fixed", "fixed-z", "line", "subset"],
)
def test_constraints_keep_a_drift_only_where_they_pin_atoms_in_space(constraint, pbc, expected, free):
    for ensemble, degrees in expected.items():
        atoms = three_waters()
        if pbc:
            atoms.set_cell([9, 9, 9])
            atoms.pbc = True
        atoms.set_constraint(constraint)
        assert degrees_of_freedom(atoms, ensemble) == degrees
        draw_velocities(atoms, 300.0, ensemble, np.random.default_rng(0))
        assert temperature(atoms, degrees) == pytest.approx(300.0)
        momentum = atoms.get_momenta().sum(0)
        for axis, name in enumerate("xyz"):
            assert (abs(momentum[axis]) < 1e-9) == (name in free)
        if free == "xyz" and not pbc:
            np.testing.assert_allclose(atoms.get_angular_momentum(), 0.0, atol=1e-9)
        drawn = atoms.get_momenta()
        atoms.set_momenta(drawn)
        np.testing.assert_allclose(atoms.get_momenta(), drawn, atol=1e-9)  # as the constraint would have them


def test_zero_temperature_is_rest():
    atoms = molecule("H2O")
    draw_velocities(atoms, 0.0, "nve", np.random.default_rng(0))
    assert not atoms.get_momenta().any()


def test_equipartition_between_light_and_heavy_atoms():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (6, 6, 6)
    draw_velocities(atoms, 300.0, "nvt", np.random.default_rng(0))
    kinetic = 0.5 * atoms.get_masses() * (atoms.get_velocities() ** 2).sum(1)
    ratio = kinetic[atoms.numbers == 11].mean() / kinetic[atoms.numbers == 17].mean()
    # 864 atoms of each element: the ratio of two means of 3 * 864 squared normals is within 5 of its standard errors.
    assert ratio == pytest.approx(1.0, abs=5 * np.sqrt(4 / (3 * 864)))


def test_motion_as_a_whole_is_removed_and_nothing_else():
    atoms = molecule("CH3CH2OH")
    draw_velocities(atoms, 300.0, "nve", np.random.default_rng(0))
    inner = atoms.get_velocities()
    drift = np.array([0.1, 0.0, -0.2])
    atoms.set_velocities(inner + drift + np.cross([0.0, 0.03, 0.01], atoms.positions))
    bring_to_rest(atoms)
    np.testing.assert_allclose(atoms.get_velocities(), inner, atol=1e-12)
