"""One of several processes that share structures through torch.distributed: shared_by_ranks.py RANK SIZE FOLDER.

Writes what it found to FOLDER/RANK.json. Then process 2 is killed in the middle of an exchange.
"""

import atexit
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import molecule

import atomjet
from atomjet.data import Prediction, System
from atomjet.engine import Engine, Settings, TorchHalo, owned_part, predict_shared
from atomjet.models.painn.fast_pytorch import FastPyTorch
from atomjet.testing.plain import Buffered
from tests.potentials import random_escn_md, random_painn

RANK, SIZE, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
DIES = 2


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
    triclinic, slab = water(3), water(3)
    triclinic.set_cell(triclinic.cell[:] @ np.array([[1, 0, 0], [0.2, 1, 0], [-0.1, 0.15, 1]]), scale_atoms=True)
    slab.pbc = (True, True, False)
    corner = molecule("CH3CH2OH")
    corner.center(vacuum=1.0)
    corner.set_cell([30, 30, 30])
    corner.pbc = True
    return {"periodic": water(3), "triclinic": triclinic, "slab": slab, "corner": corner}


@cache
def student(backend: str, precision: str = "float64") -> Engine:
    """The packaged PaiNN."""
    return atomjet.load("organic-xtb", device="cpu", precision=precision, backend=backend)


@cache
def uma(backend: str, charge: int = 1) -> Engine:
    """A small eSCN-MD of random weights whose edges, charges and spins all count."""
    model = random_escn_md(
        channels=16, hidden_channels=16, edge_channels=16, experts=3, max_z=20, cutoff=4.0,
        charge_channels=(0, 3), spin_channels=(3, 5), max_neighbors=25,
    )  # fmt: skip
    return Engine(model, Settings("cpu", backend, "float64"), None, "omat", charge=charge, spin=2)


def owners(atoms: Atoms, size: int) -> torch.Tensor:
    """The process of each atom: a slice along x each; of more than two processes the last owns nothing."""
    slices = max(1, size - (size > 2))
    x = atoms.positions[:, 0] - atoms.positions[:, 0].min()
    return torch.from_numpy((x / (np.ptp(x) + 1e-9) * slices).astype(int).clip(0, slices - 1))


def share(engine: Engine, atoms: Atoms, group: dist.ProcessGroup | None = None) -> dict[str, object]:
    """Forces of all atoms, energy and virial, from what each process computes of its own."""
    size = dist.get_world_size(group)
    graph = engine.search(System.from_ase(atoms))
    ids, ghosts, part = owned_part(graph, owners(atoms, size), dist.get_rank(group))
    halo = TorchHalo(ids, ghosts, group)
    mine = predict_shared(engine, replace(part, halo=halo), torch.cat([ids, ghosts]))
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces[ids] = mine.forces
    dist.all_reduce(forces, group=group)
    return {
        "forces": forces,
        "energy": float(mine.energy[0]),
        "virial": mine.virial[0],
        "owned": halo.owned,
        "ghosts": halo.total - halo.owned,
        "sent": halo.numbers_sent,
    }


@cache
def whole(name: str, load: Callable[[str], Engine]) -> Prediction:
    """The definition in one process."""
    return load("general").predict(structures()[name])


def compare(name: str, load: Callable[[str], Engine], backend: str, group: dist.ProcessGroup | None) -> dict:
    """How far the shared evaluation is from the definition in one process, which the first computes."""
    atoms = structures()[name]
    found = share(load(backend), atoms, group)
    row = {"case": name, "model": load.__name__, "backend": backend, "size": dist.get_world_size(group)}
    row |= {key: found[key] for key in ("owned", "ghosts", "sent")}
    if RANK == 0:
        expected = whole(name, load)
        row["force"] = float((found["forces"] - expected.forces).abs().max())
        row["energy"] = abs(found["energy"] - float(expected.energy[0]))
        if atoms.pbc.all():
            row["stress"] = float((found["virial"] / atoms.get_volume() - expected.stress[0]).abs().max())
    return row


def captured() -> Engine:
    """A backend that works in buffers of fixed size, in place of one that exchanges."""
    engine = student("fast_pytorch").with_settings()
    engine.evaluator = Buffered(engine.model, FastPyTorch(engine.model), silent_conditions=(0, 0, 0, 0))
    return engine


def without_an_edge(engine: Engine) -> None:
    """A rank that does not see an atom that sees it, as where a halo is too narrow on one side."""
    atoms = water(3)
    ids, ghosts, part = owned_part(engine.search(System.from_ase(atoms)), owners(atoms, SIZE), RANK)
    if RANK == 0:
        ends = part.row_ptr.clone()
        ends[-1] -= 1
        part = replace(
            part,
            row_ptr=ends,
            **{name: getattr(part, name)[:-1] for name in ("centers", "neighbors", "vectors", "shifts")},
        )
    predict_shared(engine, replace(part, halo=TorchHalo(ids, ghosts)))


def refusals() -> dict[str, str]:
    """What this process says where one holds something that the others do not."""
    near, fast = water(3), student("fast_pytorch")
    near.positions[1] = near.positions[0] + [0.05, 0, 0]
    sizes = {"features": 8, "layers": 2, "cutoff": 4.0, "elements": (1, 6, 8)}
    other = Engine(random_painn(seed=RANK // 3, **sizes), Settings("cpu", "general", "float64"))
    attempts = {
        "near": lambda: share(fast, near),
        "weights": lambda: share(other, water(3)),
        "backend": lambda: share(student("general" if RANK == 1 else "fast_pytorch"), water(3)),
        "precision": lambda: share(student("general", "high" if RANK == 1 else "float64"), water(3)),
        "charge": lambda: share(uma("general", charge=RANK % 2), water(3)),
        "captured": lambda: share(captured() if RANK == 3 else fast, water(3)),
        "reverse": lambda: without_an_edge(fast),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = "accepted"
        except atomjet.AtomJetError as error:
            said[name] = str(error)
    return said


class Mortal(TorchHalo):
    """A halo of which one process is killed in the middle of an evaluation."""

    def fill(self, *rows: torch.Tensor) -> None:
        """Fill, or die instead."""
        if self.transport.rank == DIES and self.exchanges:
            os.kill(os.getpid(), signal.SIGKILL)
        super().fill(*rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of neighbours beyond the limit, which binds here
    dist.init_process_group("gloo", init_method=f"file://{FOLDER}/meeting", rank=RANK, world_size=SIZE)
    atexit.register(dist.destroy_process_group)  # a group left to the end of the interpreter may abort the process
    pair = dist.new_group([0, 1])
    backends = ("general", "fast_pytorch")
    rows = [
        compare(name, load, backend, group)
        for name in structures()
        for load in (student, uma)
        for backend in backends
        for group in ((None, pair) if RANK < 2 else (None,))
    ]
    (FOLDER / f"{RANK}.json").write_text(json.dumps({"rows": rows, "refusals": refusals()}))
    engine = student("fast_pytorch")
    atoms = water(3)
    ids, ghosts, part = owned_part(engine.search(System.from_ase(atoms)), owners(atoms, SIZE), RANK)
    predict_shared(engine, replace(part, halo=Mortal(ids, ghosts)))
