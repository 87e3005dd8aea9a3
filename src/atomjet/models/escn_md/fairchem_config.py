"""What a fairchem checkpoint says of its model, as our configuration; an option that is not supported is refused by name.

Generations are told apart as fairchem-core 2.24 does: "UMA-S-1.2" counts a row of zeros in the mean over the composition, later
ones do not; UMA 1.1 has no id and says `model_version` 1.1; UMA 1.0 is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from atomjet.errors import ModelFileError
from atomjet.models.escn_md.config import EscnMdConfig
from atomjet.models.escn_md.fairchem_tasks import energy_tasks
from atomjet.models.escn_md.fairchem_zip import Checkpoint

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


def config_of(path: Path, content: Checkpoint) -> EscnMdConfig:
    """The configuration of the model in a checkpoint.

    Raises:
        ModelFileError: another architecture, an option of a value that is not supported, or one that is not known.
    """
    backbone = _backbone(path, content)
    experts = _experts(backbone)
    model_id = _model_id(path, content.model, backbone)
    tasks = energy_tasks(path, content)
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


def _backbone(path: Path, content: Checkpoint) -> dict[str, Any]:
    """The backbone's options, each of them known and of a value that is supported."""
    backbone = content.model.get("backbone")
    name = str(backbone.get("model", "nothing")) if isinstance(backbone, dict) else "nothing"
    architecture = name.rpartition(".")[2]
    if not isinstance(backbone, dict) or architecture not in BACKBONES:
        raise ModelFileError(
            f"{path}: the architecture is {name}; only eSCNMDMoeBackbone (UMA) and eSCNMDBackbone (eSEN) can be read"
        )
    known = SERVED | WITHOUT_EFFECT | set(FIXED)
    if BACKBONES[architecture]:
        known |= SERVED_OF_EXPERTS | WITHOUT_EFFECT_OF_EXPERTS | set(FIXED_OF_EXPERTS)
    unknown = sorted(set(backbone) - known)
    if unknown:
        raise ModelFileError(
            f"{path}: option {unknown[0]} is {backbone[unknown[0]]!r}; {architecture} of fairchem-core 2.24 has no such "
            "option, so what it means is not known"
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
