"""Model files: safetensors, with the family, configuration and card as JSON in its metadata. Nothing in them can execute.

A file is read in four steps, each of which refuses with one line: the header is checked against the file's size, the metadata
against the format's version, the configuration against its schema, and the tensors against the shapes the configuration asks for
and a SHA-256 of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from atomjet.errors import ModelFileError
from atomjet.models.contract import Model
from atomjet.models.families import FAMILIES

FORMAT = "1"
MAX_BYTES = 8 * 1024**3
MAX_HEADER_BYTES = 100 * 1024**2


def write(path: str | Path, model: Model, card: dict[str, Any]) -> None:
    """Write one safetensors file: weights, configuration and card. Appears whole under its name, or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "atomjet": FORMAT,
        "family": model.family,
        "config": model.config.model_dump_json(),
        "card": json.dumps(card, ensure_ascii=False),
        "sha256": digest(tensors),
    }
    write_atomically(Path(path), save(tensors, metadata))


def read(path: str | Path) -> tuple[Model, dict[str, Any]]:
    """Read a model and its card; of a fairchem checkpoint (.pt) too.

    Raises:
        ModelFileError: no such file, not safetensors (a pickle, say), damaged, or not what its configuration describes.
    """
    path = Path(path)
    if _is_archive(path):
        # PyTorch's own format: the one foreign kind that is read as it is. Imported here, because the import needs this file.
        from atomjet.models.escn_md import fairchem

        return fairchem.load(path)
    metadata, tensors = read_tensors(path)
    if metadata.get("atomjet") != FORMAT:
        version = metadata.get("atomjet")
        what = "is not an AtomJet model" if version is None else f"has format {version}"
        raise ModelFileError(
            f"{path}: {what}; this version reads format {FORMAT}. Foreign weights: see `atomjet convert`"
        )
    if metadata.get("family") not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelFileError(f"{path}: unknown model family {metadata.get('family')!r}; this version knows {known}")
    family = FAMILIES[metadata["family"]]
    try:
        config = family.config.model_validate_json(metadata.get("config", ""))
        card = json.loads(metadata.get("card", "{}"))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path}: unreadable configuration or card: {first_line(error)}") from None
    with torch.device("meta"):
        model: Any = family.model(config)
    check_tensors(path, tensors, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    if metadata.get("sha256") != digest(tensors):
        raise ModelFileError(f"{path}: the weights do not match their SHA-256; the file is damaged, fetch it again")
    model.load_state_dict(tensors, assign=True)
    return frozen(model.to(next(model.parameters()).dtype)), card


def _is_archive(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read any safetensors file after checking that its header is not a lie about its size."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; `atomjet info` lists the packaged models")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(10)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelFileError(
            f"{path}: this is a pickle, which could run code when opened; give a .safetensors file (`atomjet convert` makes one)"
        )
    length = int.from_bytes(start[:8], "little")
    if size < 10 or start[8:9] != b"{" or length > min(size - 8, MAX_HEADER_BYTES):
        raise ModelFileError(f"{path}: not a whole safetensors file ({size} bytes); it is damaged, fetch it again")
    if size > MAX_BYTES:
        raise ModelFileError(f"{path}: {size} bytes, more than the {MAX_BYTES} that a model may have")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged safetensors file ({first_line(error)}); fetch it again") from None


def check_tensors(path: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse missing, unknown, wrongly shaped and non-finite tensors by name."""
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelFileError(f"{path}: tensor {name!r} is missing")
        if tuple(tensors[name].shape) != shape:
            raise ModelFileError(f"{path}: tensor {name!r} has shape {tuple(tensors[name].shape)}; expected {shape}")
    for name, tensor in tensors.items():
        if name not in expected:
            raise ModelFileError(f"{path}: unknown tensor {name!r}")
        if not tensor.is_floating_point() or not _finite(tensor):
            raise ModelFileError(f"{path}: tensor {name!r} holds values that are not finite numbers")


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite: the extremes are not, where any is not (and one pass finds them)."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def frozen(model: Any) -> Any:
    """Return the model ready for inference: no parameter wants a gradient."""
    return nn.Module.requires_grad_(model.eval(), False)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in order of their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, flush to the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def first_line(error: Exception) -> str:
    """The gist of a foreign error, on one line."""
    return " ".join(str(error).split())[:200]
