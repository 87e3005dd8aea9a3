"""Phonons: against phonopy used by hand, and against the vibrations of the whole supercell."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomjet.adapters.potential import CalculatorPotential
from atomjet.errors import ConfigError, StructureError
from atomjet.md.phonons import INVERSE_CM_PER_THZ, long_enough, phonons
from atomjet.md.vibrations import hessian_by_differences, vibrations

phonopy = pytest.importorskip("phonopy")
from phonopy.structure.atoms import PhonopyAtoms  # noqa: E402


@pytest.fixture(scope="module")
def predict():
    return CalculatorPotential(EMT()).predict


def test_as_phonopy_by_hand(predict):
    atoms = bulk("Cu", a=3.59, cubic=True)
    found = phonons(predict, atoms, (2, 2, 2), mesh=(4, 4, 4))
    cell = PhonopyAtoms(symbols=["Cu"] * 4, cell=atoms.cell.array, positions=atoms.positions, masses=atoms.get_masses())
    by_hand = phonopy.Phonopy(cell, np.diag([2, 2, 2]), primitive_matrix="F")
    by_hand.generate_displacements(distance=0.01)
    forces = []
    for displaced in by_hand.supercells_with_displacements:
        supercell = Atoms(displaced.symbols, displaced.positions, cell=displaced.cell, pbc=True, calculator=EMT())
        forces.append(supercell.get_forces())
    by_hand.forces = forces
    by_hand.produce_force_constants(show_drift=False)
    by_hand.run_mesh([4, 4, 4], is_gamma_center=True)
    assert found.supercells == 1
    assert found.crystal.space_group == "Fm-3m (225)"
    np.testing.assert_allclose(found.frequencies, by_hand.mesh.frequencies, atol=1e-4)
    by_hand.run_thermal_properties(temperatures=[300.0], exclude_gamma_acoustic=True)
    free, entropy, heat = found.crystal.thermal_properties(np.array([300.0]))
    assert free[0] == pytest.approx(by_hand.thermal_properties.free_energy[0] / 96.4853, abs=1e-6)
    assert entropy[0] == pytest.approx(by_hand.thermal_properties.entropy[0] / 96485.3, rel=1e-5)
    assert 0.9 * 3 * 8.617e-5 < heat[0] < 3 * 8.617e-5  # Dulong and Petit, from below
    assert np.abs(found.acoustic).max() < 1e-4
    assert not found.imaginary


def test_all_modes_that_fit_are_those_of_the_supercell(predict):
    """Two kinds of atoms, hardly any symmetry, and a force of its own on each."""
    atoms = bulk("Cu", a=3.7) * (1, 1, 2)
    atoms.numbers[1] = 79
    atoms.positions[1] += [0.05, 0.02, 0.1]
    found = phonons(predict, atoms, (2, 2, 1), mesh=(2, 2, 1))
    assert found.supercells > 6
    assert found.residual_force > 0.01
    together = found.crystal.supercell
    hessian = hessian_by_differences(predict, together)
    expected = vibrations(together, hessian).wavenumbers / INVERSE_CM_PER_THZ
    waves = np.array([[i, j, 0] for i in (0, 0.5) for j in (0, 0.5)]) @ np.linalg.inv(atoms.cell.array).T
    waves = waves @ found.crystal.primitive.cell.array.T  # phonopy's primitive cell has vectors of its own
    frequencies, vectors = found.crystal.frequencies(waves)
    free = np.sort(np.delete(frequencies.ravel(), np.argsort(np.abs(frequencies.ravel()))[:3]))
    np.testing.assert_allclose(free, expected, atol=0.02)
    np.testing.assert_allclose((np.abs(vectors) ** 2).sum((2, 3)), 1)


def test_imaginary_modes_are_named(predict):
    found = phonons(predict, bulk("Cu", "bcc", a=2.87), (3, 3, 3), mesh=(4, 4, 4))
    first = found.imaginary[0]
    assert first.frequency > 0.5
    assert found.frequencies.min() == pytest.approx(-first.frequency)
    assert first.moves.tolist() == pytest.approx([1.0])
    # At the vector that it names.
    assert found.crystal.frequencies(first.wave_vector[None])[0].min() == pytest.approx(-first.frequency, rel=1e-6)


def test_what_has_no_phonons(predict, monkeypatch):
    crystal = bulk("Cu")
    assert long_enough(crystal) == (4, 4, 4)
    with pytest.raises(StructureError, match=r"three periodic directions.*\[False, False, False\]"):
        phonons(predict, Atoms("Cu"))
    with pytest.raises(ConfigError, match="supercell 2 0 2 must be 1 or more"):
        phonons(predict, crystal, (2, 0, 2))
    charged = crystal.copy()
    charged.info["charge"] = 1
    with pytest.raises(StructureError, match="this one has charge 1"):
        phonons(predict, charged)
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(ConfigError, match=r"phonons need phonopy: pip install 'atomjet\[phonons\]'"):
        phonons(predict, crystal)
