"""Run by torchrun: every process evaluates the atoms it owns, and says how far the sum is from one process alone."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet.data import ExchangeHalo
from atomjet.engine import Engine, Settings, TorchHalo, owned_part, predict_shared
from atomjet.models.escn_md import EscnMd, EscnMdConfig


def water(side: int, a: float = 3.105) -> Atoms:
    """side³ molecules of water, each turned at random, on a cubic lattice."""
    rng = np.random.default_rng(0)
    atoms = Atoms(cell=[side * a] * 3, pbc=True)
    for place in np.ndindex(side, side, side):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += (np.array(place) + 0.5) * a
        atoms += one
    return atoms


def structures() -> dict[str, Atoms]:
    """Periodic, triclinic, slab, and a molecule that leaves most processes without atoms."""
    periodic, slab = water(3), water(3)
    triclinic = water(3)
    triclinic.set_cell(triclinic.cell[:] @ np.array([[1, 0, 0], [0.2, 1, 0], [-0.1, 0.15, 1]]), scale_atoms=True)
    slab.pbc = (True, True, False)
    corner = molecule("CH3CH2OH")
    corner.center(vacuum=1.0)
    corner.set_cell([30, 30, 30])
    corner.pbc = True
    return {"periodic": periodic, "triclinic": triclinic, "slab": slab, "corner": corner}


def share(engine: atomjet.Engine, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, ExchangeHalo, atomjet.System]:
    """Forces of all atoms and the virial, from what each process computes of a slice along x; the last owns nothing."""
    rank, size = dist.get_rank(), dist.get_world_size()
    system = atomjet.System.from_ase(atoms)
    graph = engine.search(system)
    slices = max(1, size - 1)
    scaled = (atoms.positions[:, 0] - atoms.positions[:, 0].min()) / (np.ptp(atoms.positions[:, 0]) + 1e-9)
    owner = torch.from_numpy((scaled * slices).astype(int).clip(0, slices - 1))
    ids, ghosts, part = owned_part(graph, owner, rank)
    halo = TorchHalo(ids, ghosts)
    mine = predict_shared(engine, replace(part, halo=halo), torch.cat([ids, ghosts]))
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces[ids] = mine.forces
    dist.all_reduce(forces)
    return forces, torch.cat([mine.energy, mine.virial.flatten()]), halo, system


def student(backend: str) -> Engine:
    """The packaged PaiNN."""
    return atomjet.load("organic-xtb", device="cpu", precision="float64", backend=backend)


def uma(backend: str) -> Engine:
    """A small eSCN-MD of random weights whose edges, charges and spins all count."""
    torch.manual_seed(0)
    config = EscnMdConfig(
        channels=16, hidden_channels=16, edge_channels=16, layers=2, experts=3, tasks=("omol", "omat"), max_z=20, cutoff=4.0,
        charge_channels=(0, 3), spin_channels=(3, 5), max_neighbors=25,
    )  # fmt: skip
    return Engine(EscnMd(config), Settings("cpu", backend, "float64"), None, "omat", charge=1, spin=2)


def compare(name: str, atoms: Atoms, backend: str, load: Callable[[str], Engine] = student) -> dict[str, object]:
    """How far the shared evaluation is from the definition in one process."""
    forces, totals, halo, _ = share(load(backend), atoms)
    whole = load("general").predict(atoms)
    found = {"force": float((forces - whole.forces).abs().max()), "energy": float((totals[0] - whole.energy[0]).abs())}
    if atoms.pbc.all():
        stress = totals[1:].reshape(3, 3) / atoms.get_volume()
        found["stress"] = float((stress - whole.stress[0]).abs().max())
    ghosts = halo.total - halo.owned
    return {"case": name, "backend": backend, "owned": halo.owned, "ghosts": ghosts, "sent": halo.numbers_sent, **found}


def refuse() -> dict[str, object]:
    """One process holds atoms too near each other; all must say so."""
    atoms = water(3)
    atoms.positions[1] = atoms.positions[0] + [0.05, 0, 0]
    engine = atomjet.load("organic-xtb", device="cpu", precision="float64", backend="fast_pytorch")
    try:
        share(engine, atoms)
    except atomjet.AtomJetError as error:
        return {"case": "refused", "text": str(error)}
    return {"case": "refused", "text": "nothing"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rows = [
        compare(name, atoms, backend) for name, atoms in structures().items() for backend in ("general", "fast_pytorch")
    ]
    warnings.simplefilter("ignore")  # of neighbours beyond the limit, which binds here
    rows += [compare(f"uma {name}", atoms, "general", uma) for name, atoms in structures().items()]
    rows.append(refuse())
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, rows)
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(gathered, file)
    dist.destroy_process_group()
