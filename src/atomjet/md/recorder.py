"""`Recorder`: the trajectory and the log of a run, on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TextIO

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter

from atomjet.errors import ConfigError
from atomjet.md.checkpoint import Recorded
from atomjet.md.observables import COLUMNS, Observables

HEADER_SIZE = 48
"""Bytes of ASE's .traj format (ULM version 3) that change as frames are added: magic, tag, version, number of frames,
place of the list of frames. The frames themselves and the lists before the end of the file are never moved."""


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
        self._frames = TrajectoryWriter(str(trajectory), "a" if going_on else "w")
        self._rows: TextIO = open(log, "a" if going_on else "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
        if not going_on:
            self._rows.write(",".join(COLUMNS) + "\n")

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
        self._rows.write(observables.row() + "\n")
        self._rows.flush()

    def on_disk(self) -> Recorded:
        """Force both files to the disk; return what is there."""
        self._rows.flush()
        for path in (self.trajectory, self.log):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        with open(self.trajectory, "rb") as file:
            header = file.read(HEADER_SIZE)
        return Recorded(self.trajectory.stat().st_size, header, self.log.stat().st_size)

    def close(self) -> None:
        """Close both files."""
        self._frames.close()
        self._rows.close()


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
