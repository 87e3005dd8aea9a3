"""Many structures relaxed together, each as ASE's FIRE would take it alone."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.optimize import FIRE

import atomjet
from atomjet.engine import Engine, Settings
from atomjet.errors import StructureError
from atomjet.md import relax_many as module
from atomjet.md.relax_many import relax_many
from atomjet.models.escn_md import EscnMd, EscnMdConfig

NAMES = ("H2O", "CH3OH", "C2H4", "NH3", "CH3CH2OH", "HCN")


@pytest.fixture(scope="module")
def engine():
    return atomjet.load("organic-xtb", device="cpu", precision="float64")


def frames():
    generator = np.random.default_rng(1)
    found = []
    for name in NAMES:
        atoms = molecule(name)
        atoms.positions += generator.normal(0, 0.06, atoms.positions.shape)
        found.append(atoms)
    box = molecule("CH4")
    box.center(vacuum=2.5)
    box.pbc = True
    box.rattle(0.05, seed=3)
    held = found[1].copy()
    held.set_constraint(FixAtoms([0, 2]))
    partly = found[1].copy()
    partly.set_constraint([FixAtoms([2]), FixCartesian([0, 3], mask=(True, False, False))])
    return [*found, box, held, partly]


def by_ase(engine, atoms, fmax, steps=500):
    atoms = atoms.copy()
    atoms.calc = atomjet.AtomJetCalculator(engine, remarks=False)
    optimizer = FIRE(atoms, logfile=None)
    optimizer.run(fmax=fmax, steps=steps)
    return atoms, optimizer.nsteps


@pytest.mark.parametrize("at_once", [2000, 12], ids=["together", "refilled"])
def test_each_goes_the_way_of_ases_fire(engine, monkeypatch, at_once):
    monkeypatch.setitem(module.ATOMS_AT_ONCE, "cpu", at_once)
    given = frames()
    found = {result.index: result for result in relax_many(engine, given, fmax=0.02)}
    assert sorted(found) == list(range(len(given)))
    for index, atoms in enumerate(given):
        expected, steps = by_ase(engine, atoms, 0.02)
        result = found[index]
        assert result.converged
        assert result.error is None
        assert result.steps == steps
        np.testing.assert_allclose(result.atoms.positions, expected.positions, atol=1e-7)
        assert result.energy == pytest.approx(expected.get_potential_energy(), abs=1e-8)
        assert result.fmax < 0.02
        assert len(result.atoms.constraints) == len(atoms.constraints)


def test_the_given_structures_stay_as_they_are(engine):
    given = frames()[:2]
    before = [atoms.positions.copy() for atoms in given]
    list(relax_many(engine, given, fmax=0.05))
    for atoms, positions in zip(given, before, strict=True):
        np.testing.assert_array_equal(atoms.positions, positions)


def test_too_few_steps(engine):
    (result,) = relax_many(engine, frames()[:1], fmax=1e-4, steps=3)
    expected, _ = by_ase(engine, frames()[0], 1e-4, steps=3)
    assert not result.converged
    assert result.steps == 3
    np.testing.assert_allclose(result.atoms.positions, expected.positions, atol=1e-10)


def test_one_that_cannot_be_computed_does_not_hold_the_others(engine):
    near = molecule("CH3OH")
    near.positions[1] = near.positions[0] + [0.05, 0, 0]
    unknown = Atoms("Pt2", [[0, 0, 0], [2.5, 0, 0]])
    given = [frames()[0], near, unknown, Atoms(), frames()[2]]
    found = {result.index: result for result in relax_many(engine, given, fmax=0.05)}
    assert [found[k].converged for k in range(5)] == [True, False, False, False, True]
    assert "are 0.050 Å apart" in found[1].error
    assert "element Pt" in found[2].error
    assert found[3].error == "it has no atoms"
    assert np.isnan(found[1].energy)


def test_other_constraints_are_refused(engine):
    atoms = molecule("H2O")
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match="structure 0: constraint FixBondLengths is not kept"):
        next(relax_many(engine, [atoms]))


def test_nothing_to_do(engine):
    assert list(relax_many(engine, [])) == []


def test_charge_and_spin_of_the_engine_stay_those_of_silent_structures():
    """Also after others have left the batch: a structure that says nothing does not come to say that it is neutral."""
    torch.manual_seed(0)
    config = EscnMdConfig(
        channels=16, hidden_channels=16, edge_channels=16, layers=1, experts=3, tasks=("omat",), max_z=20, cutoff=4.0,
        charge_channels=(0, 3),
    )  # fmt: skip
    engine = Engine(EscnMd(config), Settings("cpu", "fast_pytorch", "float64"), None, "omat", charge=1, spin=2)
    neutral = molecule("CH4")
    neutral.info["charge"] = 0
    given = [Atoms("O"), molecule("H2O"), neutral]  # the atom is at rest at once, and leaves
    found = {result.index: result for result in relax_many(engine, given, fmax=1e-4, steps=6)}
    for index, atoms in enumerate(given[1:], 1):
        expected, _ = by_ase(engine, atoms, 1e-4, steps=6)
        assert found[index].energy == pytest.approx(expected.get_potential_energy(), abs=1e-9)
