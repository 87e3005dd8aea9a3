"""One of several processes that share structures, with PaiNN's kernels: kernels_by_ranks.py RANK SIZE FOLDER.

Writes what it found to FOLDER/RANK.json.
"""

import atexit
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernels run on the CPU

import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import molecule
from torch import Tensor

import atomjet
import tests.conftest  # noqa: F401 (lets the interpreter take masks of newer versions)
from atomjet.data import Prediction, System
from atomjet.engine import Engine, Settings, SharedPrediction, TorchHalo, owned_part, predict_shared
from atomjet.models.ensemble import Ensemble
from tests.potentials import random_painn

RANK, SIZE, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
MODEL = {"features": 32, "num_radial": 6, "cutoff": 3.0, "elements": (1, 6, 8)}


def water() -> Atoms:
    """Two molecules, off their lattice."""
    atoms = molecule("H2O", cell=[3.105] * 3, pbc=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    return atoms


def structures() -> dict[str, Atoms]:
    """Periodic, triclinic, slab, and a molecule by itself."""
    triclinic, slab = water(), water()
    triclinic.set_cell(triclinic.cell[:] @ [[1, 0, 0], [0.2, 1, 0], [-0.1, 0.15, 1]], scale_atoms=True)
    slab.pbc = (True, True, False)
    corner = molecule("CH3OH")
    corner.center(vacuum=1.0)
    corner.set_cell([30, 30, 30])
    corner.pbc = True
    return {"periodic": water(), "triclinic": triclinic, "slab": slab, "corner": corner}


def engines() -> dict[str, Engine]:
    """Three layers in float32; in half precision with repulsion of nuclei; one layer; an ensemble."""

    def kernels(model: torch.nn.Module, precision: str = "high") -> Engine:
        return Engine(model, Settings("cpu", "fast_gpu", precision))  # type: ignore[arg-type]

    members = [random_painn(seed=seed, layers=layers, **MODEL) for seed, layers in ((0, 2), (1, 1))]
    return {
        "high": kernels(random_painn(**MODEL)),
        "default": kernels(random_painn(layers=2, zbl=(0.7, 1.2), **MODEL), "default"),
        "one layer": kernels(random_painn(layers=1, **MODEL)),
        "ensemble": kernels(Ensemble(members)),
    }


def owners(atoms: Atoms, size: int) -> Tensor:
    """The process of each atom, as many atoms along x for each; of four processes the last owns nothing."""
    places = torch.from_numpy(atoms.positions[:, 0]).argsort().argsort()
    return places * max(1, size - (size > 2)) // len(atoms)


def share(engine: Engine, atoms: Atoms, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Everything of all atoms, from what each process computes of its own; and its halo's count."""
    size = dist.get_world_size(group)
    graph = engine.search(System.from_ase(atoms))
    ids, ghosts, part = owned_part(graph, owners(atoms, size), dist.get_rank(group))
    halo = TorchHalo(ids, ghosts, group)
    mine = predict_shared(engine, replace(part, halo=halo), torch.cat([ids, ghosts]))
    forces, atomic = torch.zeros(len(atoms), 3, dtype=torch.float64), torch.zeros(len(atoms), dtype=torch.float64)
    forces[ids], atomic[ids] = mine.forces, mine.atomic_energies
    counts = torch.tensor([halo.numbers_sent, len(ghosts), len(ids) == 0])
    for total in (forces, atomic, counts):
        dist.all_reduce(total, group=group)
    return {
        "forces": forces,
        "atomic": atomic,
        "energy": mine.energy[0],
        "virial": mine.virial[0],
        "counts": counts,
        "exchanges": torch.tensor(halo.exchanges),
    }


def compare(
    found: dict[str, Tensor], atoms: Atoms, alone: SharedPrediction, exact: Prediction
) -> dict[str, float | bool]:
    """How far the shared evaluation is from the kernels in one process, and from the definition in float64."""
    row = {
        "force": float((found["forces"] - alone.forces).abs().max()),
        "energy": abs(float(found["energy"] - alone.energy[0])),
        "virial": float((found["virial"] - alone.virial[0]).abs().max()),
        "same energies": torch.equal(found["atomic"], alone.atomic_energies),
        "force of definition": float((found["forces"] - exact.forces).norm() / exact.forces.norm()),
        "energy of definition": float((found["atomic"] - exact.atomic_energies).norm() / exact.atomic_energies.norm()),
    }
    if atoms.pbc.all():
        stress = found["virial"] / atoms.get_volume()
        row["stress of definition"] = float((stress - exact.stress[0]).norm() / exact.stress[0].norm())
    return row


def rows(groups: list[dist.ProcessGroup]) -> list[dict]:
    """All cases on the first one, two and four processes."""
    found = []
    for name, engine in engines().items():
        exact = engine.with_settings(backend="general", precision="float64")
        cases = structures()
        for case, atoms in cases.items() if name == "high" else [("triclinic", cases["triclinic"])]:
            graph = engine.search(System.from_ase(atoms))
            alone = predict_shared(engine, graph) if RANK == 0 else None
            for group in sizes(groups, name, case):
                if dist.get_rank(group) < 0:
                    continue
                shared = share(engine, atoms, group)
                if alone is not None:
                    row = {"engine": name, "case": case, "size": dist.get_world_size(group)}
                    row |= dict(zip(("sent", "ghosts", "empty"), shared["counts"].tolist(), strict=True))
                    row |= {"exchanges": int(shared["exchanges"]), "wanted": engine.evaluator.exchanges}
                    found.append(row | compare(shared, atoms, alone, exact.predict(atoms)))
    return found


def sizes(groups: list, name: str, case: str) -> list:
    """Which numbers of processes a case runs on: all of them once."""
    return groups[-1:] if name != "high" else groups if case == "triclinic" else groups[1:]


def in_other_buffers() -> dict[str, float]:
    """How far the backend by itself, in buffers made for one graph, is from the engine in those that it keeps."""
    engine, atoms = engines()["one layer"], structures()["periodic"]
    graph = engine.search(System.from_ase(atoms))
    ids, ghosts, part = owned_part(graph, owners(atoms, SIZE), RANK)
    part = replace(part, halo=TorchHalo(ids, ghosts))
    with engine.shared(part) as buffers:
        for segment in buffers._segments:
            for rows_sent in segment.exchanged:
                rows_sent.fill_(torch.nan)  # what is not in use must not matter
        kept = buffers.energies_and_gradients(part)
    made = engine.evaluator.energies_and_gradients(part.with_vectors(part.vectors.float()))
    return {what: float((a - b).abs().sum()) for what, a, b in zip(("energies", "gradients"), kept, made, strict=True)}


def refused() -> str:
    """What is said where one process has too little memory for its buffers."""
    engine, atoms = engines()["one layer"], water()
    ids, ghosts, part = owned_part(engine.search(System.from_ase(atoms)), owners(atoms, SIZE), RANK)
    if RANK == 1:
        engine.stages.backend.bytes_of = lambda capacity: 1 << 60  # type: ignore[union-attr, method-assign]
    try:
        predict_shared(engine, replace(part, halo=TorchHalo(ids, ghosts)))
    except atomjet.AtomJetError as error:
        return str(error)
    return "accepted"


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{FOLDER}/meeting", rank=RANK, world_size=SIZE)
    atexit.register(dist.destroy_process_group)  # a group left to the end of the interpreter may abort the process
    groups = [dist.new_group(list(range(size))) for size in (1, 2, SIZE)]
    answer = {"rows": rows(groups), "buffers": in_other_buffers(), "refused": refused()}
    (FOLDER / f"{RANK}.json").write_text(json.dumps(answer))
