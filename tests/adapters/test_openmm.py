"""OpenMM and openmm-ml with AtomJet's forces: a molecule alone, water in a box, and a molecule in a solvent of a force field."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

pytest.importorskip("openmmml")
import openmm
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotential as Registry

import atomjet
from atomjet.adapters.openmm import AtomJetPotentialImplFactory
from atomjet.units import KJ_PER_MOL

NM = 0.1  # per Å
UMA = Path(__file__).parents[1] / "models/escn_md/golden/uma_1p2p1.pt"

Registry.registerImplFactory(
    "atomjet", AtomJetPotentialImplFactory()
)  # as the entry point does where the package is installed


def topology_of(atoms: Atoms) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    residue = topology.addResidue("MOL", chain)
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array * NM)
    return topology


def context_of(system: openmm.System, positions: np.ndarray) -> openmm.Context:
    integrator = openmm.VerletIntegrator(0.5 * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions * NM)
    return context


def energy_and_forces(context: openmm.Context) -> tuple[float, np.ndarray]:
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL, forces * KJ_PER_MOL


def box() -> Atoms:
    water = molecule("H2O")
    water.center(vacuum=1.2)
    water.pbc = True
    return water.repeat((3, 3, 2))


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), box()], ids=["molecule", "box"])
def test_energy_forces_and_their_conservation(atoms):
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    context = context_of(potential.createSystem(topology_of(atoms)), atoms.positions)
    energy, forces = energy_and_forces(context)
    expected = atomjet.load("organic-xtb", device="cpu", precision="float64").predict(atoms)
    assert energy == pytest.approx(float(expected.energy[0]), abs=1e-8)
    np.testing.assert_allclose(forces, expected.forces.numpy(), atol=1e-10)

    def total() -> float:
        state = context.getState(energy=True)
        return (state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(unit.kilojoule_per_mole)

    context.setVelocitiesToTemperature(300, 7)
    context.getIntegrator().step(1)
    before = total()
    context.getIntegrator().step(30)
    assert abs(total() - before) * KJ_PER_MOL / len(atoms) < 2e-3


def test_a_system_can_be_serialised():
    atoms = molecule("CH3CH2OH")
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    system = potential.createSystem(topology_of(atoms))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    first, second = (energy_and_forces(context_of(one, atoms.positions)) for one in (system, again))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_a_molecule_in_a_solvent_hands_over_its_own_atoms_only():
    atoms = molecule("CH3OH")
    topology = topology_of(atoms)
    chain = topology.addChain()
    solvent = topology.addResidue("AR", chain)
    argon = app.Element.getBySymbol("Ar")  # an element that the model does not know
    for _ in range(2):
        topology.addAtom("Ar", argon, solvent)
    positions = np.concatenate([atoms.positions, [[4.0, 0, 0], [-4.0, 0, 0]]])
    mechanics = openmm.System()
    force = openmm.NonbondedForce()
    for atom in topology.atoms():
        mechanics.addParticle(atom.element.mass)
        force.addParticle(0.0, 0.34, 0.5 if atom.element is argon else 0.3)
    mechanics.addForce(force)
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    mixed = potential.createMixedSystem(topology, mechanics, list(range(len(atoms))))
    energy, forces = energy_and_forces(context_of(mixed, positions))
    alone = atomjet.load("organic-xtb", device="cpu", precision="float64").predict(atoms)
    # OpenMM's rules for unlike atoms: mean of the sizes, geometric mean of the depths.
    depth = np.where(np.arange(8) < 6, 0.3, 0.5) * KJ_PER_MOL
    pairs = [(i, j) for i in range(8) for j in (6, 7) if i < j]
    x = [3.4 / np.linalg.norm(positions[i] - positions[j]) for i, j in pairs]
    mechanical = sum(4 * np.sqrt(depth[i] * depth[j]) * (r**12 - r**6) for (i, j), r in zip(pairs, x, strict=True))
    assert energy - float(alone.energy[0]) == pytest.approx(mechanical, abs=1e-6)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-8)


def argon_and(atoms: Atoms, method: int) -> tuple[app.Topology, openmm.System]:
    """A molecule beside one argon atom in a box that the system knows and the topology may not."""
    topology = topology_of(atoms)
    argon = app.Element.getBySymbol("Ar")
    topology.addAtom("Ar", argon, topology.addResidue("AR", topology.addChain()))
    mechanics, force = openmm.System(), openmm.NonbondedForce()
    mechanics.setDefaultPeriodicBoxVectors(*(1.6 * np.eye(3)))
    for atom in topology.atoms():
        mechanics.addParticle(atom.element.mass)
        force.addParticle(0.0, 0.34, 0.0)
    force.setNonbondedMethod(method)
    force.setCutoffDistance(0.7)
    mechanics.addForce(force)
    return topology, mechanics


def test_a_molecule_that_a_box_cuts_is_whole_where_only_the_system_has_the_box():
    whole = molecule("CH3OH")
    cut = whole.positions + [[16.0, 0, 0] if x > 0 else [0, 0, 0] for x in whole.positions[:, 0]]
    topology, mechanics = argon_and(whole, openmm.NonbondedForce.CutoffPeriodic)
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    mixed = potential.createMixedSystem(topology, mechanics, list(range(len(whole))))
    energy, forces = energy_and_forces(context_of(mixed, np.concatenate([cut, [[5.0, 8, 8]]])))
    expected = atomjet.load("organic-xtb", device="cpu", precision="float64").predict(whole)
    assert energy == pytest.approx(float(expected.energy[0]), abs=1e-6)
    np.testing.assert_allclose(forces[:6], expected.forces, atol=1e-8)


def test_force_field_and_model_interpolate():
    atoms = molecule("CH3OH")
    topology, mechanics = argon_and(atoms, openmm.NonbondedForce.NoCutoff)
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    mixed = potential.createMixedSystem(topology, mechanics, list(range(len(atoms))), interpolate=True)
    context = context_of(mixed, np.concatenate([atoms.positions, [[5.0, 8, 8]]]))
    energies = []
    for share in (0.0, 0.5, 1.0):
        context.setParameter("lambda_interpolate", share)
        energies.append(energy_and_forces(context)[0])
    alone = float(atomjet.load("organic-xtb", device="cpu", precision="float64").predict(atoms).energy[0])
    assert energies == pytest.approx([0.0, alone / 2, alone], abs=1e-6)


def test_a_barostat_moves_the_box():
    atoms = box()
    system = MLPotential("atomjet", model="organic-xtb", device="cpu").createSystem(topology_of(atoms))
    system.addForce(openmm.MonteCarloBarostat(20_000 * unit.bar, 300 * unit.kelvin, 1))
    context = context_of(system, atoms.positions)
    context.setVelocitiesToTemperature(300, 7)
    context.getIntegrator().step(8)
    state = context.getState(positions=True, energy=True)
    assert state.getPeriodicBoxVolume().value_in_unit(unit.angstrom**3) != pytest.approx(atoms.get_volume(), rel=1e-6)
    moved = atoms.copy()
    moved.set_cell(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    moved.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL
    expected = atomjet.load("organic-xtb", device="cpu").predict(moved)
    assert energy == pytest.approx(float(expected.energy[0]), abs=2e-3)


def test_charge_spin_and_task_reach_a_model_that_knows_them():
    engine = atomjet.load(UMA, device="cpu", precision="float64")
    ion = molecule("OH")
    for charge, spin, words in ((-1, 1, {"spin": 1}), (1, 3, {"multiplicity": 3})):
        potential = MLPotential("atomjet", model=str(UMA), device="cpu", precision="float64")
        system = potential.createSystem(topology_of(ion), charge=charge, task="omol", **words)
        ion.info.update(charge=charge, spin=spin, task="omol")
        found = energy_and_forces(context_of(system, ion.positions))[0]
        assert found == pytest.approx(float(engine.predict(ion).energy[0]), abs=1e-7)
    with pytest.raises(atomjet.AtomJetError, match="spin and multiplicity are the same"):
        potential.createSystem(topology_of(ion), spin=1, multiplicity=1)
    with pytest.raises(atomjet.AtomJetError, match="argument 'chrage' is unknown; createSystem takes charge, spin"):
        potential.createSystem(topology_of(ion), chrage=1)


def test_what_is_refused():
    with pytest.raises(atomjet.AtomJetError, match="no model given"):
        MLPotential("atomjet")
    with pytest.raises(atomjet.AtomJetError, match="nothing-of-that-name"):
        MLPotential("atomjet", model="nothing-of-that-name")
    topology = topology_of(molecule("CH4"))
    topology.addAtom("M", None, next(topology.residues()))
    with pytest.raises(atomjet.AtomJetError, match=r"particle 5 \(M\) has no element"):
        MLPotential("atomjet", model="organic-xtb", device="cpu").createSystem(topology)


def test_atoms_too_near_stop_the_simulation():
    atoms = molecule("CH3CH2OH")
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu", precision="float64")
    context = context_of(potential.createSystem(topology_of(atoms)), atoms.positions)
    near = atoms.positions.copy()
    near[1] = near[0] + [0.1, 0, 0]
    context.setPositions(near * NM)
    with pytest.raises(openmm.OpenMMException, match="nearer than"):
        context.getState(forces=True)
