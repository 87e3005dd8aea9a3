"""Checkpoints of a training: tensors and a JSON header in one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomjet.errors import ModelFileError, first_line
from atomjet.models.tensor_file import digest
from atomjet.writing import write_atomically

FORMAT = "atomjet-training"
FORMAT_VERSION = 2
WITHOUT_DIGEST = 1
"""Version without the SHA-256 of header and tensors; still read."""


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a checkpoint; an interrupted write leaves the last one whole."""
    metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "header": json.dumps(header)}
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(own, metadata | {"sha256": digest(own, metadata)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors (on the CPU) and header.

    Raises:
        ModelFileError: not a checkpoint, a damaged one, or one of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} is not a readable checkpoint ({first_line(error)}); delete it to train from the start"
        ) from error
    found = (metadata.get("format"), metadata.get("version"))
    if found not in ((FORMAT, str(FORMAT_VERSION)), (FORMAT, str(WITHOUT_DIGEST))):
        raise ModelFileError(
            f"{path} says it is {found}, not {FORMAT} {FORMAT_VERSION}; delete it to train from the start"
        )
    if found[1] != str(WITHOUT_DIGEST) and metadata.get("sha256") != digest(tensors, metadata):
        raise ModelFileError(f"{path} does not match its SHA-256: it is damaged; delete it to train from the start")
    try:
        header = json.loads(metadata.get("header", ""))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged ({first_line(error)}); delete it to train from the start") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} is damaged (its header is no object); delete it to train from the start")
    return tensors, header
