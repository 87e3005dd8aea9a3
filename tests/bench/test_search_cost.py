"""Declared bytes against those that kernels touch, address by address, in Triton's interpreter; and what sizes say, by hand."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton.runtime.interpreter as interpreter

from atomjet.bench.search_cost import SearchSizes, search_costs
from atomjet.data import Capacity, PredictionBuffers, System, SystemBuffers
from atomjet.models import forces as edge_forces
from atomjet.models.contract import Atomic
from atomjet.models.cost import edge_forces as edge_forces_cost
from atomjet.neighbors import algorithms, brute_force, cells
from atomjet.neighbors.buffered_search import BufferedSearch
from tests.neighbors.cases import ALGORITHMS, batch, force_algorithm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU nobody sees what kernels touch")


@pytest.fixture
def take(monkeypatch):
    """Force an algorithm, whatever the capacity; in tiles for a few atoms."""

    def algorithm(name):
        force_algorithm(monkeypatch, name)
        monkeypatch.setattr(algorithms.OneKernel, "ALL", 256)
        monkeypatch.setattr(cells.Cells, "LANES", 64)
        monkeypatch.setattr(cells.Cells, "SCAN", 64)
        monkeypatch.setattr(cells.Cells, "SHARED", (8, 1))

    return algorithm


@pytest.fixture
def touched(monkeypatch):
    """Bytes by kernel: of what it reads and has not written itself, and of what it writes, each once."""
    totals, read, written = {}, {}, {}

    def addresses(pointers, mask):
        inside = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        return dict.fromkeys(pointers.data[inside].tolist(), size)

    def take_read(pointers, mask):
        read.update((at, size) for at, size in addresses(pointers, mask).items() if at not in written)

    def take_written(pointers, mask):
        written.update(addresses(pointers, mask))

    def watch(name, notes):
        original = getattr(interpreter.InterpreterBuilder, name)

        def watched(self, *args):
            for note, pointers, mask in notes:
                note(args[pointers], args[mask])
            return original(self, *args)

        monkeypatch.setattr(interpreter.InterpreterBuilder, name, watched)

    watch("create_masked_load", [(take_read, 0, 1)])
    watch("create_masked_store", [(take_written, 0, 2)])
    watch("create_atomic_rmw", [(take_read, 1, 3), (take_written, 1, 3)])
    launch = interpreter.GridExecutor.__call__

    def launched(self, *args, **kwargs):
        read.clear()
        written.clear()
        launch(self, *args, **kwargs)
        totals[self.fn.__name__] = sum(read.values()) + sum(written.values())

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)
    return totals


def crystal(*sides, pbc, spacing=1.6):
    """Cubes of atoms a little off a lattice."""
    rng = np.random.default_rng(0)
    parts = []
    for n, periodic in zip(sides, pbc, strict=True):
        x = np.stack(np.meshgrid(*[np.arange(n)] * 3), -1).reshape(-1, 3) * spacing
        parts.append((x + rng.uniform(0, 0.3, x.shape), np.eye(3) * spacing * n, (periodic,) * 3))
    return batch(*parts, device=DEVICE)


def searched(system, cutoff):
    """In buffers that just hold it."""
    edges = brute_force(system, cutoff).num_edges
    capacity = Capacity(system.num_systems, system.num_atoms, edges, int(system.counts().max()))
    search, given = BufferedSearch(capacity, cutoff, DEVICE), SystemBuffers.empty(capacity, DEVICE)
    given.fill(system)
    graph = search.launch(given)
    assert int(graph.status) == 0
    return search, given


@interpreted
@pytest.mark.parametrize(
    ("algorithm", "sides", "cutoff"),
    [
        ("one kernel", (3, 2), 2.3),
        ("one kernel", (3, 2), 2.5),
        ("all pairs", (5, 4), 2.5),
        *(pytest.param(algorithm, (5, 4), 2.5, marks=pytest.mark.slow) for algorithm in ALGORITHMS[2:]),
    ],
)
def test_a_search_touches_what_is_declared(algorithm, sides, cutoff, take, touched):
    """With one kernel both where each pair has one image and where some have two."""
    take(algorithm)
    search, _ = searched(crystal(*sides, pbc=(True, False)), cutoff)
    costs = search_costs(search)
    assert touched.keys() == costs.keys()
    for kernel, cost in costs.items():
        if kernel.endswith("fill_kernel"):
            # What finding a word or a cell reads on the way is not counted.
            assert 0.8 * touched[kernel] < cost.bytes < touched[kernel], kernel
        else:
            # But for single numbers, and cells around that an open structure does not have.
            assert cost.bytes == pytest.approx(touched[kernel], rel=0.05, abs=80), kernel


@interpreted
def test_sums_touch_what_is_declared(take, touched):
    take("all pairs")
    system = crystal(4, 3, pbc=(True, False))
    search, given = searched(system, 2.0)
    atoms, edges = system.num_atoms, search.capacity.edges
    atomic = Atomic(torch.rand(atoms), torch.rand(1, edges, 4), of_reverse=True)
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    virials = torch.zeros(6, atoms, dtype=torch.float64)
    out = PredictionBuffers.empty(search.capacity, "cpu")
    edge_forces.launch(given, search.graph, atomic, zeros, torch.zeros(2, 2), virials, out)
    cost = edge_forces_cost(2, atoms, edges)["edge_forces_sums_kernel"]
    assert cost.bytes == pytest.approx(touched["edge_forces_sums_kernel"], abs=40)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_words_hold_the_edges(algorithm, take):
    take(algorithm)
    system = crystal(3, 2, pbc=(True, False))
    search, _ = searched(system, 3.3)
    sizes = SearchSizes.of(search)
    assert (sizes.systems, sizes.atoms, sizes.edges) == (2, 27 + 8, brute_force(system, 3.3).num_edges)
    bits = search.algorithm.pool[: sizes.words, None] >> torch.arange(32, device=DEVICE) & 1
    assert int(bits.sum()) == sizes.edges
    assert int(bits.any(1).sum()) == sizes.hits
    assert not bool(search.algorithm.pool[sizes.words :].any())
    assert sizes.edges < sizes.tests <= 32 * sizes.words


def test_candidates_by_hand(take):
    """All pairs: of an open structure each atom once, of a periodic one each image within reach. Cells: eight, 27 around each."""
    take("all pairs")
    sizes = SearchSizes.of(searched(crystal(3, 2, pbc=(True, False)), 1.87)[0])
    # 1.87 / 4.8 of the cell either way: one whole number at most lies in 2 x 0.39.
    assert (sizes.tests, sizes.test_operations) == (27**2 + 8**2, 24 * 27**2 + 9 * 8**2)
    take("one kernel")
    sizes = SearchSizes.of(searched(crystal(2, 3, pbc=(True, False), spacing=4.0), 3.5)[0])
    assert (sizes.tests, sizes.words, sizes.hits) == (8**2 + 27**2, 0, 0)
    assert sizes.test_operations == 24 * 8**2 + 9 * 27**2
    take("all pairs")
    cube = crystal(3, pbc=(True,))
    sizes = SearchSizes.of(searched(cube, 3.0)[0])
    assert (sizes.tests, sizes.test_operations) == (27**2 * 2**3, 27 * 27**2 * 2**3)
    assert sizes.edge_operations == 46 * sizes.edges
    # Off the axes a fraction takes four operations more, and so does what a shift adds.
    leaning = System(cube.positions, cube.atomic_numbers, cube.cell + 1e-6, cube.pbc)
    sizes = SearchSizes.of(searched(leaning, 3.0)[0])
    assert sizes.test_operations == 51 * sizes.tests
    assert sizes.edge_operations == 82 * sizes.edges
    take("cells")
    sizes = SearchSizes.of(searched(crystal(4, pbc=(True,)), 2.0)[0])
    assert (sizes.cells, sizes.around, sizes.listed, sizes.tests) == (8, 27 * 8, 27 * 64, 27 * 8 * 64)
