"""ASE's integrators: which one serves an ensemble, and the state by which it continues exactly.

nve: velocity Verlet. nvt: Langevin (Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006)). npt: isotropic
Martyna-Tobias-Klein with Nose-Hoover chains (J. Chem. Phys. 101, 4177 (1994)).
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet

from atomjet.md.settings import DEFAULT_FRICTION, MDSettings
from atomjet.md.velocities import degrees_of_freedom
from atomjet.units import GPA

THERMOSTAT_TIME = 100.0
"""Time constant, fs, of the Nose-Hoover chain on the atoms (npt)."""

BAROSTAT_TIME = 1000.0
"""Time constant, fs, of the volume (npt)."""

CONTINUED = ("_q", "_p", "_eps", "_p_eps", "_volume0", "_cell0")
CONTINUED_THERMOSTAT = ("_eta", "_p_eta")
CONTINUED_BAROSTAT = ("_xi", "_p_xi")
"""What the Martyna-Tobias-Klein integrator carries from step to step. ASE gives no public name to it; the test of exact
continuation fails should ASE rename it."""


def build_dynamics(atoms: Atoms, settings: MDSettings, generator: np.random.Generator) -> MolecularDynamics:
    """Return ASE's integrator for the ensemble; `generator` feeds the Langevin noise."""
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if settings.ensemble == "nvt":
        friction = DEFAULT_FRICTION if settings.friction is None else settings.friction
        # fixcm=True would not sample the canonical distribution of a small system.
        return Langevin(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            friction=friction / (1000.0 * units.fs),
            fixcm=False,
            rng=generator,
        )
    # ASE's chain shares the heat among all 3N components, though the total momentum is conserved and holds none.
    share = degrees_of_freedom(atoms, "npt") / (3 * len(atoms))
    return IsotropicMTKNPT(
        atoms,
        timestep,
        temperature_K=settings.temperature * (share or 1.0),
        pressure_au=(settings.pressure or 0.0) * GPA,
        tdamp=THERMOSTAT_TIME * units.fs,
        pdamp=BAROSTAT_TIME * units.fs,
    )


def take_step(dynamics: MolecularDynamics, forces: np.ndarray | None) -> np.ndarray:
    """One time step. Give the forces that the last step returned, or None at first; return the new ones.

    The calculator could be asked again, but would first compare the atoms with those it knows, which for a small molecule
    takes a good part of the time that its forces take.
    """
    if isinstance(dynamics, IsotropicMTKNPT):
        dynamics.step()
        return dynamics.atoms.get_forces(md=True)
    return dynamics.step(forces)  # type: ignore[attr-defined]


def get_state(dynamics: MolecularDynamics) -> dict[str, np.ndarray]:
    """Everything beside positions, momenta, cell and noise that the next step depends on."""
    return {name: np.array(getattr(owner, key)) for name, owner, key in _continued(dynamics)}


def set_state(dynamics: MolecularDynamics, state: dict[str, np.ndarray]) -> None:
    """Put back what `get_state` returned."""
    for name, owner, key in _continued(dynamics):
        value = state[name]
        setattr(owner, key, value.copy() if value.ndim else float(value))


def _continued(dynamics: MolecularDynamics) -> list[tuple[str, object, str]]:
    """Name in the state, object and attribute of each thing that is carried on."""
    if not isinstance(dynamics, IsotropicMTKNPT):
        return []
    owners = [
        (dynamics, CONTINUED),
        (dynamics._thermostat, CONTINUED_THERMOSTAT),
        (dynamics._barostat, CONTINUED_BAROSTAT),
    ]
    return [(f"dynamics{key}", owner, key) for owner, keys in owners for key in keys]
