"""The log of a training: a JSON line for each validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomjet.distill.files import read_json_lines
from atomjet.writing import append_whole, named, write_atomically


class TrainingLog:
    """Lines with a "step" each, ascending.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line at the end."""
        with named(self.path), open(self.path, "ab", buffering=0) as file:
            append_whole(file.fileno(), (json.dumps(line) + "\n").encode())

    def last_step(self) -> int:
        """Step of the last line; 0 where there is none."""
        lines = self._lines()
        return lines[-1]["step"] if lines else 0

    def drop_from(self, step: int) -> None:
        """Remove the lines of this step and of later ones."""
        if self.path.exists():
            lines = [json.dumps(line) + "\n" for line in self._lines() if line["step"] < step]
            write_atomically(self.path, "".join(lines))

    def _lines(self) -> list[dict[str, Any]]:
        """Whole lines: a kill can tear the last."""
        return read_json_lines(self.path) if self.path.exists() else []
