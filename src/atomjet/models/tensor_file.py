"""The container of models: safetensors, with everything that is no tensor as text in its metadata. Nothing in it can execute.

A file is opened by its header alone, which is checked against the file's size before a byte of weights is read. From format 2 on
one SHA-256 covers metadata and tensors: a changed bit of the configuration or the card is noticed like one of a weight. Files of
format 1, whose SHA-256 covers the tensors only, still open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from atomjet.errors import ModelFileError, first_line
from atomjet.models import strict_json
from atomjet.models.card import card_to_json
from atomjet.models.contract import Model
from atomjet.writing import write_atomically

FORMAT = "2"
WEIGHTS_ONLY_FORMAT = "1"
"""Version of the format before: its SHA-256 leaves configuration and card out."""

MAX_BYTES = 8 * 1024**3
MAX_HEADER_BYTES = 2 * 1024**2
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Entry(BaseModel):
    """What a header says of one tensor."""

    model_config = ConfigDict(extra="forbid")

    dtype: str
    shape: list[int] = Field(max_length=8)
    data_offsets: tuple[int, int]


class _Header(BaseModel):
    """A safetensors header: tensors by name, and text."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Entry]  # type: ignore[reportIncompatibleVariableOverride]

    metadata: dict[str, str] = Field({}, alias="__metadata__")


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read, and nothing else yet.

    Attributes:
        path: where it lies.
        metadata: text by name.
        shapes: of all tensors, by name.
    """

    path: Path
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    @property
    def format(self) -> str | None:
        """Version of AtomJet's format; None for foreign files."""
        return self.metadata.get("atomjet")

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors.

        Raises:
            ModelFileError: a header that does not describe the bytes behind it.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in self.shapes}
        except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelFileError(
                f"{self.path}: damaged safetensors file ({first_line(error)}); fetch it again"
            ) from None

    def check_digest(self, tensors: dict[str, Tensor]) -> None:
        """Hold metadata and tensors against the SHA-256 in the file.

        Raises:
            ModelFileError: they are not what was written.
        """
        whole = self.format != WEIGHTS_ONLY_FORMAT
        if self.metadata.get("sha256") != digest(tensors, self.metadata if whole else {}):
            what = "weights, configuration and card do" if whole else "weights do"
            raise ModelFileError(
                f"{self.path}: the {what} not match their SHA-256; the file is damaged, fetch it again"
            )


def opened(path: Path) -> TensorFile:
    """Read a safetensors file's header.

    Raises:
        ModelFileError: no such file, a pickle, too large, damaged, or a header that lies about its size.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; `atomjet info` lists the packaged models")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise ModelFileError(
                f"{path}: this is a pickle, which could run code when opened; give a .safetensors file "
                "(`atomjet convert` makes one)"
            )
        if size < 10 or start[8:9] != b"{" or length > size - 8:
            raise ModelFileError(f"{path}: not a whole safetensors file ({size} bytes); it is damaged, fetch it again")
        if size > MAX_BYTES:
            raise ModelFileError(f"{path}: {size} bytes, more than the {MAX_BYTES} that a model may have")
        if length > MAX_HEADER_BYTES:
            raise ModelFileError(
                f"{path}: a header of {length} bytes, more than the {MAX_HEADER_BYTES} that a model may have"
            )
        text = start[8:] + file.read(length - 1)
    try:
        header = strict_json.validated(_Header, text.decode())
        with safe_open(path, framework="pt"):  # tensors lie where the header says, one behind the other, to the end
            pass
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: damaged safetensors file ({first_line(error)}); fetch it again") from None
    shapes = {name: tuple(entry.shape) for name, entry in header.__pydantic_extra__.items()}
    return TensorFile(path, header.metadata, shapes)


def write(path: str | Path, model: Model, card: dict[str, Any]) -> None:
    """Write a model: weights, configuration and card. Appears whole under its name, or not at all.

    Raises:
        ModelFileError: a card with a field of the wrong type, or a card beyond all measure.
    """
    try:
        text = card_to_json(card)
    except ValueError as error:
        raise ModelFileError(f"{path}: the card cannot be written: {first_line(error)}") from None
    metadata = {"format": "pt", "family": model.family, "config": model.config.model_dump_json(), "card": text}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(Path(path), tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text in the newest format, with one SHA-256 of both."""
    text = {name: value for name, value in metadata.items() if name != "sha256"} | {"atomjet": FORMAT}
    content = save(tensors, text | {"sha256": digest(tensors, text)})
    if int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
        raise ModelFileError(f"{path}: card and names have more than the {MAX_HEADER_BYTES} bytes of a header")
    write_atomically(path, content)


def check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing, unknown and wrongly shaped tensors by name."""
    for name, shape in expected.items():
        if name not in shapes:
            raise ModelFileError(f"{path}: tensor {name!r} is missing")
        if shapes[name] != shape:
            raise ModelFileError(f"{path}: tensor {name!r} has shape {shapes[name]}; expected {shape}")
    for name in shapes:
        if name not in expected:
            raise ModelFileError(f"{path}: unknown tensor {name!r}")


def check_tensors(path: Path, tensors: dict[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing, unknown, wrongly shaped and non-finite tensors by name."""
    check_shapes(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected)
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not _finite(tensor):
            raise ModelFileError(f"{path}: tensor {name!r} holds values that are not finite numbers")


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite: the extremes are not, where any is not (and one pass finds them)."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def filled(model: Any, tensors: dict[str, Tensor]) -> Any:
    """Put tensors into a model made on the device "meta", ready for inference, in the type of its first parameter."""
    model.load_state_dict(tensors, assign=True)
    return frozen(model.to(next(model.parameters()).dtype))


def frozen(model: Any) -> Any:
    """Return the model ready for inference: no parameter wants a gradient."""
    return nn.Module.requires_grad_(model.eval(), False)


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over all text but itself, then names, types, shapes and bytes of all tensors, each in order of their names."""
    sha = hashlib.sha256()
    for name in sorted(set(metadata) - {"sha256"}):
        for text in (name, metadata[name]):
            encoded = text.encode("utf-8", "surrogatepass")
            sha.update(f"{len(encoded)} ".encode() + encoded)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
