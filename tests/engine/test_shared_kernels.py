"""PaiNN's kernels on structures shared by one, two and four processes, against one process and the definition."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule

import atomjet
from atomjet.data import ExchangeHalo, GraphBuffers, PredictionBuffers, System, SystemBuffers
from atomjet.engine import Engine, Settings, owned_part, predict_shared
from atomjet.engine.shared_buffers import SharedBuffers, shared_capacity
from tests.engine.test_shared import Alone, start
from tests.potentials import random_painn

pytest.importorskip("triton")
from atomjet.models import forces

PROCESSES, CHANNELS = 4, 32
LAYERS = {"high": (3,), "default": (2,), "one layer": (1,), "ensemble": (2, 1)}
# Of the norm; the models are random and rough.
BOUNDS = {"high": 1e-5, "default": 5e-4, "one layer": 1e-5, "ensemble": 1e-5}
CASES = [
    (1, "high", "triclinic"),
    *((size, "high", case) for case in ("periodic", "triclinic", "slab", "corner") for size in (2, 4)),
    *((4, engine, "triclinic") for engine in ("default", "one layer", "ensemble")),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What four processes found, of which the last owns no atoms."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = start(Path(__file__).with_name("kernels_by_ranks.py"), PROCESSES, folder)
    said = [process.communicate(timeout=1800)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.slow  # four processes, each in Triton's interpreter
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


@pytest.mark.slow  # four processes, each in Triton's interpreter
def test_the_backend_by_itself_computes_what_buffers_of_the_engine_do(answers):
    """Also where what is not in use holds NaN."""
    assert [found["buffers"] for found in answers] == [{"energies": 0.0, "gradients": 0.0}] * PROCESSES


@pytest.mark.slow  # four processes, each in Triton's interpreter
def test_a_process_without_memory_refuses_for_all(answers):
    *others, last = (answers[rank]["refused"] for rank in (0, 2, 3, 1))
    assert "atoms with" in last
    assert "edges need 1073741824.00 GiB on cpu" in last
    assert set(others) == {f"process 1 refused: {last}"}


ON = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def engine():
    return Engine(random_painn(layers=1, features=32, num_radial=6, cutoff=2.5), Settings(ON, "fast_gpu", "high"))


def part_of(engine, atoms):
    """All of a structure, as one process has it that has it alone."""
    graph = engine.search(System.from_ase(atoms, device=ON))
    ids, ghosts, part = owned_part(graph, torch.zeros(len(atoms), dtype=torch.int64, device=ON), 0)
    return replace(part, halo=ExchangeHalo(ids, ghosts, Alone()))


def test_buffers_are_kept_and_filled_anew(engine):
    """From call to call, also after one that was refused; each time with the numbers of the structure that is in them."""
    pool = engine.captured_path.pool
    for name in ("CH3OH", "H2O", "CH3OH", "H2O"):
        shared = predict_shared(engine, part_of(engine, molecule(name)))
        torch.testing.assert_close(
            shared.forces, engine.predict(System.from_ase(molecule(name), device=ON)).forces.double()
        )
        kept = [buffers for buffers in pool._idle if isinstance(buffers, SharedBuffers)]
        assert len({id(buffers) for buffers in kept}) <= 2
        assert pool.lent == 0
    assert kept[-1]._replayed[-1].captured == (ON == "cuda")
    near = molecule("H2O")
    near.positions[1] = near.positions[0] + [0.05, 0, 0]
    with pytest.raises(atomjet.AtomJetError, match="0.050 Å apart"):
        predict_shared(engine, part_of(engine, near))
    bare = part_of(engine, molecule("H2O"))
    half = {name: getattr(bare, name)[:-1] for name in ("centers", "neighbors", "vectors", "shifts")}
    ends = bare.row_ptr.clone()
    ends[-1] -= 1
    with pytest.raises(atomjet.AtomJetError, match="some edges lack their reverse"):
        predict_shared(engine, replace(bare, row_ptr=ends, **half))
    assert pool.lent == 0


def test_a_capacity_serves_the_steps_after_it(engine):
    """A simulation's edges come and go; much fewer atoms get buffers of their own."""
    atoms = bulk("C", cubic=True) * (2, 2, 2)
    graph = part_of(engine, atoms)
    first = shared_capacity(graph, None)
    assert first.edges > graph.num_edges
    atoms.rattle(0.02)
    assert shared_capacity(part_of(engine, atoms), first) is first
    few = shared_capacity(part_of(engine, molecule("CH4")), first)
    assert few.atoms < first.atoms / 2
    assert shared_capacity(graph, few) == first
    empty = shared_capacity(replace(graph, atomic_numbers=graph.atomic_numbers[:0], centers=graph.centers[:0]), None)
    assert (empty.atoms, empty.edges) == (1, 64)


def test_no_kernel_reads_the_reverse_of_an_edge_to_a_ghost(engine):
    graph = part_of(engine, molecule("H2O"))
    with pytest.raises(atomjet.AtomJetError, match="the reverse of an edge to a ghost is with the process that owns"):
        GraphBuffers.from_graph(graph)
    buffers = GraphBuffers.from_graph(graph, ghosts=True)
    assert buffers.has_ghosts
    assert int(buffers.owned) == 3
    system, out = (each.empty(buffers.capacity, ON) for each in (SystemBuffers, PredictionBuffers))
    atomic = engine.evaluator.result(engine.evaluator.workspace(buffers.capacity))
    table = torch.zeros(1, 119, dtype=torch.float64, device=ON)
    with pytest.raises(AssertionError, match="goes home by `Halo.fold`"):
        forces.launch(system, buffers, atomic, table, table, table, out)


def test_without_buffers_the_backend_evaluates(engine):
    """As where neighbours are found by a way of the user's choice."""
    plain = engine.with_settings(neighbors="brute_force")
    assert plain.stages is None
    graph = part_of(engine, molecule("CH3OH"))
    found, expected = (predict_shared(each, graph, atomic=True) for each in (plain, engine))
    assert torch.equal(found.forces, expected.forces)
    assert torch.equal(found.atomic_virials, expected.atomic_virials)
