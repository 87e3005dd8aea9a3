"""`Recorder`: the trajectory and the log of a run, on disk."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter

from atomjet.errors import ConfigError
from atomjet.md.checkpoint import Recorded
from atomjet.md.observables import COLUMNS, Observables
from atomjet.writing import append_whole, named

HEADER_SIZE = 48
"""Bytes of ASE's .traj format (ULM version 3) that change as frames are added: magic, tag, version, number of frames,
place of the list of frames. The frames themselves and the lists before the end of the file are never moved."""


class FrameWriter:
    """A .traj file of whole frames: one that cannot be written, or is interrupted, leaves the file as it was before.

    ASE's own writer, closed after such a frame, lists it all the same, with whatever stands where its arrays should be.

    Args:
        path: of the file.
        going_on: append; otherwise start anew.
    """

    def __init__(self, path: Path, going_on: bool = False) -> None:
        """Open the file."""
        self.path = path
        with named(path):
            self._writer: Any = TrajectoryWriter(str(path), "a" if going_on else "w")
        self._file = self._writer.backend.fd

    def write(self, image: Atoms) -> None:
        """Append a frame.

        Raises:
            OSError: it does not fit on the disk; names the file.
        """
        assert self._writer is not None, "a frame could not be written before"
        with named(self.path):
            size, header = self.path.stat().st_size, head(self.path)
            try:
                self._writer.write(image)
            except BaseException:
                self._give_up(size, header)
                raise

    def _give_up(self, size: int, header: bytes) -> None:
        """Close the file without what the writer still holds."""
        with suppress(OSError):
            self._file.close()
        self._writer = None
        if size:
            truncate(self.path, size, header)
        else:
            self.path.unlink()

    def close(self) -> None:
        """Close the file, unless it is closed already."""
        if self._writer is not None:
            with named(self.path):
                self._writer.close()


class Recorder:
    """Writes frames and rows, tells a checkpoint how much is on disk, and goes back to one.

    Args:
        trajectory: .traj file.
        log: .csv file.
        since: what a checkpoint vouches for; everything recorded after it is truncated. None starts both files anew.

    Raises:
        ConfigError: a file is shorter than the checkpoint knows it.
    """

    def __init__(self, trajectory: Path, log: Path, since: Recorded | None = None) -> None:
        """Open both files."""
        self.trajectory, self.log = trajectory, log
        going_on = since is not None and since.trajectory_size > 0
        if since is not None and going_on:
            truncate(trajectory, since.trajectory_size, since.trajectory_header)
            truncate(log, since.log_size)
        self._frames = FrameWriter(trajectory, going_on)
        with named(log):
            self._rows = open(log, "ab" if going_on else "wb", buffering=0)  # noqa: SIM115 - closed by close()
        if not going_on:
            self._append(",".join(COLUMNS) + "\n")

    def frame(self, atoms: Atoms, results: dict[str, Any], step: int, time_fs: float) -> None:
        """Append a frame: positions, velocities, cell, and the results: energy, forces without constraints, stress where there
        is one.
        """
        image = atoms.copy()
        image.info |= {"step": step, "time_fs": time_fs}
        image.calc = SinglePointCalculator(image, **results)
        self._frames.write(image)

    def row(self, observables: Observables) -> None:
        """Append a row to the log."""
        self._append(observables.row() + "\n")

    def _append(self, line: str) -> None:
        with named(self.log):
            append_whole(self._rows.fileno(), line.encode())

    def on_disk(self) -> Recorded:
        """Force both files to the disk; return what is there."""
        for path in (self.trajectory, self.log):
            with named(path):
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        return Recorded(self.trajectory.stat().st_size, head(self.trajectory), self.log.stat().st_size)

    def close(self) -> None:
        """Close both files."""
        self._frames.close()
        self._rows.close()


def head(path: Path) -> bytes:
    """The bytes of a .traj file that change as frames are added."""
    with open(path, "rb") as file:
        return file.read(HEADER_SIZE)


def truncate(path: Path, size: int, header: bytes = b"") -> None:
    """Bring a file back to what it was when it had `size` bytes and began with `header`."""
    there = path.stat().st_size if path.exists() else 0
    if there < size:
        raise ConfigError(
            f"{path} has {there} bytes where its checkpoint knows {size}; "
            "put the file back, or start again with overwrite"
        )
    with open(path, "r+b") as file:
        file.truncate(size)
        file.write(header)


def results_of(atoms: Atoms) -> dict[str, Any]:
    """What a frame records of atoms whose calculator has the results already."""
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
    return results | ({"stress": atoms.get_stress(apply_constraint=False)} if atoms.pbc.all() else {})
