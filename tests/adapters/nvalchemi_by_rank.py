"""Run by torchrun: nvalchemi's domain decomposition with AtomJet, against one process; rank 0 writes what it found as JSON."""

import json
import sys

import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import molecule
from nvalchemi.data import AtomicData, Batch
from nvalchemi.distributed import DistributedModel, DomainConfig, DomainParallel
from nvalchemi.distributed.config import StrategyKind
from nvalchemi.distributed.helpers import to_local
from nvalchemi.dynamics import NVE
from torch.distributed.device_mesh import init_device_mesh

import atomjet
from atomjet.adapters.nvalchemi import AtomJetWrapper
from atomjet.units import BOLTZMANN


def box(repeats: tuple[int, int, int], tilt: float = 0.0) -> Atoms:
    """Water molecules on a lattice, shaken, sheared, their atoms put back into the box."""
    water = molecule("H2O")
    water.center(vacuum=1.1)
    water.pbc = True
    water = water.repeat(repeats)
    cell = water.cell.array.copy()
    cell[1, 0] += tilt
    water.set_cell(cell, scale_atoms=True)
    water.rattle(0.05, seed=2)
    water.wrap()
    return water


def batch_of(atoms: Atoms, dtype: torch.dtype, temperature: float = 0.0) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, device="cpu", dtype=dtype)])
    kick = torch.randn(batch.velocities.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch.velocities.copy_(kick * (BOLTZMANN * temperature / batch.atomic_masses[:, None]).sqrt())
    return batch


def gathered(*rows: torch.Tensor) -> list[torch.Tensor]:
    """Rows of all ranks, one rank after the other."""
    parts: list[list[torch.Tensor]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, [to_local(x).detach().double() for x in rows])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def farthest(forces: torch.Tensor, expected: torch.Tensor) -> float:
    """How far any atom's force is from the nearest expected one, and the other way round: ranks have an order of their own."""
    apart = torch.cdist(forces, expected.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return float(torch.maximum(apart.min(0).values.max(), apart.min(1).values.max()))


def compare(atoms: Atoms, precision: str, dtype: torch.dtype) -> dict[str, object]:
    wrapper = AtomJetWrapper("organic-xtb", device="cpu", precision=precision)
    stressed = bool(atoms.pbc.all())
    wrapper.set_config("active_outputs", {"energy", "forces"} | ({"stress"} if stressed else set()))
    expected = wrapper(batch_of(atoms, dtype))
    with DistributedModel(wrapper, DomainConfig(cutoff=wrapper.engine.cutoff, mesh=MESH)) as model:
        found = model.from_batch(batch_of(atoms, dtype) if dist.get_rank() == 0 else None)
    (forces,) = gathered(found["forces"])
    row: dict[str, object] = {
        "atoms": len(forces),
        "energy": float((found["energy"] - expected["energy"]).abs().max()),
        "force": farthest(forces, expected["forces"]),
    }
    if stressed:
        row["stress"] = float((found["stress"] - expected["stress"]).abs().max())
    return row


def dynamics(atoms: Atoms, steps: int) -> dict[str, object]:
    """Steps of constant energy on all ranks, against one; no atom leaves its rank, which nvalchemi cannot do over gloo."""
    wrapper = AtomJetWrapper("organic-xtb", device="cpu", precision="float64")
    alone = NVE(wrapper, dt=0.5).run(batch_of(atoms, torch.float64, 300.0), n_steps=steps)
    split = DomainParallel(NVE(wrapper, dt=0.5), DomainConfig(cutoff=wrapper.engine.cutoff, skin=1.0, mesh=MESH))
    own = split.partition(batch_of(atoms, torch.float64, 300.0) if dist.get_rank() == 0 else None)
    own = split.run(own, n_steps=steps)
    forces, velocities = gathered(own.forces, own.velocities)
    return {"force": farthest(forces, alone.forces), "velocity": farthest(velocities, alone.velocities)}


def refusals() -> dict[str, str]:
    """What is said on this rank of settings that would be wrong."""
    wrapper, said = AtomJetWrapper("organic-xtb", device="cpu"), {}
    for name, options in (
        ("narrow", {"cutoff": 3.0}),
        ("partition", {"cutoff": 5.0, "strategy": StrategyKind.GRAPH_PARTITION}),
    ):
        try:
            with DistributedModel(wrapper, DomainConfig(mesh=MESH, **options)) as model:
                model.from_batch(batch_of(box((4, 2, 2)), torch.float64) if dist.get_rank() == 0 else None)
        except atomjet.AtomJetError as error:
            said[name] = str(error)
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    MESH = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("domain",))
    slab = box((6, 2, 2))
    slab.pbc = (True, True, False)
    found = {
        "sheared": compare(box((8, 2, 2), 1.0), "float64", torch.float64),
        "slab": compare(slab, "float64", torch.float64),
        "float32": compare(box((8, 2, 2)), "default", torch.float32),
        "dynamics": dynamics(box((6, 2, 2)), 5),
        "refusals": refusals(),
    }
    said: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(said, found["refusals"])
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(found | {"refusals": said}, file)
    dist.destroy_process_group()
