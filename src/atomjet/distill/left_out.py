"""What a recipe names and cannot be used: noted, so that the run goes on, or refused."""

from __future__ import annotations

import sys
from typing import Any

from atomjet.errors import ConfigError

SHOWN = 10
"""Lines on standard error; all of them stand in the file of failures."""

Failures = list[dict[str, Any]]


def leave_out(left_out: Failures | None, source: str, name: str, reason: str) -> None:
    """Note what cannot be used in `left_out`, or refuse it where there is no list to note it in.

    Raises:
        ConfigError: `left_out` is None.
    """
    if left_out is None:
        raise ConfigError(reason)
    left_out.append({"slice": source, "molecule": name, "reason": reason})


def print_left_out(left_out: Failures) -> None:
    """One warning for each, and how many more there are."""
    for failure in left_out[:SHOWN]:
        print(f"warning: {failure['reason']}; left out", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"warning: {len(left_out) - SHOWN} more were left out for reasons of their own", file=sys.stderr)
