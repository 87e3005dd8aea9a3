"""The tasks of a fairchem checkpoint: the energy of each dataset, its scale and its reference energies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomjet.errors import ModelFileError
from atomjet.models.escn_md.fairchem_zip import Checkpoint


def dataset_mapping(path: Path, options: dict[str, Any], deprecated: str) -> dict[str, str]:
    """Name of every dataset to the one whose embedding or head it uses."""
    names = options.get("dataset_mapping") or {name: name for name in options.get(deprecated) or []}
    if not isinstance(names, dict) or not names or not set(names.values()) <= set(names):
        raise ModelFileError(f"{path}: dataset_mapping {names!r} does not map datasets to datasets")
    return names


def energy_tasks(path: Path, content: Checkpoint) -> dict[str, dict[str, Any]]:
    """The energy's task of every dataset, in the order of the file; forces and stress must be its derivatives."""
    backbone = content.model["backbone"]
    known = dataset_mapping(path, backbone, "dataset_list") if backbone.get("use_dataset_embedding", True) else None
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
        if mean := normalizer(path, task)[1]:
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
    scale, mean = normalizer(path, task)
    expected = normalizer(path, energy)[0]
    if scale != expected:
        raise ModelFileError(
            f"{path}: task {task.get('name')!r} is scaled by {scale}, its energy by {expected}: forces would not be the derivative "
            "of the energy"
        )
    if mean or task.get("element_references") is not None:
        what = f"a mean, {mean}," if mean else "element_references,"
        raise ModelFileError(f"{path}: task {task.get('name')!r} has {what} which no derivative of the energy has")


def normalizer(path: Path, task: dict[str, Any]) -> tuple[float, float]:
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


def reference_energies(path: Path, task: dict[str, Any], max_z: int) -> Tensor:
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
