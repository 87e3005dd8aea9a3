"""Read what `torch.save` writes, without running anything that stands in it, in memory bounded by the file's own size.

The file is a zip archive: a pickle (`inert_pickle`), and one record of raw numbers for each storage, none compressed. Tensors are
read when a caller wants them.
"""

from __future__ import annotations

import math
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomjet.errors import ModelFileError
from atomjet.models import inert_pickle
from atomjet.models.inert_pickle import Pending, Record
from atomjet.models.strict_json import short

MAGIC = b"PK\x03\x04"
MAX_DIRECTORY_BYTES = 4 * 1024**2
MAX_PICKLE_BYTES = 32 * 1024**2


def is_archive(path: Path) -> bool:
    """Whether a file begins as zip archives do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive, and close it in the end.

    Raises:
        ModelFileError: damaged, compressed, or not written by PyTorch.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as file:
            yield Archive(path, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        raise ModelFileError(f"{path}: damaged ({short(error, quote=False)}); fetch it again") from None


class Archive:
    """An open archive.

    Attributes:
        path: where it lies.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        """Check that nothing in it is larger than it looks, before any of it is read."""
        self.path, self._file = path, file
        self._records = {info.filename: info for info in file.infolist()}
        packed = [info for info in file.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed or sum(info.file_size for info in file.infolist()) > path.stat().st_size:
            raise ModelFileError(
                f"{path}: damaged: its records are compressed or overlap, which PyTorch never writes; fetch it again"
            )
        names = [name for name in self._records if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ModelFileError(f"{path}: a zip archive, but not one that PyTorch wrote; give a checkpoint")
        self._root = names[0].removesuffix("data.pkl")
        order = self._records.get(f"{self._root}byteorder")
        if order is not None and (order.file_size > 10 or file.read(order) != sys.byteorder.encode()):
            raise ModelFileError(f"{path}: written on a machine with the other byte order; convert it there")

    def content(self, names: Mapping[str, Any]) -> Any:
        """Read the pickle.

        Args:
            names: what the pickle may name beside tensors and dictionaries, and the stand-in of each.

        Returns:
            Plain values, stand-ins, and a `Pending` for each tensor.

        Raises:
            pickle.UnpicklingError: another name or operation; says which.
            ModelFileError: damaged.
        """
        info = self._records[f"{self._root}data.pkl"]
        if info.file_size > MAX_PICKLE_BYTES:
            raise ModelFileError(
                f"{self.path}: its pickle has more than {MAX_PICKLE_BYTES} bytes, too many for a checkpoint"
            )
        content = self._file.read(info)
        try:
            return inert_pickle.loads(content, names)
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # a pickle machine stumbles over damaged input in many ways
            raise ModelFileError(f"{self.path}: damaged pickle ({type(error).__name__}); fetch it again") from None

    def tensors(self, pending: Mapping[str, Pending]) -> dict[str, Tensor]:
        """Read tensors; those that are not the whole of a storage are copied out of it.

        Raises:
            ModelFileError: a storage is missing or damaged, or tensors do not lie in it or are larger than it.
        """
        storages: dict[Record, Tensor] = {}
        budget = self.path.stat().st_size
        tensors: dict[str, Tensor] = {}
        for name, (record, offset, size, stride) in pending.items():
            if record not in storages:
                storages[record] = self._storage(record)
            storage = storages[record]
            last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            inside = min((*size, *stride, offset), default=0) >= 0 and (0 in size or last < len(storage))
            if not inside or math.prod(size) > len(storage):
                raise ModelFileError(
                    f"{self.path}: a tensor of shape {size} reaches beyond its storage; the file is damaged"
                )
            tensor = storage.as_strided(size, stride, offset)
            if tensor.numel() != len(storage) or not tensor.is_contiguous():
                budget -= tensor.numel() * tensor.itemsize
                if budget < 0:
                    raise ModelFileError(
                        f"{self.path}: its tensors have more bytes than the file, as views of the same numbers; it is damaged"
                    )
                tensor = tensor.clone()
            tensors[name] = tensor
        return tensors

    def _storage(self, record: Record) -> Tensor:
        info = self._records.get(f"{self._root}data/{record.key}")
        if info is None:
            raise ModelFileError(f"{self.path}: storage {record.key} is missing; the file is damaged, fetch it again")
        if info.file_size % record.dtype.itemsize:
            raise ModelFileError(f"{self.path}: storage {record.key} is cut off; the file is damaged, fetch it again")
        # Reading a record to its end checks its CRC-32.
        content = bytearray(self._file.read(info))
        return torch.frombuffer(content, dtype=record.dtype) if content else torch.empty(0, dtype=record.dtype)


def _check_directory(path: Path) -> None:
    """Refuse a directory of millions of records before it is read: `zipfile` makes an object of each."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 100))
        end = file.read()
    short_end, long_end = end.rfind(b"PK\x05\x06"), end.rfind(b"PK\x06\x06")
    size = int.from_bytes(end[short_end + 12 : short_end + 16], "little") if short_end >= 0 else 0
    if size == 2**32 - 1 and long_end >= 0:
        size = int.from_bytes(end[long_end + 40 : long_end + 48], "little")
    if size > MAX_DIRECTORY_BYTES:
        raise ModelFileError(f"{path}: damaged: its directory has {size} bytes, more than {MAX_DIRECTORY_BYTES}")
