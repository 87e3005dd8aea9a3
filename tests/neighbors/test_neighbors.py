"""Both algorithms against each other, against ASE, and against loops over explicit images; then the properties of every list."""

import itertools
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import primitive_neighbor_list

import atomjet
from atomjet import System, neighbor_list
from atomjet.neighbors import brute_force, cpu
from tests.neighbors.cases import CELLS, PBC, batch, empty_between, no_structures, place


def as_set(i, j, shift):
    rows = [tuple(row) for row in np.column_stack([i, j, shift]).tolist()]
    assert len(rows) == len(set(rows)), "an edge stands twice"
    return set(rows)


def by_loops(x, cell, pbc, cutoff, reach):
    """Independent of any lattice algebra: explicit images far beyond need."""
    found = set()
    for shift in itertools.product(*[range(-n, n + 1) if p else (0,) for n, p in zip(reach, pbc, strict=True)]):
        offset = np.array(shift) @ cell
        for i, j in itertools.product(range(len(x)), repeat=2):
            if (i != j or any(shift)) and np.linalg.norm(x[j] - x[i] + offset) < cutoff:
                found.add((i, j, *shift))
    return found


@pytest.mark.parametrize("pbc", PBC, ids=lambda p: "".join("TF"[not x] for x in p))
@pytest.mark.parametrize("name", CELLS)
def test_routes_agree_as_sets(name, pbc):
    cell = CELLS[name]
    for seed, (count, spread, cutoff) in enumerate([(1, 1, 3.0), (2, 3, 4.2), (5, 2, 2.5)]):
        x = place(cell, count, spread, seed)
        system = batch((x, cell, pbc))
        definition, fast = brute_force(system, cutoff), cpu.search(system, cutoff)
        edges = as_set(definition.centers, definition.neighbors, definition.shifts)
        assert edges == as_set(fast.centers, fast.neighbors, fast.shifts)
        assert torch.equal(definition.vectors, fast.vectors)
        # ASE wants a cell without zero rows; along directions that are not periodic any vector will do.
        i, j, shift = primitive_neighbor_list("ijS", pbc, cell, x, cutoff, self_interaction=False)
        assert edges == as_set(i, j, shift)
        check_properties(definition)


@pytest.mark.parametrize("name", ["triclinic", "left-handed", "rotated"])
def test_definition_against_loops(name):
    cell, pbc = CELLS[name], (True, True, False)
    x = place(cell, 4, 1, 7)
    system = batch((x, cell, pbc))
    graph = brute_force(system, 4.0)
    assert as_set(graph.centers, graph.neighbors, graph.shifts) == by_loops(x, cell, pbc, 4.0, (7, 7, 7))


def check_properties(graph):
    """Sorted rows, row pointers, lengths, every edge with its reverse."""
    key = torch.stack([graph.centers, graph.neighbors, *graph.shifts.T], 1).tolist()
    assert key == sorted(key)
    counts = graph.row_ptr[1:] - graph.row_ptr[:-1]
    assert torch.equal(graph.centers, torch.repeat_interleave(torch.arange(graph.num_atoms), counts))
    assert bool((graph.lengths < graph.cutoff).all())
    reverse = graph.reverse
    assert torch.equal(graph.centers[reverse], graph.neighbors)
    assert torch.equal(graph.neighbors[reverse], graph.centers)
    assert torch.equal(graph.shifts[reverse], -graph.shifts)
    assert torch.equal(reverse[reverse], torch.arange(graph.num_edges))
    assert graph.with_vectors(graph.vectors.float()).reverse is reverse


def test_batch_is_the_structures_one_by_one():
    frames = [molecule("CH3CH2OH"), Atoms("C", cell=np.eye(3) * 1.5, pbc=True), Atoms("H"), molecule("H2O")]
    frames[0].pbc, frames[0].cell = (True, False, True), CELLS["sheared"]
    for search in (brute_force, cpu.search):
        whole = search(System.from_ase(frames), 4.0)
        start = edge = 0
        for atoms in frames:
            part = search(System.from_ase(atoms), 4.0)
            piece = slice(edge, edge + part.num_edges)
            assert torch.equal(whole.centers[piece] - start, part.centers)
            assert torch.equal(whole.neighbors[piece] - start, part.neighbors)
            assert torch.equal(whole.shifts[piece], part.shifts)
            start, edge = start + len(atoms), edge + part.num_edges
        assert edge == whole.num_edges


def test_empty_structures_and_batches():
    for search in (brute_force, cpu.search):
        assert search(no_structures(), 5.0).num_edges == 0
        graph = search(empty_between(), 5.0)
        assert graph.num_edges == 0
        assert graph.row_ptr.tolist() == [0, 0, 0]


def test_strictly_below_the_cutoff():
    atoms = Atoms("HHH", [[0, 0, 0], [0, 0, 2.0], [0, 0, 4.0]])
    assert neighbor_list(atoms, 2.0).num_edges == 0
    assert neighbor_list(atoms, np.nextafter(2.0, 3)).num_edges == 4


def test_far_away_in_float32():
    """Differences are taken in float64: a molecule far from the origin keeps its edges."""
    atoms = molecule("C6H6")
    near = neighbor_list(atoms, 3.0)
    atoms.positions += 1024.0
    far = neighbor_list(System.from_ase(atoms, dtype=torch.float32), 3.0)
    assert torch.equal(near.centers, far.centers)
    assert torch.equal(near.neighbors, far.neighbors)


def test_public_function():
    graph = neighbor_list([molecule("H2O"), molecule("CH4")], cutoff=5.0, device="cpu")
    assert isinstance(graph, atomjet.Graph)
    assert graph.num_edges == 6 + 20
    assert graph.vectors.dtype == torch.float64
    assert graph.shifts.shape == (26, 3)


@pytest.mark.parametrize("cutoff", [0, -1.0, float("nan"), float("inf"), "5"])
def test_bad_cutoff(cutoff):
    with pytest.raises(atomjet.AtomJetError, match="positive number"):
        neighbor_list(molecule("H2O"), cutoff)


def test_cutoffs_of_numpy_are_numbers():
    atoms = molecule("H2O")
    assert neighbor_list(atoms, np.float32(5)).num_edges == neighbor_list(atoms, np.int64(5)).num_edges == 6


def test_devices_that_are_none():
    with pytest.raises(atomjet.AtomJetError, match="device 'foo' is unknown; write cpu, cuda or cuda:N"):
        neighbor_list(molecule("H2O"), 5.0, device="foo")
    with pytest.raises(atomjet.AtomJetError, match="device 'cuda:77' is not there: .* CUDA devices found; use cpu"):
        neighbor_list(molecule("H2O"), 5.0, device="cuda:77")


@pytest.mark.parametrize("cutoff", [1e3, 1e9])
def test_a_cutoff_far_beyond_the_structure(cutoff):
    """vesin alone takes hours over it."""
    molecules = [molecule("H2O"), molecule("C6H6"), Atoms("H2", [[1e7, 0, 0], [1e7, 0, 1]]), Atoms("H")]
    molecules[0].positions += [1e4, -3e5, 0]
    found, every = neighbor_list(molecules, cutoff), neighbor_list(molecules, cutoff, neighbors="brute_force")
    for name in ("centers", "neighbors", "shifts", "vectors"):
        assert torch.equal(getattr(found, name), getattr(every, name))
    assert found.num_edges == 3 * 2 + 12 * 11 + 2


def test_a_cell_too_thin_is_refused():
    atoms = Atoms("H", cell=np.diag([0.01, 0.01, 0.01]), pbc=True)
    with pytest.raises(atomjet.AtomJetError, match="structure 0: its cell is so thin"):
        neighbor_list(atoms, 5.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_same_graph_on_a_gpu():
    frames = [molecule("CH3CH2OH"), Atoms("CO", [[0, 0, 0], [0, 1, 1]], cell=CELLS["sheared"], pbc=(True, True, False))]
    on_gpu = neighbor_list(frames, 4.0, device="cuda")
    expected = neighbor_list(frames, 4.0)
    assert on_gpu.vectors.is_cuda
    for name in ("centers", "neighbors", "shifts", "row_ptr"):
        assert torch.equal(getattr(on_gpu, name).cpu(), getattr(expected, name))
    assert torch.allclose(on_gpu.vectors.cpu(), expected.vectors, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_cpu_serves_a_gpu_where_kernels_cannot():
    """An atom a thousand cells away: its shift does not fit into ten bits, but the definition knows no such limit."""
    atoms = Atoms("CO", [[0, 0, 0], [0.5, 0, 4000.0]], cell=np.eye(3) * 4.0, pbc=True)
    graph = neighbor_list(atoms, 3.0, device="cuda")
    assert graph.vectors.is_cuda
    assert torch.equal(graph.shifts.cpu(), neighbor_list(atoms, 3.0).shifts)
    with pytest.raises(atomjet.AtomJetError, match="structure 0: its cell is so thin"):
        neighbor_list(Atoms("H", cell=np.diag([0.01, 0.01, 0.01]), pbc=True), 5.0, device="cuda")


@pytest.mark.parametrize("name", ["auto", "brute_force", "vesin"])
def test_positions_that_are_not_finite_are_refused_by_the_search(name):
    """On a GPU nobody asks before; here they are written into tensors that were checked."""
    system = System.from_ase([molecule("H2O"), molecule("CH4")])
    system.positions[5, 1] = torch.nan
    with pytest.raises(atomjet.AtomJetError, match=r"structure 1, atom 2: position .*nan.* is not finite"):
        neighbor_list(system, 5.0, neighbors=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_moved_positions_that_are_not_finite_are_refused_on_a_gpu():
    system = System.from_ase([molecule("H2O"), molecule("CH4")], device="cuda")
    moved = system.with_positions(system.positions.index_fill(0, torch.tensor(5, device="cuda"), torch.nan))
    for refuse in (lambda: neighbor_list(moved, 5.0), lambda: atomjet.load("organic-xtb").predict(moved)):
        with pytest.raises(atomjet.AtomJetError, match=r"structure 1, atom 2: position .*nan.* is not finite"):
            refuse()


def test_unknown_search():
    with pytest.raises(atomjet.AtomJetError, match="neighbors 'kd' is unknown; choose one of auto, brute_force, vesin"):
        neighbor_list(molecule("H2O"), 5.0, neighbors="kd")


@pytest.mark.parametrize("name", ["torch_cluster", "nvalchemi"])
def test_search_that_is_not_installed(name, monkeypatch):
    package = {"torch_cluster": "torch_cluster", "nvalchemi": "nvalchemiops"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"atomjet.neighbors.{name}", raising=False)
    with pytest.raises(atomjet.AtomJetError, match=f"neighbors='{name}' needs .*; pip install "):
        neighbor_list(molecule("H2O"), 5.0, neighbors=name)


@pytest.mark.parametrize("name", ["brute_force", "vesin", "nvalchemi", "torch_cluster"])
def test_other_searches_agree(name):
    package = {"torch_cluster": "torch_cluster", "nvalchemi": "nvalchemiops"}.get(name)
    if package:
        pytest.importorskip(package)
    frames = [molecule("CH3CH2OH"), molecule("H2O"), Atoms("H"), Atoms("OO", [[0, 0, 0], [0, 0, 4.5]])]
    if name != "torch_cluster":
        for cell, pbc in (("triclinic", True), ("left-handed", (True, False, True)), ("tiny", True)):
            frames.append(Atoms("CON", place(CELLS[cell], 3, 2, 5), cell=CELLS[cell], pbc=pbc))
    graph, expected = neighbor_list(frames, 3.0, neighbors=name), neighbor_list(frames, 3.0)
    for field in ("centers", "neighbors", "shifts", "row_ptr"):
        assert torch.equal(getattr(graph, field), getattr(expected, field))
    assert torch.equal(graph.vectors, expected.vectors)


def test_torch_cluster_knows_no_images():
    pytest.importorskip("torch_cluster")
    with pytest.raises(atomjet.AtomJetError, match="structure 1 is periodic; torch-cluster knows no periodic images"):
        neighbor_list([molecule("H2O"), Atoms("C", cell=np.eye(3), pbc=True)], 3.0, neighbors="torch_cluster")


def same(graph, expected):
    for field in ("centers", "neighbors", "shifts", "row_ptr", "vectors"):
        assert torch.equal(getattr(graph, field), getattr(expected, field)), field


H2 = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]])


@pytest.mark.parametrize("distance", [2000.0, 1e6, 1e9])
@pytest.mark.parametrize("direction", list(itertools.product([0, 1], repeat=3))[1:])
def test_two_molecules_far_apart(distance, direction):
    graph = neighbor_list(Atoms("H4", np.concatenate([H2, H2 + distance * np.array(direction)])), 5.0)
    assert graph.centers.tolist() == [0, 1, 2, 3]
    assert graph.neighbors.tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
@pytest.mark.parametrize("sides", [(1700, 1700, 4), (1e6, 1e6, 1e6), (1e9, 1, 1), (1e20, 1e20, 1e20), (3, 1e6, 4)])
def test_huge_and_empty_cells(sides, pbc):
    cell = np.diag(np.array(sides, dtype=float))
    system = batch((H2, cell, pbc), (H2 + 0.4 * cell.sum(0).clip(max=1e8), cell @ CELLS["triclinic"], pbc))
    same(cpu.search(system, 5.0), brute_force(system, 5.0))


def test_sparse_structures_of_any_size():
    """Clusters here and there, in cells and boxes from 0.5 to 1e6 Å, periodic or open, straight or oblique."""
    rng = np.random.default_rng(0)
    tried = 0
    while tried < 150:
        cell = np.diag(10 ** rng.uniform(-0.3, 6, 3)) @ (np.eye(3) + rng.choice([0, 0.5]) * rng.uniform(-1, 1, (3, 3)))
        pbc = rng.random(3) < 0.6
        homes = rng.uniform(-1.5, 2.5, (rng.integers(1, 5), 3)) @ cell
        x = homes[rng.integers(0, len(homes), 20)] + rng.normal(size=(20, 3)) * rng.choice([0.3, 3])
        x[0] += cell[0] * rng.integers(-(10**6), 10**6)
        system = batch((x, cell, pbc), (x[:3], cell[[1, 2, 0]], pbc[[1, 2, 0]]))
        cutoff = 10 ** rng.uniform(-0.3, 0.9)
        if np.prod(np.where(pbc, 2 * cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0) + 3, 1)) < 1000:
            same(cpu.search(system, cutoff), brute_force(system, cutoff))
            tried += 1


def test_crowded_occupied_cells():
    """Most atoms in one place and one far away, with more candidates than are tested at once."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 4, (1500, 3)), [[1e7, 1e7, 0]]])
    system = batch((x, np.eye(3), (False,) * 3))
    same(cpu.search(system, 1.0), brute_force(system, 1.0))


@pytest.mark.parametrize("search", ["auto", "brute_force", "vesin"])
@pytest.mark.parametrize("pbc", [True, False])
def test_coordinates_without_digits_are_refused(search, pbc):
    atoms = Atoms("CO", [[0, 0, 0], [1, 0, 0]], cell=np.eye(3) * 4.1, pbc=pbc)
    moved = atoms.copy()
    moved.positions[1, 2] += 4.1 * 2.0**38  # to the digit
    expected = neighbor_list(atoms, 5.0)
    if pbc:
        assert neighbor_list(moved, 5.0, neighbors=search).num_edges == expected.num_edges
    for far in (1e15, -1e20, 1e300):
        moved.positions[1, 2] = far
        with pytest.raises(
            atomjet.AtomJetError, match=r"structure 1, atom 1: position .* too far out: float64 .*e\+13 Å"
        ):
            neighbor_list([atoms, moved], 5.0, neighbors=search)
    narrow = System(torch.tensor([[0, 0, 0], [1e6, 0, 0]], dtype=torch.float32), [1, 1])
    with pytest.raises(atomjet.AtomJetError, match=r"atom 1: .* float32 resolves .* or give float64"):
        neighbor_list(narrow, 5.0, neighbors=search)
