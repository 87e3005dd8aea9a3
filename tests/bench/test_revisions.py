"""Revisions of throw-away repositories, each with a benchmark that scatters as a busy machine's do."""

import math
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from atomjet.bench.revisions import bisect, climb, hodges_lehmann, table
from atomjet.bench.worktrees import Bench, DoesNotBuild
from atomjet.cli.main import main
from atomjet.errors import ConfigError

SPEED = """
import random
print("best", {work} * random.lognormvariate(0, 0.01), "s")
"""
"""Not a real piece of work: on a machine with three times the load it has cores for, one of a millisecond in plain Python scattered
so much that no interval got narrow enough in forty rounds, and the test failed honestly.
"""


def quiet(line):
    pass


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    made = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def repository(folder, works):
    """One commit for each amount of work, in seconds; None for one that does not run."""
    git(folder, "init", "-q")
    commits = []
    for k, work in enumerate(works):
        text = "import no_such_module" if work is None else SPEED.format(work=work)
        (folder / "speed.py").write_text(f"{text}\n# revision {k}\n")
        git(folder, "add", "speed.py")
        git(folder, "commit", "-q", "-m", f"Change {k}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits, Bench(folder, f"'{sys.executable}' speed.py")


@pytest.mark.parametrize("culprit", [3, 6])
def test_bisect_finds_a_planted_slowdown_of_five_percent_among_eight(tmp_path, culprit):
    commits, bench = repository(tmp_path, [1.00 if k < culprit else 1.05 for k in range(8)])
    found, change = bisect(bench, commits[0], commits[-1], say=quiet)
    assert found == [commits[culprit]]
    assert change == pytest.approx(0.05, abs=0.03)
    assert git(tmp_path, "worktree", "list").count("\n") == 0


def test_bisect_goes_around_what_does_not_build(tmp_path):
    commits, bench = repository(tmp_path, [1.0, None, 1.0, 1.2, 1.2])
    said = []
    found, _ = bisect(bench, commits[0], commits[-1], say=said.append)
    assert found == [commits[3]]


def test_bisect_names_all_that_it_may_be(tmp_path):
    commits, bench = repository(tmp_path, [1.0, None, 1.2])
    said = []
    found, _ = bisect(bench, commits[0], commits[-1], say=said.append)
    assert found == commits[1:]
    assert any(
        "does not build: status 1: ModuleNotFoundError: No module named 'no_such_module'" in line for line in said
    )


def test_each_revision_has_its_change(tmp_path):
    commits, bench = repository(tmp_path, [1.0, 1.2, None, 0.9])
    steps = climb(bench, commits, precision=0.03, max_rounds=15, say=quiet)
    assert [step.verdict.split(":")[0] for step in steps] == ["", "slower", "does not build", "faster"]
    assert steps[1].delta == pytest.approx(0.2, abs=0.05)
    assert steps[3].delta == pytest.approx(-0.25, abs=0.05)
    text = table(steps)
    assert "Change 1" in text
    assert "does not build: status 1: ModuleNotFoundError" in text


def scripted(monkeypatch, bench, figure):
    """`figure(subject, run)` in place of running anything; counts the runs of each revision."""
    runs = {}

    def made(tree):
        subject = bench.subject(git(tree, "rev-parse", "HEAD"))
        runs[subject] = runs.get(subject, 0) + 1
        return figure(subject, runs[subject])

    monkeypatch.setattr(bench, "figure", made)


def test_what_cannot_be_told_is_said(tmp_path, monkeypatch):
    commits, bench = repository(tmp_path, [1.0, 1.0])
    noise = np.random.default_rng(0)  # drawn anew, one run in sixty would see a change in it
    scripted(monkeypatch, bench, lambda subject, run: noise.uniform(1, 5))
    steps = climb(bench, commits, max_rounds=8, say=quiet)
    assert steps[1].verdict == "cannot tell"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_race_that_is_stopped_tells_what_it_measured(tmp_path, monkeypatch, signum):
    commits, bench = repository(tmp_path, [1.0, 1.2])
    noise = np.random.default_rng(0)

    def figure(subject, run):
        if run == 9:
            signal.raise_signal(signum)
        return {"Change 0": 1.0, "Change 1": 1.2}[subject] * noise.lognormal(0, 0.001)

    scripted(monkeypatch, bench, figure)
    said = []
    with pytest.raises(KeyboardInterrupt):
        climb(bench, commits, precision=1e-9, say=said.append)
    assert re.search(r"Change 1 .* 1\.[12]\d* .*\+(19\.9|20\.\d)% .* slower", said[-1])
    assert git(tmp_path, "worktree", "list").count("\n") == 0


def test_a_bisection_that_is_stopped_tells_how_far_it_came(tmp_path, monkeypatch):
    commits, bench = repository(tmp_path, [1.0, 1.0, 1.0, 1.2, 1.2])

    def figure(subject, run):
        if subject == "Change 3":
            raise KeyboardInterrupt
        return {"Change 4": 1.2}.get(subject, 1.0)

    scripted(monkeypatch, bench, figure)
    said = []
    with pytest.raises(KeyboardInterrupt):
        bisect(bench, commits[0], commits[-1], say=said.append)
    assert said[-1] == (
        f"stopped; one of 2 commits is the first slower one: after {commits[2][:10]}, up to {commits[4][:10]}"
    )


def test_a_revision_that_fails_once_it_ran_keeps_its_figures(tmp_path, monkeypatch):
    commits, bench = repository(tmp_path, [1.0, 1.2, 1.2])
    noise = np.random.default_rng(0)

    def figure(subject, run):
        if subject == "Change 1" and run == 9:
            raise DoesNotBuild("out of memory")
        # Every round the machine is slower.
        return {"Change 0": 1.0}.get(subject, 1.2) * (1 + run) * noise.lognormal(0, 0.001)

    scripted(monkeypatch, bench, figure)
    steps = climb(bench, commits, precision=1e-9, max_rounds=12, say=quiet)
    assert [step.rounds for step in steps] == [12, 8, 8]
    assert steps[1].verdict == "slower; failed in round 9: out of memory"
    assert steps[1].delta == pytest.approx(0.2, abs=0.01)
    assert steps[2].delta == pytest.approx(0.0, abs=0.01)  # in the rounds that it shares with the one before


def test_nothing_to_compare_is_no_success(tmp_path, capsys):
    commits, _ = repository(tmp_path, [1.0, None])
    command = f"'{sys.executable}' speed.py"
    assert main(["bench", "revisions", *commits, "--repository", str(tmp_path), "--command", command]) == 1
    said = capsys.readouterr()
    assert "does not build: status 1: ModuleNotFoundError" in said.out
    assert said.err == "error: fewer than two revisions ran; nothing was compared, the table says why\n"


def test_bad_requests(tmp_path):
    with pytest.raises(ConfigError, match="is not a git repository"):
        Bench(tmp_path, "true")
    commits, bench = repository(tmp_path, [1.0, 1.0])
    with pytest.raises(ConfigError, match="revision 'nowhere' is not in"):
        climb(bench, ["nowhere", "HEAD"], say=quiet)
    with pytest.raises(ConfigError, match="1 revision given; a race needs two or more"):
        climb(bench, ["HEAD"], say=quiet)
    with pytest.raises(ConfigError, match="HEAD~1 does not come after HEAD; give the older revision first"):
        bisect(bench, "HEAD", "HEAD~1", say=quiet)
    with pytest.raises(ConfigError, match="does not build: the command printed no positive number"):
        bisect(Bench(tmp_path, "echo nothing"), commits[0], commits[1], say=quiet)


def test_hodges_lehmann_shrugs_off_a_disturbed_round():
    generator = np.random.default_rng(0)
    calm = generator.normal(0.05, 0.01, 15)
    disturbed = calm.copy()
    disturbed[3] += 3.0
    centre, low, high = hodges_lehmann(disturbed)
    assert centre == pytest.approx(0.05, abs=0.01)
    assert low < 0.05 < high
    assert high - low < 0.04
    covered = 0
    for _ in range(300):
        _, low, high = hodges_lehmann(generator.normal(0, 1, 12))
        covered += low <= 0 <= high
    assert covered / 300 == pytest.approx(0.98, abs=0.02)
    assert not math.isnan(centre)
