"""Structures shared by three processes under torchrun, against one process; halos that do not fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import molecule

import atomjet
from atomjet.data import ExchangeHalo, System
from atomjet.engine import TorchHalo, owned_part, predict_shared
from atomjet.errors import BackendError, StructureError

PROCESSES, FEATURES, LAYERS = 3, 128, 3
PER_GHOST = {"general": 4 * FEATURES * 2 * (LAYERS - 1) + 3, "fast_pytorch": 4 * FEATURES * (2 * LAYERS - 1) + 3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "rows.json"
    script = Path(__file__).with_name("shared_by_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), str(script), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return json.loads(out.read_text())


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("case", ["periodic", "triclinic", "slab", "corner"])
def test_three_processes_compute_what_one_does(rows, case, backend):
    (*found,) = (row for rank in rows for row in rank if row["case"] == case and row["backend"] == backend)
    assert len(found) == PROCESSES
    assert found[-1]["owned"] == 0
    for row in found:
        assert row["force"] < 1e-10
        assert row["energy"] < 1e-9
        assert row.get("stress", 0.0) < 1e-12
    assert sum(row["sent"] for row in found) == PER_GHOST[backend] * sum(row["ghosts"] for row in found)


@pytest.mark.parametrize("case", ["periodic", "triclinic", "slab", "corner"])
def test_charges_are_balanced_and_experts_mixed_over_all_processes(rows, case):
    (*found,) = (row for rank in rows for row in rank if row["case"] == f"uma {case}")
    assert len(found) == PROCESSES
    for row in found:
        assert row["force"] < 1e-10
        assert row["energy"] < 1e-9
        assert row.get("stress", 0.0) < 1e-12
    per_ghost = 9 * 16 * 2 * 2 + 3  # coefficients and channels, two layers, forth and back; forces
    assert sum(row["sent"] for row in found) == per_ghost * sum(row["ghosts"] for row in found)


def test_all_processes_refuse_where_one_does(rows):
    texts = [rank[-1]["text"] for rank in rows]
    assert texts[0].startswith("atom 0 and atom 1 (O-H) are 0.050 Å apart")
    assert texts[1] == texts[2] == f"process 0 refused: {texts[0]}"


class Alone:
    """A transport of one process."""

    rank, size = 0, 1

    def all_to_all(self, rows, send, receive):
        return rows.clone()

    def sum(self, values):
        pass

    def gather(self, value):
        return [value]


def whole(backend):
    engine = atomjet.load("organic-xtb", device="cpu", precision="float64", backend=backend)
    graph = engine.search(System.from_ase(molecule("CH3CH2OH")))
    return engine, graph


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_one_process_with_a_halo(backend):
    engine, graph = whole(backend)
    ids, ghosts, part = owned_part(graph, torch.zeros(9, dtype=torch.int64), 0)
    halo = ExchangeHalo(ids, ghosts, Alone())
    alone, shared = predict_shared(engine, graph), predict_shared(engine, replace(part, halo=halo))
    torch.testing.assert_close(shared.forces, alone.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(shared.virial, alone.virial, rtol=0, atol=1e-12)
    prediction = engine.predict(molecule("CH3CH2OH"))
    torch.testing.assert_close(shared.forces, prediction.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(shared.energy, prediction.energy, rtol=0, atol=1e-9)
    assert halo.numbers_sent == 0
    assert halo.exchanges == engine.evaluator.exchanges + 1


def test_a_ghost_without_an_owner_and_an_id_twice():
    with pytest.raises(StructureError, match="atom id 7 is a ghost that no process owns"):
        ExchangeHalo(torch.arange(3), torch.tensor([7]), Alone())
    with pytest.raises(StructureError, match="atom id 1 has two owners"):
        ExchangeHalo(torch.tensor([0, 1, 1]), torch.tensor([], dtype=torch.int64), Alone())


def test_the_reverse_of_an_edge_to_a_ghost_is_refused():
    _, graph = whole("general")
    ids, ghosts, part = owned_part(graph, (torch.arange(9) > 4).long(), 0)
    assert part.num_owned == 5
    assert part.num_atoms == len(ids) + len(ghosts) > 5
    shared = replace(part, halo=ExchangeHalo(torch.arange(9), torch.tensor([], dtype=torch.int64), Alone()))
    with pytest.raises(StructureError, match="the reverse of an edge to a ghost"):
        _ = shared.reverse


def test_torch_distributed_must_be_initialised():
    with pytest.raises(BackendError, match="call torch.distributed.init_process_group"):
        TorchHalo(torch.arange(3), torch.tensor([], dtype=torch.int64))
