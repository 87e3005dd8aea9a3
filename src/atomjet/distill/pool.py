"""Worker processes that survive what they run: crashes are noticed, results reach the disk one by one.

The parent hands out tasks over a pipe; a worker runs them in order, appends each result to its own journal, then
acknowledges it. So the parent may be killed (the workers notice the broken pipe and leave), a worker may be killed or
crash (its first unacknowledged task is the culprit: it gets one more chance, in a fresh worker, then counts as failed),
and a task that raises is recorded with its reason. Workers are forked from a server process that has imported what they
need and has nothing else: no lock, thread or CUDA context of the parent is inherited. Each computes with one thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from atomjet.distill.journal import JournalWriter, Record
from atomjet.errors import AtomJetError

AHEAD = 3
"""Tasks a worker holds at once, so that it never waits for the parent."""

READY, DONE = "ready", "done"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A task: `function(*arguments) -> Record`, remembered under `key`."""

    key: bytes
    arguments: tuple[Any, ...]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    held: deque[Task] = field(default_factory=deque)
    ready: bool = False


def attempt(function: Callable[..., Record], *arguments: Any) -> Record:
    """What a task returns, or {"error": reason} where it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def default_workers() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[..., Record],
    tasks: Iterable[Task],
    directory: Path,
    workers: int,
    advance: Callable[..., None],
) -> None:
    """Run every task in `workers` processes; each leaves a record, or {"error": reason}, in the journal of `directory`.

    Args:
        function: module-level function; what it returns is written. Called in the workers only.
        tasks: taken one by one as workers become free.
        directory: of the journal files.
        workers: number of processes.
        advance: called after every finished task.

    Raises:
        AtomJetError: workers cannot start, or what they compute cannot be written.
    """
    queue, own = _Queue(tasks), JournalWriter(directory)
    team: list[_Worker] = []
    try:
        while True:
            while len(team) < workers and (task := queue.take()) is not None:
                team.append(_start(function, directory))
                _give(team[-1], task)
            if not team:
                return
            by_pipe = {worker.pipe: worker for worker in team}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index] - wait returns what it was given
                if _hear(worker, advance):
                    while len(worker.held) < AHEAD and (task := queue.take()) is not None:
                        _give(worker, task)
                    if not worker.held:
                        team.remove(_dismiss(worker))
                else:
                    team.remove(worker)
                    _bury(worker, queue, own, advance)
    finally:
        for worker in team:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join()
        own.close()


class _Queue:
    """Tasks still to be handed out: those that a dead worker held come first."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.fresh: Iterator[Task] = iter(tasks)
        self.again: deque[Task] = deque()
        self.suspects: set[bytes] = set()

    def take(self) -> Task | None:
        return self.again.popleft() if self.again else next(self.fresh, None)


A_MOMENT = 0.5
"""Seconds in which a process that was interrupted is gone."""


def _start(function: Callable[..., Record], directory: Path) -> _Worker:
    context = get_context("forkserver")
    context.set_forkserver_preload([getattr(function, "func", function).__module__])
    ours, theirs = context.Pipe()
    make = partial(context.Process, target=_work, args=(function, directory, theirs), daemon=True)
    process = make()
    with _one_thread():
        try:
            process.start()
        except ConnectionRefusedError:  # ctrl-C took the server along an instant ago; it is born again once it is gone
            time.sleep(A_MOMENT)
            process = make()
            process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Number libraries read their thread count once, when they are loaded: say it before the server is born."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _give(worker: _Worker, task: Task) -> None:
    worker.held.append(task)
    with contextlib.suppress(BrokenPipeError):  # it died: the next look at its pipe says so
        worker.pipe.send(task)


def _hear(worker: _Worker, advance: Callable[..., None]) -> bool:
    """Take one message, that the worker is ready or that its first task is done; False when it is dead."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return False
    if isinstance(message, AtomJetError):
        raise message
    if message == READY:
        worker.ready = True
    else:
        worker.held.popleft()
        advance()
    return True


def _dismiss(worker: _Worker) -> _Worker:
    worker.pipe.close()
    worker.process.join()
    return worker


def _bury(worker: _Worker, queue: _Queue, own: JournalWriter, advance: Callable[..., None]) -> None:
    """A worker died: its current task is the suspect, the others go back to the queue."""
    _dismiss(worker)
    if not worker.ready:
        raise AtomJetError(f"a worker process could not start ({_ending(worker)}); its own words stand above")
    if not worker.held:
        return
    culprit = worker.held.popleft()
    queue.again.extend(worker.held)
    if culprit.key in queue.suspects:
        own.append(culprit.key, {"error": f"the worker process crashed twice on this ({_ending(worker)})"})
        advance()
    else:
        queue.suspects.add(culprit.key)
        queue.again.appendleft(culprit)


def _ending(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _work(function: Callable[..., Record], directory: Path, pipe: Connection) -> None:
    """Body of a worker: until the pipe closes, run, write, acknowledge."""
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent, which hears them too, decides when to stop
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # for a server that somebody else has started
    journal = JournalWriter(directory)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(READY)
        while True:
            task: Task = pipe.recv()
            record = attempt(function, *task.arguments)
            try:
                journal.append(task.key, record)
            except AtomJetError as error:  # the disk is full: no task of this run can be remembered any more
                pipe.send(error)
                return
            pipe.send(DONE)
    journal.close()
