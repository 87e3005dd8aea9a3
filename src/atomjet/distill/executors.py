"""Where tasks run: in this process, in processes of this machine, or on a Ray cluster.

Whichever it is, each task leaves one record, or {"error": reason}, under its key in a directory of journals, and a run that is
killed goes on by handing out the tasks that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from atomjet.distill.journal import JournalWriter, Record
from atomjet.distill.pool import Task, attempt, default_workers, run_tasks
from atomjet.errors import ConfigError

if TYPE_CHECKING:
    from atomjet.adapters.ray import Cluster

EXECUTORS = ("processes", "ray")


class Executor(Protocol):
    """What runs tasks.

    Attributes:
        workers: tasks that run at once.
        device: "cpu" or "cuda", that of the workers; None where each takes what its machine has.
    """

    @property
    def workers(self) -> int:
        """See above."""
        ...

    @property
    def device(self) -> str | None:
        """See above."""
        ...

    def run(
        self,
        function: Callable[..., Record],
        tasks: Iterable[Task],
        directory: Path,
        advance: Callable[..., None],
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """Run every task; returns when each has its record in a journal of `directory`.

        Args:
            function: module-level.
            tasks: taken one by one as workers become free, each with a key of its own.
            directory: of the journal files.
            advance: called after every finished task.
            prepare: called once in each worker on another machine: raises what is missing there, which ends the run.

        Raises:
            AtomJetError: workers cannot start, or what they compute cannot be written.
        """
        ...


@dataclass(frozen=True)
class Here:
    """One task after the other, in this process, on as many threads as it has."""

    workers: int = 1
    device: str | None = None

    def run(
        self,
        function: Callable[..., Record],
        tasks: Iterable[Task],
        directory: Path,
        advance: Callable[..., None],
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """See `Executor.run`."""
        with closing(JournalWriter(directory)) as journal:
            for task in tasks:
                journal.append(task.key, attempt(function, *task.arguments))
                advance()


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, each with one thread; see `atomjet.distill.pool`."""

    workers: int
    device: str | None = None

    def run(
        self,
        function: Callable[..., Record],
        tasks: Iterable[Task],
        directory: Path,
        advance: Callable[..., None],
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """See `Executor.run`; each worker writes a journal of its own."""
        run_tasks(function, tasks, directory, self.workers, advance)


@dataclass(frozen=True)
class RayActors:
    """Actors of a Ray cluster, each with one thread, or one GPU; this process alone writes the journal."""

    cluster: Cluster

    @property
    def workers(self) -> int:
        """Number of actors."""
        return self.cluster.workers

    @property
    def device(self) -> str | None:
        """That of the actors."""
        return "cuda" if self.cluster.gpu else "cpu"

    def run(
        self,
        function: Callable[..., Record],
        tasks: Iterable[Task],
        directory: Path,
        advance: Callable[..., None],
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """See `Executor.run`."""
        from atomjet.adapters.ray import Crash

        pairs = ((task.key, task.arguments) for task in tasks)
        with closing(JournalWriter(directory)) as journal:
            for key, found in self.cluster.run(partial(attempt, function), pairs, prepare):
                crashed = isinstance(found, Crash)
                journal.append(key, {"error": f"not computed on Ray: {found.reason}"} if crashed else found)
                advance()


@contextmanager
def open_executor(
    name: str, workers: int | None = None, address: str | None = None, device: str | None = None
) -> Iterator[Executor]:
    """An executor by its name; a Ray cluster is left, or ended, with the block.

    Args:
        name: one of `EXECUTORS`.
        workers: None: as many as there are CPUs (on Ray one less, or the number of its GPUs).
        address: of a Ray cluster's head, HOST:PORT; see `atomjet.adapters.ray.Cluster`.
        device: "cuda" gives each Ray actor a GPU.

    Raises:
        ConfigError: no such executor, a number of workers below 1, or no Ray cluster.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"executor {name!r} is unknown; choose from {', '.join(EXECUTORS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers} is not above zero; give 1 or more")
    if name == "processes":
        if address is not None:
            raise ConfigError(f"--ray-address {address} goes with --executor ray alone; leave it out")
        yield Processes(workers or default_workers(), device)
        return
    from atomjet.adapters.ray import Cluster

    with Cluster(address, workers, gpu=(device or "").startswith("cuda")) as cluster:
        print(cluster.describe(), flush=True)
        yield RayActors(cluster)
