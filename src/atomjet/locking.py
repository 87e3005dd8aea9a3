"""One run at a time writes an output; a second is told so before it touches anything.

The system frees a lock when the process that holds it ends, however it ends: the lock file that a killed run leaves behind holds
nobody up. While a run lasts, its lock file says which process on which host it is.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from atomjet.errors import ConfigError
from atomjet.writing import append_whole, named


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Hold the lock of an output directory, which is made if need be.

    Raises:
        ConfigError: another run holds it; names that run.
    """
    with _locked(directory / ".lock", f"in {directory}"):
        yield


@contextmanager
def only_writer(file: Path) -> Iterator[None]:
    """Hold the lock of an output file; it stands beside the file.

    Raises:
        ConfigError: another run holds it; names that run.
    """
    with _locked(file.with_name(file.name + ".lock"), f"on {file}"):
        yield


@contextmanager
def _locked(path: Path, where: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _acquire(path, where) as file:
        try:
            with named(path):
                file.truncate(0)
                append_whole(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            # Removed while it is held: whoever has opened it meanwhile finds that the name is no longer this file's.
            with suppress(OSError):
                path.unlink()


def _acquire(path: Path, where: str) -> TextIO:
    """The open lock file, locked."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed by the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip()
            file.close()
            by = f" ({holder})" if holder else ""
            raise ConfigError(f"another run is working {where}{by}; wait for it or choose another output") from None
        except OSError as error:
            print(
                f"warning: {path.parent} knows no locks ({error.strerror}); start no second run there", file=sys.stderr
            )
            return file
        if _names(path, file):
            return file
        file.close()


def _names(path: Path, file: TextIO) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
