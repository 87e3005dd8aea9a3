"""`Replayed`: work that is enqueued kernel by kernel the first time, and as one CUDA graph ever after."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

_capturing = threading.Lock()
"""One capture at a time in the whole process; replays go on meanwhile."""


class Replayed:
    """Work of fixed shape on fixed buffers.

    The first run launches the kernels, which compiles those that are new; the second captures them; every further one
    replays. A size that is met only once therefore costs no capture. Where capture is impossible (no CUDA device, or a driver
    that refuses), the same kernels are launched every time, with equal results; `why_not` says why.

    Args:
        work: enqueues everything; never waits for the device, allocates nothing that lasts.
        stream: CUDA stream for all of it; None on a CPU.
        capture: False to launch every time.
    """

    def __init__(self, work: Callable[[], object], stream: torch.cuda.Stream | None, capture: bool = True) -> None:
        self.work, self.stream = work, stream
        self.why_not = (
            "" if stream is not None and capture else "not on a CUDA device" if stream is None else "not wanted"
        )
        self._launched = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self) -> None:
        """Enqueue the work on its stream."""
        if self.stream is None:
            self.enqueue()
            return
        # What `with torch.cuda.stream` does, in a third of its time.
        before = torch.cuda.current_stream(self.stream.device_index)
        torch.cuda.set_stream(self.stream)
        try:
            self.enqueue()
        finally:
            torch.cuda.set_stream(before)

    def enqueue(self) -> None:
        """Enqueue the work on the stream that is current."""
        if self._graph is not None:
            self._graph.replay()
        elif self._launched and not self.why_not and self._capture():
            self.enqueue()
        else:
            self.work()
            self._launched = True

    @property
    def captured(self) -> bool:
        """Whether runs are replays."""
        return self._graph is not None

    def drop(self) -> None:
        """Give the graph back; nothing may be running."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None

    def _capture(self) -> bool:
        assert self.stream is not None
        graph = torch.cuda.CUDAGraph()
        with _capturing, torch.cuda.stream(self.stream):
            self.stream.synchronize()
            try:
                # thread_local: what other threads do on the device meanwhile is none of this graph's business.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self.work()
                finally:
                    graph.capture_end()
            except RuntimeError as error:
                self.why_not = " ".join(str(error).split())[:200]
                return False
        self._graph = graph
        return True
