"""Tasks in real worker processes: what they leave behind when they raise, die, or are killed."""

import functools
import os
import signal

import pytest

from atomjet.distill.journal import Journal, content_key
from atomjet.distill.pool import Task, run_tasks
from atomjet.errors import AtomJetError


def work(kind: str, number: int) -> dict:
    if kind == "raise":
        raise ValueError(f"cannot\n  do {number}")
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exit":
        os._exit(3)
    return {"number": number, "threads": os.environ["OMP_NUM_THREADS"]}


def die_once(marker: str) -> dict:
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_leaves_a_record_whatever_happens_to_it(tmp_path, workers):
    kinds = ["fine", "crash", "fine", "raise", "exit", "fine", "fine"]
    tasks = [Task(content_key(i), (kind, i)) for i, kind in enumerate(kinds)]
    steps = []
    run_tasks(work, tasks, tmp_path, workers, lambda: steps.append(1))
    assert len(steps) == len(kinds)
    with Journal(tmp_path) as journal:
        records = [journal[task.key] for task in tasks]
    for number in (0, 2, 5, 6):
        assert records[number] == {"number": number, "threads": "1"}
    assert records[1] == {"error": "the worker process crashed twice on this (SIGSEGV)"}
    assert records[3] == {"error": "ValueError: cannot do 3"}
    assert records[4] == {"error": "the worker process crashed twice on this (exit status 3)"}


def test_a_task_whose_worker_was_killed_from_outside_gets_another_chance(tmp_path):
    run_tasks(die_once, [Task(b"k" * 16, (str(tmp_path / "marker"),))], tmp_path / "journal", 1, lambda: None)
    with Journal(tmp_path / "journal") as journal:
        assert journal[b"k" * 16] == {"survived": True}


class Unpicklable:
    """A task that no worker can receive: unpickling it fails."""

    def __reduce__(self):
        return (die_in_transit, ())


def die_in_transit():
    os._exit(4)


def test_a_crash_before_the_task_begins_is_its_failure_too(tmp_path):
    run_tasks(work, [Task(b"k" * 16, ("fine", Unpicklable()))], tmp_path, 1, lambda: None)
    with Journal(tmp_path) as journal:
        assert journal[b"k" * 16] == {"error": "the worker process crashed twice on this (exit status 4)"}


def test_workers_that_cannot_start_end_the_run(tmp_path):
    with pytest.raises(AtomJetError, match=r"a worker process could not start \(exit status 4\)"):
        run_tasks(functools.partial(work, Unpicklable()), [Task(b"k" * 16, ())], tmp_path, 1, lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_of_the_parent_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    run_tasks(work, [Task(b"k" * 16, ("fine", 0))], tmp_path, 1, lambda: None)
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ
