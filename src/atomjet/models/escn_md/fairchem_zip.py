"""Read fairchem's inference checkpoints without fairchem, and without running anything that stands in them.

A checkpoint is what `torch_archive` reads, with names of fairchem's and OmegaConf's that have inert stand-ins. Then the shape is
checked: one `MLIPInferenceCheckpoint` with two configurations made of plain values, and tensors.

Configurations come as plain dicts and lists or as OmegaConf's, whose nodes are unwrapped. Only the averaged weights are read, which
inference uses; the file's second copy of the weights stays on the disk.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from atomjet.errors import ModelFileError
from atomjet.models import torch_archive
from atomjet.models.inert_pickle import Pending, Stand
from atomjet.models.torch_archive import Archive

CHECKPOINT = "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint"
FIELDS = ("model_config", "model_state_dict", "ema_state_dict", "tasks_config")
MAX_DEPTH = 64
MAX_VALUES = 200_000
MAX_NAME = 200
OMEGACONF = (
    "omegaconf.listconfig.ListConfig",
    "omegaconf.dictconfig.DictConfig",
    *(f"omegaconf.nodes.{node}Node" for node in ("Any", "Integer", "Float", "Boolean", "String")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
)
TYPES = (
    *(f"__builtin__.{name}" for name in ("dict", "list", "int", "long", "str", "float", "bool")),
    *(f"builtins.{name}" for name in ("dict", "list", "int", "str", "float", "bool")),
    *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Union")),
)
"""Names of types in OmegaConf's metadata, which stand for nothing here."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says: two configurations of plain values, and the averaged weights."""

    model: dict[str, Any]
    tasks: list[dict[str, Any]]
    weights: dict[str, Tensor]


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelFileError: damaged, or anything else than a fairchem inference checkpoint; says what it holds instead.
    """
    with torch_archive.opened(path) as archive:
        return _read(path, archive)


def _read(path: Path, archive: Archive) -> Checkpoint:
    content = _content(path, archive)
    if type(content).__name__ != "MLIPInferenceCheckpoint" or not isinstance(content, Stand):
        raise ModelFileError(
            f"{path}: holds a {type(content).__name__}, not fairchem's MLIPInferenceCheckpoint; give an inference "
            "checkpoint (for SchNetPack's weights: `atomjet convert` with --config)"
        )
    missing = [name for name in FIELDS if name not in content.state]
    if missing:
        raise ModelFileError(f"{path}: the checkpoint has no {missing[0]}; it is damaged or of another version")
    model, tasks = (_Configuration(path).plain(content.state[name], name) for name in ("model_config", "tasks_config"))
    if not isinstance(model, dict) or not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ModelFileError(f"{path}: model_config must be a dict and tasks_config a list of dicts; it is damaged")
    weights = content.state["ema_state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(value, Pending) for value in weights.values()):
        raise ModelFileError(f"{path}: ema_state_dict is not a dict of tensors; it is damaged")
    return Checkpoint(model, tasks, archive.tensors({str(name): value for name, value in weights.items()}))


def _content(path: Path, archive: Archive) -> Any:
    names: dict[str, Any] = {name: type(name.rpartition(".")[2], (Stand,), {}) for name in (CHECKPOINT, *OMEGACONF)}
    try:
        return archive.content(names | {name: name for name in TYPES})
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path}: this is a pickle, which could run code when opened, and no fairchem inference checkpoint: {error}"
        ) from None


class _Configuration:
    """Turns a configuration into plain dicts, lists and values: unwraps OmegaConf's nodes, looks their references up.

    A list that stands in many places is copied into each, so the values are counted: thirty lists, each holding the one
    before twice, are a billion.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = 0

    def plain(self, value: Any, where: str, depth: int = 0, root: Any = None) -> Any:
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise ModelFileError(
                f"{self.path}: {where[:MAX_NAME]} is nested deeper than {MAX_DEPTH} levels, refers to itself, or has more than "
                f"{MAX_VALUES} values; it is damaged"
            )
        if isinstance(value, Stand):
            root = root or _root(value)
            inner = value.state.get("_content", value.state.get("_val"))
            if isinstance(inner, str) and inner.startswith("${"):
                inner = _referred(self.path, root, inner, where)
            return self.plain(inner, where, depth + 1, root)
        if isinstance(value, dict):
            if any(len(str(key)) > MAX_NAME for key in value):
                raise ModelFileError(f"{self.path}: {where} has a name of more than {MAX_NAME} letters; it is damaged")
            return {str(key): self.plain(item, f"{where}.{key}", depth + 1, root) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item, f"{where}[{rank}]", depth + 1, root) for rank, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ModelFileError(
            f"{self.path}: {where} is a {type(value).__name__}; a configuration holds plain values only"
        )


def _root(node: Stand) -> Stand:
    for _ in range(MAX_DEPTH):
        parent = node.state.get("_parent")
        if not isinstance(parent, Stand):
            break
        node = parent
    return node


def _referred(path: Path, root: Stand, reference: str, where: str) -> Any:
    """What `${a.b}` stands for: the value at that place of the outermost configuration."""
    node: Any = root
    for name in reference[2:].removesuffix("}").split("."):
        content = node.state.get("_content") if isinstance(node, Stand) else node
        if not isinstance(content, dict) or name not in content:
            raise ModelFileError(f"{path}: {where} refers to {reference}, which is not in the file")
        node = content[name]
    return node
