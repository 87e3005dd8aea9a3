"""Formation energies from a table of references, and dispersion beside a model; fairchem's own in `make test-fairchem`."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.mixing import SumCalculator

import atomjet
from atomjet import AtomJetCalculator, Engine
from atomjet.adapters.formation import FormationEnergyCalculator
from atomjet.engine import Settings
from tests.potentials import random_painn

REFERENCES = {"H": -1.5, "C": -7.25, "O": -3.0}


@pytest.fixture(scope="module")
def calculator():
    return AtomJetCalculator(Engine(random_painn(elements=(1, 6, 8)), Settings("cpu", precision="float64")))


def test_the_energy_less_that_of_the_elements(calculator):
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    energy, forces, energies = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_potential_energies()
    atoms.calc = FormationEnergyCalculator(calculator, REFERENCES)
    expected = energy - 2 * -7.25 - 6 * -1.5 - -3.0
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(expected, abs=1e-10)
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    assert atoms.get_potential_energies().sum() == pytest.approx(expected, abs=1e-9)
    assert atoms.get_potential_energies()[0] == pytest.approx(energies[0] + 7.25)  # a carbon
    atoms.rattle(0.05)
    moved = atoms.copy()
    moved.calc = AtomJetCalculator(calculator.engine)
    assert atoms.get_potential_energy() == pytest.approx(moved.get_potential_energy() + expected - energy, abs=1e-9)
    crystal = bulk("C")
    crystal.calc = atoms.calc
    assert crystal.get_stress().shape == (6,)


def test_a_correction_comes_before_the_references(calculator):
    atoms = molecule("H2O")
    plain = FormationEnergyCalculator(calculator, REFERENCES)
    corrected = FormationEnergyCalculator(
        calculator, REFERENCES, lambda energy, atoms: energy - 0.687 * atoms.symbols.count("O")
    )
    energies = []
    for atoms.calc in (plain, corrected):
        energies.append(atoms.get_potential_energy())
        assert atoms.get_potential_energies().sum() == pytest.approx(energies[-1])
    assert energies[1] - energies[0] == pytest.approx(-0.687)


@pytest.mark.parametrize("nested", [False, True])
def test_tables_in_files(calculator, tmp_path, nested):
    table = {"refs": {"omat": REFERENCES | {"No": 0.5}, "omol": {"H": 0.0}}} if nested else REFERENCES | {"No": 0.5}
    lines = (
        "refs:\n  omat: {H: -1.5, C: -7.25, O: -3, No: 0.5}\n  omol: {H: 0}\n"
        if nested
        else "H: -1.5\nC: -7.25\nO: -3\nNo: 0.5\n"
    )
    (tmp_path / "table.json").write_text(json.dumps(table))
    (tmp_path / "table.yaml").write_text(lines)
    atoms = molecule("CO")
    atoms.info["task"] = "omat" if nested else ""
    made = [FormationEnergyCalculator(calculator, tmp_path / name) for name in ("table.json", "table.yaml")]
    assert made[0].by_task == made[1].by_task
    assert made[0].by_task["omat" if nested else ""]["No"] == 0.5
    assert made[0].references_of(atoms).tolist() == [-3.0, -7.25]


@pytest.mark.parametrize(
    ("table", "atoms", "message"),
    [
        ({"H": -1.5}, Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), "references has no reference energy of C, O; add it"),
        ({"omat": {"H": 1.0}}, molecule("H2"), "references has no references for task ''; it has those for omat"),
        ({"H": "much"}, None, "references is no table of reference energies; give eV an atom by symbol"),
        ({"H": float("nan")}, None, "references is no table"),
        ({"Xx": 1.0}, None, "references is no table"),
        ({}, None, "references is no table"),
        ("absent.yaml", None, "cannot read reference energies from absent.yaml"),
    ],
)
def test_what_is_no_table(calculator, table, atoms, message):
    def compute():
        FormationEnergyCalculator(calculator, table).get_potential_energy(atoms)

    with pytest.raises(atomjet.AtomJetError, match=message):
        compute()


def test_dispersion_beside_a_model(calculator):
    """As docs/reference/adapters.md shows it, with a D3 package."""
    dispersion = pytest.importorskip("dftd3.ase").DFTD3(method="PBE", damping="d3bj")
    atoms = molecule("CH3CH2OH")
    parts = []
    for calc in (calculator, dispersion):
        alone = atoms.copy()
        alone.calc = calc
        parts.append((alone.get_potential_energy(), alone.get_forces()))
    assert -0.5 < parts[1][0] < -0.01
    atoms.calc = SumCalculator([calculator, dispersion])
    assert atoms.get_potential_energy() == pytest.approx(parts[0][0] + parts[1][0], abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), parts[0][1] + parts[1][1], rtol=0, atol=1e-10)
    assert np.abs(calculate_numerical_forces(atoms, eps=1e-4) - atoms.get_forces()).max() < 1e-5
    crystal = bulk("C")
    crystal.calc = SumCalculator([calculator, dispersion])
    assert crystal.get_stress().shape == (6,)
