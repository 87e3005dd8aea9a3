"""Path integrals of water in i-PI, eight beads a molecule: all beads in one call of AtomJet, and bead by bead through a socket.

Needs i-PI: `pip install ipi`.
"""

import multiprocessing
import os
import time

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.socketio import SocketClient
from ase.io import read, write
from ipi.scripting import InteractiveSimulation

from atomjet import AtomJetCalculator
from atomjet.adapters import ipi as driver
from atomjet.units import BOLTZMANN

BEADS, STEPS, TEMPERATURE = 8, 20, 300.0
TEMPLATE = "water.xyz"

INPUT = """<simulation verbosity="quiet">
  <output prefix="{name}">
    <properties stride="10" filename="out">[step, conserved, potential, kinetic_cv]</properties>
  </output>
  <prng><seed>7</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads="{beads}">
      <file mode="ase" units="angstrom">{template}</file>
      <velocities mode="thermal" units="kelvin">{temperature}</velocities>
    </initialize>
    <forces><force forcefield="atomjet"/></forces>
    <motion mode="dynamics">
      <dynamics mode="nvt">
        <timestep units="femtosecond">0.5</timestep>
        <thermostat mode="pile_g"><tau units="femtosecond">25</tau></thermostat>
      </dynamics>
    </motion>
    <ensemble><temperature units="kelvin">{temperature}</temperature></ensemble>
  </system>
</simulation>"""

TOGETHER = """<ffdirect name="atomjet">
    <pes>custom</pes> <pes_path>{path}</pes_path> <batch_size>{beads}</batch_size>
    <parameters>{{template: {template}, model: organic-xtb, device: cpu, precision: high}}</parameters>
  </ffdirect>"""

ONE_BY_ONE = '<ffsocket name="atomjet" mode="unix" pbc="false"><address>{address}</address></ffsocket>'


def water() -> Atoms:
    """Eight molecules at the corners of a cube, turned at random, in a cell that is wide and not periodic."""
    generator = np.random.default_rng(1)
    cluster = Atoms(cell=[30.0] * 3)
    for corner in np.ndindex(2, 2, 2):
        one = molecule("H2O")
        one.rotate(generator.uniform(0, 360), generator.normal(size=3))
        one.positions += 2.9 * np.array(corner)
        cluster += one
    cluster.center()
    return cluster


def serve(address: str) -> None:
    """Answer i-PI with ASE's socket client until it says goodbye."""
    torch.set_num_threads(1)  # i-PI keeps a core busy with waiting
    atoms = read(TEMPLATE)
    atoms.calc = AtomJetCalculator("organic-xtb", device="cpu", precision="high")
    SocketClient(unixsocket=address).run(atoms, use_stress=False)


def simulate(name: str, forcefield: str) -> tuple[float, float, float]:
    """Potential and quantum kinetic energy after some steps, eV, and beads a second."""
    settings = {"name": name, "beads": BEADS, "template": TEMPLATE, "temperature": TEMPERATURE}
    simulation = InteractiveSimulation(INPUT.format(forcefield=forcefield, **settings))
    simulation.run(2)  # the first steps load and compile
    start = time.perf_counter()
    simulation.run(STEPS)
    rate = BEADS * STEPS / (time.perf_counter() - start)
    simulation.stop()
    return simulation.properties("potential"), simulation.properties("kinetic_cv"), rate


def main() -> None:
    """Simulate twice from the same start, and compare."""
    torch.set_num_threads(1)
    atoms = water()
    write(TEMPLATE, atoms, format="extxyz")
    print(f"{len(atoms) // 3} molecules of water, {BEADS} beads, {TEMPERATURE:g} K")
    together = TOGETHER.format(path=driver.__file__, beads=BEADS, template=TEMPLATE)
    potential, kinetic, rate = simulate("together", together)
    classical = 1.5 * BOLTZMANN * TEMPERATURE * len(atoms)
    print(f"kinetic energy {kinetic:.2f} eV, of classical nuclei {classical:.2f} eV")
    print(f"all beads in one call: {rate:.0f} beads/s")

    address = f"atomjet-{os.getpid()}"
    client = multiprocessing.get_context("spawn").Process(target=serve, args=(address,), daemon=True)
    client.start()
    again, _, slower = simulate("one-by-one", ONE_BY_ONE.format(address=address))
    print(f"bead by bead through a socket: {slower:.0f} beads/s")
    print(f"potential energies {potential:.6f} and {again:.6f} eV")
    client.join()


if __name__ == "__main__":
    main()
