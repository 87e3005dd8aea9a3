"""The ASE calculator: units, signs, Voigt order, and when it computes again."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import atomjet
from atomjet import AtomJetCalculator, Engine
from atomjet.engine import Settings
from atomjet.engine.uncertainty import UncertaintyWarning
from tests.potentials import random_escn_md, random_painn


@pytest.fixture(scope="module")
def engine():
    return Engine(random_painn(elements=(1, 6, 7, 8)), Settings("cpu", precision="float64"))


def sheared():
    atoms = bulk("C", a=3.6, cubic=True)
    strain = np.array([[0.02, 0.05, 0], [0, -0.03, 0.04], [0.01, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05)
    atoms.positions[0] -= 3 * atoms.cell[1]  # not wrapped
    return atoms


@pytest.mark.parametrize("make", [lambda: molecule("CH3CH2OH"), sheared])
def test_against_ase_finite_differences(engine, make):
    atoms = make()
    atoms.calc = AtomJetCalculator(engine)
    difference = calculate_numerical_forces(atoms, eps=1e-4) - atoms.get_forces()
    assert np.abs(difference).max() < 1e-6 * np.abs(atoms.get_forces()).max()
    if atoms.pbc.all():
        assert np.abs(calculate_numerical_stress(atoms, eps=1e-5) - atoms.get_stress()).max() < 1e-7


def test_results_are_float64_and_complete(engine):
    atoms = sheared()
    atoms.calc = AtomJetCalculator(engine)
    energy = atoms.get_potential_energy()
    assert set(atoms.calc.results) == {"energy", "free_energy", "energies", "forces", "stress"}
    assert atoms.calc.results["forces"].dtype == np.float64
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    assert atoms.get_stress().shape == (6,)


def test_stress_needs_three_periodic_directions(engine):
    atoms = molecule("H2O")
    atoms.calc = AtomJetCalculator(engine)
    for kind in (atomjet.AtomJetError, PropertyNotImplementedError):  # ours, and the one that ASE's own programs catch
        with pytest.raises(kind, match=r"stress needs three periodic directions.*atoms\.center\(vacuum=10, axis=2\)"):
            atoms.get_stress()
    slab = bulk("C", cubic=True)
    slab.pbc = [True, True, False]
    slab.calc = atoms.calc
    with pytest.raises(PropertyNotImplementedError, match=r"this structure has pbc \[True, True, False\]"):
        slab.get_stress()
    assert np.isfinite(slab.get_potential_energy())
    slab.center(vacuum=10, axis=2)  # the way out that the message names
    slab.pbc = True
    assert slab.get_stress().shape == (6,)


def test_computes_again_when_anything_changed_and_only_then(engine, monkeypatch):
    calls = []
    original = engine.predict
    monkeypatch.setattr(engine, "predict", lambda s: calls.append(1) or original(s))
    atoms = sheared()
    atoms.calc = AtomJetCalculator(engine, remarks=False)

    def computed():
        before = len(calls)
        atoms.get_potential_energy()
        atoms.get_forces()
        return len(calls) - before

    assert computed() == 1
    assert computed() == 0
    atoms.positions[0, 0] += 1e-13  # far below any tolerance that a cache might allow itself
    assert computed() == 1
    atoms.cell[0, 0] += 1e-9
    assert computed() == 1
    atoms.numbers[0] = 7
    assert computed() == 1
    atoms.info["spin"] = 1
    assert computed() == 1
    atoms.pbc = False
    assert computed() == 1
    assert computed() == 0


def test_charge_set_afterwards_is_not_ignored(engine):
    atoms = molecule("H2O")
    atoms.calc = AtomJetCalculator(engine)
    atoms.get_potential_energy()
    atoms.info["charge"] = 1
    with pytest.raises(atomjet.AtomJetError, match="charge 1"):
        atoms.get_potential_energy()


def test_one_calculator_many_structures(engine):
    calc = AtomJetCalculator(engine)
    frames = [molecule("H2O"), molecule("CH4"), Atoms("C")]
    energies = [calc.get_potential_energy(atoms) for atoms in frames]
    assert energies == pytest.approx(engine.predict(frames).energy.tolist(), abs=1e-9)
    assert np.array_equal(calc.get_forces(Atoms("C")), np.zeros((1, 3)))


def test_options_and_engine_exclude_each_other(engine):
    with pytest.raises(TypeError, match="options"):
        AtomJetCalculator(engine, precision="high")


def test_cell_relaxation_lowers_the_energy(engine):
    atoms = sheared()
    atoms.calc = AtomJetCalculator(engine)
    start = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.05, steps=5)
    assert atoms.get_potential_energy() < start


def test_info_that_is_changed_in_its_place_is_noticed():
    """A copy of atoms shares what `info` holds."""
    atoms = molecule("O2")
    atoms.info |= {"charge": 0, "spin": np.array([1])}
    atoms.calc = AtomJetCalculator(Engine(random_escn_md(), Settings("cpu"), task="omol"))
    singlet = atoms.get_potential_energy()
    atoms.info["spin"][0] = 3
    assert atoms.get_potential_energy() != singlet


def test_what_the_model_is_not_made_for_is_said_once_of_a_composition():
    calculator = AtomJetCalculator("organic-xtb", device="cpu")
    radical, boxed = molecule("CH3"), molecule("H2O", cell=[12.0] * 3, pbc=True)
    radical.set_initial_magnetic_moments(None)
    radical.calc = boxed.calc = calculator
    with pytest.warns(
        UncertaintyWarning, match="^CH3 has an odd number of electrons, 9, but it is computed as a neutral closed"
    ):
        radical.get_potential_energy()
    with pytest.warns(UncertaintyWarning, match="^H2O is periodic, but the model was trained on none that are"):
        boxed.get_potential_energy()
    radical.positions[0] += 0.01
    radical.get_potential_energy()  # pytest makes errors of warnings
