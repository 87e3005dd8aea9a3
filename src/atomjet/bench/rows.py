"""Rows of a result: one for each case and contender, with a status, and a reason where it is not `ok`.

Statuses: `ok`, `skipped`, `inaccurate`, `out of memory`, `out of time`, `failed`, or `stopped` where the run ended first. An `ok`
row whose reason speaks of rounds had fewer of them than wanted.
"""

from __future__ import annotations

from typing import Any

import torch

from atomjet.bench.contender import Unavailable
from atomjet.bench.measure import FEWEST


class OutOfTime(BaseException):
    """The time given to a stage is over. No `Exception`: what is interrupted must not take it for an error of its own."""


def settled(row: dict[str, Any], status: str, reason: str, runs: int) -> dict[str, Any]:
    """What a row comes to if all ends here: `ok` with the rounds it has, where they are enough to tell something."""
    if row["status"] != "stopped":
        return row
    rounds = len(row["samples"][0]["wall"]) if "samples" in row else 0
    if rounds >= FEWEST:
        return row | {"status": "ok", "reason": f"{rounds} of {runs} rounds, then {status}: {reason}"}
    return row | {"status": status, "reason": reason}


def new_row(case: str, setting: str, status: str, reason: str) -> dict[str, Any]:
    """A row without figures; `setting` is the contender's name."""
    return {"case": case, "setting": setting, "status": status, "reason": reason}


def status_of(error: BaseException) -> str:
    """Status of a row whose measurement ended with an error."""
    if isinstance(error, Unavailable):
        return "skipped"
    if isinstance(error, OutOfTime):
        return "out of time"
    text = str(error).lower()
    # The allocator's words on a GPU, on a CPU, and the engine's own, which refuses before it tries.
    says_so = any(words in text for words in ("out of memory", "allocate memory", "gib are free"))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or says_so:
        return "out of memory"
    return "failed"


def reason_of(error: BaseException) -> str:
    """An error in one line, with its class where that says something."""
    of_class = "" if isinstance(error, Unavailable | OutOfTime) else f"{type(error).__name__}: "
    return (of_class + " ".join(str(error).split()))[:300]
