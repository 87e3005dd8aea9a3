"""UMA, eSEN and other eSCN-MD checkpoints of fairchem, as models of ours.

eSEN is UMA without experts: one linear map serves every system where UMA mixes several. It may have no embedding of the dataset.

Generations are told apart as fairchem-core 2.24 does: "UMA-S-1.2" counts a row of zeros in the mean over the composition, later
ones do not; UMA 1.1 has no id and says `model_version` 1.1; UMA 1.0 is refused. What a checkpoint asks for beyond what is written
here is refused by name, never guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from atomjet.data.elements import SYMBOLS
from atomjet.errors import ModelFileError
from atomjet.models import tensor_file
from atomjet.models.escn_md import fairchem_zip
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.general import EscnMd
from atomjet.models.skeleton import skeleton

FIXED = {
    "distance_function": ("gaussian", "gaussian"),
    "norm_type": ("rms_norm_sh", "rms_norm_sh"),
    "act_type": ("gate", "gate"),
    "ff_type": ("spectral", "grid"),
    "chg_spin_emb_type": ("rand_emb", "pos_emb"),
    "direct_forces": (False, True),
    "direct_stress": (False, False),
    "regress_forces": (True, True),
}
"""Options of the backbone of which one value is supported: that value, and fairchem's default where the option is left out."""

FIXED_OF_EXPERTS = {
    "moe_type": ("so2", "so2"),
    "moe_expert_coefficient_norm": ("softmax", "softmax"),
    "moe_single": (False, False),
    "layers_moe": (None, None),
}
"""Options of experts of which one value is supported: that value, and fairchem's default where the option is left out. They mean
nothing where there are no experts."""

SERVED = {
    *("model", "sphere_channels", "hidden_channels", "edge_channels", "lmax", "mmax", "num_layers", "cutoff"),
    *("num_distance_basis", "max_num_elements", "max_neighbors", "charge_balanced_channels", "spin_balanced_channels"),
    *("use_dataset_embedding", "dataset_list", "dataset_mapping"),
}
SERVED_OF_EXPERTS = {"num_experts", "use_composition_embedding", "model_version"}
WITHOUT_EFFECT = {
    *("otf_graph", "use_pbc", "use_pbc_single", "always_use_pbc", "radius_pbc_version", "use_quaternion_wigner"),
    *("use_cuda_graph_wigner", "edge_chunk_size", "execution_mode", "activation_checkpointing", "grid_resolution"),
    *("num_sphere_samples", "cs_emb_grad", "dataset_emb_grad", "regress_stress", "regress_hessian", "hessian_vmap"),
}
"""Options that fairchem sets itself at inference, or that change no number there."""
WITHOUT_EFFECT_OF_EXPERTS = {"moe_dropout", "moe_layer_type", "use_global_embedding", "composition_dropout", "act"}

BACKBONES = {"eSCNMDMoeBackbone": True, "escnmd_moe_backbone": True, "eSCNMDBackbone": False, "escnmd_backbone": False}
"""Names of the two backbones, the last word of a path or fairchem's short one: with experts (UMA) and without (eSEN)."""
HEADS = ("DatasetSpecificMoEWrapper", "DatasetSpecificSingleHeadWrapper", "MLP_EFS_Head")


def load(path: Path) -> tuple[EscnMd, dict[str, Any]]:
    """Read a checkpoint: the model, and a card with what the file says of itself.

    Raises:
        ModelFileError: damaged, not a fairchem inference checkpoint, another architecture, or an option that is not supported.
    """
    content = fairchem_zip.read(path)
    config = _config(path, content)
    tensors = _renamed(path, config, content)
    model = skeleton(lambda: EscnMd(config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensor_file.check_tensors(path, tensors, expected)
    card = {
        "name": path.stem,
        "summary": f"{config.model_id or 'eSCN-MD'}, imported from a fairchem checkpoint",
        "elements": [SYMBOLS[number] for number in model.elements],
        "tasks": list(config.tasks),
        "limits": ["training data, errors and licence are not recorded in the checkpoint: ask whoever published it"],
    }
    return tensor_file.filled(model, tensors), card


def _config(path: Path, content: fairchem_zip.Checkpoint) -> EscnMdConfig:
    backbone = _backbone(path, content)
    experts = _experts(backbone)
    model_id = _model_id(path, content.model, backbone)
    tasks = _tasks(path, content)
    try:
        return EscnMdConfig(
            channels=backbone.get("sphere_channels", 128),
            hidden_channels=backbone.get("hidden_channels", 128),
            edge_channels=backbone.get("edge_channels", 128),
            lmax=backbone.get("lmax", 2),
            mmax=backbone.get("mmax", 2),
            layers=backbone.get("num_layers", 2),
            cutoff=backbone.get("cutoff", 5.0),
            num_radial=backbone.get("num_distance_basis", 512),
            experts=experts,
            composition=_composition(backbone, model_id),
            max_z=backbone.get("max_num_elements", 100),
            tasks=tuple(tasks),
            task_embedding=backbone.get("use_dataset_embedding", True),
            charge_channels=_span(path, backbone, "charge_balanced_channels"),
            spin_channels=_span(path, backbone, "spin_balanced_channels"),
            single_atoms=bool(content.model.get("supports_single_atoms", False)),
            max_neighbors=_max_neighbors(path, backbone),
            model_id=model_id,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "model_config"
        raise ModelFileError(f"{path}: {where}: {first['msg']}; no such model can be read") from None


def _backbone(path: Path, content: fairchem_zip.Checkpoint) -> dict[str, Any]:
    """The backbone's options, each of them known and of a value that is supported."""
    backbone = content.model.get("backbone")
    name = str(backbone.get("model", "nothing")) if isinstance(backbone, dict) else "nothing"
    kind = name.rpartition(".")[2]
    if not isinstance(backbone, dict) or kind not in BACKBONES:
        raise ModelFileError(
            f"{path}: the architecture is {name}; only eSCNMDMoeBackbone (UMA) and eSCNMDBackbone (eSEN) can be read"
        )
    known = SERVED | WITHOUT_EFFECT | set(FIXED)
    if BACKBONES[kind]:
        known |= SERVED_OF_EXPERTS | WITHOUT_EFFECT_OF_EXPERTS | set(FIXED_OF_EXPERTS)
    unknown = sorted(set(backbone) - known)
    if unknown:
        raise ModelFileError(
            f"{path}: option {unknown[0]} is {backbone[unknown[0]]!r}; {kind} of fairchem-core 2.24 has no such option, so what it "
            "means is not known"
        )
    for option, (supported, default) in (FIXED | (FIXED_OF_EXPERTS if _experts(backbone) else {})).items():
        value = backbone.get(option, default)
        if value != supported:
            raise ModelFileError(f"{path}: option {option} is {value!r}; only {supported!r} is supported")
    return backbone


def _experts(backbone: dict[str, Any]) -> Any:
    """How many experts are mixed; 0 for a dense model."""
    return backbone.get("num_experts", 8) if BACKBONES[backbone["model"].rpartition(".")[2]] else 0


def _max_neighbors(path: Path, backbone: dict[str, Any]) -> int:
    """The limit, 0 for none; fairchem takes 0 and less for none."""
    value = backbone.get("max_neighbors", 300)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(f"{path}: option max_neighbors is {value!r}; it must be a whole number")
    return max(0, value)


def _model_id(path: Path, model: dict[str, Any], backbone: dict[str, Any]) -> str:
    name = model.get("model_id")
    if isinstance(name, str) and name.strip():
        return name
    if not _experts(backbone):
        return ""
    if backbone.get("model_version") in (1.1, "1.1"):
        return "UMA-1.1"
    raise ModelFileError(
        f"{path}: the checkpoint has no model_id and no model_version 1.1, as UMA 1.0 has not; which rules hold for its mixture of "
        "experts is unknown. Use UMA 1.1 or later"
    )


def _composition(backbone: dict[str, Any], model_id: str) -> Literal["none", "mean", "mean_with_zero"]:
    if not _experts(backbone) or not backbone.get("use_composition_embedding", False):
        return "none"
    return "mean_with_zero" if model_id == "UMA-S-1.2" else "mean"


def _span(path: Path, backbone: dict[str, Any], option: str) -> tuple[int, int]:
    channels = sorted(backbone.get(option) or [])
    if not channels:
        return 0, 0
    if channels != list(range(channels[0], channels[0] + len(channels))):
        raise ModelFileError(f"{path}: {option} {channels} is not a row of neighbouring channels")
    return channels[0], channels[-1] + 1


def _mapping(path: Path, options: dict[str, Any], deprecated: str) -> dict[str, str]:
    """Name of every dataset to the one whose embedding or head it uses."""
    names = options.get("dataset_mapping") or {name: name for name in options.get(deprecated) or []}
    if not isinstance(names, dict) or not names or not set(names.values()) <= set(names):
        raise ModelFileError(f"{path}: dataset_mapping {names!r} does not map datasets to datasets")
    return names


def _tasks(path: Path, content: fairchem_zip.Checkpoint) -> dict[str, dict[str, Any]]:
    """The energy's task of every dataset, in the order of the file; forces and stress must be its derivatives."""
    backbone = content.model["backbone"]
    known = _mapping(path, backbone, "dataset_list") if backbone.get("use_dataset_embedding", True) else None
    energies: dict[str, dict[str, Any]] = {}
    for task in content.tasks:
        for dataset in task.get("datasets") or []:
            if task.get("property") == "energy":
                if (known is not None and dataset not in known) or dataset in energies:
                    raise ModelFileError(
                        f"{path}: task {task.get('name')!r}: dataset {dataset!r} is unknown or occurs twice"
                    )
                energies[dataset] = task
    if not energies:
        raise ModelFileError(f"{path}: no task with an energy in tasks_config")
    for dataset, task in energies.items():
        if mean := _normalizer(path, task)[1]:
            raise ModelFileError(
                f"{path}: task {task.get('name')!r}: dataset {dataset!r}: the energy's normalizer has a mean, {mean}, which a sum "
                "over atoms cannot have"
            )
    for task in content.tasks:
        for dataset in task.get("datasets") or []:
            if task.get("property") in ("forces", "stress") and dataset in energies:
                _check_derivative(path, task, energies[dataset])
    return energies


def _check_derivative(path: Path, task: dict[str, Any], energy: dict[str, Any]) -> None:
    scale, mean = _normalizer(path, task)
    expected = _normalizer(path, energy)[0]
    if scale != expected:
        raise ModelFileError(
            f"{path}: task {task.get('name')!r} is scaled by {scale}, its energy by {expected}: forces would not be the derivative "
            "of the energy"
        )
    if mean or task.get("element_references") is not None:
        what = f"a mean, {mean}," if mean else "element_references,"
        raise ModelFileError(f"{path}: task {task.get('name')!r} has {what} which no derivative of the energy has")


def _normalizer(path: Path, task: dict[str, Any]) -> tuple[float, float]:
    """rmsd and mean."""
    options = task.get("normalizer")
    try:
        if not str(options["_target_"]).endswith(".Normalizer") or set(options) - {"_target_", "mean", "rmsd"}:  # type: ignore[index]
            raise ValueError
        return float(options.get("rmsd", 1.0)), float(options.get("mean", 0.0))  # type: ignore[union-attr]
    except (TypeError, KeyError, ValueError):
        raise ModelFileError(
            f"{path}: task {task.get('name')!r}: normalizer {options!r} is not supported"[:300]
        ) from None


def _references(path: Path, task: dict[str, Any], max_z: int) -> Tensor:
    """(max_z,) eV by atomic number."""
    options = task.get("element_references")
    if options is None:
        return torch.zeros(max_z, dtype=torch.float64)
    try:
        values = options["element_references"]
        target = values["_target_"]
        if not str(options["_target_"]).endswith(".ElementReferences") or set(values) - {"_target_", "_args_", "data"}:
            raise ValueError(target)
        if target not in ("torch.DoubleTensor", "torch.FloatTensor", "torch.Tensor", "torch.tensor"):
            raise ValueError(target)
        numbers = torch.tensor(values["_args_"][0] if "_args_" in values else values["data"], dtype=torch.float64)
    except (TypeError, KeyError, ValueError, IndexError):
        raise ModelFileError(
            f"{path}: task {task.get('name')!r}: element_references are not a table of numbers"
        ) from None
    if numbers.ndim != 1 or len(numbers) < max_z:
        raise ModelFileError(
            f"{path}: task {task.get('name')!r}: element_references have shape {tuple(numbers.shape)}; the model knows atomic "
            f"numbers below {max_z}, and each needs one"
        )
    return numbers[:max_z].float().double() if target == "torch.FloatTensor" else numbers[:max_z]


def _renamed(path: Path, config: EscnMdConfig, content: fairchem_zip.Checkpoint) -> dict[str, Tensor]:
    """fairchem's tensors under our names."""
    weights = {name.removeprefix("module."): tensor for name, tensor in content.weights.items() if name != "n_averaged"}
    tasks = _tasks(path, content)
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
    tensors["scales"] = torch.tensor([_normalizer(path, tasks[task])[0] for task in config.tasks], dtype=torch.float64)
    tensors["reference_energies"] = torch.stack([_references(path, tasks[task], config.max_z) for task in config.tasks])
    return tensors


def _task_embedding(
    path: Path, config: EscnMdConfig, content: fairchem_zip.Checkpoint, weights: dict[str, Tensor]
) -> Tensor:
    """(tasks, C), of the dataset that each maps to."""
    datasets = _mapping(path, content.model["backbone"], "dataset_list")
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


def _our_name(name: str) -> str | None:
    """Our name of a tensor of the backbone; None for those that are tables, or read elsewhere."""
    if not name.startswith("backbone.") or name.startswith(("backbone.Jd_", "backbone.dataset_embedding.")):
        return None
    name = name.removeprefix("backbone.")
    for theirs, ours in REPLACEMENTS:
        name = name.replace(theirs, ours)
    return name


def _head(
    path: Path, config: EscnMdConfig, content: fairchem_zip.Checkpoint, weights: dict[str, Tensor]
) -> dict[str, Tensor]:
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
        mapping = _mapping(path, options, "dataset_names")
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
