"""One benchmark on several git revisions, in alternation: what did each change bring, and which one cost?

Every revision stands in a worktree of its own. A round runs the benchmark once on each, in an order that rotates; changes are
differences of logarithms within rounds, so that slow hours of the machine cancel. The figure of a change is the Hodges-Lehmann
estimate (median of all pairwise means), its interval that of Wilcoxon's signed ranks: a round that was disturbed counts as
one vote, however badly it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from atomjet.bench.worktrees import Bench, DoesNotBuild
from atomjet.errors import ConfigError

FEWEST_ROUNDS = 7
"""Rounds that an interval at CONFIDENCE, 98 %, needs at least."""

CONFIDENCE = 0.98


@dataclass(frozen=True)
class Revision:
    """One revision against the one before.

    Attributes:
        revision: short hash. change: the commit's subject. figure: median, seconds or whatever the benchmark prints.
        delta, low, high: relative change and its interval; NaN for the first. rounds: how many measured it.
        verdict: "slower", "faster", "same", "cannot tell", "does not build: ...", or "" for the first; and after it, why a
            revision that ran for some rounds was left out of the others.
    """

    revision: str
    change: str
    figure: float
    delta: float
    low: float
    high: float
    rounds: int
    verdict: str


def climb(
    bench: Bench,
    revisions: list[str],
    precision: float = 0.01,
    max_rounds: int = 40,
    say: Callable[[str], None] = print,
) -> list[Revision]:
    """Measure each revision against the one before it, until every change is known to `precision` or rounds run out.

    Raises:
        ConfigError: fewer than two revisions, or an unknown one.
    """
    if len(revisions) < 2:
        raise ConfigError(f"{len(revisions)} revision given; a race needs two or more")
    commits = [bench.resolve(revision) for revision in revisions]
    broken: dict[str, str] = {}
    figures: dict[str, list[float]] = {commit: [] for commit in commits}
    with bench.worktrees() as checkout:
        try:
            for done in range(max_rounds):
                running = [commit for commit in figures if commit not in broken]
                for place in range(len(running)):
                    commit = running[(done + place) % len(running)]
                    try:
                        figures[commit].append(bench.figure(checkout(commit)))
                    except DoesNotBuild as error:
                        broken[commit] = str(error)
                steps = _steps(bench, commits, figures, broken, precision)
                say(f"round {done + 1}: " + ", ".join(f"{step.revision} {step.delta:+.1%}" for step in steps[1:]))
                unknown = [
                    commit
                    for commit, step in zip(commits[1:], steps[1:], strict=True)
                    if commit not in broken and not _settled(step, precision)
                ]
                if len(running) < 2 or (done + 1 >= FEWEST_ROUNDS and not unknown):
                    break
        except KeyboardInterrupt:
            if any(figures.values()):
                say(table(_steps(bench, commits, figures, broken, precision)))
            raise
    return _steps(bench, commits, figures, broken, precision)


def bisect(
    bench: Bench, good: str, bad: str, max_rounds: int = 40, say: Callable[[str], None] = print
) -> tuple[list[str], float]:
    """Find the first slower commit after `good` up to `bad`.

    Returns:
        The culprit (or, where commits do not build, all that it may be), and the relative change from `good` to `bad`.

    Raises:
        ConfigError: unknown revisions, none between them, or `bad` is not measurably slower than `good`.
    """
    first, last = bench.resolve(good), bench.resolve(bad)
    line = [first, *bench.between(first, last)]
    if len(line) < 2 or line[-1] != last:
        raise ConfigError(f"{bad} does not come after {good}; give the older revision first")
    with bench.worktrees() as checkout:
        duel = _Duel(bench, checkout, first, max_rounds)
        try:
            slower, change = duel(last, 0.0)
        except DoesNotBuild as error:
            raise ConfigError(f"{good} or {bad} does not build: {error}; choose others") from None
        if not slower:
            raise ConfigError(
                f"{bad} is not measurably slower than {good} ({math.expm1(change):+.1%}); nothing to look for"
            )
        say(f"{last[:10]} is slower than {first[:10]} by {math.expm1(change):.1%}")
        low, high = _narrow(line, duel, change / 2, say)
    return line[low + 1 : high + 1], math.expm1(change)


@dataclass(frozen=True)
class _Duel:
    """A commit against the first, in alternation."""

    bench: Bench
    checkout: Callable[[str], Path]
    first: str
    max_rounds: int

    def __call__(self, commit: str, threshold: float) -> tuple[bool | None, float]:
        """Whether a commit is slower than the first by more than the threshold (in logarithms; None: cannot tell)."""
        differences: list[float] = []
        for done in range(self.max_rounds):
            order = (self.first, commit) if done % 2 == 0 else (commit, self.first)
            made = {one: math.log(self.bench.figure(self.checkout(one))) for one in order}
            differences.append(made[commit] - made[self.first])
            estimate, low, high = hodges_lehmann(np.array(differences))
            if done + 1 >= FEWEST_ROUNDS and (low > threshold or high < threshold):
                return low > threshold, estimate
        return None, hodges_lehmann(np.array(differences))[0]


def _narrow(line: list[str], duel: _Duel, threshold: float, say: Callable[[str], None]) -> tuple[int, int]:
    """Places of the last fast and the first slow commit that can be told apart."""
    low, high, broken = 0, len(line) - 1, set[int]()
    try:
        while inner := [k for k in range(low + 1, high) if k not in broken]:
            middle = inner[int(np.argmin([abs(2 * k - low - high) for k in inner]))]
            try:
                verdict, estimate = duel(line[middle], threshold)
            except DoesNotBuild as error:
                say(f"{line[middle][:10]} does not build: {error}")
                broken.add(middle)
                continue
            words = {True: "slow", False: "fast", None: "cannot tell"}[verdict]
            say(f"{line[middle][:10]} {math.expm1(estimate):+.1%}: {words}  {duel.bench.subject(line[middle])}")
            if verdict is None:
                broken.add(middle)
            elif verdict:
                high = middle
            else:
                low = middle
    except KeyboardInterrupt:
        between = f"after {line[low][:10]}, up to {line[high][:10]}"
        say(f"stopped; one of {high - low} commits is the first slower one: {between}")
        raise
    return low, high


def hodges_lehmann(values: np.ndarray) -> tuple[float, float, float]:
    """Centre of repeated values and its interval, from the sorted means of all pairs (each with itself too)."""
    count = len(values)
    i, j = np.triu_indices(count)
    means = np.sort(0.5 * (values[i] + values[j]))
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    rank = count * (count + 1) / 4 - z * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    outer = max(0, math.floor(rank))
    return float(np.median(means)), float(means[outer]), float(means[-1 - outer])


def table(steps: list[Revision]) -> str:
    """step | change | figure | delta | verdict."""
    lines = [f"{'step':10} {'change':50} {'figure':>11} {'delta':>8} {'interval':>18} verdict"]
    for step in steps:
        span = "" if math.isnan(step.low) else f"{step.low:+.1%} ... {step.high:+.1%}"
        delta = "" if math.isnan(step.delta) else f"{step.delta:+.1%}"
        lines.append(
            f"{step.revision:10} {step.change[:50]:50} {step.figure:11.5g} {delta:>8} {span:>18} {step.verdict}"
        )
    return "\n".join(lines)


def _steps(
    bench: Bench, commits: list[str], figures: dict[str, list[float]], broken: dict[str, str], precision: float
) -> list[Revision]:
    steps: list[Revision] = []
    before: str | None = None
    nan = float("nan")
    for commit in commits:
        made, short, subject = figures[commit], commit[:10], bench.subject(commit)
        if not made or (commit in broken and len(made) < FEWEST_ROUNDS):
            steps.append(Revision(short, subject, nan, nan, nan, nan, len(made), _unbuilt(broken.get(commit))))
            continue
        failed = f"; failed in round {len(made) + 1}: {broken[commit]}" if commit in broken else ""
        figure = float(np.median(made))
        if before is None:
            steps.append(Revision(short, subject, figure, nan, nan, nan, len(made), failed.removeprefix("; ")))
        else:
            rounds = min(len(made), len(figures[before]))
            differences = np.log(made[:rounds]) - np.log(figures[before][:rounds])
            delta, low, high = (math.expm1(value) for value in hodges_lehmann(differences))
            judgement = _verdict(low, high, precision) if rounds >= FEWEST_ROUNDS else "cannot tell"
            steps.append(Revision(short, subject, figure, delta, low, high, rounds, judgement + failed))
        before = commit
    return steps


def _unbuilt(reason: str | None) -> str:
    return "not measured" if reason is None else f"does not build: {reason}"


def _verdict(low: float, high: float, precision: float) -> str:
    if low > 0:
        return "slower"
    if high < 0:
        return "faster"
    return "same" if -precision <= low and high <= precision else "cannot tell"


def _settled(step: Revision, precision: float) -> bool:
    """Known well enough: an interval no wider than the precision on either side; or nothing to know."""
    return math.isnan(step.delta) or (step.high - step.low) / 2 <= precision
