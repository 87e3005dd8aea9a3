"""Has something become slower, larger or less exact? Two results of the same suite, row by row.

Time. The fastest quarter of a process's calls, which nobody disturbed, gives its figure: their mean logarithm, less that of the
yardstick's, called in between. What others do to the processor time of a program (caches, clocks, memory) it thereby shares with
the yardstick: on a busy two-core machine figures of equal processes scattered by 8 % without it and by 2 % with it. What is left
between processes (where memory came to lie, which core) is measured by repeating the process. The change of the mean logarithm
has a Student interval, 90 % on either side; only a change whose whole interval lies beyond the threshold is flagged. A false
alarm therefore takes an error of the threshold and more, not of the interval alone.

Memory is counted, not timed, and accuracy is a sum in a fixed order: both are compared as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from atomjet.bench.result import Result
from atomjet.errors import ConfigError

THRESHOLD = 0.05
CONFIDENCE = 0.80
"""Level of the two-sided intervals of changes: 10 % on either side, and only one side can raise an alarm."""

ASSUMED_SCATTER = 0.03
"""Relative scatter between processes, where fewer than three measured it: more than a busy machine showed."""

LEAST_SCATTER = 0.005
"""Three processes may agree by chance; no scatter below this is believed."""

ACCURACY_FACTOR = 2.0
"""An error is flagged when it has grown by this and is no longer negligible beside its gate."""

NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Change:
    """One row's verdict on one quantity.

    Attributes:
        case, setting: the row. quantity: time, memory, accuracy or row.
        base, new: as measured (ms, MiB, eV/Å), for the reader. change: relative; low, high: its interval.
        verdict: "same", "better", "unclear" or "worse".
    """

    case: str
    setting: str
    quantity: str
    base: float
    new: float
    change: float
    low: float
    high: float
    verdict: str


def compare(base: Result, new: Result, threshold: float = THRESHOLD) -> list[Change]:
    """Judge every row that both have.

    Raises:
        ConfigError: a threshold that is not positive, another suite, device, model, cutoff or clock, or no row in common.
    """
    if not 0 < threshold < 10:
        raise ConfigError(f"threshold {threshold} is outside 0 ... 10; 0.05 means 5 %")
    for name, one, other in (
        ("suite", base.about.get("suite"), new.about.get("suite")),
        ("device", base.about["provenance"].get("device"), new.about["provenance"].get("device")),
        ("model", base.about.get("model"), new.about.get("model")),
        ("cutoff", base.about.get("cutoff"), new.about.get("cutoff")),
        ("clock", base.clock, new.clock),
    ):
        if one != other:
            raise ConfigError(f"{name} {one!r} against {other!r}: these cannot be compared; measure both alike")
    changes = []
    for row in base.rows:
        partner = new.row(row["case"], row["setting"])
        if row["status"] != "ok" or partner is None:
            continue
        if partner["status"] != "ok":
            nan = float("nan")
            verdict = "worse" if partner["status"] in ("inaccurate", "out of memory", "failed") else "unclear"
            changes.append(Change(row["case"], row["setting"], partner["status"], nan, nan, nan, nan, nan, verdict))
            continue
        changes.append(_time(base, row, new, partner, threshold))
        changes.extend(_counted(row, partner, threshold))
    if not changes:
        raise ConfigError("the two results have no measured row in common; measure the same suite and settings")
    return changes


def alone(base: Result, new: Result) -> str:
    """One line on what only one of the results tells of, because it has other cases or settings or was stopped; "" if nothing."""
    missing = []
    for mine, other, whose in ((base, new, "the base"), (new, base, "the new one")):
        rows = [row for row in mine.rows if row["status"] == "ok"]
        partners = [other.row(row["case"], row["setting"]) for row in rows]
        # A row of the base that the new one could not measure has a line of the table.
        lost = [
            f"{row['case']} {row['setting']}"
            for row, partner in zip(rows, partners, strict=True)
            if partner is None or (mine is new and partner["status"] != "ok")
        ]
        if lost:
            missing.append(
                f"{len(lost)} rows that only {whose} measured ({', '.join(lost[:3])}{' ...' * (len(lost) > 3)})"
            )
    stopped = [whose for one, whose in ((base, "the base"), (new, "the new one")) if one.about.get("stopped")]
    why = f"; {' and '.join(stopped)} was stopped before its end" if stopped else ""
    return f"not compared: {', '.join(missing)}{why}" if missing else why.removeprefix("; ")


def process_figures(result: Result, row: dict[str, Any]) -> np.ndarray:
    """Logarithm of an undisturbed call in units of the yardstick's, one for each process.

    On a GPU the calls stand alone: the yardstick there is bound by the host, which a captured graph is not.
    """
    if result.clock != "cpu":
        return np.array([_undisturbed(samples[result.clock]) for samples in row["samples"]])
    return np.array(
        [_undisturbed(samples["cpu"]) - _undisturbed(samples["yardstick_cpu"]) for samples in row["samples"]]
    )


def _undisturbed(seconds: list[float]) -> float:
    """Mean logarithm of the fastest quarter."""
    return float(np.log(np.sort(seconds)[: (len(seconds) + 3) // 4]).mean())


def interval(base: np.ndarray, new: np.ndarray) -> tuple[float, float, float]:
    """Relative change of the mean and its interval, from logarithms of repeated figures of both."""
    difference = float(new.mean() - base.mean())
    freedom = len(base) + len(new) - 2
    if min(len(base), len(new)) >= 3:
        scatter = math.sqrt((((base - base.mean()) ** 2).sum() + ((new - new.mean()) ** 2).sum()) / freedom)
        scatter, quantile = max(scatter, LEAST_SCATTER), student(freedom)
    else:
        scatter, quantile = ASSUMED_SCATTER, student(100)
    half = quantile * scatter * math.sqrt(1 / len(base) + 1 / len(new))
    return tuple(math.expm1(value) for value in (difference, difference - half, difference + half))  # type: ignore[return-value]


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's distribution, by Hill's expansion about the normal one (below 1 % off from 3 up)."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (k + 1) for k, term in enumerate(terms))


def verdict(low: float, high: float, threshold: float) -> str:
    """What an interval says: worse or better beyond the threshold, the same within it, or unclear."""
    if low > threshold:
        return "worse"
    if high < -threshold:
        return "better"
    return "same" if -threshold <= low and high <= threshold else "unclear"


def table(changes: list[Change]) -> str:
    """A table a person can read, worst first."""
    order = {"worse": 0, "better": 1, "unclear": 2, "same": 3}
    lines = [
        f"{'case':24} {'setting':20} {'quantity':14} {'base':>10} {'new':>10} {'change':>8} {'interval':>20} verdict"
    ]
    for c in sorted(changes, key=lambda change: order[change.verdict]):
        unit = {"time": "ms", "memory": "MiB", "accuracy": "eV/Å"}.get(c.quantity, "")
        span = f"{c.low:+.1%} ... {c.high:+.1%}"
        lines.append(
            f"{c.case:24} {c.setting:20} {c.quantity + ' ' + unit:14} {c.base:10.4g} {c.new:10.4g} {c.change:+8.1%} "
            f"{span:>20} {c.verdict}"
        )
    return "\n".join(lines)


def _time(base: Result, row: dict[str, Any], new: Result, partner: dict[str, Any], threshold: float) -> Change:
    change, low, high = interval(process_figures(base, row), process_figures(new, partner))
    before, after = (1e3 * float(np.median(r.values(x))) for r, x in ((base, row), (new, partner)))
    judgement = verdict(low, high, threshold)
    return Change(row["case"], row["setting"], "time", before, after, change, low, high, judgement)


def _counted(row: dict[str, Any], partner: dict[str, Any], threshold: float) -> list[Change]:
    made = []
    if row.get("memory_bytes") and partner.get("memory_bytes"):
        before, after = row["memory_bytes"] / 2**20, partner["memory_bytes"] / 2**20
        change = after / before - 1
        judgement = verdict(change, change, threshold)
        made.append(Change(row["case"], row["setting"], "memory", before, after, change, change, change, judgement))
    one, other = row.get("accuracy", {}), partner.get("accuracy", {})
    if one.get("force_rmse") is not None and other.get("force_rmse") is not None:
        before, after = one["force_rmse"], other["force_rmse"]
        change = after / max(before, 1e-300) - 1
        grown = change > ACCURACY_FACTOR - 1 and after > NEGLIGIBLE * other["gate"]
        judgement = "worse" if grown else "same"
        made.append(Change(row["case"], row["setting"], "accuracy", before, after, change, change, change, judgement))
    return made
