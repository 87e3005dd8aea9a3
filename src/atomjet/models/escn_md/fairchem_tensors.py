"""The tensors of a fairchem checkpoint under our names, in our shapes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from atomjet.errors import ModelFileError
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.fairchem_tasks import dataset_mapping, energy_tasks, normalizer, reference_energies
from atomjet.models.escn_md.fairchem_zip import Checkpoint

HEADS = ("DatasetSpecificMoEWrapper", "DatasetSpecificSingleHeadWrapper", "MLP_EFS_Head")
"""Modules that hold the energy's network: with one expert a dataset, with one head for all, and the network itself."""

REPLACEMENTS = (
    ("charge_embedding.rand_emb.", "charge_embedding."),
    ("spin_embedding.rand_emb.", "spin_embedding."),
    ("mix_csd.", "mix."),
    ("edge_degree_embedding.rad_func.net.", "edge_degree."),
    (".edge_wise.so2_conv_1.rad_func.net.", ".radial."),
    (".edge_wise.so2_conv_1.fc_m0.", ".conv_1.m0."),
    (".edge_wise.so2_conv_2.fc_m0.", ".conv_2.m0."),
    (".edge_wise.so2_conv_1.so2_m_conv.", ".conv_1.m."),
    (".edge_wise.so2_conv_2.so2_m_conv.", ".conv_2.m."),
    (".fc.weight", ".weight"),  # weights of experts too
    (".atom_wise.scalar_mlp.0.", ".atom_wise.scalar."),
    (".atom_wise.so3_linear_", ".atom_wise.linear_"),
    ("routing_mlp.2.", "routing.1."),
    ("routing_mlp.4.", "routing.2."),
    ("routing_mlp.0.", "routing.0."),
)


def renamed_tensors(path: Path, config: EscnMdConfig, content: Checkpoint) -> dict[str, Tensor]:
    """fairchem's tensors under our names."""
    weights = {name.removeprefix("module."): tensor for name, tensor in content.weights.items() if name != "n_averaged"}
    tasks = energy_tasks(path, content)
    tensors = _head(path, config, content, weights)
    if config.task_embedding:
        tensors["task_embedding.weight"] = _task_embedding(path, config, content, weights)
    for name, tensor in weights.items():
        ours = _our_name(name)
        if ours is not None:
            # A dense model's maps are one each, where there could be several to be mixed.
            dense = not config.experts and (".conv_1.m" in ours or ".conv_2.m" in ours) and ours.endswith(".weight")
            tensors[ours + "s" if dense else ours] = tensor[None] if dense else tensor
        elif not name.startswith(("backbone.Jd_", "backbone.dataset_embedding.", "output_heads.")):
            raise ModelFileError(f"{path}: unknown tensor {name!r}")
    tensors["scales"] = torch.tensor([normalizer(path, tasks[task])[0] for task in config.tasks], dtype=torch.float64)
    tensors["reference_energies"] = torch.stack(
        [reference_energies(path, tasks[task], config.max_z) for task in config.tasks]
    )
    return tensors


def _task_embedding(path: Path, config: EscnMdConfig, content: Checkpoint, weights: dict[str, Tensor]) -> Tensor:
    """(tasks, C), of the dataset that each maps to."""
    datasets = dataset_mapping(path, content.model["backbone"], "dataset_list")
    rows = []
    for task in config.tasks:
        name = f"backbone.dataset_embedding.dataset_emb_dict.{datasets[task]}.weight"
        if name not in weights:
            raise ModelFileError(f"{path}: tensor {name!r} is missing")
        if weights[name].shape != (1, config.channels):
            raise ModelFileError(
                f"{path}: tensor {name!r} has shape {tuple(weights[name].shape)}; expected {(1, config.channels)}"
            )
        rows.append(weights[name])
    return torch.cat(rows)


def _our_name(name: str) -> str | None:
    """Our name of a tensor of the backbone; None for those that are tables, or read elsewhere."""
    if not name.startswith("backbone.") or name.startswith(("backbone.Jd_", "backbone.dataset_embedding.")):
        return None
    name = name.removeprefix("backbone.")
    for theirs, ours in REPLACEMENTS:
        name = name.replace(theirs, ours)
    return name


def _head(path: Path, config: EscnMdConfig, content: Checkpoint, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The energy's network, one for each task: its own expert, or the one that all datasets share."""
    heads = content.model.get("heads")
    if not isinstance(heads, dict) or len(heads) != 1:
        names = sorted(heads) if isinstance(heads, dict) else heads
        raise ModelFileError(f"{path}: heads {names} are not one head for energy, forces and stress")
    ((name, options),) = heads.items()
    module = str(options.get("module", "")).rpartition(".")[2]
    inner = str(options.get("head_cls", "MLP_EFS_Head")).rpartition(".")[2]
    reduce = (options.get("head_kwargs") or options).get("reduce", "sum")
    if module not in HEADS or inner != "MLP_EFS_Head" or reduce != "sum":
        raise ModelFileError(
            f"{path}: head {module} with {inner} (reduce {reduce!r}) is not supported; supported: {HEADS}"
        )
    prefix = f"output_heads.{name}." + ("" if module == "MLP_EFS_Head" else "head.") + "energy_block."
    own = module == "DatasetSpecificMoEWrapper"
    if own:
        mapping = dataset_mapping(path, options, "dataset_names")
        targets = sorted(set(mapping.values()))
        absent = [task for task in config.tasks if task not in mapping]
        if absent:
            raise ModelFileError(f"{path}: dataset {absent[0]!r} has no head")
        rows = [targets.index(mapping[task]) for task in config.tasks]
    else:
        rows = [0] * len(config.tasks)
        names = options.get("dataset_names")
        absent = [task for task in config.tasks if isinstance(names, list) and task not in names]
        if absent:
            raise ModelFileError(f"{path}: dataset {absent[0]!r} has no head")
    tensors = {}
    for depth, theirs in enumerate((0, 2, 4)):
        weight, bias = f"{prefix}{theirs}.weight" + ("s" if own else ""), f"{prefix}{theirs}.bias"
        for wanted in (weight, bias):
            if wanted not in weights:
                raise ModelFileError(f"{path}: tensor {wanted!r} is missing")
        stacked = weights[weight] if own else weights[weight][None]
        if stacked.ndim != 3 or len(stacked) <= max(rows):
            raise ModelFileError(f"{path}: tensor {weight!r} has shape {tuple(stacked.shape)}; too few heads")
        tensors[f"head.{depth}.weights"], tensors[f"head.{depth}.bias"] = stacked[rows], weights[bias]
    return tensors
