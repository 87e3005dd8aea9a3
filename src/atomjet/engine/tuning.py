"""Choices for kernels: a table by device, model and size, filled by `tuner.py`; without an entry, as the backend chooses.

The table is JSON: {"version": 2, "devices": {device name: {model key: {entry: {kernel: {choice: value}}}}}}. An entry is a size and
"dense" or "sparse" (`entry_key`). Two tables are read, once a process: the one that is shipped (`tuned.json` beside this file) and
the user's own, which comes first. Nothing is tuned unless a user runs `atomjet tune`.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atomjet.data import Capacity
from atomjet.errors import ConfigError
from atomjet.models.contract import CapturedBackend, Choices
from atomjet.writing import write_atomically

VERSION = 2
SIZES = (32, 128, 256, 512, 1024, 2048, 4096, 16384)
"""Atoms of a capacity: an entry serves those up to its size, the last one all that are larger."""


@dataclass(frozen=True)
class Tuning:
    """The entries for one model on one device.

    Attributes:
        backend: as the family makes it.
        entries: choices for each kernel, by `entry_key`.
    """

    backend: CapturedBackend
    entries: dict[str, Choices]

    @classmethod
    def of(cls, backend: CapturedBackend, device: torch.device) -> Tuning | None:
        """Look both tables up; None for a backend without choices."""
        if backend.tuning is None:
            return None
        entries: dict[str, Choices] = {}
        for table in (_shipped(), users_own()):
            entries |= table.get(device_name(device), {}).get(backend.tuning.key, {})
        return cls(backend, entries)

    def backend_for(self, capacity: Capacity) -> CapturedBackend:
        """The backend with the choices for a capacity; copies share the weights."""
        choices, space = self.entries.get(entry_key(capacity)), self.backend.tuning
        return self.backend if choices is None or space is None else space.with_tiles(capacity, choices)


def entry_key(capacity: Capacity) -> str:
    """Which entry serves a capacity, such as "2048 sparse"."""
    size = next((size for size in SIZES if capacity.atoms <= size), SIZES[-1])
    return f"{size} {'dense' if capacity.dense else 'sparse'}"


def device_name(device: torch.device) -> str:
    """Name of the device: a GPU's as its driver gives it, else the device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def user_table() -> Path:
    """Where the user's own table stands."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "atomjet" / "tuned.json"
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "atomjet" / "Cache" / "tuned.json"
    return home / ".cache" / "atomjet" / "tuned.json"


def read_table(path: Path) -> dict[str, Any]:
    """The devices of a table; none where there is no file.

    Raises:
        ConfigError: a file that is damaged or of another version.
    """
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["version"] == VERSION:
            return table["devices"]
        reason = f"version {table['version']}, not {VERSION}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise ConfigError(f"{path} is not a table of `atomjet tune` ({reason}); delete it, and tune again")


def write_table(path: Path, device: str, key: str, entries: dict[str, Any]) -> None:
    """Put entries into a table, beside what it has."""
    devices = read_table(path)
    devices.setdefault(device, {}).setdefault(key, {}).update(entries)
    write_atomically(path, json.dumps({"version": VERSION, "devices": devices}, indent=1) + "\n")
    users_own.cache_clear()


@functools.cache
def _shipped() -> dict[str, Any]:
    return read_table(Path(__file__).with_name("tuned.json"))


@functools.cache
def users_own() -> dict[str, Any]:
    """The table that `atomjet tune` writes for this user, read once."""
    return read_table(user_table())
