"""Equations of state and nudged elastic bands, against ASE's own ways to the same numbers."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
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


def hop(shift: float = 0.0) -> list[Atoms]:
    """Gold in two neighbouring hollows of aluminium whose lower layer is fixed; the whole moved by part of the cell and wrapped."""
    ends = []
    for side in (0, 1):
        slab = fcc100("Al", (2, 2, 2), vacuum=6.0)
        add_adsorbate(slab, "Au", 1.7, "hollow")
        slab.positions[-1, 0] += side * slab.cell[0, 0] / 2
        slab.pbc = (True, True, False)
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
        slab.calc = EMT()
        BFGS(slab, logfile=None).run(fmax=0.02)
        slab.set_constraint()
        slab.positions[:, 0] += shift * slab.cell[0, 0]
        slab.wrap()
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
        ends.append(slab)
    return ends


def test_a_hop_over_the_edge_of_the_cell_is_one_within_it():
    predict = CalculatorPotential(EMT()).predict
    within, over = hop(), hop(0.5)
    assert np.ptp([atoms.positions[-1, 0] for atoms in over]) > 2.5  # wrapped to the other side
    over[1].set_constraint()  # as files lose them
    found = [find_path(predict, *ends, images=5, fmax=0.05) for ends in (within, over)]
    assert found[0].converged
    assert found[1].barrier == pytest.approx(found[0].barrier, abs=1e-6)
    assert 0.2 < found[0].barrier < 0.6  # 0.37 in ASE's tutorial, of a larger cell
    for path in found:
        positions = np.array([image.positions for image in path.images])
        assert np.abs(np.diff(positions, axis=0)).max() < 1.5
        fixed = path.images[0].get_tags() == 2
        assert np.abs(positions[:, fixed] - positions[0, fixed]).max() < 1e-9


def test_slabs_between_which_there_is_no_path():
    predict = CalculatorPotential(EMT()).predict
    first, last = hop()
    moved, bulky, other, wide = (last.copy() for _ in range(4))
    moved.set_constraint()
    moved.positions[2, 2] += 0.3
    with pytest.raises(StructureError, match=r"atom 2 \(Al\) is held by a constraint, but stands 0.300 Å elsewhere"):
        find_path(predict, first, moved)
    bulky.pbc = True
    with pytest.raises(StructureError, match=r"pbc \[True, True, False\] and \[True, True, True\]; a path has one"):
        find_path(predict, first, bulky)
    other.set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match="different constraints; fix the same atoms in both, or in one alone"):
        find_path(predict, first, other)
    wide.cell[0] *= 1.01
    with pytest.raises(StructureError, match="the ends have different cells"):
        find_path(predict, first, wide)


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
