"""What is printed may come from files that anybody wrote: nothing in it may move the cursor or hide a line."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from atomjet.writing import named

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the direction of writing, lone halves of characters."""


def escaped(text: str) -> str:
    """The text with control characters written out, as in \\x1b; lines and tabs stay."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str, limit: int = 1000) -> str:
    """The text on one line of at most `limit` characters, with control characters written out."""
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


OUT = "standard output"


class Escaped:
    """An output stream that writes control characters out.

    Once nobody reads it any more, because `head` has what it wanted or the terminal is closed, what is written is lost: that is no
    reason to leave a file half written or a structure half relaxed.

    Attributes:
        stream: the stream behind it, for those who move the cursor themselves, as a progress bar does.
        name: of it, for errors.
    """

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name = stream, name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # where the locale has no Å

    def write(self, text: str) -> int:
        """Write the text, escaped."""
        with self._heard_or_not():
            self.stream.write(escaped(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        with self._heard_or_not():
            self.stream.flush()

    @contextmanager
    def _heard_or_not(self) -> Iterator[None]:
        try:
            with named(self.name):
                yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def writelines(self, lines: Any) -> None:
        """Write each, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def escaping() -> Iterator[None]:
    """Let everything that is printed to standard output and standard error pass through `Escaped`."""
    with ExitStack() as stack:
        # Closed by whoever started us, as `>&-` does: nobody listens.
        out, err = (stream or stack.enter_context(open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))
        with redirect_stdout(Escaped(out, OUT)), redirect_stderr(Escaped(err, "standard error")):  # type: ignore[type-var]
            yield


MOST_WARNINGS = 10
"""Warnings of one category that a command shows."""


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning as one line on standard error, without the line of code that it comes from; the first few of a category."""
    shown: dict[type[Warning], int] = {}

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        shown[category] = shown.get(category, 0) + 1
        if shown[category] <= MOST_WARNINGS:
            print(f"warning: {one_line(str(message))}", file=sys.stderr, flush=True)
        elif shown[category] == MOST_WARNINGS + 1:
            print(f"warning: more of the kind {category.__name__} are not shown", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
