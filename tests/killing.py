"""Commands that are killed, interrupted or stopped at points which they reach themselves, however fast or busy the machine is.

A server imports everything once and forks for each command, so that a process of its own costs milliseconds.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

SERVER = """
import importlib, json, os, sys
import atomjet.cli.main, atomjet.adapters.ase, atomjet.adapters.structure_output, atomjet.md.simulation, atomjet.md.relax
from tests.killing import run_in_child, wait_for
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    for module in request["imports"]:
        importlib.import_module(module)
    child = request["stopped"] or os.fork()
    if not child:
        run_in_child(request)
    print(json.dumps([child, wait_for(child, request)]), flush=True)
"""


@dataclass(frozen=True)
class Point:
    """Where a run is sent a signal.

    Attributes:
        number: the signal.
        call: "module:Class.function"; counting starts when its `nth` call has returned. Empty: when the command starts.
        calls: further calls of anything, Python or C, in any thread, until the signal.
    """

    number: int
    call: str = ""
    nth: int = 1
    calls: int = 0


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        pid: of the process.
        status: exit status, minus the number of the signal that ended it, or minus `SIGSTOP` where it stands still.
        out, err: what it said.
        calls: how many it made, where they were counted and it came to its end.
    """

    pid: int
    status: int
    out: str
    err: str
    calls: int


class Runs:
    """Starts commands in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.last = folder, 0
        self.imports: list[str] = []
        """Modules that commands to come need beside those that all need."""
        command = [sys.executable, "-c", SERVER]
        here = str(Path(__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.server = subprocess.Popen(command, env=environment, **pipes)
        assert self._answers.readline() == "ready\n"

    @property
    def _answers(self) -> IO[str]:
        assert self.server.stdout is not None
        return self.server.stdout

    def run(
        self, words: Sequence[object], point: Point | None = None, count: bool = False, largest_file: int = 0
    ) -> Ended:
        """Run a command to its end, or to the point at which it is ended or stopped.

        Args:
            count: all its calls. largest_file: bytes that it can write into one file, as on a disk that gets full; 0: any number.
        """
        self.last += 1
        files = {name: str(self.folder / f"{self.last}-{name}") for name in ("out", "err", "calls")}
        asked = {
            "words": [str(word) for word in words],
            "point": None if point is None else vars(point),
            "count": count,
            "largest_file": largest_file,
        }
        return self._ended(asked | files | {"stopped": 0, "imports": self.imports})

    def kill(self, stopped: Ended) -> None:
        """End a run that stands still."""
        os.kill(stopped.pid, signal.SIGKILL)
        self._ended({"out": os.devnull, "err": os.devnull, "calls": os.devnull, "stopped": stopped.pid, "imports": []})

    def _ended(self, request: dict) -> Ended:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        pid, status = json.loads(self._answers.readline())
        out, err, calls = (Path(request[name]).read_text() for name in ("out", "err", "calls"))
        return Ended(pid, status, out, err, int(calls or 0))

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()
        self._answers.close()


def run_in_child(request: dict) -> None:
    """Take the place of a new process: the command's exit status is the process's."""
    import atomjet.cli.main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    for stream, name in enumerate((os.devnull, request["out"], request["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    Path(request["calls"]).touch()
    if request["largest_file"]:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (request["largest_file"], resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
    counter = Counter(request["point"])
    if request["count"] or (request["point"] is not None and not request["point"]["call"]):
        counter.start()
    elif request["point"] is not None:
        counter.start_after(**{name: request["point"][name] for name in ("call", "nth")})
    status = 1
    try:
        status = atomjet.cli.main.main(request["words"])
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        sys.stderr.flush()
        Path(request["calls"]).write_text(str(counter.made))
        os._exit(status)


def wait_for(child: int, request: dict) -> int:
    """Wait until a child ends or stands still; see `Ended.status`."""
    _, status = os.waitpid(child, os.WUNTRACED)
    return -signal.SIGSTOP if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


class Counter:
    """Counts calls of whatever is called, and sends the signal when there were enough."""

    def __init__(self, point: dict | None) -> None:
        self.point, self.made, self.nth = point, 0, 0

    def start(self) -> None:
        """Count from here on, in this thread and in those that start later; a point without further calls is here."""
        import threading

        if self.point is not None and not self.point["calls"]:
            os.kill(os.getpid(), self.point["number"])
            return
        threading.setprofile(self)
        sys.setprofile(self)

    def start_after(self, call: str, nth: int) -> None:
        """Count once a function has been called for the n-th time."""
        import importlib
        from functools import reduce

        module, _, name = call.partition(":")
        *path, last = name.split(".")
        owner = reduce(getattr, path, importlib.import_module(module))
        function = getattr(owner, last)

        def counted(*arguments, **options):
            result = function(*arguments, **options)
            self.nth += 1
            if self.nth == nth:
                self.start()
            return result

        setattr(owner, last, counted)

    def __call__(self, frame, event, argument) -> None:
        """As `sys.setprofile` asks."""
        if event in ("call", "c_call"):
            self.made += 1
            if self.point is not None and self.made == self.point["calls"]:
                os.kill(os.getpid(), self.point["number"])
