"""`Checkpoint`: everything a run needs to go on after it was killed, in one small file written atomically.

It also says how long the trajectory and the log were when it was taken. Whatever was written after that, whole or torn,
is truncated on resuming and computed again, so that nothing is lost and nothing stands twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomjet.errors import ConfigError
from atomjet.writing import named

VERSION = 2

OLD_NAME = "model"
"""What earlier versions asked for beside the weights, which say all: a model's name, however spelled."""


@dataclass(frozen=True)
class Recorded:
    """How much of a trajectory and its log was on disk.

    Attributes:
        trajectory_size, log_size: bytes; 0 where nothing was recorded yet.
        trajectory_header: the first bytes of the trajectory, which say how many frames it has and where they are listed.
    """

    trajectory_size: int = 0
    trajectory_header: bytes = b""
    log_size: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` steps.

    Attributes:
        step: steps done.
        request: what was requested for, as JSON values; a resumed run must ask for the same.
        noise: state of the random number generator, as numpy gives it; empty where the noise follows from the step.
        recorded: of each replica.
        arrays: positions, momenta, cell, and what the integrator carries on.
    """

    step: int
    request: dict[str, Any]
    noise: dict[str, Any]
    recorded: tuple[Recorded, ...]
    arrays: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write so that at any moment either the old file or the new one is there whole."""
        about = {
            "version": VERSION,
            "step": self.step,
            "request": self.request,
            "noise": self.noise,
            "recorded": [(r.trajectory_size, r.trajectory_header.hex(), r.log_size) for r in self.recorded],
        }
        about["sha256"] = _digest(about, self.arrays)
        fresh = path.with_name(path.name + ".part")
        with named(path):
            try:
                with open(fresh, "wb") as file:
                    np.savez(file, about=np.array(json.dumps(about)), **self.arrays)  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(fresh, path)
            except OSError:
                fresh.unlink(missing_ok=True)
                raise

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            ConfigError: the file is damaged or of another version.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
            # Checkpoints written before had none; the checks of the zip format let a few changes pass.
            if "sha256" in about and about.pop("sha256") != _digest(about, arrays):
                raise ValueError("its SHA-256 is another one")
            version = about.pop("version")
            recorded = tuple(Recorded(a, bytes.fromhex(b), c) for a, b, c in about.pop("recorded", ()))
            if version == VERSION:
                return cls(arrays=arrays, recorded=recorded, **about)
        except Exception as error:  # what numpy and zipfile raise depends on where the file is damaged
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{path} is not a whole checkpoint ({reason}); start again with overwrite") from None
        raise ConfigError(f"{path} is a checkpoint of version {version}, not {VERSION}; start again with overwrite")

    def check_request(self, request: dict[str, Any]) -> None:
        """Refuse to continue a run under other conditions.

        Raises:
            ConfigError: names every difference.
        """
        requested = json.loads(json.dumps(request))  # tuples become lists, as they did in the file
        known = {key: value for key, value in self.request.items() if key != OLD_NAME or "weights" not in requested}
        differing = [key for key in sorted(known | requested) if known.get(key) != requested.get(key)]
        if differing:
            listed = ", ".join(f"{key} {_short(known.get(key))} -> {_short(requested.get(key))}" for key in differing)
            raise ConfigError(
                f"cannot resume at step {self.step} with other arguments ({listed}); "
                "repeat the arguments of the first run, or start again with overwrite"
            )


def _digest(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of all that a checkpoint says."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return found.hexdigest()


def _short(value: Any) -> str:
    """A value for a message; hashes are shortened."""
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "..."
