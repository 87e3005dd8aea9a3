"""OpenMM and openmm-ml with AtomJet's forces: a molecule alone, water in a box, and a molecule in a solvent of a force field."""

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
