"""Vibrations from the Hessian against ASE's finite differences; free motions, linear molecules, saddle points."""

import numpy as np
import pytest
from ase import units as ase_units
from ase.build import bulk, molecule
from ase.optimize import BFGS
from ase.vibrations import Vibrations as ByDifferences

import atomjet
from atomjet.errors import StructureError
from atomjet.md.vibrations import hessian_by_differences, is_linear, symmetry_number, vibrations
from atomjet.units import HBAR, INVERSE_CM


@pytest.fixture(scope="module")
def engine():
    return atomjet.load("organic-xtb", device="cpu", precision="float64")


def relaxed(engine, name):
    atoms = molecule(name)
    atoms.calc = atomjet.AtomJetCalculator(engine)
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    return atoms


def test_constants_are_those_of_ase():
    assert pytest.approx(ase_units._hbar / ase_units._e * 1e15, rel=1e-12) == HBAR
    assert pytest.approx(ase_units.invcm, rel=1e-12) == INVERSE_CM


MORE = ["C2H2", "C2H6", "H2CO", "HCOOH", "CH3CN", "CH3CH2OH", "H2O2"]


@pytest.mark.parametrize(
    "name", ["H2O", "HCN", "NH3", "C2H4", "CH3OH", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_as_ase_by_finite_differences(engine, name, tmp_path):
    atoms = relaxed(engine, name)
    found = vibrations(atoms, hessian_by_differences(engine.predict, atoms))
    by_differences = ByDifferences(atoms, name=str(tmp_path / "vib"), delta=0.01)
    by_differences.run()
    expected = np.sort(by_differences.get_frequencies().real)[found.free :]
    assert found.free == (5 if name in ("HCN", "C2H2") else 6)
    np.testing.assert_allclose(found.wavenumbers, expected, atol=1.0)
    assert found.imaginary == 0
    assert found.zero_point_energy == pytest.approx(expected.sum() * INVERSE_CM / 2, abs=1e-4)


def test_small_differences_tend_to_the_analytic_hessian(engine):
    atoms = molecule("CH3OH")
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    exact = engine.hessian(atoms).numpy()
    errors = [np.abs(hessian_by_differences(engine.predict, atoms, step) - exact).max() for step in (1e-3, 5e-4)]
    assert errors[1] < 1e-4 * np.abs(exact).max()
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # of second order


def test_a_crystal_keeps_its_translations_only(engine):
    atoms = bulk("C", "diamond", 3.55) * (2, 2, 1)
    assert vibrations(atoms, np.eye(24)).free == 3


def test_modes_belong_to_their_frequencies(engine):
    atoms = relaxed(engine, "H2O")
    hessian = engine.hessian(atoms).numpy()
    found = vibrations(atoms, hessian)
    mass = np.repeat(atoms.get_masses(), 3)
    for mode, energy in zip(found.modes, found.energies, strict=True):
        x = mode.reshape(-1)
        assert x @ (mass * x) == pytest.approx(1.0)
        assert x @ hessian @ x == pytest.approx((energy / HBAR) ** 2 * 103.64269572045424, rel=1e-9)


def test_a_saddle_point_has_one_imaginary_frequency(engine):
    atoms = molecule("NH3")
    atoms.positions[:, 2] = 0.0  # flat: on top of the barrier of inversion
    atoms.positions[1:, :2] *= 1.06
    atoms.calc = atomjet.AtomJetCalculator(engine)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    found = vibrations(atoms, engine.hessian(atoms).numpy())
    assert found.imaginary == 1
    assert found.wavenumbers[0] < -300
    assert found.wavenumbers[1] > 0


@pytest.mark.parametrize(
    ("name", "number"),
    [("H2O", 2), ("H2", 2), ("HCN", 1), ("NH3", 3), ("BF3", 6), ("CH4", 12), ("C2H6", 6), ("C60", 60), ("O", 1)],
)
def test_symmetry_number(name, number):
    atoms = molecule(name)
    assert symmetry_number(atoms) == number
    if name == "CH4":
        atoms.set_masses([12.011, 2.014, 1.008, 1.008, 1.008])
        assert symmetry_number(atoms) == 3


def test_all_differences_come_in_one_batch(engine):
    atoms, calls = molecule("NH3"), []

    def predict(frames):
        calls.append(len(frames))
        return engine.predict(frames)

    hessian_by_differences(predict, atoms)
    assert calls == [24]


def test_linear_molecules():
    assert is_linear(molecule("C2H2"))
    assert not is_linear(molecule("H2O"))
    assert not is_linear(molecule("C6H6"))


def test_masses_that_mean_nothing():
    atoms = molecule("H2O")
    atoms.set_masses([16, 0, 1])
    with pytest.raises(StructureError, match="atom 1: mass 0 amu"):
        vibrations(atoms, np.eye(9))
