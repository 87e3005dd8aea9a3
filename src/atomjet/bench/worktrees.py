"""Git revisions of a repository, each in a worktree of its own, and the figure that a benchmark prints on one."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from atomjet.bench.compare import process_figures
from atomjet.bench.result import read_result
from atomjet.errors import AtomJetError, ConfigError
from atomjet.stopping import stoppable

NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


class DoesNotBuild(Exception):
    """A revision on which the benchmark does not run, and why."""


class Bench:
    """A benchmark that can be run on any revision of a repository; lower figures are better.

    Args:
        repository: a git repository.
        command: shell command, run in the root of a revision's worktree; the last number it prints is the figure.
            None: `atomjet bench latency` of that revision on small molecules, in units of the yardstick.
        model: for the latter.
    """

    def __init__(self, repository: Path, command: str | None, model: str | None = None) -> None:
        self.repository, self.command, self.model = repository, command, model
        if self._git("rev-parse", "--git-dir") is None:
            raise ConfigError(f"{repository} is not a git repository; run this inside one, or give --repository")

    def resolve(self, revision: str) -> str:
        """Full hash of a revision.

        Raises:
            ConfigError: there is none of that name.
        """
        commit = self._git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if not commit:
            raise ConfigError(f"revision {revision!r} is not in {self.repository}; `git log --oneline` lists them")
        return commit

    def subject(self, commit: str) -> str:
        """First line of a commit's message."""
        return self._git("log", "-1", "--format=%s", commit) or ""

    def between(self, good: str, bad: str) -> list[str]:
        """Commits after `good` up to and with `bad`, oldest first."""
        listed = self._git("rev-list", "--reverse", "--first-parent", f"{good}..{bad}")
        return listed.split() if listed else []

    @contextmanager
    def worktrees(self) -> Iterator[Callable[[str], Path]]:
        """Yield a function that gives each commit a worktree; all are gone at the end, after ctrl-C and SIGTERM too."""
        made: dict[str, Path] = {}
        with TemporaryDirectory(prefix="atomjet-revisions-") as folder, stoppable() as heard:

            def checkout(commit: str) -> Path:
                if commit not in made:
                    path = Path(folder) / commit[:12]
                    added = self._run("worktree", "add", "--detach", str(path), commit)
                    if added.returncode != 0:
                        raise DoesNotBuild(
                            f"git cannot check it out: {(added.stderr.strip() or 'no message').splitlines()[-1]}"
                        )
                    made[commit] = path
                return made[commit]

            try:
                yield checkout
            finally:
                heard()
                for path in made.values():
                    self._git("worktree", "remove", "--force", str(path))

    def figure(self, tree: Path) -> float:
        """Run once in a worktree.

        Raises:
            DoesNotBuild: the command fails or prints no number.
        """
        result = tree / ".revisions.json"
        command = self.command
        if command is None:
            model = f" --model '{self.model}'" if self.model else ""
            command = (  # a revision may know only the older name of --contenders
                f"'{sys.executable}' -m atomjet bench latency --settings auto --max-atoms 20 --runs 60 --max-minutes 2 "
                f"--process 1 --json '{result}'{model}"
            )
        made = subprocess.run(
            ["env", f"PYTHONPATH={tree / 'src'}", "sh", "-c", command],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            message = (made.stderr.strip() or made.stdout.strip() or "no message").splitlines()[-1]
            raise DoesNotBuild(f"status {made.returncode}: {message[:120]}")
        if self.command is None:
            return _yardsticks(result)
        numbers = NUMBER.findall(made.stdout)
        if not numbers or not float(numbers[-1]) > 0:
            raise DoesNotBuild("the command printed no positive number")
        return float(numbers[-1])

    def _git(self, *arguments: str) -> str | None:
        made = self._run(*arguments)
        return made.stdout.strip() if made.returncode == 0 else None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=self.repository, capture_output=True, text=True, check=False)


def _yardsticks(path: Path) -> float:
    """Geometric mean over the cases of a result, in units of the yardstick."""
    try:
        result = read_result(path)
    except AtomJetError as error:
        raise DoesNotBuild(str(error)) from None
    rows = [row for row in result.rows if row["status"] == "ok" and row["setting"] == "auto"]
    if not rows:
        raise DoesNotBuild("it measured nothing")
    return math.exp(float(np.mean([process_figures(result, row).mean() for row in rows])))
