"""Append-only, checksummed records on disk: what survives when a run is killed at any moment.

Each worker process writes one new file and never touches another's. A record is

    magic (4 bytes) | length of body (u32) | CRC-32 of key and body (u32) | key (16 bytes) | body

and reaches the kernel in one write, so kill -9 can only tear the record in flight. What a full disk tears is taken back, and the
writer raises. Reading passes over a record that is incomplete or whose checksum differs and goes on with the next whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from atomjet.errors import AtomJetError
from atomjet.writing import append_whole

HEADER = struct.Struct("<4sII16s")
MAGIC = b"AJR1"

SEARCH_BYTES = 1 << 20
"""Bytes looked through at once for the next record behind a damaged one."""

Record = dict[str, Any]
"""Named numpy arrays, and strings, numbers or None."""


def content_key(*parts: Any) -> bytes:
    """Digest (16 bytes) of strings, numbers, JSON-able values, bytes and arrays: equal content, equal key."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            data = f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            data = b"bytes " + part
        else:
            data = json.dumps(part, sort_keys=True).encode()
        digest.update(struct.pack("<Q", len(data)) + data)
    return digest.digest()


def encode(record: Record) -> bytes:
    """Record to bytes: a JSON line that describes the arrays, then their raw content."""
    arrays = {name: np.ascontiguousarray(value) for name, value in record.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in record.items() if name not in arrays}
    shapes = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    head = json.dumps({"plain": plain, "arrays": shapes}).encode()
    return b"".join([struct.pack("<I", len(head)), head, *(array.tobytes() for array in arrays.values())])


def decode(body: bytes) -> Record:
    """Bytes of `encode` back to the record."""
    (length,) = struct.unpack_from("<I", body)
    head = json.loads(body[4 : 4 + length])
    record, offset = dict(head["plain"]), 4 + length
    for name, (dtype, shape) in head["arrays"].items():
        count = int(np.prod(shape))
        record[name] = np.frombuffer(body, np.dtype(dtype), count, offset).reshape(shape).copy()
        offset += count * np.dtype(dtype).itemsize
    return record


class JournalWriter:
    """Appends records to a new file in a directory; the file appears with the first record."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.journal"
        self._file: BinaryIO | None = None

    def append(self, key: bytes, record: Record) -> None:
        """Write one record; when this returns the record outlives the process.

        Raises:
            AtomJetError: it does not fit on the disk, or cannot be written; the file is left as it was before.
        """
        body = encode(record)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the worker
            append_whole(self._file.fileno(), HEADER.pack(MAGIC, len(body), zlib.crc32(key + body), key) + body)
        except OSError as error:
            raise AtomJetError(
                f"cannot write {self.path}: {error.strerror}; make room on the disk or choose another output, then run the same "
                "again: what is there is kept"
            ) from error

    def close(self) -> None:
        """Hand the records to the disk and close."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def read_file(path: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (key, offset of the body, body) of every whole record, whatever stands between them."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        place = 0
        while place + HEADER.size <= size:
            file.seek(place)
            magic, length, checksum, key = HEADER.unpack(file.read(HEADER.size))
            offset = place + HEADER.size
            body = file.read(length) if magic == MAGIC and offset + length <= size else None
            if body is not None and zlib.crc32(key + body) == checksum:
                yield key, offset, body
                place = offset + length
            else:
                place = _next_magic(file, place + 1, size)


def _next_magic(file: BinaryIO, place: int, size: int) -> int:
    """Where, from `place` on, the next record may begin; `size` where none does."""
    while place < size:
        file.seek(place)
        chunk = file.read(SEARCH_BYTES)
        if (found := chunk.find(MAGIC)) >= 0:
            return place + found
        # A magic may lie across the end of the chunk.
        place = place + len(chunk) - len(MAGIC) + 1 if place + len(chunk) < size else size
    return size


class Journal:
    """All records of a directory by key, read from disk when asked for; for a repeated key a result beats a failure."""

    def __init__(self, directory: str | Path) -> None:
        self._where: dict[bytes, tuple[Path, int, int]] = {}
        self._failed: set[bytes] = set()
        for path in sorted(Path(directory).glob("*.journal")):
            for key, offset, body in read_file(path):
                failed = "error" in decode_plain(body)
                if key in self._where and (failed or key not in self._failed):
                    continue
                self._where[key] = (path, offset, len(body))
                (self._failed.add if failed else self._failed.discard)(key)
        self._open: dict[Path, BinaryIO] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether the key has a record, result or failure."""
        return key in self._where

    def failed(self, key: bytes) -> bool:
        """Whether all that is known of the key is a failure."""
        return key in self._failed

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._where)

    def __getitem__(self, key: bytes) -> Record:
        """Record of a key; a failure is {"error": reason}."""
        path, offset, length = self._where[key]
        if path not in self._open:
            self._open[path] = open(path, "rb")  # noqa: SIM115 - closed by close()
        file = self._open[path]
        file.seek(offset)
        return decode(file.read(length))

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def __enter__(self) -> Journal:
        """Use as a context that closes the files."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the files."""
        self.close()


def decode_plain(body: bytes) -> dict[str, Any]:
    """Only the strings and numbers of a record, without its arrays."""
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length])["plain"]
