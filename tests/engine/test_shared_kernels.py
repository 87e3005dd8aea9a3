"""PaiNN's kernels on structures shared by one, two and four processes, against one process and the definition."""

import json
from pathlib import Path

import pytest

from tests.engine.test_shared import start

pytest.importorskip("triton")

PROCESSES, CHANNELS = 4, 32
LAYERS = {"high": (3,), "default": (2,), "one layer": (1,), "ensemble": (2, 1)}
# Of the norm; the models are random and rough.
BOUNDS = {"high": 1e-5, "default": 5e-4, "one layer": 1e-5, "ensemble": 1e-5}
CASES = [
    (size, engine, case)
    for engine in LAYERS
    for case in (("periodic", "triclinic", "slab", "corner") if engine == "high" else ("triclinic",))
    for size in ((1, 2, 4) if case == "triclinic" else (2, 4))
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What four processes found, of which the last owns no atoms."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = start(Path(__file__).with_name("kernels_by_ranks.py"), PROCESSES, folder)
    said = [process.communicate(timeout=1800)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize(("size", "engine", "case"), CASES)
def test_processes_compute_what_one_does(answers, size, engine, case):
    wanted = {"size": size, "engine": engine, "case": case}
    (row,) = (row for row in answers[0]["rows"] if wanted.items() <= row.items())
    # To the last bit: a row adds the same numbers up in the same order, whoever computed those of its neighbours. Members of an
    # ensemble too, but one process by itself takes their mean in float32.
    assert row["same energies"] or engine == "ensemble"
    assert row["force"] < (1e-5 if engine == "ensemble" else 1e-10)
    assert row["energy"] < (1e-5 if engine == "ensemble" else 1e-9)
    assert row["virial"] < (1e-5 if engine == "ensemble" else 1e-10)
    assert row["force of definition"] < BOUNDS[engine]
    assert row["energy of definition"] < BOUNDS[engine]
    assert row.get("stress of definition", 0.0) < BOUNDS[engine]
    assert row["empty"] == (size == 4)
    assert row["ghosts"] > 0 or size == 1
    # Contexts and vectors before each layer but the first, derivatives before each backward, and forces at the end.
    per_ghost = sum(CHANNELS * (6 * (layers - 1) + 4 * layers) for layers in LAYERS[engine]) + 3
    assert row["sent"] == per_ghost * row["ghosts"]
    assert row["exchanges"] == row["wanted"] + 1 == sum(2 * layers - 1 for layers in LAYERS[engine]) + 1


def test_the_backend_by_itself_computes_what_buffers_of_the_engine_do(answers):
    """Also where what is not in use holds NaN."""
    assert [found["buffers"] for found in answers] == [{"energies": 0.0, "gradients": 0.0}] * PROCESSES


def test_a_process_without_memory_refuses_for_all(answers):
    *others, last = (answers[rank]["refused"] for rank in (0, 2, 3, 1))
    assert "atoms with" in last
    assert "edges need 1073741824.00 GiB on cpu" in last
    assert set(others) == {f"process 1 refused: {last}"}
