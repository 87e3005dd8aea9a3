"""Ray (Moritz et al., OSDI 2018): tasks run by actors, each on a CPU or GPU of some node of a cluster.

This process, the driver, is the only one that knows what has been done. Each actor holds a few tasks and hands back what they
return; whatever it has not handed back when it, or its node, dies is given to others. Ray itself repeats nothing, so nothing counts
twice.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from types import TracebackType
from typing import Any

from atomjet.errors import AtomJetError, BackendError, ConfigError

try:
    import ray
    from ray import exceptions
except ImportError:  # this file is imported only where Ray is asked for
    raise ConfigError("the executor ray needs Ray: pip install 'atomjet[ray]', or leave --executor ray out") from None

Task = tuple[bytes, tuple[Any, ...]]
"""A key that no other task has, and the arguments of the function."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

AHEAD = 2
"""Chunks an actor holds at once, so that it never waits for the driver."""

CHUNK_SECONDS, LARGEST_CHUNK = 1.0, 64
"""Tasks travel together as far as they take about so long: a message costs little beside that, and a death costs no more."""

PATIENCE = 60.0
"""Seconds without any actor after which the driver says what it waits for."""

CONNECT_SECONDS = 10.0
"""Seconds in which the head of a cluster must answer."""

MOST_STARTS = 3
"""Actors that may die at their start, one after the other, before the run gives up."""

MOST_LOSSES = 5
"""Actors or nodes that may be lost with a task before it counts as failed."""


@dataclass(frozen=True)
class Crash:
    """Stands for the result of a task whose actor died each time."""

    reason: str


class Cluster:
    """A Ray cluster: one that runs, or one that is started on this machine and ends with the block.

    Attributes:
        workers: number of actors that a run starts.

    Args:
        address: HOST:PORT of the cluster's head; None: the one that `RAY_ADDRESS` names or `ray start` has started on this machine,
            else one is started here.
        workers: None: the GPUs that are free, or the CPUs less one, which is left to the driver and to Ray itself.
        gpu: each actor has a GPU of its own instead of a CPU alone.

    Raises:
        ConfigError: no cluster answers at the address.
        BackendError: GPUs are asked for and the cluster has none.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, gpu: bool = False) -> None:
        self.gpu, self._joined = gpu, not ray.is_initialized()
        if self._joined:
            _join(address)
        free = ray.available_resources()
        if gpu and not ray.cluster_resources().get("GPU"):
            self.close()
            raise BackendError(
                "no node of the Ray cluster has a GPU; leave --device cuda out, or start nodes with GPUs"
            )
        self.workers = workers or max(1, int(free.get("GPU", 0)) if gpu else int(free.get("CPU", 0)) - 1)

    def describe(self) -> str:
        """Version, nodes and actors, in one line."""
        total = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        parts = [f"{nodes} node{'s' * (nodes != 1)}", f"{total.get('CPU', 0):g} CPUs"]
        parts += [f"{total['GPU']:g} GPUs"] if total.get("GPU") else []
        actors = f"{self.workers} actor{'s' * (self.workers != 1)}"
        return f"Ray {ray.__version__} at {ray.get_runtime_context().gcs_address}: {', '.join(parts)}; {actors}"

    def run(
        self, function: Callable[..., Any], tasks: Iterable[Task], prepare: Callable[[], object] | None = None
    ) -> Iterator[tuple[bytes, Any]]:
        """Run every task; yields its key and what `function(*arguments)` returned, or a `Crash`, in the order in which they end.

        Args:
            function: module-level, of a package that every node has; does not raise.
            tasks: taken as actors become free.
            prepare: called in each actor before its first task; what it raises ends the run.

        Raises:
            AtomJetError: a node has another version of AtomJet, `prepare` raised, or actors cannot start.
        """
        run = _Run(self, function, prepare, _Queue(iter(tasks)))
        try:
            yield from run.results()
        finally:
            run.end()

    def close(self) -> None:
        """Leave the cluster, or end it where it was started here."""
        if self._joined:
            ray.shutdown()

    def __enter__(self) -> Cluster:
        """Use as a context that leaves the cluster."""
        return self

    def __exit__(self, exception: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the cluster."""
        self.close()


def _join(address: str | None) -> None:
    """Connect to a cluster or start one; the driver's handling of signals stays what it was."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "auto", "local"):
        _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user says so
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, exceptions.RayError) as error:
        raise _no_cluster(address or "this machine", error) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """See that something listens at an address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(f"ray address {address!r} is not of the form HOST:PORT, e.g. 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(where: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(
        f"no Ray cluster at {where} ({reason}); start one there with `ray start --head`, or leave --ray-address out to use this "
        "machine alone"
    )


class _Actor:
    """Body of an actor: runs chunks of tasks, one after the other, in one thread."""

    def __init__(self, function: Callable[..., Any], prepare: Callable[[], object] | None, folder: str) -> None:
        import torch

        torch.set_num_threads(1)
        if os.path.isdir(folder):  # paths mean what they mean to the driver
            os.chdir(folder)
        self.function, self.prepare = function, prepare

    def ready(self) -> str:
        """Version of AtomJet on this node, after `prepare`."""
        if self.prepare is not None:
            self.prepare()
        return _version()

    def run(self, chunk: list[tuple[Any, ...]]) -> tuple[list[Any], float]:
        """What each task returns, and the seconds that all took."""
        started = time.perf_counter()
        return [self.function(*arguments) for arguments in chunk], time.perf_counter() - started


def _version() -> str:
    try:
        return metadata.version("atomjet")
    except metadata.PackageNotFoundError:  # run from a checkout by its path
        return "unknown"


class _Queue:
    """Tasks still to be handed out; those that were lost with an actor come first, one by one, so that the guilty one shows."""

    def __init__(self, fresh: Iterator[Task]) -> None:
        self.fresh, self.again = fresh, deque[Task]()
        self.crashes: Counter[bytes] = Counter()
        self.losses: Counter[bytes] = Counter()

    def take(self, most: int) -> list[Task]:
        return [self.again.popleft()] if self.again else list(itertools.islice(self.fresh, most))

    def give_back(self, chunk: list[Task], began: bool, crashed: bool) -> Iterator[tuple[bytes, Crash]]:
        """Tasks of a lost actor; yields those that have failed by now. Those that had not begun are not to blame."""
        for task in chunk:
            key = task[0]
            self.losses[key] += began
            self.crashes[key] += began and crashed and len(chunk) == 1
            if self.crashes[key] == 2:
                yield key, Crash("the actor's process died")
            elif self.losses[key] == MOST_LOSSES:
                yield key, Crash(f"{MOST_LOSSES} actors or nodes were lost")
            else:
                self.again.append(task)


@dataclass(eq=False)
class _Member:
    """An actor as the driver knows it.

    Attributes:
        actor: Ray's handle.
        started: stands for its answer that it is ready; None once that is there.
        held: the chunks that it has, by what stands for their results.
    """

    actor: Any
    started: Any
    held: dict[Any, list[Task]] = field(default_factory=dict)

    def awaited(self) -> list[Any]:
        return [*self.held, *([self.started] if self.started is not None else [])]


class _Run:
    """One function and its tasks on a cluster."""

    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], prepare: Callable[[], object] | None, queue: _Queue
    ) -> None:
        environment = ONE_THREAD if cluster.gpu else ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""}
        resources = {"num_cpus": 1, "num_gpus": int(cluster.gpu), "runtime_env": {"env_vars": environment}}
        self.start = lambda: (
            ray.remote(_Actor).options(**resources, max_restarts=0).remote(function, prepare, os.getcwd())
        )
        self.queue, self.failed_starts, self.chunk = queue, 0, 1
        self.team = [self._member() for _ in range(cluster.workers)]

    def results(self) -> Iterator[tuple[bytes, Any]]:
        """See `Cluster.run`."""
        heard = time.monotonic()
        while True:
            for member in self.team:
                self._feed(member)
            by_ref = {ref: member for member in self.team for ref in member.awaited()}
            if not any(member.held for member in self.team) and not self._more():
                return
            done, _ = ray.wait(list(by_ref), num_returns=1, timeout=PATIENCE)
            if not done and time.monotonic() - heard > PATIENCE and all(member.started for member in self.team):
                print("note: waiting for a node of the Ray cluster with a free CPU", file=sys.stderr, flush=True)
            for ref in done:
                heard = time.monotonic()
                yield from self._hear(by_ref[ref], ref)

    def end(self) -> None:
        """End the actors."""
        for member in self.team:
            ray.kill(member.actor)

    def _member(self) -> _Member:
        actor = self.start()
        return _Member(actor, actor.ready.remote())

    def _more(self) -> bool:
        """Whether tasks are left; looks at the next."""
        if not self.queue.again and (first := next(self.queue.fresh, None)) is not None:
            self.queue.fresh = itertools.chain([first], self.queue.fresh)
            return True
        return bool(self.queue.again)

    def _feed(self, member: _Member) -> None:
        while member.started is None and len(member.held) < AHEAD and (chunk := self.queue.take(self.chunk)):
            member.held[member.actor.run.remote([arguments for _, arguments in chunk])] = chunk

    def _hear(self, member: _Member, ref: Any) -> Iterator[tuple[bytes, Any]]:
        """Take one message of an actor, that it is ready or that a chunk is done; or notice that it is lost."""
        if member not in self.team:  # lost a moment ago, with all that it held
            return
        try:
            answer = ray.get(ref)
        except exceptions.RayTaskError as error:
            raise self._refusal(error.cause) from None
        except exceptions.RayError as error:
            yield from self._replace(member, error)
            return
        if ref == member.started:
            if answer != _version():
                raise AtomJetError(
                    f"a node of the Ray cluster has AtomJet {answer}, this one {_version()}; install one version"
                )
            member.started, self.failed_starts = None, 0
            return
        chunk, (values, seconds) = member.held.pop(ref), answer
        self.chunk = max(1, min(LARGEST_CHUNK, int(CHUNK_SECONDS * len(chunk) / max(seconds, 1e-6))))
        yield from zip([key for key, _ in chunk], values, strict=True)

    def _replace(self, member: _Member, error: Exception) -> Iterator[tuple[bytes, Crash]]:
        """An actor is lost: what it held goes back to the queue, another one is started."""
        if getattr(error, "actor_init_failed", False):
            raise self._refusal(error)
        if member.started is not None:
            self.failed_starts += 1
            if self.failed_starts == MOST_STARTS:
                raise self._refusal(error)
        # One that cannot be reached may still run on a node that was cut off: what it returns is heard no more.
        ray.kill(member.actor)
        crashed = isinstance(error, exceptions.ActorDiedError) and "node has died" not in str(error)
        for place, chunk in enumerate(member.held.values()):
            yield from self.queue.give_back(chunk, place == 0, crashed)
        self.team[self.team.index(member)] = self._member()

    @staticmethod
    def _refusal(cause: BaseException) -> AtomJetError:
        if isinstance(cause, AtomJetError):
            return type(cause)(f"on a node of the Ray cluster: {cause}")
        lines = [line for line in str(cause).splitlines() if line.strip()]
        what = f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"
        return AtomJetError(
            f"an actor cannot start on a node of the Ray cluster ({what}); every node needs this AtomJet and Ray"
        )
