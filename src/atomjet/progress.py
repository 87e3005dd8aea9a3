"""A progress bar on a terminal, a plain line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def track(description: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show progress of work in `total` steps, of which `done` are done already.

    Yields `advance(steps=1, note="")`: call it after each piece of work; the note stands behind the bar.
    """
    if quiet:
        yield lambda steps=1, note="": None
    elif sys.stderr.isatty():
        with _bar(description, total, done) as advance:
            yield advance
    else:
        yield _lines(description, total, done)


@contextmanager
def _bar(description: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    """Draw a bar. rich is imported here alone: commands that draw none do not wait for it."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    with progress.Progress(*columns, console=Console(file=getattr(sys.stderr, "stream", sys.stderr))) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)


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
