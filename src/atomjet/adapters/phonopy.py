"""phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001, 2023): the displacements that symmetry leaves, and what their forces mean."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomjet.errors import ConfigError, StructureError
from atomjet.units import KJ_PER_MOL

J_PER_KELVIN_MOL = KJ_PER_MOL / 1000
"""1 J/K/mol in eV/K."""


class Crystal:
    """A crystal in phonopy: first its displaced supercells, then, with their forces, its frequencies.

    Letters: P atoms of the primitive cell, N of the supercell, D displaced supercells, Q wave vectors.

    Args:
        atoms: periodic in three directions; `info` goes with every supercell.
        supercell: repetitions along the three cell vectors.
        distance: Å, of each displacement.
        symprec: Å, within which atoms count as equivalent.

    Raises:
        ConfigError: phonopy is missing.
        StructureError: phonopy finds no symmetry, not even none.
    """

    def __init__(self, atoms: Atoms, supercell: Sequence[int], distance: float, symprec: float) -> None:
        try:
            from phonopy import Phonopy
            from phonopy.structure.atoms import PhonopyAtoms
        except ImportError:
            raise ConfigError("phonons need phonopy: pip install 'atomjet[phonons]'") from None
        cell = PhonopyAtoms(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, masses=atoms.get_masses()
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a primitive cell other than the one given is what is wanted
                self._phonopy: Any = Phonopy(cell, np.diag(supercell), primitive_matrix="auto", symprec=symprec)
            self._phonopy.generate_displacements(distance=distance)
        except (RuntimeError, ValueError, TypeError) as error:  # of its several kinds
            raise StructureError(
                f"phonopy finds no symmetry within {symprec:g} Å ({' '.join(str(error).split())}); try another --symprec"
            ) from None
        self._info = dict(atoms.info)

    @property
    def primitive(self) -> Atoms:
        """The primitive cell, to which frequencies and thermal properties refer."""
        return self._to_ase(self._phonopy.primitive)

    @property
    def supercell(self) -> Atoms:
        """Without displacement."""
        return self._to_ase(self._phonopy.supercell)

    def displaced(self) -> list[Atoms]:
        """D supercells."""
        return [self._to_ase(cell) for cell in self._phonopy.supercells_with_displacements]

    @property
    def space_group(self) -> str:
        """International symbol and number, such as "Fd-3m (227)"."""
        return str(self._phonopy.symmetry.get_international_table())

    def take_forces(self, forces: np.ndarray) -> float:
        """Make force constants of (D, N, 3) eV/Å; symmetrise them, so that a translation costs nothing.

        Returns:
            The largest force on an atom when all move together, per displacement, before that: eV/Å².
        """
        self._phonopy.forces = forces
        self._phonopy.produce_force_constants(show_drift=False)
        drift = float(np.abs(self._phonopy.force_constants.sum(1)).max())
        # Each round disturbs the other of its two rules: that of translations, and that of exchanging atoms.
        self._phonopy.symmetrize_force_constants(level=ROUNDS, show_drift=False)
        return drift

    def frequencies(self, wave_vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At (Q, 3) wave vectors, in reciprocal vectors of the primitive cell.

        Returns:
            (Q, 3P) THz, lowest first, negative for imaginary ones; and (Q, 3P, P, 3) eigenvectors.
        """
        self._phonopy.run_qpoints(wave_vectors, with_eigenvectors=True)
        found = self._phonopy.qpoints
        vectors = np.swapaxes(found.eigenvectors, 1, 2)
        return found.frequencies, vectors.reshape(*found.frequencies.shape, -1, 3)

    def run_mesh(self, mesh: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(Q, 3) wave vectors of a mesh about Γ that symmetry does not make equal, and their (Q, 3P) frequencies, THz."""
        self._phonopy.run_mesh(list(mesh), is_gamma_center=True)
        found = self._phonopy.mesh
        return found.qpoints, found.frequencies

    def density_of_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies, THz, and states per THz and primitive cell, on the mesh that was run."""
        self._phonopy.run_total_dos()
        found = self._phonopy.total_dos
        return found.frequency_points, found.dos

    def thermal_properties(self, temperatures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Free energy (eV), entropy and heat capacity (eV/K) per primitive cell, on the mesh.

        Imaginary modes and the three translations at Γ are left out.
        """
        self._phonopy.run_thermal_properties(temperatures=temperatures, exclude_gamma_acoustic=True)
        found = self._phonopy.thermal_properties
        return (
            found.free_energy * KJ_PER_MOL,
            found.entropy * J_PER_KELVIN_MOL,
            found.heat_capacity * J_PER_KELVIN_MOL,
        )

    def save(self, path: Path) -> None:
        """Write phonopy's own file, force constants included."""
        with contextlib.redirect_stdout(None):
            self._phonopy.save(path, settings={"force_constants": True})

    def _to_ase(self, cell: Any) -> Atoms:
        return Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=True, masses=cell.masses, info=dict(self._info))


ROUNDS = 3
"""Rounds of symmetrising force constants, each for translations and then for exchange of the two atoms."""
