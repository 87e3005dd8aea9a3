"""`ReplicaOutput`: trajectories and logs of many replicas, gathered in blocks and written by a thread of its own.

The thread waits for the disk; it is also the only one that touches the files, so that a checkpoint, which is one of its jobs, knows
how much of each is there.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from atomjet.md.checkpoint import Recorded
from atomjet.md.recorder import HEADER_SIZE, truncate
from atomjet.writing import append_whole, named, write_all

BLOCK_SECONDS = 0.5
"""Output is handed to the thread so often: whoever looks at a log sees it grow."""

BLOCK_BYTES = 16 << 20
"""Output that is gathered at most, of all replicas together."""

BLOCKS_WAITING = 4
"""Blocks that wait for the disk at most; then the run waits, too."""

LIST_GROWTH = 42
"""ULM keeps a list of where the frames are: of 1, 42, 42², ... places, a new one at the end of the file when the last is full."""


class Appender:
    """Trajectory and log of one replica, both begun already.

    Args:
        trajectory, log: the files.
        since: what a checkpoint vouches for; everything after it is truncated. None takes the files as they are.
    """

    def __init__(self, trajectory: Path, log: Path, since: Recorded | None = None) -> None:
        """Open both files and read where the frames are."""
        if since is not None:
            truncate(trajectory, since.trajectory_size, since.trajectory_header)
            truncate(log, since.log_size)
        self.trajectory, self.log = trajectory, log
        self._frames = os.open(trajectory, os.O_RDWR)
        self._rows = os.open(log, os.O_WRONLY | os.O_APPEND)
        self._end = os.fstat(self._frames).st_size
        self._number, self._list_at = np.frombuffer(os.pread(self._frames, 16, 32), np.int64).tolist()
        capacity = 1
        while capacity < self._number:
            capacity *= LIST_GROWTH
        self._places = np.zeros(capacity, np.int64)
        self._places[: self._number] = np.frombuffer(os.pread(self._frames, 8 * self._number, self._list_at), np.int64)
        self._gathered: list[bytes] = []
        self._gathered_at, self._listed = self._end, self._number
        self._patches: list[tuple[int, bytes]] = []
        self._text: list[str] = []

    def place(self) -> int:
        """Where the next frame will stand."""
        return self._end + -self._end % 8

    def frame(self, frame: np.ndarray, text_at: int) -> None:
        """Gather a frame, (size,) uint8 with size a multiple of 8, that was made for `place()`."""
        place = self.place()
        if place > self._end:
            self._gathered.append(b"#" * (place - self._end))
        self._gathered.append(frame.tobytes())
        self._end = place + len(frame)
        if self._number < len(self._places):
            self._places[self._number] = place + text_at
            self._number += 1
            return
        self._patch_list()
        grown = np.zeros(LIST_GROWTH * len(self._places), np.int64)
        grown[: self._number] = self._places
        grown[self._number] = place + text_at
        self._places, self._list_at = grown, self._end
        self._number += 1
        self._listed = self._number
        self._gathered.append(grown.tobytes())
        self._end += grown.nbytes

    def row(self, row: str) -> None:
        """Gather a row of the log."""
        self._text.append(row)

    def take(self) -> Callable[[], None] | None:
        """What was gathered, as a job that writes it."""
        if not self._gathered and not self._text:
            return None
        self._patch_list()
        frames, at, text = b"".join(self._gathered), self._gathered_at, "".join(self._text).encode()
        patches = [*self._patches, (32, np.array([self._number, self._list_at], np.int64).tobytes())]
        self._gathered, self._text, self._patches = [], [], []
        self._gathered_at = self._end

        def write() -> None:
            with named(self.trajectory):
                if frames:
                    write_all(self._frames, frames, at)
                    for place, data in patches:
                        write_all(self._frames, data, place)
            with named(self.log):
                append_whole(self._rows, text)

        return write

    def _patch_list(self) -> None:
        """Enter the frames that are new into the list as it is."""
        new = self._places[self._listed : self._number]
        if len(new):
            self._patches.append((self._list_at + 8 * self._listed, new.tobytes()))
        self._listed = self._number

    def on_disk(self) -> Recorded:
        """Force both files to the disk; return what is there."""
        with named(self.trajectory):
            os.fsync(self._frames)
        with named(self.log):
            os.fsync(self._rows)
        header = os.pread(self._frames, HEADER_SIZE, 0)
        return Recorded(os.fstat(self._frames).st_size, header, os.fstat(self._rows).st_size)

    def close(self) -> None:
        """Close both files."""
        os.close(self._frames)
        os.close(self._rows)


class ReplicaOutput:
    """The files of all replicas and the thread that writes them.

    Args:
        files: of each replica.
    """

    def __init__(self, files: Sequence[Appender]) -> None:
        """Start the thread."""
        self.files = files
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(BLOCKS_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="atomjet md output", daemon=True)
        self._thread.start()
        self._gathered_bytes, self._handed_over = 0, time.monotonic()

    def frames(self, replicas: Sequence[int], frames: np.ndarray, text_at: int) -> None:
        """Gather one frame, a row of (R, size) uint8, for each of these replicas."""
        for replica, frame in zip(replicas, frames, strict=True):
            self.files[replica].frame(frame, text_at)
        self._gathered_bytes += frames.nbytes

    def hand_over(self, now: bool = False) -> None:
        """Give what was gathered to the thread, if it is time.

        Raises:
            OSError: an earlier block could not be written.
        """
        due = time.monotonic() - self._handed_over > BLOCK_SECONDS or self._gathered_bytes > BLOCK_BYTES
        if not (due or now):
            return
        jobs = [job for job in (file.take() for file in self.files) if job is not None]

        def write() -> None:
            for job in jobs:
                job()

        self._put(write)
        self._gathered_bytes, self._handed_over = 0, time.monotonic()

    def checkpoint(self, save: Callable[[list[Recorded]], None]) -> None:
        """Write what was gathered, then call `save` with what is on the disk; both in the thread."""
        self.hand_over(now=True)
        self._put(lambda: save([file.on_disk() for file in self.files]))

    def close(self) -> None:
        """Write everything and close all files.

        Raises:
            OSError: something could not be written.
        """
        try:
            if self._error is None:
                self.hand_over(now=True)
        finally:
            self._jobs.put(None)
            self._thread.join()
            for file in self.files:
                file.close()
        if self._error is not None:
            raise self._error

    def _put(self, job: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if (
                self._error is None
            ):  # after an error files are left as they are, for the last checkpoint vouches for what they had
                try:
                    job()
                except BaseException as error:
                    self._error = error
