"""Write small checkpoints in fairchem's format with random weights, and what fairchem says of some structures, in float64.

Run where fairchem-core 2.24 is installed (`pip install torch==2.13.0`, then `pip install fairchem-core==2.24.0`):

    python make_fairchem.py            # all of them
    python make_fairchem.py esen       # some

The released weights are gated, and none are needed: a random model of few channels exercises the same arithmetic. `noise` in the
JSON is the largest difference between two of fairchem's own runs, which draw another random roll for every edge.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.models.base import HydraModel
from fairchem.core.units.mlip_unit import MLIPPredictUnit
from fairchem.core.units.mlip_unit.api.inference import InferenceSettings, MLIPInferenceCheckpoint

HERE = Path(__file__).parent
DATASETS = ["oc20", "oc22", "oc25", "omol", "omat", "odac", "omc"]
UMA = "fairchem.core.models.uma."
RUNS = 3
LIMITS = {"uma_limit": 30, "esen_moe": 14, "esen": 30}
"""`max_neighbors` of the models with which it binds."""

DENSE = ("esen", "esen_mmax1")
"""Models of the backbone without experts."""


def variant(name: str) -> dict:
    """What fairchem builds the model from; the variants differ where the released generations do."""
    backbone = {
        "model": UMA + "escn_moe.eSCNMDMoeBackbone",
        "moe_dropout": 0.0,
        "moe_layer_type": "pytorch",
        "num_experts": 3,
        "use_composition_embedding": True,
        "use_global_embedding": False,
        "model_version": 1.2,
        "max_num_elements": 100,
        "sphere_channels": 6,
        "hidden_channels": 4,
        "edge_channels": 8,
        "lmax": 2,
        "mmax": 2,
        "otf_graph": True,
        "max_neighbors": 300,
        "use_pbc": True,
        "use_pbc_single": True,
        "cutoff": 6.0,
        "distance_function": "gaussian",
        "num_distance_basis": 12,
        "regress_forces": True,
        "regress_stress": True,
        "direct_forces": False,
        "num_layers": 2,
        "norm_type": "rms_norm_sh",
        "act_type": "gate",
        "ff_type": "spectral",
        "chg_spin_emb_type": "rand_emb",
        "cs_emb_grad": True,
        "dataset_emb_grad": True,
        "charge_balanced_channels": [0, 1, 2],
        "dataset_mapping": {name: name for name in DATASETS},
    }
    head = {
        "module": UMA + "escn_moe.DatasetSpecificMoEWrapper",
        "head_cls": UMA + "escn_md.MLP_EFS_Head",
        "head_kwargs": {"wrap_property": False},
        "dataset_mapping": {name: name for name in DATASETS},
    }
    model = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "pass_through_head_outputs": True,
        "supports_single_atoms": True,
        "model_id": "UMA-S-1.2.1",
        "otf_graph": True,
        "backbone": backbone,
        "heads": {"energyandforcehead": head},
    }
    if name == "uma_1p2":  # the composition's mean counts a row of zeros; two datasets share an embedding and a head
        backbone |= {"sphere_channels": 4, "hidden_channels": 4, "edge_channels": 4, "num_layers": 1, "num_experts": 2}
        shared = {"omol": "omol", "omat": "omat", "odac": "omat", "omc": "omc"}
        backbone["dataset_mapping"] = head["dataset_mapping"] = shared
        model["model_id"] = "UMA-S-1.2"
    if name == "uma_1p1":  # no id, one head for all datasets, no balanced charges, no single atoms; mmax below lmax
        backbone |= {"sphere_channels": 4, "hidden_channels": 4, "edge_channels": 4, "num_layers": 1, "num_experts": 2}
        backbone |= {"lmax": 4, "mmax": 2, "model_version": 1.1, "charge_balanced_channels": []}
        backbone["spin_balanced_channels"] = [1]
        names = ["oc20", "omol", "omat", "odac", "omc"]
        del backbone["dataset_mapping"], head["dataset_mapping"], model["model_id"], model["supports_single_atoms"]
        backbone["dataset_list"] = names
        head |= {"module": UMA + "escn_moe.DatasetSpecificSingleHeadWrapper", "dataset_names": names}
    if name in LIMITS:
        backbone |= {"sphere_channels": 4, "hidden_channels": 4, "edge_channels": 4, "max_neighbors": LIMITS[name]}
    if name == "uma_limit":  # few neighbours count, and no embedding of the dataset
        backbone |= {"num_experts": 2, "use_dataset_embedding": False}
        head["dataset_mapping"] = {"omol": "omol", "omat": "omat"}
        del backbone["dataset_mapping"]
    if (
        name == "esen_moe"
    ):  # no experts, so the composition has no embedding though it is asked for; one embedding for each dataset
        backbone |= {"num_experts": 0, "charge_balanced_channels": []}
        backbone["dataset_mapping"] = head["dataset_mapping"] = {"omol": "omol", "omat": "omat"}
        del model["model_id"]
    if name in DENSE:  # the backbone that has no experts, no embedding of the dataset, one plain head
        of_experts = (
            "moe_dropout",
            "moe_layer_type",
            "num_experts",
            "use_composition_embedding",
            "use_global_embedding",
        )
        for option in (*of_experts, "model_version", "dataset_mapping", "charge_balanced_channels"):
            del backbone[option]
        backbone |= {"model": UMA + "escn_md.eSCNMDBackbone", "use_dataset_embedding": False}
        model["heads"] = {"efs": {"module": UMA + "escn_md.MLP_EFS_Head", "prefix": "omol"}}
        del model["model_id"]
    if name == "esen_mmax1":  # as wide as the kernels of GPUs want
        backbone |= {"sphere_channels": 16, "hidden_channels": 16, "edge_channels": 8, "mmax": 1, "num_layers": 1}
    return model


def tasks(datasets: list[str], generator: torch.Generator) -> list[dict]:
    """Energy and forces of every dataset, with references and scales of its own."""
    found = []
    for rank, dataset in enumerate(datasets):
        rmsd = 1.423 + 0.1 * rank
        references = (torch.randn(119, generator=generator, dtype=torch.float64) * 2 - 4).tolist()
        for quantity, level, size in (("energy", "system", [1]), ("forces", "atom", [3])):
            task = {
                "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
                "name": f"{dataset}_{quantity}",
                "level": level,
                "property": quantity,
                "out_spec": {
                    "_target_": "fairchem.core.units.mlip_unit.mlip_unit.OutputSpec",
                    "dim": size,
                    "dtype": "float32",
                },
                "normalizer": {
                    "_target_": "fairchem.core.modules.normalization.normalizer.Normalizer",
                    "mean": 0.0,
                    "rmsd": rmsd,
                },
                "datasets": [dataset],
                "metrics": [],
            }
            if quantity == "energy":
                table = {"_target_": "torch.DoubleTensor", "_args_": [references]}
                kind = "fairchem.core.modules.normalization.element_references.ElementReferences"
                task["element_references"] = {"_target_": kind, "element_references": table}
            found.append(task)
    return found


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights of such sizes that every part of the model matters."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "affine_weight" in name or (".net." in name and weight.ndim == 1 and name.endswith("weight")):
                weight.copy_(1 + 0.1 * noise)
            elif weight.ndim == 1:
                weight.copy_(0.1 * noise)
            elif "embedding" in name or "rand_emb" in name:
                weight.copy_(0.5 * noise)
            else:
                experts = weight.shape[0] ** 0.5 if name.endswith(".weights") and "output_heads" not in name else 1.0
                weight.copy_(0.8 * experts / weight.shape[-1] ** 0.5 * noise)
            if ".energy_block.4.weight" in name:
                weight.mul_(3.0)


def write_checkpoint(name: str, seed: int, folder: Path = HERE) -> Path:
    generator = torch.Generator().manual_seed(seed)
    config = variant(name)
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    model = HydraModel(**arguments)
    randomise(model, generator)
    state = {f"module.{key}": value.detach().clone() for key, value in model.state_dict().items()}
    state["n_averaged"] = torch.tensor(1)
    backbone = config["backbone"]
    if name in DENSE:
        datasets = ["omol"]
    elif name in LIMITS:
        datasets = ["omol", "omat"]
    else:
        datasets = list(backbone["dataset_mapping"]) if "dataset_mapping" in backbone else backbone["dataset_list"]
    path = folder / f"{name}.pt"
    torch.save(MLIPInferenceCheckpoint(config, {}, state, tasks(datasets, generator)), path)
    return path


def structures() -> dict[str, Atoms]:
    """One of every kind, each away from its symmetric place."""
    random = np.random.default_rng(7)
    found = {
        "water": molecule("H2O"),
        "ammonium": molecule("NH3") + Atoms("H", [[0.0, 0.0, 1.2]]),
        "ethanol": molecule("CH3CH2OH"),
        "salt": bulk("NaCl", "rocksalt", a=5.64),
        "copper": bulk("Cu", "fcc", a=3.61, cubic=True),
        "triclinic": Atoms(
            "SiO2Mg",
            scaled_positions=random.random((4, 3)),
            cell=[[4.1, 0.3, -0.2], [0.9, 4.6, 0.4], [-0.5, 0.8, 5.2]],
            pbc=True,
        ),
        "slab": fcc111("Pt", (1, 2, 2), vacuum=6.0, periodic=False),
        "chain": Atoms("CO", [[0.1, 0.2, 0.3], [1.4, 0.1, -0.2]], cell=[2.9, 12, 12], pbc=[True, False, False]),
    }
    for atoms in found.values():
        atoms.positions += random.normal(0, 0.08, atoms.positions.shape)
    found["slab"].pbc = [True, True, False]
    # An edge along the y axis, either way, is where rotations to the y axis have their singular points.
    found["dimer along y"] = Atoms("NO", [[0, 0, 0], [0, 1.2, 0]])
    found["one atom"] = Atoms("Fe")
    # 220 neighbours of each atom, most of them its own images.
    # No round numbers: squared distances that differ by 0.01 Å², the tolerance of the limit, would be a matter of rounding.
    tiny = np.array([[1.9, 0.1, 0.0], [0.2, 2.0, 0.1], [0.0, 0.3, 2.1]]) + random.normal(0, 0.01, (3, 3))
    places = np.array([[0.0, 0.0, 0.0], [0.5, 0.6, 0.4]]) + random.normal(0, 0.08, (2, 3))
    found["hydride"] = Atoms("LiH", places, cell=tiny, pbc=True)
    found["lone atom in a cell"] = Atoms("Ne", cell=[14, 14, 14], pbc=True)
    return found


CASES = {
    "uma_1p2p1": [
        ("water", "omol", 0, 1),
        ("ammonium", "omol", 1, 1),
        ("water", "omol", -2, 3),
        ("ethanol", "omc", 0, 0),
        ("salt", "omat", 0, 0),
        ("copper", "oc20", 0, 0),
        ("copper", "oc22", 0, 0),
        ("triclinic", "odac", 0, 0),
        ("triclinic", "omat", 0, 0),
        ("slab", "oc25", 0, 0),
        ("chain", "oc20", 0, 0),
        ("dimer along y", "omol", 0, 2),
        ("one atom", "omol", 3, 5),
        ("lone atom in a cell", "omat", 0, 0),
    ],
    "uma_1p2": [("ammonium", "omol", 1, 1), ("triclinic", "odac", 0, 0), ("one atom", "omat", 0, 0)],
    "uma_1p1": [("ammonium", "omol", 1, 2), ("triclinic", "omc", 0, 0), ("slab", "oc20", 0, 0)],
    "uma_limit": [
        ("copper", "omat", 0, 0),
        ("ammonium", "omol", 1, 1),
        ("hydride", "omat", 0, 0),
        ("slab", "omat", 0, 0),
    ],
    "esen_moe": [
        ("water", "omol", 0, 0),
        ("copper", "omat", 0, 0),
        ("hydride", "omol", 0, 2),
        ("triclinic", "omat", 0, 0),
    ],
    "esen": [("ammonium", "omol", 1, 1), ("hydride", "omol", 0, 1), ("copper", "omol", -1, 3)],
    "esen_mmax1": [("water", "omol", 0, 1), ("ammonium", "omol", 1, 1), ("chain", "omol", 0, 1)],
}
BATCH = [0, 4, 1, 8, 9, 12, 3]
"""Of the first model: unlike systems in one call."""


def data(atoms: Atoms, task: str, charge: int, spin: int) -> AtomicData:
    atoms = atoms.copy()
    atoms.info |= {"charge": charge, "spin": spin}
    return AtomicData.from_ase(
        atoms, task_name=task, target_dtype=torch.float64, r_data_keys=["charge", "spin"], r_edges=False
    )


def evaluate(path: Path, batch: list[AtomicData], seed: int, dtype: str = "float64") -> dict[str, torch.Tensor]:
    """fairchem's general path, experts unmerged (merging rounds the weights to float32)."""
    settings = InferenceSettings(
        merge_mole=False,
        activation_checkpointing=False,
        execution_mode="general",
        base_precision_dtype=getattr(torch, dtype),
    )
    unit = MLIPPredictUnit(str(path), "cpu", inference_settings=settings, seed=seed)
    found = unit.predict(atomicdata_list_to_batch([entry.clone() for entry in batch]))
    return {name: found[name].detach().double() for name in ("energy", "forces", "stress")}


def largest(runs: list[dict[str, torch.Tensor]], reference: dict[str, torch.Tensor]) -> dict[str, float]:
    return {
        name: max(float((run[name] - reference[name]).nan_to_num().abs().max()) for run in runs) for name in reference
    }


def main(only: list[str]) -> None:
    logging.disable(logging.WARNING)
    atoms = structures()
    for rank, (name, cases) in enumerate(CASES.items()):
        if only and name not in only:
            continue
        path = write_checkpoint(name, 100 + rank)
        entries = []
        for structure, task, charge, spin in cases:
            record = data(atoms[structure], task, charge, spin)
            runs = [evaluate(path, [record], seed) for seed in range(RUNS)]
            single = evaluate(path, [record], 0, "float32")
            first, frame = runs[0], atoms[structure]
            periodic = bool(frame.pbc.all())
            entries.append(
                {
                    "name": structure,
                    "task": task,
                    "charge": charge,
                    "spin": spin,
                    "numbers": frame.numbers.tolist(),
                    "positions": frame.positions.tolist(),
                    "cell": frame.cell.tolist(),
                    "pbc": frame.pbc.tolist(),
                    "energy": float(first["energy"]),
                    "forces": first["forces"].tolist(),
                    "stress": first["stress"].reshape(3, 3).tolist() if periodic else None,
                    "noise": largest(runs[1:], first),
                    "float32": largest([single], first),
                }
            )
            print(name, structure, task, entries[-1]["energy"], entries[-1]["noise"], entries[-1]["float32"])
        golden = {"structures": entries}
        if name == "uma_1p2p1":
            records = [data(atoms[cases[k][0]], *cases[k][1:]) for k in BATCH]
            found = evaluate(path, records, 0)
            golden["batch"] = {
                "of": BATCH,
                "energy": found["energy"].tolist(),
                "forces": found["forces"].tolist(),
            }
        (HERE / f"{name}.golden.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main(sys.argv[1:])
