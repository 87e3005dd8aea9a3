"""Energy conservation of a smooth potential in float64: order of the time step, drift, reversibility.

Bounds: velocity Verlet's energy error is of second order, so its spread falls by 4 when the step halves.
"""

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

from atomjet import AtomJetCalculator
from atomjet.md.velocities import draw_velocities
from atomjet.models import registry

ORDER = 0.10  # relative, around 4
DRIFT = 0.01  # meV/atom/ps
REVERSAL = 1e-6  # Å


@pytest.fixture(scope="module")
def start():
    """Ethanol at the student's minimum, 300 K of velocities, no net motion."""
    if "organic-xtb" not in registry.packaged():
        pytest.skip("the packaged student is not in this tree")
    from ase.optimize import BFGS

    atoms = molecule("CH3CH2OH")
    atoms.calc = AtomJetCalculator("organic-xtb", device="cpu", precision="float64")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
    draw_velocities(atoms, 600, "nve", np.random.default_rng(1))
    return atoms


def run(start, timestep, steps):
    """Total energies (eV) along a trajectory of its own."""
    atoms = start.copy()
    atoms.calc = start.calc
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(steps)
    return atoms, np.array(energies)


def test_order_of_the_time_step(start):
    spreads = [run(start, dt, int(100 / dt))[1].std() for dt in (0.4, 0.2)]
    assert spreads[0] / spreads[1] == pytest.approx(4, rel=ORDER)


def test_drift(start):
    timestep, steps = 0.25, 2000
    energies = run(start, timestep, steps)[1]
    times = np.arange(len(energies)) * timestep / 1000
    # Whole windows of averages: a straight line through the raw energies would see their oscillation.
    windows = energies[1:].reshape(20, -1).mean(1)
    slope = np.polyfit(times[1:].reshape(20, -1).mean(1), windows, 1)[0]
    assert abs(slope) * 1000 / len(start) < DRIFT


def test_reversible(start):
    forth = run(start, 0.5, 200)[0]
    forth.set_velocities(-forth.get_velocities())
    back = run(forth, 0.5, 200)[0]
    assert np.abs(back.positions - start.positions).max() < REVERSAL
