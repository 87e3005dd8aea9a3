"""AtomJet in OpenMM, through openmm-ml: `MLPotential("atomjet", model="organic-xtb").createSystem(topology)`.

openmm-ml finds this file by the package's entry point, so nothing has to be imported. With `createMixedSystem` only the atoms that
AtomJet computes are handed over in each step. OpenMM's units are nm and kJ/mol.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import openmm
import openmm.app
from openmm import unit
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from atomjet.engine import Engine, load
from atomjet.engine.uncertainty import Watch, watched
from atomjet.errors import ConfigError, StructureError
from atomjet.units import KJ_PER_MOL

ANGSTROM_PER_NM = 10.0


class AtomJetPotentialImplFactory(MLPotentialImplFactory):
    """What openmm-ml calls for `MLPotential("atomjet", ...)`."""

    def createImpl(self, name: str, **args: Any) -> MLPotentialImpl:
        """Take what `atomjet.load` takes: `model`, and if wanted device, backend, precision, task.

        Raises:
            ConfigError: no `model`.
        """
        if "model" not in args:
            raise ConfigError(
                "no model given; write MLPotential('atomjet', model='organic-xtb'), or a path to a model file"
            )
        return AtomJetPotentialImpl(args)


class AtomJetPotentialImpl(MLPotentialImpl):
    """Adds a force that AtomJet computes.

    Args:
        options: of `atomjet.load`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        load(**options)  # says at once what is wrong with them

    def getMLLongRange(self) -> bool:
        """AtomJet's models act within a cutoff; openmm-ml asks before it mixes them with Ewald sums."""
        return False

    def addForces(
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the force of all atoms, or of some; periodic where the topology has a box or a force of the system uses one.

        Args:
            topology, system, atoms, forceGroup: openmm-ml's own.
            args: `charge`, `spin` (openmm-ml's other potentials call it `multiplicity`, which serves too) and `task` of the atoms
                that AtomJet computes.

        Raises:
            ConfigError: an argument of another name, or both spin and multiplicity.
            StructureError: a particle without an element.
        """
        info = _conditions(args)
        particles = list(topology.atoms())
        chosen = list(range(len(particles))) if atoms is None else list(atoms)
        for place in chosen:
            if particles[place].element is None:
                raise StructureError(
                    f"particle {place} ({particles[place].name}) has no element; AtomJet computes atoms"
                )
        numbers = np.array([particles[place].element.atomic_number for place in chosen])
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        force = openmm.PythonForce(EnergyAndForces(self.options, numbers, periodic, info))
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(periodic)
        if atoms is not None:
            force.setParticles(chosen)
        system.addForce(force)


def _conditions(args: dict[str, Any]) -> dict[str, Any]:
    """What the arguments say of charge, spin and task."""
    unknown = sorted(set(args) - {"charge", "spin", "multiplicity", "task"})
    if unknown:
        raise ConfigError(
            f"argument {unknown[0]!r} is unknown; createSystem takes charge, spin and task, and what atomjet.load takes goes to "
            "MLPotential('atomjet', ...)"
        )
    given = {name: value for name, value in args.items() if value is not None}
    if "multiplicity" in given:
        if "spin" in given:
            raise ConfigError("spin and multiplicity are the same, 2S + 1; give one of them")
        given["spin"] = given.pop("multiplicity")
    return given


class EnergyAndForces:
    """What OpenMM calls in every step; can be pickled, so that a System can be serialised, and loads its engine when first called.

    Args:
        options: of `atomjet.load`.
        numbers: (N,) of the atoms that are handed over.
        periodic: in all three directions of OpenMM's box, or in none.
        info: charge, spin, task, for models that know them.
    """

    def __init__(self, options: dict[str, Any], numbers: np.ndarray, periodic: bool, info: dict[str, Any]) -> None:
        self.options, self.numbers, self.periodic, self.info = options, numbers, periodic, info
        self._engine: Engine | None = None
        self._watch = Watch(None)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engine."""
        return {**self.__dict__, "_engine": None, "_watch": Watch(None)}

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces (N, 3) in kJ/mol/nm."""
        from ase import Atoms

        if self._engine is None:
            self._engine = load(**self.options)
            self._watch = Watch(self._engine.bound)
        positions: Any = state.getPositions(asNumpy=True)
        atoms = Atoms(self.numbers, positions.value_in_unit(unit.angstrom), pbc=self.periodic, info=self.info)
        if self.periodic:
            vectors: Any = state.getPeriodicBoxVectors(asNumpy=True)
            atoms.set_cell(vectors.value_in_unit(unit.angstrom))
        with watched():
            found = self._engine.predict(atoms)
        self._watch.look(found)
        return float(found.energy[0]) / KJ_PER_MOL, found.forces.numpy() / KJ_PER_MOL * ANGSTROM_PER_NM
