"""Methanol under AtomJet in water under TIP3P, in OpenMM. Needs OpenMM and openmm-ml: `pip install '.[openmm]'`."""

import io

from ase.build import molecule
from openmm import LangevinMiddleIntegrator, app, unit
from openmmml import MLPotential

# Charge / e, σ / nm and ε / (kJ/mol) of OPLS-AA, which the water feels; between methanol's own atoms only the model acts.
PARAMETERS = {
    "C": (0.145, 0.350, 0.276),
    "O": (-0.683, 0.312, 0.711),
    "H1": (0.040, 0.250, 0.126),
    "H2": (0.418, 0.1, 0.0),  # of the hydroxyl group
    "H3": (0.040, 0.250, 0.126),
    "H4": (0.040, 0.250, 0.126),
}
BONDS = [("C", "O"), ("C", "H1"), ("O", "H2"), ("C", "H3"), ("C", "H4")]
ELEMENTS = {name: app.Element.getBySymbol(name[0]) for name in PARAMETERS}


def force_field() -> app.ForceField:
    """TIP3P, and methanol's charges and Lennard-Jones parameters; its bonds need none, the model has them."""
    types = "".join(
        f'<Type name="{name}" class="{name}" element="{element.symbol}" mass="{element.mass._value}"/>'
        for name, element in ELEMENTS.items()
    )
    atoms = "".join(f'<Atom name="{name}" type="{name}"/>' for name in PARAMETERS)
    bonds = "".join(f'<Bond atomName1="{one}" atomName2="{other}"/>' for one, other in BONDS)
    terms = "".join(
        f'<Atom type="{name}" charge="{q}" sigma="{sigma}" epsilon="{epsilon}"/>'
        for name, (q, sigma, epsilon) in PARAMETERS.items()
    )
    text = f"""<ForceField><AtomTypes>{types}</AtomTypes>
      <Residues><Residue name="MOH">{atoms}{bonds}</Residue></Residues>
      <NonbondedForce coulomb14scale="0.8333333333333334" lj14scale="0.5">{terms}</NonbondedForce></ForceField>"""
    return app.ForceField("amber14/tip3p.xml", io.StringIO(text))


def methanol() -> app.Modeller:
    """One molecule, atoms in the order of `PARAMETERS`."""
    topology = app.Topology()
    residue = topology.addResidue("MOH", topology.addChain())
    atoms = {name: topology.addAtom(name, element, residue) for name, element in ELEMENTS.items()}
    for one, other in BONDS:
        topology.addBond(atoms[one], atoms[other])
    return app.Modeller(topology, molecule("CH3OH").positions * unit.angstrom)


def main() -> None:
    """Minimise, then 50 steps of 0.5 fs at 300 K."""
    field = force_field()
    modeller = methanol()
    modeller.addSolvent(field, model="tip3p", boxSize=(2.0, 2.0, 2.0) * unit.nanometer)
    mechanics = field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer)
    potential = MLPotential("atomjet", model="organic-xtb", device="cpu")
    system = potential.createMixedSystem(modeller.topology, mechanics, list(range(6)))
    integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=50)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    simulation.step(50)
    state = simulation.context.getState(energy=True)
    print(f"{system.getNumParticles()} atoms, 6 of them by AtomJet, the others by TIP3P")
    print(f"potential energy {state.getPotentialEnergy()}, kinetic energy {state.getKineticEnergy()}")


if __name__ == "__main__":
    main()
