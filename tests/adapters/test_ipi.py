"""i-PI with AtomJet's forces: units and virial as i-PI's own driver of ASE calculators has them, beads in one call, dynamics."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet.adapters.ipi import AtomJetDriver
from atomjet.units import BOHR, HARTREE


def box() -> Atoms:
    """Water in a cell whose columns i-PI wants upper triangular."""
    water = molecule("H2O")
    water.center(vacuum=1.3)
    water.pbc = True
    water = water.repeat((2, 2, 1))
    water.set_cell(water.cell.array + np.array([[0, 0, 0], [0.5, 0, 0], [0.2, 0.1, 0]]), scale_atoms=True)
    water.rattle(0.03, seed=2)
    return water


def driver_of(atoms: Atoms, folder, **options) -> AtomJetDriver:
    atoms.write(folder / "start.extxyz")
    return AtomJetDriver(str(folder / "start.extxyz"), device="cpu", precision="float64", **options)


def sent(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    return atoms.cell.array.T / BOHR, atoms.positions / BOHR


@pytest.mark.parametrize("atoms", [box(), molecule("CH3OH")], ids=["periodic", "molecule"])
def test_beads_of_one_call_are_those_of_many(atoms, tmp_path):
    driver = driver_of(atoms, tmp_path)
    beads = [atoms.copy() for _ in range(4)]
    for k, bead in enumerate(beads):
        bead.rattle(0.05, seed=k)
    cells, positions = zip(*map(sent, beads), strict=True)
    together = driver(list(cells), list(positions))
    for bead, cell, x, (energy, forces, virial, remarks) in zip(beads, cells, positions, together, strict=True):
        alone = driver(cell, x)
        expected = driver.engine.predict(bead)
        assert energy == pytest.approx(alone[0], abs=1e-9)
        assert energy == pytest.approx(float(expected.energy[0]) / HARTREE, abs=1e-9)
        np.testing.assert_allclose(forces, alone[1], atol=1e-10)
        np.testing.assert_allclose(forces, expected.forces * BOHR / HARTREE, atol=1e-10)
        np.testing.assert_allclose(virial, alone[2], atol=1e-10)
        assert remarks == ""


def test_the_virial_is_minus_the_derivative_by_strain(tmp_path):
    atoms, step = box(), 1e-4
    driver = driver_of(atoms, tmp_path)
    virial = driver(*sent(atoms))[2]
    numeric = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(driver(*sent(strained))[0])
        numeric[i, j] = (energies[0] - energies[1]) / (2 * step)
    np.testing.assert_allclose(virial, -numeric, atol=1e-7)


def test_numbers_are_those_of_ipis_own_driver_of_ase(tmp_path):
    pytest.importorskip("ipi")
    from ipi.pes._ase import ASEDriver

    atoms = box()
    driver = driver_of(atoms, tmp_path)
    theirs = ASEDriver(str(tmp_path / "start.extxyz"))
    theirs.ase_calculator = atomjet.AtomJetCalculator(driver.engine, remarks=False)
    for ours, expected in zip(driver(*sent(atoms))[:3], theirs.compute_structure(*sent(atoms))[:3], strict=True):
        # The two packages' Bohr and Hartree are of different years.
        np.testing.assert_allclose(np.ravel(ours), np.ravel(expected), rtol=1e-6, atol=1e-6)


INPUT = """<simulation verbosity="quiet">
  <output prefix="run"><properties filename="out">[conserved]</properties></output>
  <prng><seed>3</seed></prng>
  <ffdirect name="atomjet">
    <pes>custom</pes> <pes_path>{path}</pes_path> <batch_size>4</batch_size>
    <parameters>{{template: start.extxyz, device: cpu, precision: float64, charge: 0}}</parameters>
  </ffdirect>
  <system>
    <initialize nbeads="4"> <file mode="ase" units="angstrom">start.extxyz</file>
      <velocities mode="thermal" units="kelvin">300</velocities> </initialize>
    <forces><force forcefield="atomjet"/></forces>
    <motion mode="dynamics"> <dynamics mode="nve"><timestep units="femtosecond">0.2</timestep></dynamics> </motion>
    <ensemble><temperature units="kelvin">300</temperature></ensemble>
  </system>
</simulation>"""


@pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning", "ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ring_polymer_keeps_its_energy_with_one_call_a_step(tmp_path, monkeypatch):
    scripting = pytest.importorskip("ipi.scripting")
    from atomjet.adapters import ipi as driver

    monkeypatch.chdir(tmp_path)
    water = molecule("H2O", cell=[20, 20, 20])
    water.write("start.extxyz")
    simulation = scripting.InteractiveSimulation(INPUT.format(path=driver.__file__))
    engine = simulation.fflist["atomjet"].driver.engine
    sizes, predict = [], engine.predict
    monkeypatch.setattr(engine, "predict", lambda system: sizes.append(system.num_systems) or predict(system))
    energies = []
    for _ in range(25):
        simulation.run(1)
        energies.append(simulation.properties("conserved"))
    simulation.stop()
    assert sizes[0] == 4
    assert set(sizes) == {4}
    assert len(sizes) <= 26
    assert np.ptp(energies) < 2e-3
    assert simulation.properties("kinetic_cv") > 3 * 0.03878  # hydrogen is far from classical: 3/2 kT each


def test_what_is_refused(tmp_path):
    with pytest.raises(atomjet.AtomJetError, match="no template given; i-PI sends no elements"):
        AtomJetDriver()
    with pytest.raises(atomjet.AtomJetError, match=r"template .*none\.xyz cannot be read: .*No such file"):
        AtomJetDriver(str(tmp_path / "none.xyz"))
    with pytest.raises(atomjet.AtomJetError, match="charge is 'much'; it must be a whole number"):
        driver_of(molecule("H2O"), tmp_path, charge="much")
    driver = driver_of(molecule("H2O"), tmp_path, charge="0.0")
    cell, positions = sent(molecule("CH4", cell=[20, 20, 20]))
    with pytest.raises(atomjet.AtomJetError, match="i-PI sends 5 atoms, the template has 3"):
        driver(cell, positions)
