"""Equations of state and nudged elastic bands, against ASE's own ways to the same numbers."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

import atomjet
from atomjet.adapters.potential import CalculatorPotential
from atomjet.errors import ConfigError, SimulationError, StructureError
from atomjet.md.eos import equation_of_state
from atomjet.md.neb import find_path
from atomjet.units import GPA


@pytest.fixture(scope="module")
def engine():
    return atomjet.load("organic-xtb", device="cpu", precision="float64")


def test_bulk_modulus_of_copper_by_a_calculator_with_a_known_one(tmp_path):
    potential = CalculatorPotential(EMT())
    picture = tmp_path / "eos.png"
    found = equation_of_state(potential.predict, bulk("Cu", "fcc", 3.6), plot=picture)
    assert (4 * found.volume) ** (1 / 3) == pytest.approx(3.59, abs=0.01)
    # From the stress: B = -V dp/dV.
    pressures = []
    for ratio in (0.999, 1.001):
        atoms = bulk("Cu", "fcc", (4 * found.volume * ratio) ** (1 / 3))
        atoms.calc = EMT()
        pressures.append(-atoms.get_stress()[:3].mean() / GPA)
    assert found.bulk_modulus == pytest.approx((pressures[0] - pressures[1]) / 0.002, rel=0.02)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_no_equation_of_state_has(engine):
    with pytest.raises(StructureError, match="needs three periodic directions"):
        equation_of_state(engine.predict, molecule("H2O"))
    crystal = bulk("C", "diamond", 3.55)
    with pytest.raises(ConfigError, match="strain 2 must lie between 0 and 1"):
        equation_of_state(engine.predict, crystal, strain=2)
    with pytest.raises(ConfigError, match="points 3: a fit needs 5 or more"):
        equation_of_state(engine.predict, crystal, points=3)
    with pytest.raises(ConfigError, match="form 'line' is not known"):
        equation_of_state(engine.predict, crystal, form="line")


def inversion(engine):
    """Ammonia, and the same with its nitrogen on the other side."""
    first = molecule("NH3")
    first.calc = atomjet.AtomJetCalculator(engine)
    BFGS(first, logfile=None).run(fmax=0.01)
    last = first.copy()
    last.positions[:, 2] *= -1
    last.positions += first.get_center_of_mass() - last.get_center_of_mass()
    return first, last


def test_the_barrier_of_ammonia_is_that_of_ases_band(engine):
    first, last = inversion(engine)
    found = find_path(engine.predict, first, last, images=7, fmax=0.03)
    assert found.converged
    flat = found.images[3]
    assert np.ptp(flat.positions[:, 2]) < 0.02
    images = [first.copy() for _ in range(6)] + [last.copy()]
    for image in images:
        image.calc = atomjet.AtomJetCalculator(engine)
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate(method="idpp")
    FIRE(band, logfile=None).run(fmax=0.03, steps=500)
    energies = [image.get_potential_energy() for image in images]
    assert found.barrier == pytest.approx(max(energies) - energies[0], abs=2e-3)


def test_bands_that_cannot_be(engine):
    first, last = inversion(engine)
    with pytest.raises(StructureError, match="they are H3N and H2O"):
        find_path(engine.predict, first, molecule("H2O"))
    with pytest.raises(StructureError, match="in the same order; atom 0 differs"):
        find_path(engine.predict, first, last[[1, 0, 2, 3]])
    with pytest.raises(ConfigError, match="images 2"):
        find_path(engine.predict, first, last, images=2)


def test_a_band_that_is_cut_short(engine):
    first, last = inversion(engine)
    found = find_path(engine.predict, first, last, images=5, fmax=1e-4, steps=4)
    assert not found.converged
    assert found.steps == 4


def test_energies_without_a_minimum():
    def falling(frames):
        found = CalculatorPotential(EMT()).predict(frames)
        found.energy[:] = -torch.arange(len(frames), dtype=torch.float64)
        return found

    with pytest.raises(SimulationError, match="lowest at the largest volume, 12.36 Å³.*relax the cell first"):
        equation_of_state(falling, bulk("Cu", "fcc", 3.6))
