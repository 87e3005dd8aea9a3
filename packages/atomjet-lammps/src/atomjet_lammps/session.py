"""`Session`: what is asked of a LAMMPS object, and told to it, in its own words; `units metal` are AtomJet's units."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from mpi4py import MPI  # isort: skip
import numpy as np

from atomjet.errors import ConfigError

FORCES = ("Bond", "Angle", "Dihedral", "Improper", "Kspace")
"""Styles, as `info system` names them, that would add forces of their own."""


class Session:
    """A LAMMPS object and its communicator."""

    def __init__(self, lmp: Any) -> None:
        self.lmp = lmp
        self.comm: MPI.Intracomm = lmp.get_mpi_comm() or MPI.COMM_WORLD

    @property
    def num_types(self) -> int:
        """Atom types."""
        return int(self.lmp.extract_setting("ntypes"))

    def masses(self) -> list[float]:
        """Masses of the atom types, amu, in the order of the types.

        Raises:
            ConfigError: masses are not set by type.
        """
        found = self.lmp.numpy.extract_atom("mass")
        if found is None:
            raise ConfigError("masses are not set by type; set them, or name the element of each type")
        return [float(mass) for mass in np.asarray(found).flatten()[1 : self.num_types + 1]]

    def check(self) -> None:
        """Refuse what would make numbers mean something else.

        Raises:
            ConfigError: units other than metal, no ids, or styles that add forces of their own.
        """
        units = self.lmp.extract_global("units")
        if units != "metal":
            raise ConfigError(f"units {units}; AtomJet computes eV and Å, which are LAMMPS's 'units metal'")
        if not self.lmp.extract_setting("box_exist"):
            raise ConfigError("LAMMPS has no box yet; attach after read_data, read_restart or create_atoms")
        if not self.lmp.extract_setting("tag_enable"):
            raise ConfigError("atoms have no ids (atom_modify id no); AtomJet needs them")
        styles = self.styles()
        pair = styles.get("Pair", "none")
        if pair.split()[0] not in ("none", "zero"):
            raise ConfigError(
                f"pair_style {pair} would add its forces to the model's; take it out, or use 'pair_style zero'"
            )
        for name in FORCES:
            style = styles.get(name, "none").split()[0]
            if style not in ("none", "zero"):
                raise ConfigError(
                    f"{name.lower()}_style {style} would add its forces to the model's; take it out, or use 'zero'"
                )

    def styles(self) -> dict[str, str]:
        """Styles by kind (Pair, Bond, Kspace ...), as `info system` tells them."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "info"
            self.lmp.command(f"info system out overwrite {path}")
            text = path.read_text() if path.exists() else ""
        text = self.comm.bcast(text, 0)  # only the first rank is told
        found = dict(re.findall(r"^(\w+) style\s*= +(.+?)\s*$", text, re.MULTILINE))
        for counted, style in re.findall(r"^(\w+)\s+=.*style = +(.+?)\s*$", text, re.MULTILINE):
            found[{"Atoms": "Pair"}.get(counted, counted.removesuffix("s"))] = style
        return found

    def prepare(self, fix: str, cutoff: float) -> None:
        """Set what LAMMPS needs to ask: images as far as the cutoff, and the fix."""
        if self.lmp.has_id("fix", fix):
            self.lmp.command(f"unfix {fix}")
        self.lmp.commands_string(
            f"pair_style zero {cutoff}\n"
            "pair_coeff * *\n"
            f"fix {fix} all external pf/callback 1 1\n"
            f"fix_modify {fix} energy yes virial yes\n"
        )

    def atoms(self, owned: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (n, 3) Å, types (n,) and ids (n,) of own atoms and, behind them, of images."""
        number = owned + self.lmp.extract_setting("nghost")
        if not number:
            return np.zeros((0, 3)), np.zeros(0, np.int32), np.zeros(0, np.int32)
        extract = self.lmp.numpy.extract_atom
        return (
            extract("x", nelem=number, dim=3).copy(),
            extract("type", nelem=number).copy(),
            extract("id", nelem=number).copy(),
        )

    def box(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell (3, 3) rows Å, which directions are periodic (3,), and its corner (3,) Å."""
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        (lx, ly, lz) = np.subtract(high, low)
        return np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]), np.array(periodic, dtype=bool), np.array(low)

    def report(self, fix: str, energy: float, virial: np.ndarray, atomic: np.ndarray) -> None:
        """Hand over the energy (eV), the virial (3, 3) eV in LAMMPS's sign (minus dE/dstrain), and the own atoms' energies."""
        self.lmp.fix_external_set_energy_global(fix, energy)
        order = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
        self.lmp.fix_external_set_virial_global(fix, [float(virial[place]) for place in order])
        self.lmp.fix_external_set_energy_peratom(fix, atomic.tolist())
