"""The search in fixed buffers, all its algorithms against the definition; in Triton's interpreter where there is no GPU."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

pytest.importorskip("triton")

import triton
import triton.language as tl

from atomjet import System
from atomjet.data import Capacity, GraphBuffers, Status, SystemBuffers
from atomjet.data.buffers import unpack_shifts
from atomjet.data.capacity import has_images
from atomjet.errors import StructureError
from atomjet.neighbors import algorithms, brute_force, cells, gpu
from atomjet.neighbors.all_pairs import COUNTS
from atomjet.neighbors.buffered_search import BufferedSearch
from atomjet.neighbors.lattice import divide, reciprocal
from tests.compiling import printed
from tests.neighbors import cases
from tests.neighbors.cases import ALGORITHMS, CELLS, PBC, empty_between, force_algorithm, no_structures, place

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
batch = partial(cases.batch, device=DEVICE)


@pytest.fixture(autouse=True)
def small_kernels(monkeypatch):
    """Tiles for a few atoms, so that there are many of them."""
    if DEVICE == "cpu":
        monkeypatch.setattr(cells.Cells, "LANES", 16)
        monkeypatch.setattr(cells.Cells, "SCAN", 32)
        monkeypatch.setattr(cells.Cells, "SHARED", (4, 2))


@pytest.fixture
def take(monkeypatch):
    """Force an algorithm, whatever the capacity."""
    gpu.cache.all.clear()
    return partial(force_algorithm, monkeypatch)


def room_for(system, edges, spare=2):
    largest = int(system.counts().max()) if system.num_atoms else 0
    return Capacity(system.num_systems + spare, system.num_atoms + spare, edges, largest)


def poisoned(search):
    """Nothing that is not written may look like an answer."""
    graph = search.graph
    graph.vectors.fill_(torch.nan)
    for tensor in (graph.neighbors, graph.shifts, graph.reverse, graph.row_ptr, graph.system_ptr):
        tensor.fill_(-7)
    graph.status.fill_(-1)
    graph.needed_edges.fill_(-7)
    return search


def launch(system, cutoff, search=None, edges=None):
    """Search in fresh, exactly large enough buffers, or again in those at hand."""
    if search is None:
        edges = brute_force(system, cutoff).num_edges if edges is None else edges
        search = BufferedSearch(room_for(system, edges), cutoff, DEVICE)
    given = SystemBuffers.empty(search.capacity, DEVICE)
    given.fill(system)
    return poisoned(search).launch(given), search


def check(graph: GraphBuffers, system, cutoff):
    """Everything that a `GraphBuffers` promises, against the definition."""
    expected = brute_force(system, cutoff)
    atoms, edges = system.num_atoms, expected.num_edges
    assert int(graph.status) == 0
    assert int(graph.needed_edges) == edges
    assert graph.row_ptr[0] == 0
    assert bool((graph.row_ptr[atoms:] == edges).all())
    order = graph.order[:atoms].long()
    assert torch.equal(order.sort().values, torch.arange(atoms, device=DEVICE))
    assert torch.equal(system.system_index[order], system.system_index)
    assert torch.equal(graph.atomic_numbers[:atoms].long(), system.atomic_numbers[order])
    ends = torch.cumsum(system.counts(), 0)
    assert torch.equal(graph.system_ptr[1 : system.num_systems + 1].long(), ends)
    assert bool((graph.system_ptr[system.num_systems :] == atoms).all())

    rows = torch.repeat_interleave(graph.row_ptr[: atoms + 1].diff().long())
    neighbors, reverse = graph.neighbors[:edges].long(), graph.reverse[:edges].long()
    shifts = unpack_shifts(graph.shifts[:edges])
    centers, others = order[rows], order[neighbors]
    found = torch.column_stack([centers, others, shifts]).tolist()
    assert sorted(found) == torch.column_stack([expected.centers, expected.neighbors, expected.shifts]).tolist()
    assert torch.equal(rows[reverse], neighbors)
    assert torch.equal(shifts[reverse], -shifts)
    assert torch.equal(reverse[reverse], torch.arange(edges, device=DEVICE))
    offsets = torch.einsum("ek,eka->ea", shifts.double(), system.cell.double()[system.system_index[centers]])
    exact = system.positions.double()[others] - system.positions.double()[centers] + offsets
    assert torch.allclose(graph.vectors[:edges].double(), exact, rtol=1e-6, atol=1e-7)
    return expected


@pytest.mark.parametrize(
    ("algorithm", "name"),  # each cell with one of the two; with the other among the slow ones
    [
        pytest.param(algorithm, name, marks=[] if (at + which) % 2 == 0 or DEVICE == "cuda" else [pytest.mark.slow])
        for which, algorithm in enumerate(("all pairs", "cells"))
        for at, name in enumerate(CELLS)
    ],
)
def test_any_cell_and_any_periodic_directions(algorithm, name, take):
    take(algorithm)
    cell = CELLS[name]
    cutoff = {"tiny": 1.4, "flat": 1.7, "needle": 1.2, "sheared": 2.0, "rotated": 0.5}.get(name, 3.0)
    system = batch(*[(place(cell, (5, 1, 2)[k % 3], 2, k), cell, pbc) for k, pbc in enumerate(PBC)])
    check(launch(system, cutoff, edges=brute_force(system, cutoff).num_edges + 40)[0], system, cutoff)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unlike_structures_in_a_batch(algorithm, take):
    """Sizes from none to dozens, most periodic directions, an atom alone; and results are the same bits again."""
    take(algorithm)
    rng = np.random.default_rng(3)
    most = 33 if algorithm == "all pairs" else 18  # the interpreter takes longest for the others
    parts = [
        (rng.uniform(-9, 9, (most, 3)), CELLS["triclinic"] * 2, (True, False, True)),
        (np.zeros((0, 3)), np.zeros((3, 3)), (False,) * 3),
        (rng.uniform(0, 4, (7, 3)), np.zeros((3, 3)), (False,) * 3),
        (np.ones((1, 3)), CELLS["left-handed"], (True,) * 3),
    ]
    system = batch(*parts)
    graph, search = launch(system, 2.0)
    expected = check(graph, system, 2.0)
    if algorithm != "cells":
        # Numbered as given, so rows are in canonical order, and so is the whole graph.
        exact = GraphBuffers.from_graph(expected)
        for field in ("neighbors", "shifts", "reverse"):
            assert torch.equal(getattr(graph, field), getattr(exact, field)[: search.capacity.edges])
    first = [tensor.clone() for tensor in (graph.order, *_written(graph))]
    launch(system, 2.0, search)
    assert all(torch.equal(a, b) for a, b in zip(first, (graph.order, *_written(graph)), strict=True))


def _written(graph):
    edges = int(graph.row_ptr[-1])
    return [tensor[:edges] for tensor in (graph.neighbors, graph.shifts, graph.reverse, graph.vectors)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_contents_in_the_same_buffers(algorithm, take):
    """Fewer structures, other cells, other pbc, none at all, and the first again."""
    take(algorithm)
    rng = np.random.default_rng(5)
    # More than a word's bits; the interpreter takes longest for the others.
    most = 33 if algorithm == "all pairs" else 12
    many = batch(
        (rng.uniform(0, 8, (most, 3)), np.diag([5.0, 6.0, 7.0]), (True,) * 3), (np.eye(3), np.eye(3), (False,) * 3)
    )
    few = batch((rng.uniform(0, 3, (5, 3)), CELLS["triclinic"], (False, True, True)))
    nothing = no_structures(DEVICE)
    search = None
    for system in (many, few, nothing, many):
        graph, search = launch(system, 1.6, search, edges=250)
        check(graph, system, 1.6)


def went_alone(search):
    """Whether one program took all phases of the only kernel: nothing else makes words."""
    return bool(search.algorithm.counts.view(-1, COUNTS.value)[:, 3].any())


def check_same(ours, theirs):
    """Same bits in all that is in use."""
    for field in ("status", "needed_edges", "row_ptr", "system_ptr"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
    atoms, edges = int(ours.system_ptr[-1]), int(ours.row_ptr[-1])
    assert torch.equal(ours.atomic_numbers[:atoms], theirs.atomic_numbers[:atoms])
    for field in ("neighbors", "shifts", "reverse"):
        assert torch.equal(getattr(ours, field)[:edges], getattr(theirs, field)[:edges]), field
    bits = [graph.vectors[:edges].view(torch.int32) for graph in (ours, theirs)]
    assert torch.equal(*bits)


def widened(cell, width):
    """The cell, so large that its planes lie so far apart, in all directions."""
    return cell * width * np.linalg.norm(np.linalg.inv(cell), axis=0).max()


WIDE = ["triclinic", "left-handed", "sheared", "rotated", "flat"]


@pytest.mark.parametrize(
    ("name", "k"),  # each cell with two of the four, and each of the four with some cell; the rest among the slow ones
    [
        pytest.param(name, k, marks=[] if k in (at % 4, (at + 1) % 4) or DEVICE == "cuda" else [pytest.mark.slow])
        for at, name in enumerate(WIDE)
        for k in range(4)
    ],
)
def test_one_kernel_in_wide_cells(name, k, take):
    """Any cell wider than two cutoffs, any periodic directions, atoms far outside: each row a program, the same bits."""
    cutoff, cell, pbc, other = 2.5, widened(CELLS[name], 5.01), PBC[k], PBC[-1 - k]
    system = batch((place(cell, 6, 2, k), cell, pbc), (place(cell, 5, 2, k + 8), cell[[2, 0, 1]], other))
    take("one kernel")
    graph, search = launch(system, cutoff)
    check(graph, system, cutoff)
    assert not went_alone(search)
    take("all pairs")
    check_same(graph, launch(system, cutoff)[0])


def test_one_kernel_either_way_in_the_same_buffers(take):
    """Each row a program, or one program alone, whatever came before; the same bits as three kernels."""
    rng = np.random.default_rng(8)
    few, wide, tight = rng.uniform(0, 3, (7, 3)), np.eye(3) * 4.5, np.eye(3) * 3
    lattice = np.array(list(itertools.product(range(2), range(2), range(3))), dtype=float)
    stray = few + np.outer(np.arange(7) == 5, 600 * wide[1])
    both, all_pbc = batch((few, wide, (True,) * 3), (few, wide, (False,) * 3)), (True,) * 3
    crowd = rng.uniform(0, 1, (20, 3))
    cases = [  # a system, what of it is then spoiled, whether a program goes alone, the status
        (batch((few, wide, all_pbc), (lattice, np.eye(3), (False,) * 3)), None, False, 0),
        (batch((few - 40, wide, (True, False, True)), (few, tight, (False, True, False))), None, True, 0),
        (batch((np.zeros((1, 3)), wide, all_pbc)), None, False, 0),
        (both, ("positions", (12, 1), torch.nan), True, Status.NOT_FINITE),
        (no_structures(DEVICE), None, False, 0),
        (both, ("positions", (0, 2), torch.inf), True, Status.NOT_FINITE),
        (empty_between(DEVICE), None, False, 0),
        (batch((few, wide, all_pbc), (stray, wide, all_pbc)), None, False, Status.SHIFTS),
        (batch((lattice, np.eye(3) * 6, all_pbc)), None, False, 0),
        (batch((crowd, wide, all_pbc)), None, False, Status.EDGES),
        (both, ("cell", (0,), 1.0), True, Status.SINGULAR),
        (batch((few, tight, all_pbc), (few, tight * 0.5, all_pbc)), None, True, Status.EDGES),
        # Shifts are looked at only where there is room for the edges.
        (batch((crowd + np.outer(np.arange(20) == 5, 600 * wide[1]), wide, all_pbc)), None, False, Status.EDGES),
        (batch((lattice, wide, all_pbc), (few, wide, (True, True, False))), None, False, 0),
    ]
    searches = []
    for algorithm in ("one kernel", "all pairs"):
        take(algorithm)
        searches.append(BufferedSearch(Capacity(4, 21, 250, 21), 2.0, DEVICE))
    for n, (system, spoiled, alone, status) in enumerate(cases):
        given = SystemBuffers.empty(searches[0].capacity, DEVICE)
        given.fill(system)
        if spoiled:
            getattr(given, spoiled[0])[spoiled[1]] = spoiled[2]
        graph, theirs = (poisoned(search).launch(given) for search in searches)
        assert went_alone(searches[0]) == alone, n
        assert int(graph.status) == status, n
        check_same(graph, theirs)
        if status == 0:
            check(graph, system, 2.0)


@pytest.mark.parametrize("cutoff", [2.0, 2.6])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exactly_full_and_one_over(algorithm, cutoff, take):
    """In a cell as wide as two cutoffs and in one that is not."""
    take(algorithm)
    system = batch((np.random.default_rng(1).uniform(0, 5, (12, 3)), np.eye(3) * 5, (True, True, False)))
    edges = brute_force(system, cutoff).num_edges
    check(launch(system, cutoff, edges=edges)[0], system, cutoff)
    graph, search = launch(system, cutoff, edges=edges - 1)
    assert Status(int(graph.status)) == Status.EDGES
    assert int(graph.needed_edges) == edges
    assert bool((graph.row_ptr == 0).all())
    # Nothing stays behind in the buffers.
    fewer = batch((np.eye(3), np.eye(3), (False,) * 3))
    check(launch(fewer, cutoff, search)[0], fewer, cutoff)


@pytest.mark.parametrize("algorithm", ["all pairs", "cells"])
def test_too_little_room_to_work_in_asks_for_more_edges(algorithm, take, monkeypatch):
    take(algorithm)
    monkeypatch.setattr(algorithms, "FREE_WORDS", -1000)
    system = batch((np.random.default_rng(1).uniform(0, 12, (33, 3)), np.eye(3), (False,) * 3))
    graph, search = launch(system, 1.5)
    assert Status(int(graph.status)) == Status.EDGES
    needed = int(graph.needed_edges)
    assert needed > search.capacity.edges
    check_room = launch(system, 1.5, edges=needed)[0]
    assert int(check_room.status) == 0
    assert int(check_room.row_ptr[-1]) == brute_force(system, 1.5).num_edges


SPOILED = {
    "nan position": Status.NOT_FINITE,
    "infinite position": Status.NOT_FINITE,
    "1e15 position": Status.NOT_FINITE,
    "nan cell": Status.NOT_FINITE,
    "no volume": Status.SINGULAR,
    "zero cell": Status.SINGULAR,
    "thin cell": Status.IMAGES,
    "far atom": Status.SHIFTS,
}
OF_EACH_BIT = ("nan position", "no volume", "thin cell", "far atom")


@pytest.mark.parametrize(
    # everything on one algorithm and one of each bit on the others; the rest among the slow ones
    ("algorithm", "what", "bit"),
    [
        pytest.param(algorithm, what, bit, marks=[pytest.mark.slow] if slow and DEVICE == "cpu" else [])
        for algorithm in ("all pairs", "one kernel", "cells")
        for what, bit in SPOILED.items()
        for slow in [algorithm != "all pairs" and what not in OF_EACH_BIT]
    ],
)
def test_what_cannot_be_computed_is_flagged_and_harms_no_other(algorithm, what, bit, take):
    take(algorithm)
    x = np.random.default_rng(2).uniform(0, 3, (4, 3))
    good = batch((x, np.eye(3) * 4, (True, False, True)), (x, np.eye(3) * 3, (True,) * 3), (x, np.eye(3), (False,) * 3))
    search = BufferedSearch(room_for(good, 250), 2.0, DEVICE)
    given = SystemBuffers.empty(search.capacity, DEVICE)
    given.fill(good)
    if "position" in what:
        given.positions[5, 1] = {"nan": torch.nan, "infinite": torch.inf, "1e15": 1e15}[what.split()[0]]
    elif what == "far atom":
        given.positions[5] = given.positions[4] + given.cell[1, 0] * 600
    else:
        given.cell[1] = {"nan cell": torch.nan, "zero cell": 0.0, "no volume": 1.0}.get(what, 1e-3) * (
            torch.eye(3) if what == "thin cell" else torch.ones(3, 3)
        ).to(given.cell)
    graph = poisoned(search).launch(given)
    # In a thin cell atoms may also be far from their own, and so are those too far out.
    also = Status.SHIFTS if bit == Status.IMAGES or "1e15" in what else 0
    assert Status(int(graph.status)) & ~also == bit
    used = graph.reverse[: int(graph.row_ptr[-1])]
    assert bool(((used >= 0) & (used < graph.row_ptr[-1])).all())
    for first, last in ((0, 1), (2, 3)):
        part = good.part(first, last)
        expected = brute_force(part, 2.0)
        assert expected.num_edges
        rows = graph.row_ptr[first * 4 : first * 4 + 5]
        assert int(rows[-1] - rows[0]) == expected.num_edges
        order = graph.order[first * 4 : first * 4 + 4].long() - first * 4
        assert torch.equal(rows.diff().long(), (expected.row_ptr.diff())[order])
    # The next search says what it finds itself.
    check(launch(good, 2.0, search)[0], good, 2.0)


@pytest.mark.parametrize("algorithm", ["one kernel", "all pairs", "cells"])
def test_pairs_at_the_cutoff(algorithm, take):
    """Strictly below, and both ways alike, on a lattice where many pairs lie exactly there."""
    take(algorithm)
    x = np.array(list(itertools.product(range(2), range(2), range(3))), dtype=float)
    for cell in ([4.0, 2.0, 3.0], [4.0, 3.0, 3.0]):
        system = batch((x, np.diag(cell), (True,) * 3))
        for cutoff in (1.0, np.nextafter(1.0, 2)):
            check(launch(system, cutoff, edges=brute_force(system, cutoff).num_edges + 40)[0], system, cutoff)


def test_cells_keep_neighbors_together(take):
    """Clusters far apart, atoms of one in one cell, most cells empty, a structure wider than its cells may be many."""
    take("cells")
    rng = np.random.default_rng(7)
    x = rng.uniform(0, 2, (24, 3)) + np.repeat([[0, 0, 0], [1e4, 0, 0]], 12, axis=0)
    system = batch((rng.permutation(x), np.eye(3), (False,) * 3))
    graph, _ = launch(system, 1.5, edges=400)
    check(graph, system, 1.5)
    near = system.positions[graph.order[:12].long(), 0] < 100
    assert bool(near.all() | ~near.any())


@pytest.mark.parametrize("algorithm", ["all pairs", "cells"])
def test_search_is_the_definition(algorithm, take):
    take(algorithm)
    rng = np.random.default_rng(4)
    frames = [molecule("CH3CH2OH"), molecule("H2O")]
    frames[0].cell, frames[0].pbc = CELLS["sheared"], (True, True, False)
    for system in (
        System.from_ase(frames, device=DEVICE),
        batch((rng.uniform(0, 6, (20, 3)), np.eye(3) * 5, (True,) * 3)),
        no_structures(DEVICE),
        empty_between(DEVICE),
    ):
        graph, expected = gpu.search(system, 2.5), brute_force(system, 2.5)
        assert graph is not None
        for field in ("centers", "neighbors", "shifts", "row_ptr"):
            assert torch.equal(getattr(graph, field), getattr(expected, field))
        assert torch.allclose(graph.vectors, expected.vectors, rtol=0, atol=1e-13)


def test_search_keeps_its_room(take):
    """For structures of about one size; what it found before stays as it was."""
    take("all pairs")
    rng = np.random.default_rng(4)
    first, second, large = (batch((rng.uniform(0, 4, (n, 3)), np.eye(3), (False,) * 3)) for n in (20, 21, 70))
    before = gpu.search(first, 1.5)
    kept = gpu.cache.all[-1]
    for system in (second, first):
        graph = gpu.search(system, 1.5)
        assert gpu.cache.all[-1] is kept
        assert graph is not None
        assert torch.equal(graph.neighbors, brute_force(system, 1.5).neighbors)
    assert before is not None
    assert torch.equal(before.vectors, brute_force(first, 1.5).vectors)
    assert not gpu.serves(kept.capacity, Capacity(1, 70, 10, 70))
    assert not gpu.serves(Capacity(1, 300, 10**6, 300), kept.capacity)
    gpu.search(large, 1.5)
    assert gpu.cache.all[-1] is not kept


def test_search_grows_where_it_guessed_too_low(take, monkeypatch):
    take("all pairs")
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.0)
    system = batch((np.random.default_rng(4).uniform(0, 2, (30, 3)), np.eye(3), (False,) * 3))
    graph = gpu.search(system, 2.5)
    assert graph is not None
    assert graph.num_edges == brute_force(system, 2.5).num_edges


@pytest.mark.slow
def test_kernels_compile():
    """All of them, for GPUs."""
    names = printed(Path(__file__).with_name("compile_kernels.py")).split()
    assert len(names) == 28
    of_cells = ("frame", "box", "grid", "bin", "scan", "scatter", "order", "table", "count", "fill")
    of_pairs = ("all_pairs_kernel", "all_pairs_count_kernel", "rows_kernel", "all_pairs_fill_kernel")
    of_results = ("degrees_kernel", "starts_kernel", "edges_kernel")
    assert set(names) == {*of_pairs, *of_results, *(f"cells_{name}_kernel" for name in of_cells)}


def test_more_edges_than_can_be_counted():
    with pytest.raises(StructureError, match="more than one search can hold"):
        BufferedSearch(Capacity(1, 10**6, 2**33, 10**6), 5.0, DEVICE)


def test_algorithms_by_capacity():
    """One kernel for few atoms without images; rows in pieces where one would be long, whole ones in large batches."""

    def algorithm(*capacity):
        found = BufferedSearch(Capacity(*capacity), 5.0, DEVICE).algorithm
        return type(found).__name__, found.pieces

    assert algorithm(1, 20, 380, 20) == ("OneKernel", 1)
    assert algorithm(1, 64, 8192, 64, True) == ("AllPairs", 8)
    assert algorithm(1, 8, 256, 8, True) == ("AllPairs", 4)
    assert algorithm(1, 100, 2460, 100) == ("AllPairs", 4)
    assert algorithm(1, 1029, 60000, 1029) == ("AllPairs", 8)
    assert algorithm(64, 1280, 24000, 20) == ("AllPairs", 1)
    assert algorithm(64, 12288, 10**6, 192) == ("AllPairs", 1)
    assert algorithm(1, 4000, 2 * 10**5, 4000) == ("Cells", 1)


@triton.jit
def quotients_kernel(numbers, divisors, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    divisor = tl.load(divisors + at)
    tl.store(out + at, divide(tl.load(numbers + at), divisor, reciprocal(divisor)))


def test_divide_is_exact():
    """Multiples of the divisor and their neighbors, up to the most candidates that there may be."""
    rng = np.random.default_rng(0)
    divisors = np.concatenate([[1, 2, 3, 7, 2**10, 2**20, 2**29, 2**30], rng.integers(1, 2**15, 504)])
    numbers = rng.integers(0, 2**30 // divisors, endpoint=True) * divisors
    for off in (-1, 0, 1):
        given = np.clip(numbers + off, 0, 2**30)
        a, b = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in (given, divisors))
        out = torch.empty_like(a)
        quotients_kernel[(1,)](a, b, out, SIZE=len(divisors))
        np.testing.assert_array_equal(out.cpu().numpy(), given // divisors)


@pytest.mark.parametrize("kind", ["molecule", "crystal", "slab", "wide"])
def test_images_are_expected_where_cells_are_narrow(kind):
    cell, pbc, expected = {
        "molecule": (np.zeros((3, 3)), False, False),
        "crystal": (3.6 * np.eye(3), True, True),
        "slab": (np.diag([3.6, 3.6, 0.0]), (True, True, False), True),
        "wide": (12.0 * np.eye(3), True, False),
    }[kind]
    system = System.from_ase([Atoms("Cu", cell=cell, pbc=pbc), Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])])
    assert bool(has_images(system.cell, system.pbc, 5.0)) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_what_a_search_can_hold_is_that_of_its_algorithm(algorithm, take):
    take(algorithm)
    BufferedSearch(Capacity(1, 2902, 152_790, 2900), 5.0, "meta")


def liquid(count, seed=0):
    """About a hundred atoms in 1000 Å³, in a triclinic cell, in no order."""
    rng = np.random.default_rng(seed)
    side = (count / 0.1) ** (1 / 3)
    cell = side * np.array([[1.0, 0, 0], [0.3, 1.0, 0], [-0.2, 0.4, 1.0]])
    return batch((rng.uniform(-1, 2, (count, 3)) @ cell, cell, (True,) * 3))


class TestOnGPU:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("algorithm", ["all pairs", "pieces", "cells"])
    @pytest.mark.parametrize("count", [500, 1000, 2900])
    def test_large(self, algorithm, count, take):
        take(algorithm)
        system = liquid(count)
        expected = brute_force(system, 5.0)
        graph, search = launch(system, 5.0, edges=expected.num_edges)
        check(graph, system, 5.0)
        first = [tensor.clone() for tensor in _written(graph)]
        for _ in range(20):
            launch(system, 5.0, search)
            assert all(torch.equal(a, b) for a, b in zip(first, _written(graph), strict=True))

    def test_larger_than_all_pairs(self):
        system = liquid(20_000)
        graph = gpu.search(system, 5.0)
        expected = brute_force(system, 5.0)
        for field in ("centers", "neighbors", "shifts", "row_ptr"):
            assert torch.equal(getattr(graph, field), getattr(expected, field))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_replay_with_other_contents(self, algorithm, take):
        """Captured once; then other positions, cells that need more images, fewer atoms."""
        take(algorithm)
        rng = np.random.default_rng(6)
        x = rng.uniform(0, 5, (40, 3))
        systems = [
            batch((x, np.eye(3) * 9, (True,) * 3), (x[:9], CELLS["triclinic"], (True, False, True))),
            batch((x + 0.3, np.eye(3) * 3, (True,) * 3), (x[:9] * 1.1, CELLS["sheared"], (True, True, False))),
            batch((x[:11], np.eye(3), (False,) * 3)),
        ]
        search = BufferedSearch(room_for(systems[0], 100_000), 3.0, DEVICE)
        given = SystemBuffers.empty(search.capacity, DEVICE)
        given.fill(systems[0])
        search.launch(given)
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            search.launch(given)
        for system in (*systems, systems[0]):
            given.fill(system)
            poisoned(search)
            captured.replay()
            check(search.graph, system, 3.0)
        # More edges than there is room for: said, and the next replay is right again.
        crowd = systems[1].with_positions(systems[1].positions * 0.1, systems[1].cell * 0.1)
        given.fill(crowd)
        poisoned(search)
        captured.replay()
        assert Status(int(search.graph.status)) in (Status.EDGES, Status.IMAGES)
        given.fill(systems[0])
        poisoned(search)
        captured.replay()
        check(search.graph, systems[0], 3.0)
