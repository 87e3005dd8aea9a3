"""Run by mpirun: LAMMPS with AtomJet on these ranks, against AtomJet alone; rank 0 writes what it found as JSON."""

import json
import sys
import warnings
from collections.abc import Callable

from mpi4py import MPI  # isort: skip
import atomjet_lammps
import inputs
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_masses
from lammps import lammps

import atomjet
from atomjet.engine import Engine, Settings
from atomjet.models.escn_md import EscnMd, EscnMdConfig
from atomjet.models.painn.fast_pytorch import FastPyTorch
from atomjet.testing.plain import Buffered

COMM = MPI.COMM_WORLD


def water(side: int, seed: int = 0) -> Atoms:
    """side³ molecules, each turned at random, on a cubic lattice, shaken a little."""
    rng = np.random.default_rng(seed)
    a, one = 3.105, molecule("H2O")
    one.positions -= one.get_center_of_mass()
    atoms = Atoms(cell=[side * a] * 3, pbc=True)
    for place in np.ndindex(side, side, side):
        turned = one.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3), center=(0, 0, 0))
        turned.positions += (np.array(place) + 0.5) * a
        atoms += turned
    atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
    return atoms


def structures() -> dict[str, Atoms]:
    """Periodic, triclinic, slab, and a molecule in a corner that leaves ranks without atoms."""
    triclinic, slab = water(3), water(3)
    triclinic.set_cell(triclinic.cell.array + np.array([[0, 0, 0], [1.5, 0, 0], [-1.0, 1.2, 0]]), scale_atoms=True)
    slab.pbc = (True, True, False)
    slab.cell[2, 2] += 6.0
    corner = molecule("CH3CH2OH")
    corner.positions += 4.0 - corner.positions.min(0)
    corner.cell, corner.pbc = [60.0] * 3, False
    return {"periodic": water(3), "triclinic": triclinic, "slab": slab, "corner": corner}


def make(atoms: Atoms, temperature: float = 300.0, skin: float = 1.0, first: str = "") -> lammps:
    """A LAMMPS object that holds these atoms, ids in their order; `first` are commands before there is a box."""
    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    c = atoms.cell.array
    elements = sorted(set(atoms.numbers.tolist()))
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    tilts = f"{c[1, 0]} {c[2, 0]} {c[2, 1]}"
    shape = f"0 {c[0, 0]} 0 {c[1, 1]} 0 {c[2, 2]}"
    box = f"prism {shape} {tilts}" if any(tilts.split()[k] != "0.0" for k in range(3)) else f"block {shape}"
    lmp.commands_string(
        f"units metal\natom_style atomic\natom_modify map yes\nboundary {boundary}\n{first}\n"
        f"region box {box}\ncreate_box {len(elements)} box\n"
    )
    x = atoms.get_positions(wrap=True)
    lmp.create_atoms(
        len(atoms), list(range(1, len(atoms) + 1)), [elements.index(z) + 1 for z in atoms.numbers], x.flatten().tolist()
    )
    for place, number in enumerate(elements):
        lmp.command(f"mass {place + 1} {atomic_masses[number]}")
    lmp.commands_string(
        f"neighbor {skin} bin\nneigh_modify every 1 delay 0 check yes\ntimestep 0.0005\n"
        f"velocity all create {temperature} 4928 mom yes rot yes dist gaussian\nfix nve all nve\n"
        "thermo_style custom step pe ke etotal press\n"
        "compute atomic all pe/atom fix\ncompute summed all reduce sum c_atomic\n"
    )
    return lmp


def gathered(driver: atomjet_lammps.Driver, lmp: lammps, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Forces and positions of all atoms, by id, from every rank's last step."""
    last = driver.last
    assert last is not None
    owned = len(last.ids)
    x = lmp.numpy.extract_atom("x", nelem=owned, dim=3).copy() if owned else np.zeros((0, 3))
    forces, positions = np.zeros((number, 3)), np.zeros((number, 3))
    for ids, f, there in COMM.allgather((last.ids, last.forces, x)):
        forces[ids - 1], positions[ids - 1] = f, there
    return forces, positions


def student(backend: str) -> Engine:
    """The packaged PaiNN."""
    return atomjet.load("organic-xtb", device="cpu", precision="float64", backend=backend)


def uma(backend: str) -> Engine:
    """A small eSCN-MD of random weights whose charge, spin and nearest neighbours count."""
    torch.manual_seed(0)
    config = EscnMdConfig(
        channels=8, hidden_channels=8, edge_channels=8, layers=2, experts=3, tasks=("omol", "omat"), max_z=20, cutoff=4.0,
        charge_channels=(0, 3), spin_channels=(3, 5), max_neighbors=25,
    )  # fmt: skip
    return Engine(EscnMd(config), Settings("cpu", backend, "float64"), None, "omat", charge=1, spin=2)


def compare(
    atoms: Atoms,
    backend: str,
    steps: int,
    temperature: float = 300.0,
    skin: float = 1.0,
    load: Callable[[str], Engine] = student,
) -> dict[str, object]:
    """Forces, energy and pressure after some steps, against AtomJet alone at the positions that LAMMPS reached."""
    engine = load(backend)
    lmp = make(atoms, temperature, skin)
    driver = atomjet_lammps.attach(lmp, engine)
    lmp.command(f"run {steps}")
    forces, positions = gathered(driver, lmp, len(atoms))
    there = atoms.copy()
    there.positions = positions
    whole = load("general").predict(there)
    found = {
        "ranks": COMM.size,
        "owned": COMM.allgather(len(driver.last.ids)),  # type: ignore[union-attr]
        "force": float(np.abs(forces - whole.forces.numpy()).max()),
        "energy": abs(float(whole.energy[0]) - lmp.get_thermo("pe")),
        "atomic": abs(float(whole.energy[0]) - lmp.extract_compute("summed", 0, 0)),
        "total": lmp.get_thermo("etotal"),
        "builds": driver.halo_builds,
        "sent": COMM.allreduce(driver.halo.numbers_sent if driver.halo else 0),
        "ghosts": COMM.allreduce(driver.halo.total - driver.halo.owned if driver.halo else 0),
        "exchanges": driver.halo.exchanges if driver.halo else 0,
    }
    if atoms.pbc.all():
        found["virial"] = float(np.abs(driver.last.virial / atoms.get_volume() - whole.stress[0].numpy()).max())  # type: ignore[union-attr]
    lmp.close()
    return found


def repeated_runs() -> dict[str, object]:
    """Two runs and a minimisation on one object, then a restart file read by another one."""
    engine = student("fast_pytorch")
    lmp = make(water(2))
    atomjet_lammps.attach(lmp, engine, types=["H", "O"])
    lmp.command("run 3")
    lmp.command("run 3")
    lmp.command("minimize 0 1e-3 20 200")
    before = lmp.get_thermo("pe")
    lmp.command(f"write_restart {sys.argv[2]}")
    lmp.close()
    again = lammps(cmdargs=["-log", "none", "-screen", "none"])
    again.command(f"read_restart {sys.argv[2]}")
    atomjet_lammps.attach(again, engine)
    again.command("run 0")
    after = again.get_thermo("pe")
    again.close()
    return {"before": before, "after": after}


def refusals() -> dict[str, str]:
    """What attach says, on this rank, of inputs that mean something else and of ranks that do not go together."""
    engine, last = student("fast_pytorch"), COMM.rank == COMM.size - 1
    captured = engine.with_settings()
    captured.evaluator = Buffered(engine.model, FastPyTorch(engine.model), silent_conditions=(0, 0, 0, 0))
    found = {}

    def attempt(name: str, commands: str, given: Engine = engine, **words: object) -> None:
        lmp = make(water(2))
        try:
            lmp.commands_string(commands)
            if name == "old":
                lmp.version = lambda: 20240829
            atomjet_lammps.attach(lmp, given, **words)  # type: ignore[arg-type]
            found[name] = "accepted"
        except atomjet.AtomJetError as error:
            found[name] = str(error)
        lmp.close()

    attempt("pair", "pair_style lj/cut 5.0\npair_coeff * * 0.01 3.0\n")
    attempt("mass", "mass 1 15.4\n")
    attempt("types", "", types=["H"])
    attempt("symbol", "", types=["H", "Ox"])
    attempt("gcmc", "fix g all gcmc 1 5 0 1 29494 300.0 -0.5 0.01")
    attempt(
        "flux",
        "compute k all ke/atom\ncompute p all pe/atom\ncompute s all stress/atom NULL\ncompute h all heat/flux k p s",
    )
    attempt("old", "")
    if COMM.size > 1:
        attempt("captured", "", captured if last else engine)
        attempt("backend", "", student("general") if last else engine)
        attempt("other types", "", types=["O", "H"] if last else ["H", "O"])
        attempt("charge", "", uma("general").with_settings(charge=-1) if last else uma("general"))
    for name, first in (("units", "units real"), ("ids", "units metal\natom_modify id no")):
        lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
        lmp.commands_string(f"{first}\nregion box block 0 9 0 9 0 9\ncreate_box 1 box\nmass 1 12.011\n")
        try:
            atomjet_lammps.attach(lmp, engine)
        except atomjet.AtomJetError as error:
            found[name] = str(error)
        lmp.close()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found: dict[str, object] = {
        f"{name} {backend}": compare(atoms, backend, 0)
        for name, atoms in structures().items()
        for backend in ("general", "fast_pytorch")
    }
    warnings.simplefilter("ignore")  # of neighbours beyond the limit, which binds here
    found |= {
        f"{name} uma {backend}": compare(structures()[name], backend, 2, load=uma)
        for name in ("triclinic", "corner")
        for backend in ("general", "fast_pytorch")
    }
    found["hot"] = compare(water(2, 1), "fast_pytorch", 40, 3000.0, 0.2)
    found["long"] = compare(water(2), "fast_pytorch", int(sys.argv[3]))
    found["repeated"] = repeated_runs()
    found["refusals"] = COMM.allgather(refusals())
    found["inputs"] = inputs.cases(make, water, student("fast_pytorch"))
    if COMM.rank == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(found, file)
