"""Read fairchem's inference checkpoints without fairchem, and without running anything that stands in them.

A checkpoint is a zip archive: a pickle, and one record of raw numbers for each storage. The pickle names the classes it wants. Here
each name that such a checkpoint needs has an inert stand-in, and every other name is refused; so no code of the file's choosing is
ever called. Then the shape is checked: one `MLIPInferenceCheckpoint` with two configurations made of plain values, and tensors.

Configurations come as plain dicts and lists or as OmegaConf's, whose nodes are unwrapped. Only the averaged weights are read, which
inference uses; the file's second copy of the weights stays on the disk.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atomjet.errors import ModelFileError

CHECKPOINT = "fairchem.core.units.mlip_unit.api.inference.MLIPInferenceCheckpoint"
FIELDS = ("model_config", "model_state_dict", "ema_state_dict", "tasks_config")
MAX_PICKLE_BYTES = 256 * 1024**2
MAX_DEPTH = 64
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
}
OMEGACONF = (
    "omegaconf.listconfig.ListConfig",
    "omegaconf.dictconfig.DictConfig",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "Boolean", "String")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says: two configurations of plain values, and the averaged weights."""

    model: dict[str, Any]
    tasks: list[dict[str, Any]]
    weights: dict[str, Tensor]


class Record(NamedTuple):
    """A storage in the archive, not read yet."""

    key: str
    dtype: torch.dtype


class Pending(NamedTuple):
    """A tensor in a storage, not read yet."""

    record: Record
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Stand:
    """An object of a class that is known by name: keeps its state, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"unexpected state of {type(self).__name__}")
        self.state = state


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelFileError: damaged, or anything else than a fairchem inference checkpoint; says what it holds instead.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); fetch it again") from None


def _read(path: Path, archive: zipfile.ZipFile) -> Checkpoint:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ModelFileError(f"{path}: a zip archive, but not one that PyTorch wrote; give a checkpoint")
    root = names[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
        raise ModelFileError(f"{path}: written on a machine with the other byte order; convert it there")
    if archive.getinfo(names[0]).file_size > MAX_PICKLE_BYTES:
        raise ModelFileError(f"{path}: its pickle has more than {MAX_PICKLE_BYTES} bytes, too many for a checkpoint")
    content = _unpickled(path, archive.read(names[0]))
    if type(content).__name__ != "MLIPInferenceCheckpoint" or not isinstance(content, Stand):
        raise ModelFileError(
            f"{path}: holds a {type(content).__name__}, not fairchem's MLIPInferenceCheckpoint; give an inference "
            "checkpoint (for SchNetPack's weights: `atomjet convert` with --config)"
        )
    missing = [name for name in FIELDS if name not in content.state]
    if missing:
        raise ModelFileError(f"{path}: the checkpoint has no {missing[0]}; it is damaged or of another version")
    parts = {name: _plain(path, content.state[name], name) for name in ("model_config", "tasks_config")}
    if not isinstance(parts["model_config"], dict) or not isinstance(parts["tasks_config"], list):
        raise ModelFileError(f"{path}: model_config must be a dict and tasks_config a list; it is damaged")
    weights = content.state["ema_state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(value, Pending) for value in weights.values()):
        raise ModelFileError(f"{path}: ema_state_dict is not a dict of tensors; it is damaged")
    storages: dict[Record, Tensor] = {}
    tensors = {str(name): _tensor(path, archive, root, value, storages) for name, value in weights.items()}
    return Checkpoint(parts["model_config"], parts["tasks_config"], tensors)


def _unpickled(path: Path, content: bytes) -> Any:
    try:
        return _Unpickler(content).load()
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path}: this is a pickle, which could run code when opened, and no fairchem inference checkpoint: {error}"
        ) from None
    except Exception as error:  # a pickle machine stumbles over damaged input in many ways
        raise ModelFileError(f"{path}: damaged pickle ({type(error).__name__}); fetch it again") from None


class _Unpickler(pickle.Unpickler):
    """Resolves names to inert stand-ins, made anew for each file, and to nothing else."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.known: dict[str, Any] = {
            name: type(name.rpartition(".")[2], (Stand,), {}) for name in (CHECKPOINT, *OMEGACONF)
        }
        self.known |= {name: dtype for name, dtype in STORAGES.items()}
        self.known |= {f"__builtin__.{name}": name for name in ("dict", "list", "int", "long", "str", "float", "bool")}
        self.known |= {f"builtins.{name}": name for name in ("dict", "list", "int", "str", "float", "bool")}
        self.known |= {f"typing.{name}": name for name in ("Any", "Dict", "List", "Optional", "Union")}
        self.known["collections.OrderedDict"] = _dictionary
        self.known["collections.defaultdict"] = _dictionary
        self.known["torch._utils._rebuild_tensor_v2"] = _pending
        self.known["torch._utils._rebuild_parameter"] = _parameter

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.known:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is refused")
        return self.known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Record:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdigit():
            raise pickle.UnpicklingError(f"it refers to {pid!r}"[:200])
        return Record(str(key), dtype)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """What `OrderedDict()` and `defaultdict(dict)` stand for; pairs as an argument occur in old pickles."""
    pairs = [argument for argument in arguments if isinstance(argument, list)]
    return dict(pairs[0]) if pairs else {}


def _pending(record: Record, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Pending:
    if not isinstance(record, Record) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Pending(record, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _tensor(
    path: Path, archive: zipfile.ZipFile, root: str, pending: Pending, storages: dict[Record, Tensor]
) -> Tensor:
    record, offset, size, stride = pending
    if record not in storages:
        name = f"{root}data/{record.key}"
        if name not in archive.namelist():
            raise ModelFileError(f"{path}: storage {record.key} is missing; the file is damaged, fetch it again")
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size % record.dtype.itemsize:
            raise ModelFileError(
                f"{path}: storage {record.key} is not raw numbers; the file is damaged, fetch it again"
            )
        # Reading a record to its end checks its CRC-32.
        storages[record] = torch.frombuffer(bytearray(archive.read(info)) or bytearray(8), dtype=record.dtype)
    storage = storages[record]
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min(size, default=1) < 0 or min(stride, default=0) < 0 or offset < 0 or (0 not in size and last >= len(storage)):
        raise ModelFileError(f"{path}: a tensor of shape {size} reaches beyond its storage; the file is damaged")
    tensor = storage.as_strided(size, stride, offset)
    return tensor if tensor.numel() == len(storage) and tensor.is_contiguous() else tensor.clone()


def _plain(path: Path, value: Any, where: str, depth: int = 0, root: Any = None) -> Any:
    """Plain dicts, lists and values of a configuration; OmegaConf's nodes are unwrapped and its references looked up."""
    if depth > MAX_DEPTH:
        raise ModelFileError(f"{path}: {where} is nested too deeply or refers to itself; it is damaged")
    if isinstance(value, Stand):
        root = root or _root(value)
        inner = value.state.get("_content", value.state.get("_val"))
        if isinstance(inner, str) and inner.startswith("${"):
            inner = _referred(path, root, inner, where)
        return _plain(path, inner, where, depth + 1, root)
    if isinstance(value, dict):
        return {str(key): _plain(path, item, f"{where}.{key}", depth + 1, root) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(path, item, f"{where}[{rank}]", depth + 1, root) for rank, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelFileError(f"{path}: {where} is a {type(value).__name__}; a configuration holds plain values only")


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
