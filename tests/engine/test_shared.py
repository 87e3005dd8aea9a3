"""Structures shared by two and four processes, against one process; processes that do not go together; halos that do not fit."""

import json
import os
import shutil
import signal
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

PROCESSES, FEATURES, LAYERS = 4, 128, 3
PER_GHOST = {
    ("student", "general"): 4 * FEATURES * 2 * (LAYERS - 1) + 3,
    ("student", "fast_pytorch"): 4 * FEATURES * (2 * LAYERS - 1) + 3,
    # Coefficients and channels, forward and backward in each of two layers; forces.
    ("uma", "general"): 9 * 16 * 2 * 2 + 3,
    ("uma", "fast_pytorch"): 9 * 16 * 2 * 2 + 3,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Four processes, of which the last owns no atoms: what each found, and how it ended."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = start(Path(__file__).with_name("shared_by_ranks.py"), PROCESSES, folder)
    said = [process.communicate(timeout=1800)[1] for process in processes]
    files = [folder / f"{rank}.json" for rank in range(PROCESSES)]
    assert all(path.exists() for path in files), "\n".join(said)
    return [json.loads(path.read_text()) for path in files], [process.returncode for process in processes], said


def start(script, size, folder, paths=()):
    """So many processes that meet in a folder; `paths` are where each looks for modules before all else."""
    root = Path(__file__).parents[2]
    found = []
    for rank in range(size):
        looked = [*(paths[rank : rank + 1]), str(root / "src"), str(root)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(looked), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), str(rank), str(size), str(folder)]
        found.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    return found


def rows_of(ended, **wanted):
    rows = [row for found in ended[0] for row in found["rows"] if wanted.items() <= row.items()]
    assert len(rows) == wanted["size"]
    return rows


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("model", ["student", "uma"])
@pytest.mark.parametrize("case", ["periodic", "triclinic", "slab", "corner"])
@pytest.mark.parametrize("size", [2, 4])
def test_processes_compute_what_one_does(ended, size, case, model, backend):
    first, *others = rows_of(ended, size=size, case=case, model=model, backend=backend)
    assert first["force"] < 1e-10
    assert first["energy"] < 1e-9
    assert first.get("stress", 0.0) < 1e-12
    assert others[-1]["owned"] == 0 or size == 2
    sent = PER_GHOST[model, backend] * sum(row["ghosts"] for row in (first, *others))
    assert sum(row["sent"] for row in (first, *others)) == sent > 0


def refusals(ended, name):
    return [found["refusals"][name] for found in ended[0]]


def test_all_processes_refuse_where_one_does(ended):
    first, *others = refusals(ended, "near")
    assert first.startswith("atom 0 and atom 1 (O-H) are 0.050 Å apart")
    assert set(others) == {f"process 0 refused: {first}"}


def test_a_backend_that_cannot_exchange(ended):
    *others, last = refusals(ended, "captured")
    assert last.startswith(
        "backend 'fast_pytorch' of 'painn' cannot share a structure between processes, as it exchanges no rows with others; "
        "use 'general'"
    )
    assert set(others) == {f"process 3 refused: {last}"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weights", {"model painn (weights "}),
        ("backend", {"backend general, precision float64", "backend fast_pytorch, precision float64"}),
        ("precision", {"precision high", "precision float64"}),
        ("charge", {"task omat, charge 1, spin 2", "task omat, spin 2"}),
    ],
)
def test_processes_that_compute_different_things(ended, name, words):
    said = refusals(ended, name)
    for text in said:
        assert text.startswith(
            "the processes that share this structure differ in what they compute; this one runs AtomJet "
        )
        assert text.endswith("give all the same AtomJet, model, settings and conditions")
    assert all(any(word in text for text in said) for word in words)
    assert len(set(said)) == 2


def test_an_edge_without_its_reverse(ended):
    (said,) = set(refusals(ended, "reverse"))
    assert said.startswith("some edges lack their reverse, so that forces would be wrong")


def test_a_process_that_is_killed_ends_the_others(ended):
    """In the middle of an exchange: with a status that is not 0 and one line, and soon: they would wait for half an hour."""
    _, codes, said = ended
    assert codes == [1, 1, -signal.SIGKILL, 1]
    for text in (said[0], said[1], said[3]):
        assert "BackendError: a process that shares this structure is gone or does not answer (" in text


def test_processes_of_different_versions(tmp_path):
    package = Path(atomjet.__file__).parent
    other = tmp_path / "other" / "atomjet"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__", "packaged"))
    text = (other / "version.py").read_text()
    (other / "version.py").write_text(text.replace(atomjet.__version__, "9.9"))
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    paths = (str(package.parent), str(other.parent))
    processes = start(script, 2, tmp_path, paths)
    said = [process.communicate(timeout=1800)[1] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 1
        assert (
            f"BackendError: process 0 runs AtomJet {atomjet.__version__}, process 1 runs 9.9; install one version"
            in text
        )


MEET = """
import atexit, sys
import torch, torch.distributed as dist
from atomjet.engine import TorchHalo
rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
atexit.register(dist.destroy_process_group)  # a group left to the end of the interpreter may abort the process
TorchHalo(torch.tensor([rank]), torch.tensor([1 - rank]))
"""


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
