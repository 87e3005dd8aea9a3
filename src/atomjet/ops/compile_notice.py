"""Lines on standard error while Triton compiles AtomJet's kernels, which takes seconds the first time and nothing from then on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN_LINES = 5.0

Listener = Callable[..., None]


class CompileNotice:
    """A listener of Triton's compiler: says which kernels were compiled, not which were found in its cache.

    Args:
        before: listener that was there, called too.
    """

    def __init__(self, before: Listener | None = None) -> None:
        self.before, self.count, self._said = before, 0, float("-inf")

    def __call__(self, *, src: Any, metadata: Any, cache_hit: bool, **more: Any) -> None:
        """A kernel is there now."""
        if self.before is not None:
            self.before(src=src, metadata=metadata, cache_hit=cache_hit, **more)
        if cache_hit or not str(getattr(getattr(src, "fn", None), "module", "")).startswith("atomjet."):
            return
        self.count += 1
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        first = self.count == 1
        line = f"compiling kernels, kept for later: {name}" if first else f"compiling kernels: {self.count}, now {name}"
        print(line, file=sys.stderr, flush=True)


def announce_compilations() -> None:
    """Have Triton tell from now on; once, however often it is asked for."""
    from triton import knobs

    listener = knobs.compilation.listener
    if not isinstance(listener, CompileNotice):
        knobs.compilation.listener = CompileNotice(listener)
