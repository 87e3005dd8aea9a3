"""Files that appear whole under their name or not at all, records that are appended whole, and errors that name the file.

A disk that is full, a quota or a file server that is gone can fail any write, and few of those who write for us say on which file.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""How the names end under which files are written before they have their own."""


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Let errors of the system within the block name the file that is written, and say their reason in the system's words.

    Raises:
        OSError: what was raised within, with `filename` and, where a library said no number, EIO with the library's words.
    """
    try:
        yield
    except OSError as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        if error.filename is None or PARTIAL in str(error.filename):  # a file that is read meanwhile keeps its name
            error.filename, error.filename2 = str(path), None
        if error.errno is None:  # numpy and Pillow say how much they could not write, but not why
            error.errno, error.strerror = errno.EIO, f"not all could be written ({words})"
        else:
            error.strerror = os.strerror(error.errno)
        raise


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """A directory on the disk that a file is written to, gone when the block ends; of a device or pipe anywhere."""
    target = Path(path).resolve()  # a link stays one
    with named(path):
        parent = None if _special(target) else target.parent
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}.", suffix=PARTIAL))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def appears_whole(path: str | Path) -> Iterator[Path]:
    """A place beside a file to write it at; what is there when the block ends takes the file's name at once.

    A directory holds it until then, because formats go by the name of the file, and some write several.
    """
    target = Path(path).resolve()
    with folder_beside(path) as folder:
        yield folder / Path(path).name
        for made in sorted(folder.iterdir(), key=lambda made: made.name == Path(path).name):
            if _special(target):
                target.write_bytes(made.read_bytes())
            else:
                _flush(made)
                os.replace(made, target if made.name == Path(path).name else target.parent / made.name)


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file, text in UTF-8, beside its name, flush it to the disk, rename it; directories are made if need be."""
    data = content.encode() if isinstance(content, str) else content
    target = Path(path).resolve()
    with named(path):
        if _special(target):
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=PARTIAL)
        try:
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def append_whole(handle: int, data: bytes) -> None:
    """Append to an open file all of the data or, where that fails, nothing."""
    before = os.fstat(handle).st_size
    try:
        write_all(handle, data)
    except BaseException:
        os.ftruncate(handle, before)
        raise


def write_all(handle: int, data: bytes, place: int | None = None) -> None:
    """Write every byte, at a place or where the file stands; the system may take fewer at a time."""
    rest = memoryview(data)
    while rest:
        done = os.write(handle, rest) if place is None else os.pwrite(handle, rest, place)
        rest, place = rest[done:], None if place is None else place + done


def _special(target: Path) -> bool:
    """Whether a name is that of a device or pipe, which is written into."""
    return target.exists() and not target.is_file()


def _flush(path: Path) -> None:
    """Bring a file to the disk, so that its new name never stands for less than all of it."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
