"""A benchmark's result: one JSON file, written anew with every row, read back with care."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atomjet.bench.measure import Ratio, describe, ratio
from atomjet.bench.suites import OTHER, SUITES, Suite
from atomjet.errors import ConfigError
from atomjet.writing import write_atomically

FORMAT = 1

LATE = ("out of time", "skipped", "stopped")
"""States of rows that say nothing against a contender."""


@dataclass
class Result:
    """Rows of one suite and where they come from.

    Attributes:
        about: suite, model, `settings` (the contenders), and `provenance`; `cutoff` where it is not the model's; `stopped` where
            the run did not come to its end.
        rows: see `atomjet.bench.run`; `samples` holds one entry a process.
        path: where it is saved with each row; None: nowhere.
    """

    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None

    @property
    def suite(self) -> Suite:
        """What was measured."""
        return SUITES.get(self.about.get("suite", ""), OTHER)

    @property
    def clock(self) -> str:
        """Which of the times is judged: as the file says where it was read, else the suite's own for the device."""
        return self.about.get("clock") or self.suite.clock.get(self.about["provenance"]["device_type"], "cpu")

    def add(self, *rows: dict[str, Any]) -> None:
        """Take rows of a case, in place of earlier rows of their contenders; complete its statistics, save."""
        for row in rows:
            before = self.row(row["case"], row["setting"])
            if before is None:
                self.rows.append(row)
            else:
                self.rows[self.rows.index(before)] = row
        for case in dict.fromkeys(row["case"] for row in rows):
            self._complete(case)
        self.save()

    def merge(self, other: Result) -> None:
        """Take the rows of another process's run of the same suite."""
        for row in other.rows:
            mine = self.row(row["case"], row["setting"])
            if mine is None:
                self.rows.append(row)
            elif row["status"] == mine["status"] == "ok":
                mine["samples"].extend(row["samples"])
                mine["memory_bytes"] = max(mine["memory_bytes"], row["memory_bytes"])
                mine["reason"] = mine.get("reason") or row.get("reason", "")
            elif mine["status"] in LATE or (row["status"] not in LATE and mine["status"] == "ok"):
                # A process that ran out of time takes nothing from the others; one that failed does.
                mine.clear()
                mine.update(row)
        for case in dict.fromkeys(row["case"] for row in other.rows):
            self._complete(case)
        self.save()

    def row(self, case: str, setting: str) -> dict[str, Any] | None:
        """The row of a case and setting."""
        return next((row for row in self.rows if (row["case"], row["setting"]) == (case, setting)), None)

    def values(self, row: dict[str, Any]) -> np.ndarray:
        """Seconds of every call of a row, all processes."""
        return np.concatenate([np.array(samples[self.clock]) for samples in row["samples"]])

    def ratio(self, base: dict[str, Any], row: dict[str, Any]) -> Ratio:
        """How many times faster a row is than another of the same case, from the rounds of both."""
        one, other = self.values(base), self.values(row)
        rounds = min(len(one), len(other))
        return ratio(one[:rounds], other[:rounds])

    @property
    def cases(self) -> list[str]:
        """All of them, in the order measured."""
        return list(dict.fromkeys(row["case"] for row in self.rows))

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            content = {"atomjet_benchmark": FORMAT} | self.about | {"clock": self.clock, "rows": self.rows}
            write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def _complete(self, case: str) -> None:
        rows = [row for row in self.rows if row["case"] == case and row["status"] == "ok"]
        baseline = self.row(case, self.about["settings"][0])
        for row in rows:
            values = self.values(row)
            row["statistics"] = describe(values) | {"runs": len(values)}
            row["throughput"] = _throughput(row["per_call"], float(np.median(values)))
            row.pop("ratio", None)
            if baseline in rows:
                row["ratio"] = {"to": baseline["setting"]} | asdict(self.ratio(baseline, row))


def read_result(path: Path | str) -> Result:
    """Read a result back.

    Raises:
        ConfigError: no such file, not JSON, or not a benchmark's result.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `atomjet bench SUITE --json {path}` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a file of `atomjet bench SUITE --json`") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON (line {error.lineno}: {error.msg}); measure it again") from None
    version = content.get("atomjet_benchmark") if isinstance(content, dict) else None
    if version != FORMAT:
        fault = "is not a benchmark's result" if version is None else f"has format {version}"
        raise ConfigError(f"{path}: {fault}; this version reads format {FORMAT} of `atomjet bench SUITE --json`")
    try:
        rows = content.pop("rows")
        if "device_type" not in content["provenance"]:
            raise KeyError("device_type")
        made = Result({key: value for key, value in content.items() if key != "atomjet_benchmark"}, rows)
        for row in rows:
            _check_row(row, made.clock)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: a row or field is missing or wrong ({error}); measure it again") from None
    return made


def _check_row(row: dict[str, Any], clock: str) -> None:
    """Raise KeyError, TypeError or ValueError where something is missing that comparisons and reports rely on."""
    if not {"case", "setting", "status"} <= set(row):
        raise KeyError("case, setting or status")
    if not all(isinstance(row[name], str) for name in ("case", "setting", "status")):
        raise TypeError("case, setting or status")
    float(row.get("memory_bytes") or 0)
    if not isinstance(row.get("accuracy", {}), dict):
        raise TypeError("accuracy")
    if row["status"] != "ok":
        return
    if not row["samples"]:
        raise KeyError("samples")
    for part in row["samples"]:
        names = {"cpu", "wall", "yardstick_cpu", "yardstick_wall", clock}
        clocks = np.array([part[name] for name in names], dtype=float)
        if clocks.ndim != 2 or clocks.shape[1] == 0 or not (clocks >= 0).all():
            raise ValueError("samples")


def _throughput(per_call: dict[str, float], seconds: float) -> dict[str, float]:
    made = {"structures/s": per_call["structures"] / seconds, "atoms/s": per_call["atoms"] / seconds}
    if "edges" in per_call:
        made["edges/s"] = per_call["edges"] / seconds
    if "fs" in per_call:
        made |= {"steps/s": 1 / seconds, "ns/day": per_call["fs"] * 1e-6 * 86400 / seconds}
    return made
