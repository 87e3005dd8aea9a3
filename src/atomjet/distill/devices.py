"""Jobs on the devices of this machine: on one in turn, in this process; on several at once, in one process for each GPU.

A process sees one GPU only (`CUDA_VISIBLE_DEVICES`). It takes a job at a time; when the parent ends, however it ends, it is asked
to end too, as by `kill`, so that a training writes its checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from atomjet.errors import AtomJetError, BackendError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of(device: str | torch.device | None = None) -> list[str]:
    """Devices that a command may use: all GPUs where none is named, or "cuda" alone; else the one that is; the CPU without any.

    Raises:
        BackendError: CUDA is asked for and not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = torch.device(device or ("cuda" if count else "cpu"))
    if chosen.type == "cuda" and not count:
        raise BackendError("no CUDA device is visible; give --device cpu, or run `atomjet doctor`")
    if chosen.type != "cuda" or chosen.index is not None:
        return [str(chosen)]
    return [f"cuda:{index}" for index in range(count)]


class Team:
    """The devices of a command, and on several GPUs a process for each, which are started once they are needed.

    Args:
        devices: see `devices_of`; only GPUs where there are several.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)
        self._members: dict[Connection, tuple[BaseProcess, str]] = {}

    def run(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        names: Sequence[str] | None = None,
        more: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[int, Any]]:
        """Call `function(*job, device)` for each job; yields the job's place and what it returned, as they finish.

        Args:
            function: module-level; called in the processes where there are several devices.
            jobs: arguments of each.
            names: of the jobs; stand before what they print where they run at once.
            more: asked before a job is begun; no further ones are when it says no.

        Raises:
            AtomJetError: what a job raised, or its process died.
        """
        if len(self.devices) > 1:
            yield from self._at_once(function, jobs, names or [""] * len(jobs), more)
            return
        for place, job in enumerate(jobs):
            if not more():
                return
            yield place, function(*job, self.devices[0])

    def _at_once(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        more: Callable[[], bool],
    ) -> Iterator[tuple[int, Any]]:
        for device in self.devices[len(self._members) : len(jobs)]:
            process, pipe = _start(device)
            self._members[pipe] = (process, device)
        waiting, idle, busy = list(range(len(jobs)))[::-1], list(self._members), {}
        while True:
            while idle and waiting and more():
                pipe, place = idle.pop(0), waiting.pop()
                busy[pipe] = place
                with contextlib.suppress(BrokenPipeError):  # it died: the next look at its pipe says so
                    pipe.send((function, names[place], jobs[place]))
            if not busy:
                return
            for pipe in wait(list(busy)):
                place = busy.pop(pipe)  # type: ignore[arg-type] - wait returns what it was given
                idle.append(pipe)  # type: ignore[arg-type]
                yield place, _answer(pipe, *self._members[pipe], names[place])  # type: ignore[arg-type, index]

    def __enter__(self) -> Team:
        """Use as a context that ends the processes."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the processes; what trains writes its checkpoint."""
        for pipe, (process, _) in self._members.items():
            pipe.close()
            process.terminate()
        for process, _ in self._members.values():
            process.join()
        self._members.clear()


def _answer(pipe: Connection, process: BaseProcess, device: str, name: str) -> Any:
    try:
        result = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        what = f" with {name}" if name else ""
        raise AtomJetError(f"the process on {device} died{what} ({how}); run the same again to go on") from None
    if isinstance(result, BaseException):
        raise result
    return result


def _start(device: str) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, device))  # no daemon: torch.compile forks
    before = os.environ.get(VISIBLE)
    index = torch.device(device).index or 0
    os.environ[VISIBLE] = before.split(",")[index] if before else str(index)  # before the process loads anything
    try:
        process.start()
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
    theirs.close()
    return process, ours


def _work(pipe: Connection, device: str) -> None:
    """Body of a process: jobs until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent, which hears them too, decides when to stop
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    own = "cuda" if device.startswith("cuda") else device  # the only one that is visible here
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, name, job = pipe.recv()
            try:
                with contextlib.redirect_stdout(_Named(name, sys.stdout)):
                    result = function(*job, own)
            except KeyboardInterrupt:  # SIGTERM in a training, which has written its checkpoint
                return
            except AtomJetError as error:
                result = error
            except Exception as error:
                result = AtomJetError(f"{type(error).__name__} on {device}: {' '.join(str(error).split())}")
            pipe.send(result)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


class _Named(io.TextIOBase):
    """Text output with a name before each line."""

    def __init__(self, name: str, stream: Any) -> None:
        self.name, self.stream, self.begun = name, stream, ""

    def write(self, text: str) -> int:
        """Pass on whole lines."""
        *lines, self.begun = (self.begun + text).split("\n")
        self.stream.write("".join(f"{self.name}: {line}\n" if self.name else f"{line}\n" for line in lines))
        self.stream.flush()
        return len(text)
