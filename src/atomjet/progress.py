"""A progress bar on a terminal, a plain line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def track(description: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show progress of work in `total` steps, of which `done` are done already.

    Yields `advance(steps=1, note="")`: call it after each piece of work; the note stands behind the bar.
    """
    if quiet:
        yield lambda steps=1, note="": None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, TextColumn("{task.fields[note]}"), console=Console(file=getattr(sys.stderr, "stream", sys.stderr))
        ) as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
    else:
        yield _lines(description, total, done)


def _lines(description: str, total: int, done: int) -> Callable[..., None]:
    """Print a line at most every half minute, and at the end."""
    state = {"done": done, "said": time.monotonic()}

    def advance(steps: int = 1, note: str = "") -> None:
        state["done"] += steps
        now = time.monotonic()
        if now - state["said"] >= SECONDS_BETWEEN_LINES or state["done"] >= total:
            state["said"] = now
            print(f"{description}: {state['done']}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

    return advance
